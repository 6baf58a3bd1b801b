//! Two network namespaces with a cable between them, which can be cut.
//!
//! The test moves into the near one: whatever it starts from then on lives there, and nothing is bound outside of it.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::program;

/// Where the near end of the cable is. Nobody else sees it, so that every test can have the same.
pub const NEAR: &str = "10.255.7.1";

const FAR: &str = "10.255.7.2";

/// A near and a far namespace. They go with this.
pub struct Namespaces {
    near: String,
    far: String,
}

impl Namespaces {
    /// Makes both, and moves this thread, with all that it starts, into the near one.
    pub fn enter() -> Namespaces {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = |end: &str| format!("evenkeel-{}-{number}-{end}", std::process::id());
        let both = Namespaces { near: name("near"), far: name("far") };
        let (near, far) = (both.near.as_str(), both.far.as_str());
        for namespace in [near, far] {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        let veth = ["type", "veth", "peer", "name", "cable", "netns", far];
        ip(&[&["-n", near, "link", "add", "cable"], &veth[..]].concat());
        for (namespace, address) in [(near, NEAR), (far, FAR)] {
            ip(&["-n", namespace, "address", "add", &format!("{address}/24"), "dev", "cable"]);
            ip(&["-n", namespace, "link", "set", "cable", "up"]);
        }
        let file = File::open(format!("/run/netns/{near}")).expect("the namespace that was made");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("move into a namespace");
        both
    }

    /// `command`, in the far namespace. It keeps its process id.
    pub fn far(&self, command: &Command) -> Command {
        let mut far = Command::new(program("ip", "iproute2"));
        far.args(["netns", "exec", &self.far]).arg(command.get_program()).args(command.get_args());
        far
    }

    /// Cuts the cable: what is sent is lost, and nobody is told.
    pub fn cut(&self) {
        ip(&["-n", &self.far, "link", "set", "cable", "down"]);
    }

    /// Mends the cable.
    pub fn mend(&self) {
        ip(&["-n", &self.far, "link", "set", "cable", "up"]);
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            // It may not have come to be.
            let _ =
                Command::new(program("ip", "iproute2")).args(["netns", "delete", name]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new(program("ip", "iproute2")).args(arguments).output().expect("run ip");
    assert!(
        output.status.success(),
        "ip {} failed: {}; run the tests as root, who may make network namespaces",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
