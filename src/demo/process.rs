//! The demo's processes: each in a group and with a log of its own, watched, and ended with the demo.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

use super::guard::Guard;

/// How long processes have between SIGTERM and SIGKILL. An agent takes up to 2 s to say good-bye.
const GRACE: Duration = Duration::from_secs(3);

/// How much of a log is shown when something went wrong.
const TAIL_LINES: usize = 6;
const TAIL_BYTES: u64 = 8 * 1024;

/// What of the environment would send loopback requests elsewhere.
const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// A program with its arguments.
#[derive(Debug, Clone)]
pub struct Program {
    /// What it is called here, and its log.
    pub name: String,
    /// The executable.
    pub command: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// What is to be done when it ends.
    pub role: Role,
}

impl Program {
    fn ended(self, how: String) -> Ended {
        let mut command = self.command.display().to_string();
        for arg in &self.args {
            command = format!("{command} {}", arg.display());
        }
        Ended { name: self.name, how, command }
    }
}

/// How a process ends, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An agent: ends before the others, while there is a broker to say good-bye to.
    Agent,
    /// A service that may be restarted, as by a service manager: a clean end means "again".
    Restarted,
    /// Anything else.
    Part,
}

/// Why a process cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {name} ({})", command.display())]
pub struct StartError {
    name: String,
    command: PathBuf,
    #[source]
    error: io::Error,
}

/// A process that ended though nobody had asked it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What it is called.
    pub name: String,
    /// Exit code or signal, in words.
    pub how: String,
    /// What would start it again, as a person types it.
    pub command: String,
}

/// All processes of the demo. Dropping it ends them.
pub struct Processes {
    state: Arc<Mutex<State>>,
}

struct State {
    logs: PathBuf,
    /// Of every process that was ever started.
    names: Vec<String>,
    running: Vec<Running>,
    guard: Option<Guard>,
}

struct Running {
    program: Program,
    child: Child,
}

impl Processes {
    /// None yet; their logs go to the folder `logs`, and `guard` is told of each.
    pub fn new(logs: &Path, guard: Option<Guard>) -> Processes {
        let (names, running) = (Vec::new(), Vec::new());
        let state = State { logs: logs.to_owned(), names, running, guard };
        Processes { state: Arc::new(Mutex::new(state)) }
    }

    /// Starts one.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start(&self, program: Program) -> Result<(), StartError> {
        let mut state = lock(&self.state);
        let child = state.launch(&program)?;
        state.names.push(program.name.clone());
        state.running.push(Running { program, child });
        Ok(())
    }

    /// Waits for one to end that should not. Restarts those that may; needs to be awaited for that.
    pub fn watch(&self) -> impl Future<Output = io::Result<Ended>> + Send + use<> {
        let state = Arc::clone(&self.state);
        async move {
            let mut children = signal(SignalKind::child())?;
            loop {
                if let Some(ended) = lock(&state).tend()? {
                    return Ok(ended);
                }
                children.recv().await;
            }
        }
    }

    /// Fails if one has ended that should not; for waits that are not asynchronous.
    pub fn ended(&self) -> io::Result<Option<Ended>> {
        lock(&self.state).tend()
    }

    /// The last lines of every log that has any, by name.
    pub fn tails(&self) -> Vec<(String, String)> {
        let state = lock(&self.state);
        let tail = |name: &String| {
            let text = tail(&log_of(&state.logs, name)).unwrap_or_default();
            (!text.is_empty()).then_some((name.clone(), text))
        };
        state.names.iter().filter_map(tail).collect()
    }

    /// Ends all of them, with whatever they have started in their groups.
    pub fn end(&mut self) {
        let running = std::mem::take(&mut lock(&self.state).running);
        let (agents, rest): (Vec<_>, Vec<_>) =
            running.into_iter().partition(|running| running.program.role == Role::Agent);
        end(agents);
        end(rest);
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn tend(&mut self) -> io::Result<Option<Ended>> {
        for at in 0..self.running.len() {
            let running = &mut self.running[at];
            let Some(status) = running.child.try_wait()? else { continue };
            let program = running.program.clone();
            let group = Pid::from_child(&running.child);
            self.released(group);
            if program.role != Role::Restarted || !status.success() {
                self.running.remove(at);
                return Ok(Some(program.ended(status.to_string())));
            }
            match self.launch(&program) {
                Ok(child) => self.running[at].child = child,
                Err(error) => return Ok(Some(program.ended(crate::command::chain(&error)))),
            }
        }
        Ok(None)
    }

    /// It has ended; what it has started ends with it.
    fn released(&mut self, group: Pid) {
        kill(group, Signal::KILL);
        if let Some(guard) = &mut self.guard {
            guard.remove(group.as_raw_nonzero().get().unsigned_abs());
        }
    }

    fn launch(&mut self, program: &Program) -> Result<Child, StartError> {
        let child = launch(program, &self.logs)?;
        if let Some(guard) = &mut self.guard {
            guard.add(child.id());
        }
        Ok(child)
    }
}

fn launch(program: &Program, logs: &Path) -> Result<Child, StartError> {
    let start = || {
        let log = OpenOptions::new().create(true).append(true).open(log_of(logs, &program.name))?;
        let mut command = Command::new(&program.command);
        for name in PROXIES {
            command.env_remove(name);
        }
        command
            .args(&program.args)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
    };
    start().map_err(|error| StartError {
        name: program.name.clone(),
        command: program.command.clone(),
        error,
    })
}

fn log_of(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}.log"))
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

/// SIGTERM to all of them at once, and SIGKILL to whatever is left of their groups.
fn end(mut processes: Vec<Running>) {
    for running in &processes {
        kill(Pid::from_child(&running.child), Signal::TERM);
    }
    let deadline = Instant::now() + GRACE;
    while !processes.is_empty() {
        let late = Instant::now() >= deadline;
        processes.retain_mut(|running| {
            let ended = !matches!(running.child.try_wait(), Ok(None));
            if ended || late {
                // What it has started may live on without it.
                kill(Pid::from_child(&running.child), Signal::KILL);
            }
            if late {
                let _ = running.child.wait(); // killed: there is nothing else to be done
            }
            !ended && !late
        });
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn kill(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal); // one that is gone needs no signal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str, role: Role) -> Program {
        Program {
            name: name.to_owned(),
            command: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            role,
        }
    }

    /// The grandchild holds the pipe open: it ends with the grandchild, and not before.
    #[test]
    fn whole_groups_end_with_the_demo() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let mut processes = Processes::new(dir.path(), None);
        let script =
            format!("trap '' TERM; exec > {}; echo begun; sleep 600 & wait", pipe.display());
        processes.start(shell("stubborn", &script, Role::Part)).unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let file = std::io::BufReader::new(File::open(pipe).unwrap());
            let mut lines = std::io::BufRead::lines(file);
            sender.send(lines.next().unwrap().unwrap()).unwrap();
            sender.send(format!("{} more", lines.count())).unwrap();
        });
        let deadline = Duration::from_secs(30);
        assert_eq!(lines.recv_timeout(deadline).unwrap(), "begun");
        processes.end();
        assert_eq!(lines.recv_timeout(deadline).unwrap(), "0 more");
    }

    #[tokio::test]
    async fn an_unexpected_end_is_told_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let processes = Processes::new(dir.path(), None);
        processes.start(shell("good", "exec sleep 600", Role::Part)).unwrap();
        processes.start(shell("bad", "echo why; exit 3", Role::Restarted)).unwrap();
        let ended = processes.watch().await.unwrap();
        assert_eq!((ended.name.as_str(), ended.how.as_str()), ("bad", "exit status: 3"));
        assert_eq!(processes.tails(), [("bad".to_owned(), "why".to_owned())]);
    }

    #[tokio::test]
    async fn a_clean_end_of_a_service_means_again() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let processes = Processes::new(dir.path(), None);
        let script = format!("echo x >> {0}; [ $(wc -l < {0}) -lt 3 ] || exit 9", count.display());
        processes.start(shell("service", &script, Role::Restarted)).unwrap();
        let ended = processes.watch().await.unwrap();
        assert_eq!(ended.how, "exit status: 9");
        assert_eq!(std::fs::read_to_string(&count).unwrap().lines().count(), 3);
    }

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let processes = Processes::new(dir.path(), None);
        let program = Program {
            name: "web1".into(),
            command: "/nowhere/web".into(),
            args: Vec::new(),
            role: Role::Part,
        };
        let error = processes.start(program).unwrap_err().to_string();
        assert_eq!(error, "cannot start web1 (/nowhere/web)");
    }
}
