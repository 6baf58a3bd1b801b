//! Runs an argument vector: no shell, a process group of its own, a time limit, bounded output.
//!
//! The group is killed when the time runs out and when the future is dropped, grandchildren
//! included. A command that ends by itself is left in peace: what it started and left behind
//! (a daemon, say) goes on, and is not waited for either.

mod keep;

use std::error::Error;
use std::io::{self, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;
use tokio::time::timeout;

use keep::Keep;
pub use keep::{TAIL_BYTES_MAX, clean};

/// How long a group has between SIGTERM and SIGKILL. Long enough to remove a lock file, short
/// enough that an attempt ends "within its time plus a few seconds".
const GRACE: Duration = Duration::from_secs(2);

/// How long output is read on when the command has ended but something that it started still
/// holds the pipe. A filter such as `tee` needs a moment for its last lines; a daemon never ends.
const DRAIN: Duration = Duration::from_millis(50);

/// How much of a plugin's standard output is kept: as much as NRPE does (`my_system_parent`).
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A program with its arguments and surroundings, not yet running.
#[derive(Debug)]
pub struct Command {
    argv: Vec<String>,
    env: Vec<(&'static str, String)>,
    stdin: Option<OwnedFd>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code.
    Exit(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// It ran out of time, and its process group was killed.
    TimedOut,
}

/// The standard output and error of a command, kept apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apart {
    /// The beginning of its standard output, at most 64 KiB, as it came.
    pub stdout: Vec<u8>,
    /// The tail of its standard error, cleaned, at most [`TAIL_BYTES_MAX`].
    pub stderr: String,
}

/// Why a command did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is nothing to run.
    #[error("the command is empty")]
    Empty,
    /// No such program, no permission, no more processes.
    #[error("cannot start {program:?}; check that it exists and may be executed")]
    Start {
        /// The program.
        program: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The system refused a pipe, or lost the process.
    #[error("cannot watch over {program:?}")]
    Watch {
        /// The program.
        program: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl Command {
    /// The program `argv[0]`, looked up in PATH if it has no slash, with the rest as its arguments.
    pub fn new(argv: impl Into<Vec<String>>) -> Command {
        Command { argv: argv.into(), env: Vec::new(), stdin: None }
    }

    /// Adds a variable to the inherited environment.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Command {
        self.env.push((name, value.into()));
        self
    }

    /// Gives it this descriptor as its standard input; without one that is `/dev/null`.
    ///
    /// Standard input is the one descriptor that can be handed to exactly one child. Any other
    /// would have to be made inheritable first, and then leaks into whatever this process happens
    /// to start at the same moment.
    #[must_use]
    pub fn stdin(mut self, descriptor: OwnedFd) -> Command {
        self.stdin = Some(descriptor);
        self
    }

    /// Runs it for at most `limit`, and keeps the tail of its output and errors, interleaved as
    /// they were written, cleaned, at most [`TAIL_BYTES_MAX`].
    ///
    /// # Errors
    /// [`RunError`] if it could not be started or watched; whatever it then does is no error.
    pub async fn run(self, limit: Duration) -> Result<(Ended, String), RunError> {
        let mut tail = Keep::tail(TAIL_BYTES_MAX);
        let (group, reader) = self.start_merged()?;
        let ended = group.watch(limit, drink(reader, &mut tail)).await?;
        Ok((ended, tail.into_text()))
    }

    /// Runs it for at most `limit`, and keeps its output and its errors apart.
    ///
    /// # Errors
    /// [`RunError`] if it could not be started or watched; whatever it then does is no error.
    pub async fn run_apart(self, limit: Duration) -> Result<(Ended, Apart), RunError> {
        let mut stdout = Keep::head(HEAD_BYTES_MAX);
        let mut stderr = Keep::tail(TAIL_BYTES_MAX);
        let (group, out, err) = self.start_apart()?;
        let reading = async {
            tokio::join!(drink(out, &mut stdout), drink(err, &mut stderr));
        };
        let ended = group.watch(limit, reading).await?;
        Ok((ended, Apart { stdout: stdout.into_bytes(), stderr: stderr.into_text() }))
    }

    fn start_merged(self) -> Result<(Group, Receiver), RunError> {
        let (reader, out) = self.pipe()?;
        let err = out.try_clone().map_err(|source| self.unwatched(source))?;
        Ok((self.start(out, err)?, reader))
    }

    fn start_apart(self) -> Result<(Group, Receiver, Receiver), RunError> {
        let (out_reader, out) = self.pipe()?;
        let (err_reader, err) = self.pipe()?;
        Ok((self.start(out, err)?, out_reader, err_reader))
    }

    fn pipe(&self) -> Result<(Receiver, PipeWriter), RunError> {
        io::pipe()
            .and_then(|(reader, writer)| Ok((Receiver::from_owned_fd(reader.into())?, writer)))
            .map_err(|source| self.unwatched(source))
    }

    fn unwatched(&self, source: io::Error) -> RunError {
        RunError::Watch { program: self.argv.first().cloned().unwrap_or_default(), source }
    }

    /// Starts it. Our copies of the pipes' writing ends are closed on return, so that the end of
    /// the output can be seen.
    fn start(self, out: PipeWriter, err: PipeWriter) -> Result<Group, RunError> {
        let (program, arguments) = self.argv.split_first().ok_or(RunError::Empty)?;
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .envs(self.env)
            .stdin(self.stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(out)
            .stderr(err)
            .process_group(0);
        match command.spawn() {
            Ok(child) => {
                let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
                Ok(Group { program: program.clone(), child, leader })
            }
            Err(source) => Err(RunError::Start { program: program.clone(), source }),
        }
    }
}

/// A running command and its process group, which is killed when this is dropped.
struct Group {
    program: String,
    child: Child,
    /// The group's id, for as long as the group is ours to kill.
    leader: Option<Pid>,
}

impl Group {
    /// Waits until the command has ended, or ends it when `limit` has passed; `reading` takes in
    /// its output meanwhile, and is complete when nobody holds the pipes any more.
    async fn watch(
        mut self,
        limit: Duration,
        reading: impl Future<Output = ()>,
    ) -> Result<Ended, RunError> {
        let mut reading = Reading { future: std::pin::pin!(reading), open: true };
        let ended = match reading.until_ended(&mut self.child, limit).await {
            Some(status) => {
                // Over by itself: what it left behind is no business of ours.
                self.leader = None;
                let program = &self.program;
                let status = status
                    .map_err(|source| RunError::Watch { program: program.clone(), source })?;
                Ended::from(status)
            }
            None => {
                self.signal(Signal::TERM);
                let _ = reading.until_ended(&mut self.child, GRACE).await;
                // Whether or not the leader has gone: others of its group may still be there.
                self.signal(Signal::KILL);
                // Bounded, because a process that the kernel holds on to outlives even this.
                let _ = reading.until_ended(&mut self.child, GRACE).await;
                self.leader = None;
                Ended::TimedOut
            }
        };
        reading.drain().await;
        Ok(ended)
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // No such group: they have all gone, which is what was wanted.
            let _ = kill_process_group(leader, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The taking in of output, beside the waiting for an end.
struct Reading<'a, F> {
    future: Pin<&'a mut F>,
    open: bool,
}

impl<F: Future<Output = ()>> Reading<'_, F> {
    /// The child's end, or `None` when `limit` has passed.
    async fn until_ended(
        &mut self,
        child: &mut Child,
        limit: Duration,
    ) -> Option<io::Result<ExitStatus>> {
        let mut waiting = std::pin::pin!(timeout(limit, child.wait()));
        loop {
            tokio::select! {
                biased;
                ended = &mut waiting => return ended.ok(),
                () = &mut self.future, if self.open => self.open = false,
            }
        }
    }

    /// Takes in what is still in the pipes, without waiting for those who merely hold them.
    async fn drain(self) {
        if self.open {
            let _ = timeout(DRAIN, self.future).await;
        }
    }
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Ended {
        match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Exit(code),
            (None, Some(signal)) => Ended::Signal(signal),
            // Neither happens only to a stopped process, which is not waited for.
            (None, None) => Ended::Exit(-1),
        }
    }
}

/// An error and its causes in one line, for where only words can go.
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

/// Reads until nobody holds the other end; an error counts as that, since there is no more to come.
async fn drink(mut pipe: Receiver, keep: &mut Keep) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        keep.push(&buffer[..length]);
    }
}
