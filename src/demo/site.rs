//! Where everything of the fleet is, and what an operator would write there.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::fleet::{FleetError, system};
use super::ports::{self, Ports};
use super::process::{Program, Role};
use super::web;
use crate::bus::Signer;
use crate::disk::{self, Access};
use crate::model::PublicKey;

/// The app, as in the shipped `desired/` directory.
pub const APP: &str = "shop";

/// The revision that the servers run before anything happens.
pub const FIRST_REVISION: &str = "1";

/// The shipped settings of the app; the demo changes the floor at most.
const APP_TOML: &str = include_str!("../../desired/shop/app.toml");
const SHIPPED_FLOOR: &str = "min_ready = \"40%\"";

/// HAProxy binds a temporary name, a little longer, beside the socket's; the system takes 107 bytes
/// (unix(7)).
const SOCKET_BYTES_MAX: usize = 90;

/// Who carries the documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Broker {
    /// The one inside the controller.
    Embedded,
    /// A real Mosquitto.
    Mosquitto,
}

/// What kind of fleet.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Its clusters, with the names of their web servers.
    pub clusters: Vec<(String, Vec<String>)>,
    /// Servers get archives of releases, and are restarted, instead of one file by a command.
    pub release_layout: bool,
    /// Who carries the documents.
    pub broker: Broker,
    /// The floor of ready servers, if not the shipped one.
    pub min_ready: Option<String>,
}

impl Shape {
    /// Nine servers: `alfa` with five and `bravo` with four, or all in `alfa`.
    pub fn clusters(one: bool) -> Vec<(String, Vec<String>)> {
        let names = |numbers: std::ops::RangeInclusive<u32>| {
            numbers.map(|number| format!("web{number}")).collect::<Vec<_>>()
        };
        match one {
            true => vec![("alfa".to_owned(), names(1..=9))],
            false => vec![("alfa".to_owned(), names(1..=5)), ("bravo".to_owned(), names(6..=9))],
        }
    }
}

/// Where everything is.
pub struct Site {
    /// The directory of it all.
    pub dir: PathBuf,
    pub(super) shape: Shape,
    pub(super) exe: String,
    pub(super) haproxy: PathBuf,
    pub(super) mosquitto: Option<PathBuf>,
    check_load: PathBuf,
    /// The web servers with their clusters and ports.
    pub(super) webs: Vec<Web>,
    /// The controller's signing key, as PEM; and its public half, which agents are given.
    signing_key: (String, PublicKey),
    /// The port that HAProxy serves on.
    pub front_port: u16,
    /// The port of the broker.
    pub bus_port: u16,
    /// The port of the controller's HTTP interface.
    pub http_port: u16,
}

/// One web server.
pub(super) struct Web {
    pub(super) name: String,
    cluster: String,
    pub(super) port: u16,
}

impl Site {
    /// Chooses ports, and finds the programs.
    ///
    /// # Errors
    /// [`FleetError`]
    pub fn new(dir: &Path, shape: Shape) -> Result<Site, FleetError> {
        let exe = std::env::current_exe().map_err(system("find this program's own file"))?;
        let exe = plain(&exe)?.to_owned();
        plain(dir)?;
        let mut ports = Ports::new();
        let mut port = || ports.take().map_err(system("find a free port on 127.0.0.1"));
        let mut webs = Vec::new();
        for (cluster, names) in &shape.clusters {
            for name in names {
                webs.push(Web { name: name.clone(), cluster: cluster.clone(), port: port()? });
            }
        }
        let mosquitto = match shape.broker {
            Broker::Embedded => None,
            Broker::Mosquitto => Some(ports::mosquitto()?),
        };
        let made = Signer::make().map_err(std::io::Error::other);
        let (signer, pem) = made.map_err(system("make a signing key"))?;
        let site = Site {
            dir: dir.to_owned(),
            shape,
            exe,
            haproxy: ports::haproxy()?,
            mosquitto,
            check_load: ports::check_load()?,
            webs,
            signing_key: (pem, signer.public()),
            front_port: port()?,
            bus_port: port()?,
            http_port: port()?,
        };
        if site.socket().as_os_str().len() > SOCKET_BYTES_MAX {
            let why = "its path is too long for a socket in it";
            return Err(FleetError::Directory { path: dir.to_owned(), why });
        }
        Ok(site)
    }

    /// HAProxy's stats socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("haproxy/admin.sock")
    }

    /// The desired directory.
    pub fn desired(&self) -> PathBuf {
        self.dir.join("desired")
    }

    /// The broker's address.
    pub fn bus_url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.bus_port)
    }

    fn signing_key_file(&self) -> PathBuf {
        self.dir.join("signing.key")
    }

    fn node(&self, name: &str) -> PathBuf {
        self.dir.join("nodes").join(name)
    }

    fn write(&self, file: impl AsRef<Path>, text: &str) -> Result<(), FleetError> {
        let path = self.dir.join(file);
        let parent = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .map_err(system(format!("write {}", path.display())))
    }

    /// Writes everything but the desired directory.
    ///
    /// # Errors
    /// [`FleetError::System`]
    pub fn write_all(&self, oncall: &str) -> Result<(), FleetError> {
        fs::create_dir_all(self.dir.join("log"))
            .map_err(system(format!("make {}", self.dir.join("log").display())))?;
        disk::replace(&self.signing_key_file(), self.signing_key.0.as_bytes(), Access::Owner)
            .map_err(std::io::Error::other)
            .map_err(system("keep the signing key"))?;
        self.write("nrpe.cfg", &self.nrpe())?;
        self.write("haproxy/haproxy.cfg", &self.haproxy_cfg())?;
        if self.mosquitto.is_some() {
            self.write("mosquitto.conf", &self.mosquitto_conf())?;
        }
        if !self.shape.release_layout {
            self.write("bin/deploy-shop", DEPLOY)?;
            let script = self.dir.join("bin/deploy-shop");
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
                .map_err(system(format!("make {} executable", script.display())))?;
        }
        for web in &self.webs {
            self.write(format!("nodes/{}/agent.toml", web.name), &self.web_agent(web))?;
            self.first_release(web)?;
        }
        self.write("nodes/lb1/agent.toml", &self.balancer_agent())?;
        for name in NOTIFIERS {
            self.write(format!("nodes/{name}/agent.toml"), &self.notify_agent(name, oncall))?;
        }
        Ok(())
    }

    /// What has been on the server before evenkeel came.
    fn first_release(&self, web: &Web) -> Result<(), FleetError> {
        let place = format!("nodes/{}/shop", web.name);
        let text = web::release(FIRST_REVISION);
        if !self.shape.release_layout {
            return self.write(format!("{place}/release"), &text);
        }
        self.write(format!("{place}/releases/{FIRST_REVISION}/release"), &text)?;
        symlink(format!("releases/{FIRST_REVISION}"), self.dir.join(place).join("current"))
            .map_err(system("link the current release"))
    }

    fn nrpe(&self) -> String {
        format!(
            "# The demo runs a whole fleet on one machine, whose load says nothing of its nodes: these\n\
             # thresholds let any load pass. On real servers they would be like -w 15,10,5 -c 30,25,20.\n\
             command[check_load]={} -w 1000,1000,1000 -c 2000,2000,2000\n",
            self.check_load.display()
        )
    }

    fn haproxy_cfg(&self) -> String {
        let dir = self.dir.join("haproxy");
        let dir = dir.display();
        let mut text = format!(
            "global
    nbthread 1
    maxconn 1000
    stats socket {dir}/admin.sock mode 600 level admin
    server-state-file {dir}/server-state

defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout check 5s
    load-server-state-from-file global

frontend shop
    bind 127.0.0.1:{}
    default_backend app

backend app
    balance roundrobin
    option httpchk GET /healthz
    default-server check inter 500ms fall 3 rise 1
",
            self.front_port
        );
        for web in &self.webs {
            text += &format!("    server {} 127.0.0.1:{}\n", web.name, web.port);
        }
        text
    }

    /// As docs/bus.md recommends, but for the lack of users and TLS.
    fn mosquitto_conf(&self) -> String {
        // Started by root, it would change to a user who cannot read the demo's directory.
        let user = if rustix::process::getuid().is_root() { "user root\n" } else { "" };
        format!(
            "listener {} 127.0.0.1\nallow_anonymous true\n{user}log_dest stderr\nlog_type error\n\
             set_tcp_nodelay true\nmax_inflight_messages 0\nmax_queued_messages 200000\n\
             max_packet_size 1060864\n",
            self.bus_port
        )
    }

    fn agent_head(&self, name: &str) -> String {
        format!(
            "trusted_keys = [{}]\nnode = {}\nstate = {}\n\n[bus]\nurl = {}\n",
            quoted(self.signing_key.1),
            quoted(name),
            quoted(self.node(name).join("state").display()),
            quoted(self.bus_url()),
        )
    }

    fn web_agent(&self, web: &Web) -> String {
        let place = quoted(self.node(&web.name).join("shop").display());
        let service = format!("http://127.0.0.1:{}", web.port);
        let mut text = self.agent_head(&web.name);
        text += &format!(
            "\n[facts]\nvalues = {{ cluster = {} }}\n\n[apps.{APP}]\n",
            quoted(&web.cluster)
        );
        text += &match self.shape.release_layout {
            true => format!(
                "restart = [{}, \"demo-web\", \"--restart\", \"--dir\", {}]\n",
                quoted(&self.exe),
                place
            ),
            false => format!(
                "command = [{}, {}, \"{{revision}}\"]\n",
                quoted(self.dir.join("bin/deploy-shop").display()),
                place
            ),
        };
        text += &format!(
            "probe = {}\nrevision = {{ url = {} }}\n",
            quoted(format!("{service}/healthz")),
            quoted(format!("{service}/revision"))
        );
        if self.shape.release_layout {
            text += &format!(
                "\n[apps.{APP}.release]\nurl = {}\nroot = {}\n",
                quoted(format!("file://{}/releases/{APP}-{{revision}}.tar.gz", self.dir.display())),
                place
            );
        }
        text += &format!("\n[checks]\nfiles = [{}]\n", quoted(self.dir.join("nrpe.cfg").display()));
        text
    }

    fn balancer_agent(&self) -> String {
        format!(
            "{}\n[haproxy]\nsocket = {}\nstate_file = {}\n",
            self.agent_head("lb1"),
            quoted(format!("unix:{}", self.socket().display())),
            quoted(self.dir.join("haproxy/server-state").display())
        )
    }

    fn notify_agent(&self, name: &str, oncall: &str) -> String {
        format!(
            "{}\n[notify.recipients.oncall]\nservice = \"webhook\"\nurl = {}\n",
            self.agent_head(name),
            quoted(oncall)
        )
    }

    /// The desired directory at the first revision.
    pub(super) fn desired_files(&self) -> Vec<(String, String)> {
        let app = match &self.shape.min_ready {
            Some(floor) => {
                APP_TOML.replace(SHIPPED_FLOOR, &format!("min_ready = {}", floor_value(floor)))
            }
            None => APP_TOML.to_owned(),
        };
        let mut files = vec![(format!("{APP}/app.toml"), app)];
        for (cluster, names) in &self.shape.clusters {
            let text = cluster_file(FIRST_REVISION, names.len());
            files.push((format!("{APP}/{cluster}.toml"), text));
        }
        files
    }

    /// Whether every server may be out at once.
    pub(super) fn floor_is_none(&self) -> bool {
        let floor = self.shape.min_ready.as_deref();
        floor.is_some_and(|floor| matches!(floor, "0" | "0%"))
    }

    fn own(&self, name: &str, role: Role, args: &[&dyn AsRef<std::ffi::OsStr>]) -> Program {
        let args = args.iter().map(|arg| OsString::from(arg.as_ref())).collect();
        Program { name: name.to_owned(), command: PathBuf::from(&self.exe), args, role }
    }

    pub(super) fn agent(&self, name: &str) -> Program {
        let config = self.node(name).join("agent.toml");
        self.own(&format!("agent-{name}"), Role::Agent, &[&"agent", &"--config", &config])
    }

    pub(super) fn web(&self, web: &Web) -> Program {
        let place = self.node(&web.name).join("shop");
        let port = web.port.to_string();
        self.own(&web.name, Role::Restarted, &[&"demo-web", &"--dir", &place, &"--port", &port])
    }

    pub(super) fn controller(&self) -> Program {
        let (bus, bus_value) = match self.shape.broker {
            Broker::Embedded => ("--bus-listen", format!("127.0.0.1:{}", self.bus_port)),
            Broker::Mosquitto => ("--bus", self.bus_url()),
        };
        let http = format!("127.0.0.1:{}", self.http_port);
        let (desired, state) = (self.desired(), self.dir.join("controller"));
        let key = self.signing_key_file();
        self.own(
            "controller",
            Role::Part,
            &[
                &"controller",
                &"--desired",
                &desired,
                &"--state",
                &state,
                &"--signing-key",
                &key,
                &bus,
                &bus_value,
                &"--http",
                &http,
            ],
        )
    }
}

/// The notification servers.
pub(super) const NOTIFIERS: [&str; 2] = ["notify1", "notify2"];

/// The deploy command of the minimal deploy.
const DEPLOY: &str = "#!/bin/sh
# deploy-shop DIR REVISION: puts the release of REVISION into DIR, in one step.
set -eu
printf '%s\\nThis is the shop.\\n' \"$2\" > \"$1/release.new\"
mv \"$1/release.new\" \"$1/release\"
";

/// What declares one cluster's revision.
pub fn cluster_file(revision: &str, nodes: usize) -> String {
    format!("revision = {}\nexpect = {nodes}\n", quoted(revision))
}

/// A count stays one, everything else is a text.
fn floor_value(floor: &str) -> String {
    match floor.parse::<u32>() {
        Ok(count) => count.to_string(),
        Err(_) => quoted(floor),
    }
}

fn quoted(text: impl ToString) -> String {
    toml::Value::String(text.to_string()).to_string()
}

/// The path as text, if it is fit for every configuration file there is.
fn plain(path: &Path) -> Result<&str, FleetError> {
    let refuse = |why| FleetError::Directory { path: path.to_owned(), why };
    let text = path.to_str().ok_or_else(|| refuse("its path is not UTF-8"))?;
    let good = |c: char| c.is_alphanumeric() || "/._-+@".contains(c);
    match text.chars().all(good) {
        true => Ok(text),
        false => Err(refuse("its path has characters besides letters, digits and /._-+@")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::web::Place;
    use super::*;
    use crate::agent::Config;
    use crate::demo::repository::Repository;
    use crate::desired;

    fn site(dir: &Path, release_layout: bool, min_ready: Option<&str>) -> Site {
        let shape = Shape {
            clusters: Shape::clusters(false),
            release_layout,
            broker: Broker::Mosquitto,
            min_ready: min_ready.map(str::to_owned),
        };
        let site = Site::new(dir, shape).unwrap();
        site.write_all("http://127.0.0.1:9/oncall").unwrap();
        site
    }

    #[test]
    fn agents_accept_what_is_written() {
        for release_layout in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let site = site(dir.path(), release_layout, None);
            let read = |name: &str| Config::read(&site.node(name).join("agent.toml")).unwrap();
            for web in &site.webs {
                let config = read(&web.name);
                assert_eq!(config.node.unwrap().as_str(), web.name);
                assert_eq!(config.bus.url.port, site.bus_port);
                assert_eq!(config.trusted_keys, [site.signing_key.1].into());
                assert!(config.apps.len() == 1 && config.checks.is_some());
            }
            assert!(read("lb1").haproxy.unwrap().state_file.is_some());
            assert!(NOTIFIERS.iter().all(|name| read(name).notify.is_some()));
        }
    }

    #[test]
    fn haproxy_accepts_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let site = site(dir.path(), false, None);
        let mut command = std::process::Command::new(&site.haproxy);
        command.arg("-c").arg("-f").arg(dir.path().join("haproxy/haproxy.cfg"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        // The agent writes the state file with the first change.
        let warns = |line: &&str| line.contains("WARNING") && !line.contains("server state file");
        assert_eq!(said.lines().find(warns), None);
    }

    #[test]
    fn the_desired_files_are_without_fault() {
        for (floor, says) in
            [(None, "min_ready = \"40%\""), (Some("3"), "min_ready = 3"), (Some("20%"), "\"20%\"")]
        {
            let dir = tempfile::tempdir().unwrap();
            let site = site(dir.path(), false, floor);
            Repository::new(&site.desired(), None, &site.desired_files()).unwrap();
            let snapshot = desired::load(&site.desired());
            assert_eq!(snapshot.all_faults().count(), 0);
            let app = snapshot.apps.values().flatten().next().unwrap();
            let names: Vec<&str> = app.clusters.keys().map(|name| name.as_str()).collect();
            assert_eq!(names, ["alfa", "bravo"]);
            let text = fs::read_to_string(site.desired().join("shop/app.toml")).unwrap();
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn the_deploy_command_writes_what_the_server_serves() {
        let dir = tempfile::tempdir().unwrap();
        let site = site(dir.path(), false, None);
        let place = site.node("web1").join("shop");
        let mut command = std::process::Command::new(dir.path().join("bin/deploy-shop"));
        assert!(command.arg(&place).arg("1.4.2").status().unwrap().success());
        let text = fs::read_to_string(Place::new(&place).release()).unwrap();
        assert_eq!(text, web::release("1.4.2"));
    }

    #[test]
    fn odd_directories_are_refused_in_words() {
        for (dir, says) in [("/tmp/a b", "characters"), ("/tmp/{x}", "characters")] {
            let error = plain(Path::new(dir)).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("--dir"), "{error}");
        }
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(100)));
        let shape = Shape {
            clusters: Shape::clusters(true),
            release_layout: false,
            broker: Broker::Embedded,
            min_ready: None,
        };
        let error = Site::new(&long, shape).err().unwrap().to_string();
        assert!(error.contains("too long for a socket"), "{error}");
    }
}
