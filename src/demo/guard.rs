//! Ends the demo's processes when the demo itself is killed and cannot.
//!
//! The guard is a process that reads ids of process groups from the demo. When the demo has gone
//! without a word, the pipe ends, and the guard kills the groups that it knows.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// What the demo says before it ends by itself.
const DONE: &str = "done";

/// The demo's end of the pipe.
pub struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts one; `program` is evenkeel's own.
    ///
    /// # Errors
    /// The system's.
    pub fn start(program: &Path) -> io::Result<Guard> {
        // A group of its own: Ctrl-C is meant for the demo.
        let mut child = Command::new(program)
            .arg("demo-guard")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pipe = child.stdin.take();
        Ok(Guard { child, pipe })
    }

    /// From now on, this group is killed when the demo has gone.
    pub fn add(&mut self, group: u32) {
        self.say(&format!("+{group}"));
    }

    /// This group has ended.
    pub fn remove(&mut self, group: u32) {
        self.say(&format!("-{group}"));
    }

    fn say(&mut self, line: &str) {
        // Without its guard the demo still ends its processes itself.
        let _ = self.pipe.as_mut().map(|pipe| writeln!(pipe, "{line}"));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.say(DONE);
        self.pipe = None;
        let _ = self.child.wait(); // it has nothing more to read
    }
}

/// The guard itself: returns when the demo has ended, and its groups with it.
///
/// # Errors
/// The system's, of reading.
pub fn guard(pipe: impl BufRead) -> io::Result<()> {
    let mut groups = BTreeSet::new();
    for line in pipe.lines() {
        let line = line?;
        if line == DONE {
            return Ok(());
        }
        let id = line.get(1..).and_then(|id| id.parse::<u32>().ok()).filter(|id| *id > 1);
        match (line.chars().next(), id) {
            (Some('+'), Some(id)) => groups.insert(id),
            (Some('-'), Some(id)) => groups.remove(&id),
            _ => return Err(io::Error::other(format!("not understood: {line:?}"))),
        };
    }
    for group in groups.into_iter().filter_map(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
        let _ = kill_process_group(group, Signal::KILL); // one that is gone needs no signal
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").process_group(0).spawn().unwrap()
    }

    #[test]
    fn what_is_left_is_killed_when_the_pipe_ends() {
        let (mut kept, mut released) = (sleeper(), sleeper());
        let (a, b) = (kept.id(), released.id());
        guard(format!("+{a}\n+{b}\n-{b}\n").as_bytes()).unwrap();
        assert_eq!(kept.wait().unwrap().signal(), Some(9));
        assert_eq!(released.try_wait().unwrap(), None);
        guard(format!("+{b}\n{DONE}\n").as_bytes()).unwrap();
        assert_eq!(released.try_wait().unwrap(), None);
        released.kill().unwrap();
        released.wait().unwrap();
    }

    #[test]
    fn nonsense_kills_nobody() {
        for line in ["+", "+0", "+1", "+-5", "+x", "17", "-"] {
            assert!(guard(line.as_bytes()).is_err(), "{line}");
        }
    }
}
