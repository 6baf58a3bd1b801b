//! A real Mosquitto, on its own port of the loopback and in its own directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::{Process, eventually, free_port, program, wait_for_port};

/// What we recommend for production, too: see docs/bus.md, which a test compares with this.
pub const SETTINGS: &str = "\
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 200000
max_packet_size 1060864
";

/// A broker that can be killed and started again on the same port.
pub struct Mosquitto {
    process: Option<Process>,
    port: u16,
    folder: tempfile::TempDir,
}

impl Mosquitto {
    /// Starts one that lets everybody in and keeps nothing on disk.
    pub fn start() -> Mosquitto {
        Self::configured(free_port(), "allow_anonymous true\n")
    }

    /// Starts one whose retained messages outlive it, if it is stopped and not killed.
    pub fn start_persistent() -> Mosquitto {
        let folder = tempfile::tempdir().expect("a directory");
        let data = format!("persistence_location {}/\n", folder.path().display());
        let more = format!("allow_anonymous true\npersistence true\n{data}");
        Self::in_folder(folder, free_port(), &more)
    }

    /// Starts one that lets everybody in, at an address of this machine besides the loopback one.
    pub fn start_also_at(address: &str) -> Mosquitto {
        let port = free_port();
        Self::configured(port, &format!("allow_anonymous true\nlistener {port} {address}\n"))
    }

    /// Starts one with further lines of configuration, which must say who is let in.
    pub fn configured(port: u16, more: &str) -> Mosquitto {
        Self::in_folder(tempfile::tempdir().expect("a directory"), port, more)
    }

    fn in_folder(folder: tempfile::TempDir, port: u16, more: &str) -> Mosquitto {
        // Started by root, it would change to a user who cannot read our directory.
        let user = if rustix::process::getuid().is_root() { "user root\n" } else { "" };
        let text = format!(
            "listener {port} 127.0.0.1\nlog_dest stderr\nlog_type error\nsys_interval 0\n{user}{SETTINGS}{more}"
        );
        fs::write(folder.path().join("mosquitto.conf"), text).expect("write the configuration");
        let mut broker = Mosquitto { process: None, port, folder };
        broker.start_again();
        broker
    }

    /// Starts it again, on the same port and with the same directory; waits until it answers.
    pub fn start_again(&mut self) {
        let mut command = Command::new(program("mosquitto", "mosquitto"));
        command.arg("-c").arg(self.folder.path().join("mosquitto.conf")).stdin(Stdio::null());
        let mut process = Process::start("mosquitto", &mut command);
        wait_for_port(&mut process, self.port);
        self.process = Some(process);
    }

    /// Has a persistent one write what it retains now, and waits until it has.
    pub fn save(&self) {
        let file = self.folder.path().join("mosquitto.db");
        let _ = fs::remove_file(&file); // There is none before the first time.
        self.signal(rustix::process::Signal::USR1);
        eventually("Mosquitto has saved", || file.exists().then_some(()));
    }

    /// Removes what a persistent one has written; it must not be running.
    pub fn wipe(&self) {
        fs::remove_file(self.folder.path().join("mosquitto.db")).expect("wipe a disk");
    }

    /// Kills it, with no chance to say or write anything.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Asks it to end, and waits until it has; a persistent one then writes what it retains.
    pub fn stop(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        self.process.take().expect("it runs").wait();
    }

    /// Sends it a signal, `STOP` and `CONT` for one.
    pub fn signal(&self, signal: rustix::process::Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the sessions find it.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

/// A file for Mosquitto's `password_file`, with these users and passwords.
pub fn password_file(folder: &Path, users: &[(&str, &str)]) -> PathBuf {
    let file = folder.join("passwords");
    fs::write(&file, "").expect("write the password file");
    for (user, password) in users {
        let mut command = Command::new(program("mosquitto_passwd", "mosquitto"));
        let status = command.arg("-b").arg(&file).args([user, password]).status();
        assert!(status.expect("run mosquitto_passwd").success());
    }
    file
}
