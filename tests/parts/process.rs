//! Processes that a test starts: found or explained, waited for by state, ended by process id.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Every wait in a test ends here; a healthy machine never gets near it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Below the ports that the demo takes, above most of those that browsers refuse to ask.
const TEST_PORTS: Range<u16> = 7_000..10_000;

/// A child process that is killed, by its process id, when the test lets go of it.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `command`.
    pub fn start(name: &str, command: &mut Command) -> Process {
        match command.spawn() {
            Ok(child) => Process { child, name: name.to_owned() },
            Err(error) => panic!("cannot start {name}: {error}"),
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).expect("signal a child");
    }

    /// Kills it at once and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let name = self.name.clone();
        eventually(&format!("{name} ends"), || self.child.try_wait().expect("wait for a child"))
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait for a child").is_some()
    }

    /// Panics with the exit status if it has ended.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("wait for a child") {
            panic!("{} ended early: {status}", self.name);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks `probe` again and again until it answers, and panics with `what` after [`DEADLINE`].
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "waited {DEADLINE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A loopback port that nobody listens on, and that no other test is given while this process lives.
///
/// A port that is found free and let go can be another's before it is used: a lock on a file of its own
/// keeps other tests away. It lies below the ports of the demo and of outgoing connections, so that a
/// service that is restarted finds its port free.
pub fn free_port() -> u16 {
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let folder = std::env::temp_dir().join("evenkeel-test-ports");
    std::fs::create_dir_all(&folder).expect("a folder for the locks of ports");
    // Every process begins elsewhere, so that they seldom meet.
    let first = std::process::id().wrapping_mul(31) % u32::from(TEST_PORTS.end - TEST_PORTS.start);
    let first = TEST_PORTS.start + u16::try_from(first).expect("a port");
    for port in (first..TEST_PORTS.end).chain(TEST_PORTS.start..first) {
        let lock = File::create(folder.join(port.to_string())).expect("a port's lock");
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            HELD.lock().expect("held ports").push(lock);
            return port;
        }
    }
    panic!("no port of {TEST_PORTS:?} is free");
}

/// Waits until something accepts connections there.
pub fn wait_for_port(process: &mut Process, port: u16) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let what = format!("{} listens on {address}", process.name);
    eventually(&what, || {
        process.assert_running();
        std::net::TcpStream::connect(address).ok().map(drop)
    });
}

/// Finds a program, or fails the test with how to get it.
pub fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), "/usr/lib/nagios/plugins".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!("{name} is not installed; get it with `apt-get install {package}`, or run `make test`, which does")
        })
}

/// A Python that has a module: Debian's, whatever else comes first in the path; or fails the test with
/// how to get it.
pub fn python(module: &str, package: &str) -> PathBuf {
    let has = |python: &PathBuf| {
        let mut command = Command::new(python);
        command.args(["-c", &format!("import {module}")]).stderr(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let candidates = [PathBuf::from("/usr/bin/python3"), program("python3", "python3")];
    candidates.into_iter().find(has).unwrap_or_else(|| {
        panic!("{module} is not installed; get it with `apt-get install {package}`, or run `make test`, which does")
    })
}
