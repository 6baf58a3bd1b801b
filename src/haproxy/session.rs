//! A kept connection that leads to the HAProxy process that serves, and notices when it no longer does.
//!
//! A connection is to one process. After a reload it still leads to the old process, which goes on
//! answering and knows nothing of the new one. So every pipeline ends with `show info`, and
//! what a process says that is stopping is thrown away.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::answer::{self, Info};
use super::config::Socket;
use super::connection::Connection;
use crate::plan::ports::{BalancerError, ProcessId};

/// The kept connection may have ended with its process, and a new one may still reach a process that
/// is about to stop. What does not work at the third try is left to the caller's next call.
const TRIES: u32 = 3;

/// The socket, and the connection to it if there is one.
pub(super) struct Session {
    socket: Socket,
    /// How long one call may take.
    timeout: Duration,
    /// Taken out while it is in use: a call that fails, or is dropped half-way, leaves none.
    connection: Option<Connection>,
}

impl Session {
    pub(super) fn new(socket: Socket, timeout_ms: u64) -> Session {
        Session { socket, timeout: Duration::from_millis(timeout_ms), connection: None }
    }

    /// When a call that starts now must end.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Asks the process that serves, connecting anew where need be. `commands` may be carried out more than
    /// once, and by a process that is stopping: they must only ask.
    pub(super) async fn ask_serving(
        &mut self,
        commands: &[String],
        deadline: Instant,
    ) -> Result<(ProcessId, Vec<String>), BalancerError> {
        let mut pipeline = commands.to_vec();
        pipeline.push("show info".to_owned());
        let mut tries_left = TRIES;
        loop {
            tries_left -= 1;
            let kept = self.connection.is_some();
            let mut answers = match self.ask(&pipeline, deadline).await {
                Ok(answers) => answers,
                // The process behind a kept connection may have ended long ago.
                Err(BalancerError::Broken { .. }) if kept && Instant::now() < deadline => continue,
                Err(error) => return Err(error),
            };
            let last = answers.pop().unwrap_or_default();
            let Info { process, stopping } =
                answer::info(&last).map_err(|error| self.unclear("show info", error))?;
            if !stopping {
                return Ok((process, answers));
            }
            tracing::debug!(process = process.0, "the HAProxy process is stopping");
            self.connection = None;
            if tries_left == 0 {
                let error = "the process is stopping, and none has taken its place";
                return Err(self.broken("show info", error.to_owned()));
            }
        }
    }

    /// One pipeline on the present connection, or on a new one if there is none.
    pub(super) async fn ask(
        &mut self,
        commands: &[String],
        deadline: Instant,
    ) -> Result<Vec<String>, BalancerError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect(deadline).await?,
        };
        let answers = self.exchange(&mut connection, commands, deadline).await?;
        self.connection = Some(connection);
        Ok(answers)
    }

    /// An answer makes no sense: nothing that this connection says is trusted any more.
    pub(super) fn unclear(&mut self, command: &str, error: String) -> BalancerError {
        self.connection = None;
        BalancerError::Answer { command: command.to_owned(), error }
    }

    async fn connect(&mut self, deadline: Instant) -> Result<Connection, BalancerError> {
        let mut connection = match timeout_at(deadline, Connection::open(&self.socket)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(self.refused(explain(&error))),
            Err(_) => return Err(self.refused(self.too_late())),
        };
        let answers = self.exchange(&mut connection, &["prompt".to_owned()], deadline).await?;
        match answers.concat().as_str() {
            "" => Ok(connection),
            other => {
                let error = format!("{}; is this HAProxy's stats socket?", answer::cut(other));
                Err(self.unclear("prompt", error))
            }
        }
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        commands: &[String],
        deadline: Instant,
    ) -> Result<Vec<String>, BalancerError> {
        let mut answers = Vec::new();
        let error = match timeout_at(deadline, connection.ask(commands, &mut answers)).await {
            Ok(Ok(())) => return Ok(answers),
            Ok(Err(error)) => error,
            Err(_) => self.too_late(),
        };
        let unanswered = commands.get(answers.len()).map_or("", String::as_str);
        Err(self.broken(unanswered, error))
    }

    fn too_late(&self) -> String {
        format!("no answer within {:?}", self.timeout)
    }

    fn refused(&self, error: String) -> BalancerError {
        BalancerError::Connect { address: self.socket.to_string(), error }
    }

    fn broken(&self, command: &str, error: String) -> BalancerError {
        let (address, command) = (self.socket.to_string(), command.to_owned());
        BalancerError::Broken { address, command, error }
    }
}

/// The error with what to do about it.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("{error}; does HAProxy run, with this `stats socket … level admin`?")
        }
        io::ErrorKind::PermissionDenied => format!(
            "{error}; the agent's user must be able to write there: see `user`, `group` and `mode` of `stats socket`"
        ),
        _ => error.to_string(), // io::ErrorKind is not ours.
    }
}
