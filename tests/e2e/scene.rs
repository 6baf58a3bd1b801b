//! A fleet for one test: brokers, load balancers, web servers, agents, a controller, and load.

mod desired;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use evenkeel::bus::session;
use evenkeel::model::FleetName;

use crate::load::Load;
use crate::parts::haproxy::{Haproxy, Setup};
use crate::parts::mosquitto::Mosquitto;
use crate::parts::namespace::{NEAR, Namespaces};
use crate::parts::process::{Process, eventually, free_port, program};
use crate::parts::receiver::{Answer, Receiver, Request};
use crate::truth::{self, Journal};
use crate::web::Web;

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    Embedded,
    Mosquitto,
}

/// What a fleet is to be like. The default is the reference scenario at revision 1.
pub struct Plot {
    pub broker: Broker,
    pub clusters: Vec<(&'static str, u32)>,
    /// What the web servers run at first; `None`: nothing is installed.
    pub installed: Option<&'static str>,
    pub lbs: u32,
    pub state_file: bool,
    /// More lines for `app.toml`'s tables, by table.
    pub app: Vec<(&'static str, &'static str)>,
    /// Options for single servers in HAProxy's configuration.
    pub server_options: BTreeMap<&'static str, &'static str>,
    pub batch: usize,
    /// Mosquitto keeps what it retains on disk.
    pub persistent: bool,
    /// How soon the broker notices that an agent is gone without a word.
    pub keep_alive_s: u16,
    /// Where the agents in `far` are, and the test is not.
    pub namespaces: Option<Namespaces>,
    pub far: Vec<&'static str>,
    /// Nodes whose agents are not started.
    pub absent: Vec<&'static str>,
    /// Nodes whose agents are told the controller's key, and take no orders but its.
    pub pinned: Vec<&'static str>,
    /// The controller's audit trail, seen from the scene's folder.
    pub audit_log: Option<&'static str>,
    /// What people's services answer.
    pub answers: fn(&Request) -> Answer,
}

impl Plot {
    pub fn new(broker: Broker) -> Plot {
        Plot {
            broker,
            clusters: vec![("alfa", 5), ("bravo", 4)],
            installed: Some("1"),
            lbs: 1,
            state_file: true,
            app: Vec::new(),
            server_options: BTreeMap::new(),
            batch: 2,
            persistent: false,
            keep_alive_s: 10,
            namespaces: None,
            far: Vec::new(),
            absent: Vec::new(),
            pinned: Vec::new(),
            audit_log: None,
            answers: |_| Answer::status(200, ""),
        }
    }

    /// Starts everything, and waits until the controller is ready.
    pub fn start(self) -> Scene {
        Scene::start(self)
    }
}

/// A running fleet.
pub struct Scene {
    // Fields are dropped in this order: whoever speaks first, the parts that they speak to last.
    pub controller: Option<Process>,
    pub agents: BTreeMap<String, Process>,
    pub lbs: BTreeMap<String, Haproxy>,
    mosquitto: Option<Mosquitto>,
    pub receiver: Receiver,
    pub load: Vec<Load>,
    /// Nodes that a load was seen to find in maintenance.
    pub seen_out: BTreeSet<String>,
    pub folder: PathBuf,
    plot: Plot,
    http: u16,
    bus: u16,
    nodes: BTreeMap<String, String>,
    temporary: tempfile::TempDir,
}

fn evenkeel() -> Command {
    Command::new(env!("CARGO_BIN_EXE_evenkeel"))
}

fn write(path: &Path, text: &str) {
    let folder = path.parent().expect("a folder");
    fs::create_dir_all(folder).expect("make a folder");
    let beside = path.with_extension("beside");
    fs::write(&beside, text).expect("write a file");
    fs::rename(&beside, path).expect("rename a file");
}

fn script(home: &Path, name: &str, text: &str) -> PathBuf {
    let path = home.join(name);
    write(&path, text);
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&path, executable).expect("make it executable");
    path
}

/// Deploys by writing the file `revision`; files beside it make it misbehave. For the journal, see `truth.rs`.
const DEPLOY: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 9
note() { echo "$1 $$ $(date +%s%6N)" >>journal; }
trap 'note ended' EXIT
note deploy
echo "$1" >>attempts
[ -e fail ] && { echo "no space left"; exit 1; }
[ -e fail_once ] && { rm fail_once; exit 1; }
while [ -e gate ]; do sleep 0.02; done
[ -e lie ] && exit 0
printf %s "$1" >revision.new && mv revision.new revision
"#;

/// Runs a plugin, and notes it in the journal.
const CHECK: &str = r#"#!/bin/sh
from=$(date +%s%6N)
text=$("$@")
code=$?
echo "check $from $(date +%s%6N) $code" >>"${0%/*}/journal"
echo "$text"
exit $code
"#;

impl Scene {
    fn start(plot: Plot) -> Scene {
        let temporary =
            tempfile::Builder::new().prefix("evenkeel-e2e-").tempdir().expect("a folder");
        let folder = temporary.path().to_owned();
        fs::create_dir_all(folder.join("log")).expect("make a folder");
        let mosquitto = (plot.broker == Broker::Mosquitto).then(|| match &plot.namespaces {
            Some(_) => Mosquitto::start_also_at(NEAR),
            None if plot.persistent => Mosquitto::start_persistent(),
            None => Mosquitto::start(),
        });
        let bus = mosquitto.as_ref().map_or_else(free_port, Mosquitto::port);
        let mut scene = Scene {
            controller: None,
            agents: BTreeMap::new(),
            lbs: BTreeMap::new(),
            mosquitto,
            receiver: Receiver::start(plot.answers),
            load: Vec::new(),
            seen_out: BTreeSet::new(),
            http: free_port(),
            bus,
            nodes: BTreeMap::new(),
            folder,
            plot,
            temporary,
        };
        scene.build();
        scene.start_controller();
        let names: Vec<String> = scene.nodes.keys().cloned().collect();
        for name in names {
            if !scene.plot.absent.contains(&name.as_str()) {
                scene.start_agent(&name);
            }
        }
        scene
    }

    fn build(&mut self) {
        self.write_app();
        let mut webs = Vec::new();
        let mut number = 0;
        for (cluster, size) in self.plot.clusters.clone() {
            self.write_cluster(cluster, "");
            for _ in 0..size {
                number += 1;
                let name = format!("web{number}");
                let port = self.build_web(&name, cluster);
                webs.push((name, port));
            }
        }
        for lb in 1..=self.plot.lbs {
            self.build_lb(&format!("lb{lb}"), &webs);
        }
        for number in 1..=2 {
            self.build_notify(&format!("notify{number}"));
        }
    }

    fn build_web(&mut self, name: &str, cluster: &str) -> u16 {
        let home = self.folder.join(name);
        fs::create_dir_all(&home).expect("make a folder");
        if let Some(revision) = self.plot.installed {
            fs::write(home.join("revision"), revision).expect("write a revision");
        }
        let web = Web::start(&home);
        let port = web.address.port();
        let deploy = script(&home, "deploy.sh", DEPLOY);
        let check = script(&home, "check.sh", CHECK);
        let check = check.display();
        let check_load = program("check_load", "monitoring-plugins-basic");
        let check_http = program("check_http", "monitoring-plugins-basic");
        write(
            &home.join("nrpe.cfg"),
            &format!(
                "# What the node can be asked.\n\
                 command[check_load]={check} {} -w 1000,1000,1000 -c 2000,2000,2000\n\
                 command[check_busy]={check} {} -I 127.0.0.1 -p {port} -u /load\n",
                check_load.display(),
                check_http.display()
            ),
        );
        let revision = if self.is_far(name) {
            format!("command = [\"cat\", {:?}]", home.join("revision"))
        } else {
            format!("url = \"http://127.0.0.1:{port}/revision\"")
        };
        let text = format!(
            "{}[facts.values]\ncluster = \"{cluster}\"\n\n[checks]\nfiles = [{:?}]\n\n\
             [apps.shop]\ncommand = [{deploy:?}, \"{{revision}}\"]\n\
             revision = {{ {revision} }}\n",
            self.agent_head(name),
            home.join("nrpe.cfg"),
        );
        self.nodes.insert(name.to_owned(), text);
        port
    }

    fn build_lb(&mut self, name: &str, webs: &[(String, u16)]) {
        let mut setup = Setup::new()
            .backend("app")
            .backend_line("option redispatch")
            .backend_line("retries 3")
            .backend_line("option httpchk GET /")
            .backend_line("http-request set-header X-Sent %[date(0,us)]");
        for (web, port) in webs {
            let options = self.plot.server_options.get(web.as_str()).copied().unwrap_or_default();
            setup = setup.server(web, *port, &format!("check inter 200ms {options}"));
        }
        if self.plot.state_file {
            setup = setup.with_state_file();
        }
        let haproxy = setup.start();
        let state_file = if self.plot.state_file {
            format!("state_file = {:?}\n", haproxy.state_file())
        } else {
            String::new()
        };
        let text = format!(
            "{}[haproxy]\nsocket = {:?}\n{state_file}",
            self.agent_head(name),
            format!("unix:{}", haproxy.socket().display())
        );
        self.nodes.insert(name.to_owned(), text);
        self.lbs.insert(name.to_owned(), haproxy);
    }

    fn build_notify(&mut self, name: &str) {
        let text = format!(
            "{}[notify.recipients.oncall]\nservice = \"webhook\"\nurl = \"{}/{name}\"\n",
            self.agent_head(name),
            self.receiver.url()
        );
        self.nodes.insert(name.to_owned(), text);
    }

    fn agent_head(&self, name: &str) -> String {
        let broker = if self.is_far(name) { NEAR } else { "127.0.0.1" };
        let pinned = self.plot.pinned.contains(&name);
        let trusted = pinned.then(|| format!("trusted_keys = [{:?}]\n", self.key("controller")));
        let trusted = trusted.unwrap_or_default();
        format!(
            "{trusted}node = {name:?}\nstate = {:?}\nheartbeat = \"2s\"\nobserve = \"500ms\"\n\
             bus = {{ url = \"mqtt://{broker}:{}\", keep_alive_s = {} }}\n\n",
            self.folder.join("state").join(name),
            self.bus,
            self.plot.keep_alive_s
        )
    }

    /// A signing key of this name, made as operators do.
    pub fn key_file(&self, name: &str) -> PathBuf {
        let path = self.folder.join(format!("{name}.key"));
        if !path.exists() {
            let mut command = Command::new(program("openssl", "openssl"));
            command.args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&path);
            assert!(command.status().expect("run openssl").success());
        }
        path
    }

    /// The public half of it, as evenkeel prints it.
    pub fn key(&self, name: &str) -> String {
        let output = evenkeel().arg("public-key").arg(self.key_file(name)).output();
        let output = output.expect("run evenkeel public-key");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    }

    fn is_far(&self, name: &str) -> bool {
        self.plot.far.contains(&name)
    }

    /// The cable to the agents that are far.
    pub fn cable(&self) -> &Namespaces {
        self.plot.namespaces.as_ref().expect("a plot with namespaces")
    }

    /// The fleet's name.
    pub fn fleet() -> FleetName {
        FleetName::new("default").expect("a name")
    }

    /// Where the controller shows its page.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.http)
    }

    /// The broker.
    pub fn mosquitto(&mut self) -> &mut Mosquitto {
        self.mosquitto.as_mut().expect("a plot with Mosquitto")
    }

    /// Removes the state of a component, which must not be running.
    pub fn wipe(&self, name: &str) {
        fs::remove_dir_all(self.folder.join("state").join(name)).expect("wipe a disk");
    }

    /// Adds lines to what is configured last in an agent's file, of which the next start takes notice.
    pub fn amend(&mut self, name: &str, lines: &str) {
        self.nodes.get_mut(name).expect("a node").push_str(lines);
    }

    /// Lets an agent take the orders of these keys from its next start on.
    pub fn trust(&mut self, name: &str, keys: &[&str]) {
        let text = self.nodes.get_mut(name).expect("a node");
        let rest = text.lines().filter(|line| !line.starts_with("trusted_keys"));
        *text = format!("trusted_keys = {keys:?}\n{}\n", rest.collect::<Vec<_>>().join("\n"));
    }

    /// What runs an agent.
    pub fn agent_command(&self, name: &str) -> Command {
        let config = self.folder.join("etc").join(format!("{name}.toml"));
        write(&config, &self.nodes[name]);
        let mut command = evenkeel();
        command.arg("agent").arg("--config").arg(config);
        if self.is_far(name) { self.cable().far(&command) } else { command }
    }

    pub fn start_agent(&mut self, name: &str) {
        let process = self.spawn(name, &mut self.agent_command(name));
        self.agents.insert(name.to_owned(), process);
    }

    /// Starts an agent that shows its metrics; says where.
    pub fn start_shown(&mut self, name: &str) -> SocketAddr {
        let port = free_port();
        let mut command = self.agent_command(name);
        command.arg(format!("--http=127.0.0.1:{port}"));
        let process = self.spawn(name, &mut command);
        self.agents.insert(name.to_owned(), process);
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Starts a process of the fleet, with a log of its own.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Process {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log").join(name))
            .expect("a log file");
        command.env("RUST_LOG", "info,evenkeel=debug");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Process::start(name, command)
    }

    /// What runs the controller.
    pub fn controller_command(&self) -> Command {
        let mut command = evenkeel();
        command.arg("controller");
        command.arg("--desired").arg(self.folder.join("desired"));
        command.arg("--state").arg(self.folder.join("state/controller"));
        command.arg("--http").arg(format!("127.0.0.1:{}", self.http));
        command.arg("--external-url").arg(self.url());
        if !self.plot.pinned.is_empty() {
            command.arg("--signing-key").arg(self.key_file("controller"));
        }
        if let Some(file) = self.plot.audit_log {
            command.arg("--audit-log").arg(self.folder.join(file));
        }
        match self.plot.broker {
            Broker::Embedded => {
                command.arg("--bus-listen").arg(format!("127.0.0.1:{}", self.bus));
            }
            Broker::Mosquitto => {
                command.arg("--bus").arg(format!("mqtt://127.0.0.1:{}", self.bus));
            }
        }
        command
    }

    /// Starts the controller, and waits until it is ready.
    pub fn start_controller(&mut self) {
        let mut process = self.spawn("controller", &mut self.controller_command());
        let log = self.folder.join("log/controller");
        eventually("the controller is ready", || {
            if process.has_ended() {
                panic!("the controller ended:\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            (self.get("/readyz").ok()?.0 == 200).then_some(())
        });
        self.controller = Some(process);
    }

    /// Runs another controller of the same fleet, with a memory of its own, until it ends.
    pub fn second_controller(&mut self) -> (std::process::ExitStatus, String) {
        let mut command = evenkeel();
        command.arg("controller");
        command.arg("--desired").arg(self.folder.join("desired"));
        command.arg("--state").arg(self.folder.join("state/second"));
        command.arg("--http").arg(format!("127.0.0.1:{}", free_port()));
        command.arg("--bus").arg(format!("mqtt://127.0.0.1:{}", self.bus));
        let status = self.spawn("second", &mut command).wait();
        (status, fs::read_to_string(self.folder.join("log/second")).expect("a log"))
    }

    /// Publishes on a topic of the fleet, not retained, as anybody could whom the broker lets.
    pub fn publish(&self, topic: &str, payload: &[u8]) {
        self.mosquitto_pub(topic, payload, &[]);
    }

    /// The same, retained.
    pub fn retain(&self, topic: &str, payload: &[u8]) {
        self.mosquitto_pub(topic, payload, &["-r"]);
    }

    fn mosquitto_pub(&self, topic: &str, payload: &[u8], more: &[&str]) {
        let mut command = Command::new(program("mosquitto_pub", "mosquitto-clients"));
        command.args(["-V", "5", "-q", "1", "-p", &self.bus.to_string(), "-s"]);
        command.args(more).arg("-t").arg(format!("evenkeel/{}/{topic}", Scene::fleet()));
        command.stdin(Stdio::piped());
        let mut child = command.spawn().expect("start mosquitto_pub");
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), payload)
            .expect("write");
        assert!(child.wait().expect("wait for mosquitto_pub").success(), "{topic}");
    }

    /// The lines of a process's log that have `words` in them.
    pub fn logged(&self, name: &str, words: &str) -> Vec<String> {
        let log = fs::read_to_string(self.folder.join("log").join(name)).expect("a log");
        log.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }

    /// Kills the controller where it stands.
    pub fn kill_controller(&mut self) {
        self.controller.take().expect("a controller").kill();
    }

    pub fn agent(&mut self, name: &str) -> &mut Process {
        self.agents.get_mut(name).expect("an agent")
    }

    pub fn lb(&mut self, name: &str) -> &mut Haproxy {
        self.lbs.get_mut(name).expect("a load balancer")
    }

    /// Another client of the broker; it lasts as long as its events are kept.
    pub fn on_the_bus(&self, id: &str) -> (session::Handle, session::Events) {
        let url = format!("mqtt://127.0.0.1:{}", self.bus).parse().expect("an address");
        let options = session::Options {
            config: session::Config::new(url),
            fleet: Scene::fleet(),
            client_id: id.to_owned(),
            will: None,
        };
        session::open(options).expect("a session")
    }

    /// Brings alfa into mid-rollout: `web2` is being upgraded, and will be until its gate is removed.
    pub fn begin(&self) {
        self.touch("web2", "gate");
        self.write_cluster("alfa", "revision = \"2\"");
        self.says("web2", "the upgrade to 2");
        self.wait_for("its command runs", |scene| !scene.attempts("web2").is_empty());
    }

    /// Brings alfa so far that web1 and web3 are upgraded and settle, web2 and web4 are in the midst of it until
    /// their gates are removed, and web5 waits for a place.
    pub fn midway(&self) {
        self.touch("web4", "gate");
        self.begin();
        self.wait_for("two nodes are upgraded", |scene| {
            ["web1", "web3"].iter().all(|node| scene.running(node) == "2")
        });
        self.says("web4", "the upgrade to 2");
    }

    /// Changes a node's revision behind everybody's back.
    pub fn drift(&self, node: &str, revision: &str) {
        write(&self.folder.join(node).join("revision"), revision);
    }

    /// Makes a file in a node's folder.
    pub fn touch(&self, node: &str, file: &str) {
        fs::write(self.folder.join(node).join(file), "").expect("write a file");
    }

    /// Removes a file from a node's folder.
    pub fn remove(&self, node: &str, file: &str) {
        fs::remove_file(self.folder.join(node).join(file)).expect("remove a file");
    }

    /// HAProxy's administrative bits of a server, in truth.
    pub fn admin(&self, lb: &str, server: &str) -> u8 {
        self.lbs[lb].admin_bits("app", server)
    }

    /// Begins a steady load through the first load balancer.
    pub fn begin_load(&mut self) {
        self.begin_load_through("lb1");
    }

    /// Begins a steady load through a load balancer.
    pub fn begin_load_through(&mut self, lb: &str) {
        self.load.push(Load::begin(&self.lbs[lb]));
    }

    /// Ends the load; nothing may have failed, and nothing been answered by a node that was being upgraded, or
    /// not settled since. Which node answered with which revision.
    pub fn end_load(&mut self) -> BTreeSet<(String, String)> {
        assert!(!self.load.is_empty(), "a load");
        let mut answers = Vec::new();
        for load in self.load.drain(..) {
            let (more, out) = load.end();
            answers.extend(more);
            self.seen_out.extend(out);
        }
        let read = |node: &String| {
            let text = fs::read_to_string(self.folder.join(node).join("journal"));
            (node.clone(), Journal::read(&text.unwrap_or_default()))
        };
        let webs = self.nodes.keys().filter(|node| node.starts_with("web"));
        if let Err(broken) = truth::hold(&webs.map(read).collect(), &answers, self.plot.batch) {
            panic!("{broken}\n{}", self.story());
        }
        truth::by(&answers)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // For whoever looks into a failure: EVENKEEL_KEEP=1 leaves the folder with its logs.
        if std::thread::panicking() && std::env::var_os("EVENKEEL_KEEP").is_some() {
            self.temporary.disable_cleanup(true);
            eprintln!("kept: {}", self.folder.display());
        }
    }
}
