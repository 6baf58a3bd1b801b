//! What the core is told, and what it asks for: two closed enums, all values.

use std::sync::Arc;

use super::memory::Memory;
use super::note::Note;
use crate::model::{
    Alive, AppName, Assignment, CheckName, CheckResult, Leader, Mailbox, Message, MessageKey,
    NodeName, Receipt, RecipientName, Report, Revision, RevisionSeen, SignedBy,
};
use crate::plan::ports::{
    BalancerError, BalancerState, DeliverError, ProcessId, SetServer, UpgradeError,
};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The bus is connected; what was subscribed before is forgotten there.
    Connected {
        /// Counts the connections of this process, from 1, as the Last Will of this one says.
        connection: u64,
    },
    /// The bus is not connected any more.
    Disconnected,
    /// A document has come.
    Received {
        /// What it says.
        document: Document,
        /// It was delivered as retained, and proves nothing about the present.
        retained: bool,
    },
    /// The marker of [`Effect::Mark`] is back: everything retained before it has come.
    Marker {
        /// The connection that it was sent on.
        connection: u64,
    },
    /// The answer to [`Effect::ReadRevision`].
    RevisionRead {
        /// The app.
        app: AppName,
        /// The number of the question.
        read: u64,
        /// What the service says.
        seen: RevisionSeen,
    },
    /// The answer to [`Effect::AwaitEarlier`].
    EarlierEnded {
        /// The app.
        app: AppName,
    },
    /// The end of [`Effect::StartUpgrade`].
    UpgradeEnded {
        /// The app.
        app: AppName,
        /// Whether it succeeded, revision read back.
        result: Result<(), UpgradeError>,
    },
    /// The end of [`Effect::RunCheck`].
    CheckEnded {
        /// The app whose settling asked.
        app: AppName,
        /// Which settling asked.
        run: u64,
        /// The check.
        check: CheckName,
        /// Its result.
        result: CheckResult,
    },
    /// The answer to [`Effect::ReadBalancer`].
    BalancerRead(Result<BalancerState, BalancerError>),
    /// The answer to [`Effect::SetBalancer`], one result per command.
    BalancerSet(Result<Vec<Result<(), String>>, BalancerError>),
    /// The answer to [`Effect::AskProcess`].
    ProcessSeen(Result<ProcessId, BalancerError>),
    /// The answer to [`Effect::DumpState`].
    StateDumped(Result<(), BalancerError>),
    /// The end of [`Effect::Deliver`].
    Delivered {
        /// The message.
        key: MessageKey,
        /// The recipient.
        recipient: RecipientName,
        /// What became of it.
        result: Result<(), DeliverError>,
    },
    /// [`Effect::Persist`] is on disk and will survive a crash.
    Persisted {
        /// Which.
        token: u64,
    },
    /// [`Effect::Persist`] has failed; the earlier memory is intact.
    PersistFailed {
        /// Which.
        token: u64,
        /// The error, in words.
        error: String,
    },
    /// The time of [`super::AgentCore::next_wake`] has come.
    Tick,
    /// The process is asked to end.
    Stop,
}

/// A document from the bus, understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// At `nodes/<this node>/assignment/<app>`; and who has signed it.
    Assignment(Box<Assignment>, SignedBy),
    /// At `nodes/<node>/report`: this node's own, or that of a load balancer it follows.
    Report(Box<Report>),
    /// At `nodes/<node>/alive`: this node's own, or, for a load balancer, anybody's.
    Alive(Alive),
    /// At `leader/<app>`.
    Leader(Leader),
    /// At `notify/<this node>`; and who has signed it.
    Mailbox(Box<Mailbox>, SignedBy),
}

/// What is to be done. Every effect with an answer is answered exactly once.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Connect anew, with this start in the Last Will: what is retained shows a later one than ours.
    Reconnect {
        /// The start to use, see [`crate::model::Boot`].
        started: u64,
    },
    /// Subscribe to these, on this connection.
    Subscribe(Vec<Interest>),
    /// Publish a marker to oneself, not retained; [`Event::Marker`] tells that it is back.
    Mark {
        /// This connection.
        connection: u64,
    },
    /// Publish this, retained, after the subscriptions before it.
    Publish(Box<Publication>),
    /// Write this to disk, so that it survives a crash; then [`Event::Persisted`] or
    /// [`Event::PersistFailed`].
    Persist {
        /// Comes back in the answer.
        token: u64,
        /// What to write.
        memory: Arc<Memory>,
    },
    /// Read the revision of the running service.
    ReadRevision {
        /// The app.
        app: AppName,
        /// Comes back in the answer.
        read: u64,
    },
    /// Wait until no deploy command of an earlier life runs any more.
    AwaitEarlier {
        /// The app.
        app: AppName,
    },
    /// Make one attempt, now.
    StartUpgrade {
        /// The app.
        app: AppName,
        /// The revision to bring.
        revision: Revision,
        /// Its time limit, in milliseconds.
        timeout_ms: u64,
    },
    /// Run a check, now.
    RunCheck {
        /// The app whose settling asks.
        app: AppName,
        /// Comes back in the answer.
        run: u64,
        /// The check.
        check: CheckName,
    },
    /// Read HAProxy. Of the four about HAProxy one at a time is under way.
    ReadBalancer,
    /// Set administrative states.
    SetBalancer(Vec<SetServer>),
    /// Ask which process serves.
    AskProcess,
    /// Write HAProxy's state file.
    DumpState,
    /// One try to deliver a message.
    Deliver {
        /// To whom.
        recipient: RecipientName,
        /// What.
        message: Box<Message>,
    },
    /// Something worth a line in the log.
    Log(Note),
    /// Leave: what was published before is to be flushed, what runs is to be killed.
    Exit,
}

/// What the agent says on the bus.
#[derive(Debug, Clone, PartialEq)]
pub enum Publication {
    /// At `nodes/<this node>/alive`.
    Alive(Alive),
    /// At `nodes/<this node>/report`.
    Report(Report),
    /// At `receipts/<node>/<key>`.
    Receipt(Receipt),
}

/// What the agent subscribes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interest {
    /// `nodes/<this node>/alive`
    OwnAlive,
    /// `nodes/<this node>/report`
    OwnReport,
    /// `nodes/<this node>/marker`, for what is published by [`Effect::Mark`].
    OwnMarker,
    /// `nodes/<this node>/assignment/+`
    OwnAssignments,
    /// `leader/+`
    Leaders,
    /// `notify/<this node>`
    OwnMailbox,
    /// `nodes/<node>/report` of a load balancer.
    ReportOf(NodeName),
    /// `nodes/+/alive`
    Arrivals,
}
