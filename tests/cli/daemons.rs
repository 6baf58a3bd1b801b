//! The two commands that run for long: how they end when they are asked to, what keeps them from
//! starting, and what they log. Without a fleet; with one, `tests/e2e` has them.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use evenkeel::bus::Signer;
use expect_test::{Expect, expect};
use rustix::process::Signal;

use crate::parts::mosquitto::Mosquitto;
use crate::parts::process::{Process, eventually, free_port};
use crate::program::{evenkeel, finish};

/// A command that runs, and its folder.
struct Daemon {
    process: Process,
    folder: tempfile::TempDir,
}

impl Daemon {
    fn start(folder: tempfile::TempDir, arguments: &[&str], rust_log: &str) -> Daemon {
        let log = File::create(folder.path().join("log")).expect("a log file");
        let mut command = evenkeel(arguments);
        command.current_dir(folder.path()).env("RUST_LOG", rust_log).stderr(log);
        Daemon { process: Process::start(arguments[0], &mut command), folder }
    }

    fn controller(more: &[&str]) -> Daemon {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("desired")).expect("a folder");
        let own = ["controller", "--desired=desired", "--state=state"];
        Self::start(folder, &[&own, more].concat(), "info")
    }

    fn agent(url: &str, more: &[&str], rust_log: &str) -> Daemon {
        let folder = tempfile::tempdir().expect("a folder");
        agent_file(folder.path(), &format!("node = \"web1\"\nbus.url = {url:?}\nstate = \"s\"\n"));
        let own = ["agent", "--config=agent.toml"];
        Self::start(folder, &[&own, more].concat(), rust_log)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("UTF-8")
    }

    fn until_it_says(&self, words: &str) {
        eventually(words, || self.log().contains(words).then_some(()));
    }

    fn ask_to_end(&mut self, signal: Signal) -> Option<i32> {
        self.process.signal(signal);
        self.process.wait().code()
    }
}

fn agent_file(folder: &Path, text: &str) -> PathBuf {
    let file = folder.join("agent.toml");
    std::fs::write(&file, text).expect("write a file");
    file
}

#[test]
fn either_signal_ends_them_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut controller =
            Daemon::controller(&["--http=127.0.0.1:0", "--bus-listen=127.0.0.1:0"]);
        controller.until_it_says("connected to the bus");
        assert_eq!(controller.ask_to_end(signal), Some(0), "{}", controller.log());
        controller.until_it_says("controller stops; the fleet stays as it is");

        let broker = Mosquitto::start();
        let mut agent = Daemon::agent(&broker.url(), &[], "info");
        agent.until_it_says("connected to the broker");
        assert_eq!(agent.ask_to_end(signal), Some(0), "{}", agent.log());
        assert!(!agent.log().contains("WARN"), "{}", agent.log());
    }
}

/// It goes on: a checkout may be still to come. But nobody may take this for a fleet in which all is well.
#[test]
fn a_controller_without_desired_files_is_not_ready() {
    let port = free_port();
    let bus = ["--bus-listen=127.0.0.1:0", &format!("--http=127.0.0.1:{port}")];
    let controller = Daemon::controller(&bus);
    controller.until_it_says("connected to the bus");
    let address = format!("http://127.0.0.1:{port}");
    let status = || finish(evenkeel(&["status", "--controller"]).arg(&address));
    let waits = |words: &str| status().out.starts_with(words).then_some(());
    eventually("it knows of none", || waits("the controller has found no desired files yet"));
    assert_eq!(status().code, 2);
    let shop = controller.folder.path().join("desired/shop");
    std::fs::create_dir(&shop).expect("a folder");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("desired/shop");
    for file in ["app.toml", "alfa.toml", "bravo.toml"] {
        std::fs::copy(shipped.join(file), shop.join(file)).expect("copy a file");
    }
    eventually("it has found them", || waits("APP "));
}

/// The last words of a controller have 2 s to get to a broker that takes nothing.
#[test]
fn a_second_signal_does_not_wait_for_the_last_words() {
    let broker = Mosquitto::start();
    let mut controller = Daemon::controller(&["--http=127.0.0.1:0", "--bus", &broker.url()]);
    controller.until_it_says("connected to the bus");
    broker.signal(Signal::STOP);
    controller.process.signal(Signal::TERM);
    controller.until_it_says("stopping; a second signal forces");
    assert_eq!(controller.ask_to_end(Signal::INT), Some(130), "{}", controller.log());
    broker.signal(Signal::CONT);
}

#[test]
fn a_broker_out_of_reach_is_told_once_and_tried_on() {
    let url = format!("mqtt://127.0.0.1:{}", free_port());
    let mut agent = Daemon::agent(&url, &[], "evenkeel=debug");
    let tries = |log: &str| log.matches("no connection to the broker").count();
    eventually("it has tried six times", || (tries(&agent.log()) >= 6).then_some(()));
    assert_eq!(agent.ask_to_end(Signal::TERM), Some(0));
    let log = agent.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("not connected")).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains(" WARN ") && told[0].contains(&url), "{log}");
}

#[test]
fn the_log_is_text_or_json_and_as_much_as_asked_for() {
    let url = format!("mqtt://127.0.0.1:{}", free_port());
    let mut agent = Daemon::agent(&url, &["--log-format=json"], "info");
    agent.until_it_says("not connected");
    agent.ask_to_end(Signal::TERM);
    let log = agent.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect();
    let field = |message: &str, name: &str| {
        let line = lines.iter().find(|line| line["message"] == message);
        line.unwrap_or_else(|| panic!("{message}: {log}"))[name].clone()
    };
    assert_eq!(field("agent started", "node"), "web1");
    assert_eq!(field("not connected to the broker; trying on", "broker"), url.as_str());

    // The last word is as the others are.
    let ended =
        finish(&mut evenkeel(&["agent", "--config=/nowhere/agent.toml", "--log-format=json"]));
    let word: serde_json::Value = serde_json::from_str(&ended.err).expect("a JSON object");
    assert_eq!((ended.code, &word["message"]), (1, &"evenkeel ends".into()));
    assert!(word["why"].as_str().is_some_and(|why| why.contains("/nowhere/agent.toml")), "{word}");

    let mut quiet = Daemon::agent(&url, &[], "off");
    eventually("it has its memory", || {
        quiet.folder.path().join("s/memory.a").exists().then_some(())
    });
    quiet.ask_to_end(Signal::TERM);
    assert_eq!(quiet.log(), "");
}

#[test]
fn what_keeps_an_agent_from_starting_is_said() {
    let says = |text: &str, expected: Expect| {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let file =
            agent_file(folder.path(), &text.replace("STATE", state.to_str().expect("UTF-8")));
        let ended = finish(evenkeel(&["agent", "--config"]).arg(&file).env("RUST_LOG", "error"));
        assert_eq!((ended.code, ended.out.as_str()), (1, ""));
        let folder = folder.path().to_str().expect("UTF-8");
        expected.assert_eq(&ended.err.replace(folder, "FOLDER"));
    };
    says(
        "nodd = \"web1\"\n",
        expect![[r#"
            evenkeel: the agent's configuration FOLDER/agent.toml has a fault
            TOML parse error at line 1, column 1
              |
            1 | nodd = "web1"
              | ^^^^
            unknown field `nodd`, expected one of `version`, `node`, `fleet`, `bus`, `trusted_keys`, `state`, `heartbeat`, `observe`, `facts`, `apps`, `checks`, `haproxy`, `notify`
        "#]],
    );
    says(
        "node = \"web 1\"\n",
        expect![[r#"
        evenkeel: the agent's configuration FOLDER/agent.toml has a fault
        TOML parse error at line 1, column 8
          |
        1 | node = "web 1"
          |        ^^^^^^^
        "web 1" is not a valid node name: it must begin with a letter or digit, go on with letters, digits or any of "._-", and be 1 to 128 characters long
    "#]],
    );
    says(
        "bus.url = \"http://bus\"\n",
        expect![[r#"
        evenkeel: the agent's configuration FOLDER/agent.toml has a fault
        TOML parse error at line 1, column 11
          |
        1 | bus.url = "http://bus"
          |           ^^^^^^^^^^^^
        the address begins with neither mqtt:// nor mqtts://; wanted mqtt://[user:password@]host[:port], or mqtts:// for TLS
    "#]],
    );
    says(
        "state = \"/proc/evenkeel\"\n",
        expect![[r#"
        evenkeel: cannot use the agent's state directory /proc/evenkeel; does it belong to the agent's user?: cannot make the folder /proc/evenkeel: No such file or directory (os error 2)
    "#]],
    );
    says(
        "state = \"STATE\"\nchecks.files = [\"/nowhere/nrpe.cfg\"]\n",
        expect![[r#"
        evenkeel: cannot read the node's checks: cannot read /nowhere/nrpe.cfg: No such file or directory (os error 2)
    "#]],
    );
    says(
        "state = \"STATE\"\nfacts.files = [\"/nowhere/facts.json\"]\n",
        expect![[r#"
        evenkeel: cannot gather the node's facts: cannot read the facts in /nowhere/facts.json: No such file or directory (os error 2)
    "#]],
    );
    says(
        "state = \"STATE\"\n[bus]\nurl = \"mqtt://127.0.0.1\"\nuser = \"me\"\npassword_file = \"/nowhere/password\"\n",
        expect![[r#"
            evenkeel: cannot open a session with the broker: cannot read the password of the bus from /nowhere/password: No such file or directory (os error 2)
        "#]],
    );
    let ended = finish(&mut evenkeel(&["agent", "--config=/nowhere/agent.toml"]));
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    expect![[r#"
        evenkeel: cannot read the agent's configuration /nowhere/agent.toml: No such file or directory (os error 2)
    "#]].assert_eq(&ended.err);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address.to_string()));
    let (_taken, address) = taken.expect("an address");
    let folder = tempfile::tempdir().expect("a folder");
    let file = agent_file(folder.path(), "");
    let mut command = evenkeel(&["agent", "--http", &address, "--config"]);
    let ended = finish(command.arg(&file).env("RUST_LOG", "error"));
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    expect![[r#"
        evenkeel: cannot listen on TAKEN for HTTP: Address already in use (os error 98); give another address with --http
    "#]].assert_eq(&ended.err.replace(&address, "TAKEN"));
}

#[test]
fn the_public_half_of_a_key_is_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("signing.key");
    let (signer, pem) = Signer::make().expect("a key");
    fs::write(&file, &pem).expect("write a key");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("keep it");
    let public = signer.public();
    let print = |file: &Path| finish(evenkeel(&["public-key"]).arg(file));
    let printed = print(&file);
    assert_eq!((printed.code, printed.out.as_str()), (0, format!("{public}\n").as_str()));
    let missing = print(Path::new("/nowhere/key"));
    assert_eq!((missing.code, missing.out.as_str()), (4, ""));
    expect![[r#"
        evenkeel: cannot read the signing key /nowhere/key; `openssl genpkey -algorithm ed25519 -out FILE` makes one: No such file or directory (os error 2)
    "#]].assert_eq(&missing.err);
}

#[test]
fn what_keeps_a_controller_from_starting_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let says = |arguments: &[&str], expected: Expect| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = evenkeel(&["controller", "--desired=desired"]);
        command.args(arguments).current_dir(folder.path()).env("RUST_LOG", "error");
        let ended = finish(&mut command);
        assert_eq!((ended.code, ended.out.as_str()), (1, ""));
        expected.assert_eq(&ended.err.replace(&taken, "TAKEN"));
    };
    let http = "--http=127.0.0.1:0";
    let bus = "--bus-listen=127.0.0.1:0";
    says(
        &["--state=state", "--signing-key=/nowhere/key", http, bus],
        expect![[r#"
        evenkeel: cannot read the signing key /nowhere/key; `openssl genpkey -algorithm ed25519 -out FILE` makes one: No such file or directory (os error 2)
    "#]],
    );
    says(
        &["--state=/proc/evenkeel", http, bus],
        expect![[r#"
        evenkeel: cannot use the state directory /proc/evenkeel; give a writable one with --state: cannot make the folder /proc/evenkeel: No such file or directory (os error 2)
    "#]],
    );
    says(
        &["--state=state", "--http", &taken, bus],
        expect![[r#"
        evenkeel: cannot listen on TAKEN for HTTP: Address already in use (os error 98); give another address with --http
    "#]],
    );
    says(
        &["--state=state", http, "--bus-listen", &taken],
        expect![[r#"
        evenkeel: the embedded broker cannot listen on TAKEN: Address already in use (os error 98)
    "#]],
    );
    says(
        &["--state=state", http, "--bus-listen=0.0.0.0:0"],
        expect![[r#"
        evenkeel: the embedded broker would let everybody in who reaches 0.0.0.0:0, and they could order upgrades; give it a password file, let it listen on 127.0.0.1, or let everybody in on purpose
    "#]],
    );
    says(
        &["--state=state", http, "--bus=http://bus"],
        expect![[r#"
        evenkeel: --bus: the address begins with neither mqtt:// nor mqtts://; wanted mqtt://[user:password@]host[:port], or mqtts:// for TLS
    "#]],
    );
    let password = "--bus-password-file=/nowhere/password";
    says(
        &["--state=state", http, "--bus=mqtt://bus", "--bus-user=me", password],
        expect![[r#"
        evenkeel: cannot use the bus: cannot read the password of the bus from /nowhere/password: No such file or directory (os error 2)
    "#]],
    );
}
