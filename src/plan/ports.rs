//! The ports: what a driver needs of the world, as traits, so that a real part and a simulated one
//! can stand behind the same contract tests. An adapter translates; it decides nothing.

use std::collections::BTreeMap;
use std::future::Future;

use crate::model::{
    AdminBits, AttemptFailure, BackendName, CheckName, CheckResult, Message, RecipientName,
    Revision, RevisionSeen, ServerName, ServerSeen,
};

/// HAProxy's runtime API, as one persistent connection.
pub trait Balancer: Send {
    /// Every server of the backends in `wanted`, or of all backends if it is empty. A wanted backend that does
    /// not exist is absent from the answer.
    ///
    /// # Errors
    /// [`BalancerError`]; the connection is made anew by the next call.
    fn read(
        &mut self,
        wanted: &[BackendName],
    ) -> impl Future<Output = Result<BalancerState, BalancerError>> + Send;

    /// Sets the administrative states, pipelined, in the given order. Says nothing of what became
    /// of it beyond HAProxy's own answers: the caller reads back.
    ///
    /// # Errors
    /// [`BalancerError`] if nothing could be said to HAProxy; what it answered against single
    /// commands comes back per command.
    fn set(
        &mut self,
        commands: &[SetServer],
    ) -> impl Future<Output = Result<Vec<Result<(), String>>, BalancerError>> + Send;

    /// Asks whether the connected process is still the one that serves; cheap, for a poll every
    /// 200 ms.
    ///
    /// # Errors
    /// [`BalancerError`] if no process answers.
    fn process(&mut self) -> impl Future<Output = Result<ProcessId, BalancerError>> + Send;

    /// Writes `show servers state` to the configured state file, atomically; does nothing where none is configured.
    ///
    /// # Errors
    /// [`BalancerError`] if HAProxy or the disk refuses.
    fn dump_state(&mut self) -> impl Future<Output = Result<(), BalancerError>> + Send;
}

/// Which HAProxy process answered. Changes with every reload and restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u32);

/// What HAProxy showed at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancerState {
    /// The process that answered.
    pub process: ProcessId,
    /// Its backends.
    pub backends: BTreeMap<BackendName, BTreeMap<ServerName, ServerSeen>>,
}

/// One `set server BACKEND/SERVER state STATE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetServer {
    /// The backend.
    pub backend: BackendName,
    /// The server.
    pub server: ServerName,
    /// The state.
    pub state: SetState,
}

/// The states that can be set (HAProxy management guide 9.3, `set server`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetState {
    /// Clears maintenance and drain.
    Ready,
    /// No new sessions.
    Drain,
    /// No traffic. Erases a drain.
    Maint,
}

impl SetState {
    /// The one state that brings back what `before` held; nothing is to be done where the
    /// maintenance is not ours to lift.
    pub fn restoring(before: AdminBits) -> Option<SetState> {
        if before.is_forced_maintenance() {
            None
        } else if before.0 & AdminBits::FORCED_DRAIN != 0 {
            Some(SetState::Drain)
        } else {
            Some(SetState::Ready)
        }
    }
}

/// Why HAProxy could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BalancerError {
    /// No connection.
    #[error("cannot connect to HAProxy at {address}: {error}")]
    Connect {
        /// Where.
        address: String,
        /// The error, in words.
        error: String,
    },
    /// The connection broke, or the answer did not come in time or was too long.
    #[error("HAProxy at {address} did not answer {command:?}: {error}")]
    Broken {
        /// Where.
        address: String,
        /// What was asked.
        command: String,
        /// The error, in words.
        error: String,
    },
    /// The answer is none that we know.
    #[error("HAProxy's answer to {command:?} is not understood: {error}")]
    Answer {
        /// What was asked.
        command: String,
        /// What is wrong with the answer.
        error: String,
    },
    /// The state file could not be written.
    #[error("cannot write HAProxy's state file {path}: {error}")]
    StateFile {
        /// Which.
        path: String,
        /// The error, in words.
        error: String,
    },
}

/// Brings revisions to one app on this node.
pub trait Deploy: Send + Sync {
    /// One attempt, from start to read-back. Ends within `timeout_ms` plus a few seconds, whatever
    /// the command does; then, or when this future is dropped, its process group is killed.
    fn upgrade(
        &self,
        revision: &Revision,
        timeout_ms: u64,
    ) -> impl Future<Output = Result<(), UpgradeError>> + Send;

    /// Comes back when no deploy command runs that an earlier process of the agent has started, however
    /// long that takes: nobody is left who would end it.
    fn left_alone(&self) -> impl Future<Output = ()> + Send;

    /// The revision that the running service says it has.
    fn revision(&self) -> impl Future<Output = RevisionSeen> + Send;
}

/// Why an attempt failed, with the tail of what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeError {
    /// Why.
    pub why: AttemptFailure,
    /// At most 4 KiB of output.
    pub tail: String,
}

/// Runs checks on this node.
pub trait Checks: Send + Sync {
    /// Whether a check of this name is configured.
    fn knows(&self, name: &CheckName) -> bool;

    /// Runs one check; whatever goes wrong is a result, too.
    fn run(&self, name: &CheckName) -> impl Future<Output = CheckResult> + Send;
}

/// Delivers messages to recipients.
pub trait Notify: Send + Sync {
    /// The recipients that it knows how to reach.
    fn recipients(&self) -> Vec<RecipientName>;

    /// One try to deliver one message to one recipient, within a bounded time.
    fn deliver(
        &self,
        recipient: &RecipientName,
        message: &Message,
    ) -> impl Future<Output = Result<(), DeliverError>> + Send;
}

/// Why a message was not delivered. The class decides whether to try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    /// It may work later: no connection, a server error, a rate limit.
    #[error("{error}")]
    Transient {
        /// In words, without secrets.
        error: String,
        /// How long the service asks us to wait, in milliseconds, if it does.
        retry_after_ms: Option<u64>,
    },
    /// It was not tried: the service has been asked as often as it allows.
    #[error("the service has been asked as often as it allows")]
    Paced {
        /// When it may be asked again, in milliseconds from now.
        again_in_ms: u64,
    },
    /// It will not: unknown recipient, rejected by the service.
    #[error("{error}")]
    Terminal {
        /// In words, without secrets.
        error: String,
    },
}
