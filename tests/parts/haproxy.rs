//! A real HAProxy in master-worker mode, with one HTTP frontend for each backend.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::net::TcpSocket;

use super::process::{DEADLINE, Process, eventually, program};

/// What HAProxy is configured with. Anything that has no method of its own goes through
/// [`Setup::global`], [`Setup::defaults`], [`Setup::backend_line`] or [`Setup::section`].
#[derive(Clone, Default)]
pub struct Setup {
    backends: Vec<Backend>,
    state_file: bool,
    tcp: bool,
    level: Option<String>,
    global: Vec<String>,
    defaults: Vec<String>,
    sections: Vec<String>,
}

#[derive(Clone)]
struct Backend {
    name: String,
    lines: Vec<String>,
}

impl Setup {
    pub fn new() -> Setup {
        Setup::default()
    }

    /// Adds a backend, and a frontend of its own on a free port; servers go to the last one added.
    pub fn backend(mut self, name: &str) -> Setup {
        self.backends.push(Backend { name: name.to_owned(), lines: Vec::new() });
        self
    }

    /// Adds a server on the loopback address, with options such as `check inter 50ms`, `disabled`, `backup`.
    pub fn server(self, name: &str, port: u16, options: &str) -> Setup {
        self.backend_line(&format!("server {name} 127.0.0.1:{port} {options}"))
    }

    /// Adds any line to the last backend.
    pub fn backend_line(mut self, line: &str) -> Setup {
        self.backends.last_mut().expect("a backend first").lines.push(line.to_owned());
        self
    }

    /// Loads server states from a file when it starts, see [`Haproxy::state_file`].
    pub fn with_state_file(mut self) -> Setup {
        self.state_file = true;
        self
    }

    /// Listens for the runtime API on TCP, too.
    pub fn with_tcp(mut self) -> Setup {
        self.tcp = true;
        self
    }

    /// The level of the stats sockets, instead of `admin`.
    pub fn level(mut self, level: &str) -> Setup {
        self.level = Some(level.to_owned());
        self
    }

    /// Adds a line to `global`.
    pub fn global(mut self, line: &str) -> Setup {
        self.global.push(line.to_owned());
        self
    }

    /// Adds a line to `defaults`.
    pub fn defaults(mut self, line: &str) -> Setup {
        self.defaults.push(line.to_owned());
        self
    }

    /// Adds a whole section, before the backends.
    pub fn section(mut self, text: &str) -> Setup {
        self.sections.push(text.to_owned());
        self
    }

    /// Starts it and waits until it serves.
    pub fn start(self) -> Haproxy {
        Haproxy::start(self)
    }
}

/// A running HAProxy; it ends, old workers included, when the test lets go of it.
pub struct Haproxy {
    setup: Setup,
    folder: TempDir,
    tcp: ReservedPort,
    frontends: Vec<(String, ReservedPort)>,
    master: Process,
}

impl Haproxy {
    fn start(setup: Setup) -> Haproxy {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let frontends = reserve(&setup, Vec::new());
        let tcp = ReservedPort::new();
        write_configuration(&setup, folder.path(), &frontends, &tcp);
        let master = launch(folder.path());
        let mut haproxy = Haproxy { setup, folder, tcp, frontends, master };
        haproxy.wait_for_worker(None);
        haproxy
    }

    /// The stats socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// The stats socket on TCP, if there is one ([`Setup::with_tcp`]).
    pub fn tcp(&self) -> SocketAddr {
        assert!(self.setup.tcp, "start it with_tcp()");
        self.tcp.address()
    }

    /// Where clients of `backend` connect.
    pub fn frontend(&self, backend: &str) -> SocketAddr {
        let found = self.frontends.iter().find(|(name, _)| name == backend);
        found.unwrap_or_else(|| panic!("no backend {backend}")).1.address()
    }

    /// The file that it loads server states from, if it was started [`Setup::with_state_file`].
    pub fn state_file(&self) -> PathBuf {
        self.folder.path().join("server-state")
    }

    /// The process id of the worker that serves.
    pub fn worker(&self) -> u32 {
        self.try_worker().unwrap_or_else(|| panic!("no worker answers:\n{}", self.log()))
    }

    /// What HAProxy itself answers to `command`, on a connection of its own: the tests' own truth.
    pub fn command(&self, command: &str) -> String {
        self.try_command(command).unwrap_or_else(|error| {
            panic!("HAProxy does not answer {command:?}: {error}\n{}", self.log())
        })
    }

    /// The administrative bits of a server, by HAProxy itself.
    pub fn admin_bits(&self, backend: &str, server: &str) -> u8 {
        let text = self.command(&format!("show servers state {backend}"));
        let found = states(&text, backend).remove(server);
        found.unwrap_or_else(|| panic!("no {backend}/{server} in\n{text}")).admin
    }

    /// `systemctl reload haproxy`: a new worker; the old one ends with its last connection.
    pub fn reload(&mut self) {
        let before = self.worker();
        self.master.signal(Signal::USR2);
        self.wait_for_worker(Some(before));
    }

    /// [`Haproxy::reload`] with another configuration. Backends that stay keep their ports.
    pub fn reload_with(&mut self, setup: Setup) {
        self.frontends = reserve(&setup, std::mem::take(&mut self.frontends));
        self.setup = setup;
        write_configuration(&self.setup, self.folder.path(), &self.frontends, &self.tcp);
        self.reload();
    }

    /// Kills it, workers and all connections included.
    pub fn stop(&mut self) {
        let workers = children(self.master.id());
        self.master.kill();
        for worker in workers {
            let _ = rustix::process::kill_process(worker, Signal::KILL); // It may have gone with its master.
        }
        eventually("HAProxy is gone", || UnixStream::connect(self.socket()).is_err().then_some(()));
    }

    /// Starts it again after [`Haproxy::stop`], on the same ports.
    pub fn start_again(&mut self) {
        self.master = launch(self.folder.path());
        self.wait_for_worker(None);
    }

    /// Kills it and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn try_command(&self, command: &str) -> std::io::Result<String> {
        ask(&self.socket(), command)
    }

    fn try_worker(&self) -> Option<u32> {
        let info = self.try_command("show info").ok()?;
        let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
        (value("Stopping: ")? == "0").then(|| value("Pid: ")?.parse().ok()).flatten()
    }

    fn wait_for_worker(&mut self, not: Option<u32>) {
        eventually("a new worker of HAProxy", || {
            self.master.assert_running();
            self.try_worker().filter(|worker| Some(*worker) != not)
        });
        // The worker answers some time before its master is ready: a reload told before that is lost.
        eventually("the master of HAProxy", || {
            self.master.assert_running();
            ask(&self.folder.path().join("master.sock"), "show proc").ok().filter(|t| !t.is_empty())
        });
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("HAProxy printed:\n{}", self.log());
        }
        self.stop();
    }
}

/// A port that nobody else is given: bound, but not listened on, so that connections go to HAProxy, which
/// shares the port (SO_REUSEPORT) with this and with its own next process.
struct ReservedPort(TcpSocket);

impl ReservedPort {
    fn new() -> ReservedPort {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseport(true).expect("SO_REUSEPORT");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        ReservedPort(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }
}

fn reserve(setup: &Setup, mut before: Vec<(String, ReservedPort)>) -> Vec<(String, ReservedPort)> {
    let mut reserved = Vec::new();
    for Backend { name, .. } in &setup.backends {
        let kept = before.iter().position(|(known, _)| known == name);
        let port = kept.map_or_else(ReservedPort::new, |at| before.swap_remove(at).1);
        reserved.push((name.clone(), port));
    }
    reserved
}

fn write_configuration(
    setup: &Setup,
    folder: &Path,
    frontends: &[(String, ReservedPort)],
    tcp: &ReservedPort,
) {
    let level = setup.level.as_deref().unwrap_or("admin");
    let folder_shown = folder.display();
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn 500\n  stats socket {folder_shown}/admin.sock mode 600 level {level}\n"
    );
    let mut line = |line: String| writeln!(text, "{line}").expect("write to a string");
    if setup.tcp {
        line(format!("  stats socket {} level {level}", tcp.address()));
    }
    if setup.state_file {
        line(format!("  server-state-file {folder_shown}/server-state"));
    }
    setup.global.iter().for_each(|global| line(format!("  {global}")));
    line(
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s"
            .into(),
    );
    if setup.state_file {
        line("  load-server-state-from-file global".to_owned());
    }
    setup.defaults.iter().for_each(|default| line(format!("  {default}")));
    setup.sections.iter().for_each(|section| line(section.clone()));
    for (backend, (_, port)) in setup.backends.iter().zip(frontends) {
        let name = &backend.name;
        line(format!("frontend to_{name}\n  bind {}\n  default_backend {name}", port.address()));
        line(format!("backend {name}"));
        backend.lines.iter().for_each(|own| line(format!("  {own}")));
    }
    std::fs::write(folder.join("haproxy.cfg"), text).expect("write haproxy.cfg");
}

/// Master-worker mode as under systemd: in the foreground, and so our child, as long as the configuration has no `daemon`.
fn launch(folder: &Path) -> Process {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log"));
    let log = log.expect("open a log");
    let mut command = Command::new(program("haproxy", "haproxy"));
    command.arg("-W").arg("-f").arg(folder.join("haproxy.cfg"));
    command.arg("-S").arg(folder.join("master.sock")).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a second handle")).stderr(log);
    Process::start("haproxy", &mut command)
}

/// A server, in HAProxy's own words.
pub struct State {
    /// Whether it is up.
    pub is_up: bool,
    /// The administrative bits.
    pub admin: u8,
}

/// The servers of a backend in an answer to `show servers state`, among whatever else is there: the columns 4, 6 and 7
/// (HAProxy's Management Guide, 9.3).
pub fn states(text: &str, backend: &str) -> BTreeMap<String, State> {
    let rows = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let rows = rows.filter(|row| row.len() > 6 && row[1] == backend);
    let state = |row: &[&str]| State { is_up: row[5] != "0", admin: row[6].parse().expect("bits") };
    rows.map(|row| (row[3].to_owned(), state(&row))).collect()
}

/// Asks a socket of HAProxy; several commands are parted by semicolons.
pub fn ask(socket: &Path, command: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(format!("{command}\n").as_bytes())?;
    stream.shutdown(Shutdown::Write)?; // The master closes only after that.
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The workers of a master, old ones too.
fn children(master: u32) -> Vec<Pid> {
    let list = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect()
}

/// Sends `GET path` to `address` and reads the whole answer, in the background.
pub fn get(address: SocketAddr, path: &str) -> std::thread::JoinHandle<std::io::Result<String>> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}
