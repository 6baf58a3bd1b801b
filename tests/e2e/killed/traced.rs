//! A process that strace(1) watches, and kills in the middle of a chosen system call.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::parts::process::{Process, program};
use crate::scene::Scene;

/// What has an effect outside of the process: on a disk, or on the bus (acknowledgements included).
const EFFECTS: &str = "pwrite64,fdatasync,fsync,rename,writev,sendto";

/// Where a process is killed: as it enters the call of this number, from 1, to this system call. strace counts for
/// each thread by itself; the first thread to get there ends the process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub call: String,
    pub number: usize,
}

/// A process under strace; both end when the test lets go of it.
pub struct Traced {
    strace: Process,
}

impl Traced {
    /// Starts `command`, to be killed at `place` if there is one; what it does is written to `file`.
    pub fn start(scene: &Scene, command: &Command, file: &Path, place: Option<&Place>) -> Traced {
        let mut strace = Command::new(program("strace", "strace"));
        strace.args(["-f", "-qq", "-s", "16", "-o"]).arg(file);
        strace.args(["-e", &format!("trace={EFFECTS}")]);
        if let Some(Place { call, number }) = place {
            // Killed on entry, before anything has come of the call.
            strace.args(["-e", &format!("inject={call}:signal=SIGKILL:when={number}")]);
        }
        // One thread speaks to the bus, so that its calls have one count.
        strace.env("TOKIO_WORKER_THREADS", "1");
        strace.arg("--").arg(command.get_program()).args(command.get_args());
        Traced { strace: scene.spawn("controller", &mut strace) }
    }

    pub fn has_ended(&mut self) -> bool {
        self.strace.has_ended()
    }

    /// Kills the process, and waits until strace has seen it.
    pub fn kill(&mut self) {
        // While strace lives and does not wait, its child's id is nobody else's.
        if let Some(child) = self.child() {
            let _ = kill_process(child, Signal::KILL); // It may just have ended.
        }
        self.strace.wait();
    }

    fn child(&mut self) -> Option<Pid> {
        let id = self.strace.id();
        let list = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        Pid::from_raw(list.split_whitespace().next()?.parse().ok()?)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill();
        }
    }
}

/// How often each thread made each system call, by what strace wrote; of the lines that `counts`.
fn made(file: &Path, counts: impl Fn(&&str) -> bool) -> BTreeMap<(String, String), usize> {
    let text = std::fs::read_to_string(file).expect("what strace wrote");
    let mut made: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in text.lines().filter(counts) {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if EFFECTS.split(',').any(|effect| effect == call) {
            *made.entry((call.to_owned(), thread.to_owned())).or_default() += 1;
        }
    }
    made
}

/// The places in what was traced: for each system call as many as the busiest thread made. What was said over HTTP
/// is none of the rollout.
pub fn places(file: &Path) -> Vec<Place> {
    let mut most: BTreeMap<String, usize> = BTreeMap::new();
    for ((call, _), count) in made(file, |line| !line.contains("\"HTTP/1.")) {
        let most = most.entry(call).or_default();
        *most = (*most).max(count);
    }
    let of = |(call, count): (String, usize)| {
        (1..=count).map(move |number| Place { call: call.clone(), number })
    };
    most.into_iter().flat_map(of).collect()
}

/// How often the thread that got there first made the call of a place: as often as that says if it was killed there.
pub fn calls(file: &Path, place: &Place) -> usize {
    let made = made(file, |_| true);
    made.iter().filter(|((call, _), _)| *call == place.call).map(|(_, n)| *n).max().unwrap_or(0)
}
