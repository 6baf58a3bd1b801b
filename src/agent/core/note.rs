//! What is worth a line in the log, as values; the driver logs them with constant messages.

use crate::model::{
    AppName, Attempt, BackendName, Boot, Change, CheckName, Epoch, MessageKey, NodeName, Owned,
    RecipientName, Refusal, Revision, ServerName, SettleState, SignedBy, Stamp,
};

/// A message, and on whose word it is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// Which.
    pub key: MessageKey,
    /// The app that it is about.
    pub app: AppName,
    /// Who commands that app, as far as the agent has heard.
    pub epoch: Option<Epoch>,
    /// Who has signed the mailbox that it came in.
    pub signed: SignedBy,
}

/// One line for the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    /// Another agent speaks under this node's name.
    NameTaken {
        /// Its life.
        boot: Boot,
    },
    /// The disk was lost or is older than the agent's own retained report, which was taken instead.
    Recovered {
        /// Assignments taken from it.
        assignments: usize,
        /// Maintenances found again.
        owned: usize,
    },
    /// An assignment for another node came to this one's topic.
    Misaddressed {
        /// The node that it names.
        node: NodeName,
    },
    /// More apps command this node than it will remember.
    TooManyApps {
        /// The one that was ignored.
        app: AppName,
    },
    /// An assignment is in force from now on.
    Accepted {
        /// The app.
        app: AppName,
        /// Which.
        stamp: Stamp,
        /// Who has signed it.
        key: SignedBy,
        /// What it asks otherwise than the one before.
        changes: Vec<Change>,
    },
    /// An order or a claim came from somebody who does not command any more.
    StaleEpoch {
        /// The app.
        app: AppName,
        /// Whose.
        offered: Epoch,
        /// Who commands.
        known: Epoch,
        /// Who has signed it; nobody signs a claim.
        key: SignedBy,
    },
    /// An order is not from anybody whose orders are to be taken.
    Untrusted {
        /// The app.
        app: AppName,
        /// Which order it says it is.
        stamp: Stamp,
        /// Who has signed it.
        key: SignedBy,
    },
    /// A mailbox is not from anybody whose orders are to be taken.
    UntrustedMailbox {
        /// Who has signed it.
        key: SignedBy,
    },
    /// Why the agent does not do what was asked has changed.
    Refused {
        /// The app.
        app: AppName,
        /// Why, or that it does not refuse any more.
        refusal: Option<Refusal>,
    },
    /// An attempt starts.
    UpgradeStarts {
        /// The app.
        app: AppName,
        /// The revision.
        revision: Revision,
        /// Which attempt.
        attempt: u32,
    },
    /// An attempt has ended.
    UpgradeEnded {
        /// The app.
        app: AppName,
        /// It, with its outcome.
        attempt: Attempt,
    },
    /// An attempt was running when the agent last ended, and may still be.
    AwaitsEarlier {
        /// The app.
        app: AppName,
    },
    /// An attempt was running when the agent last ended, and nothing of it runs any more.
    Interrupted {
        /// The app.
        app: AppName,
        /// The revision.
        revision: Revision,
        /// Which attempt.
        attempt: u32,
    },
    /// A settling stands elsewhere now.
    Settle {
        /// The app.
        app: AppName,
        /// Where.
        state: SettleState,
        /// The checks that are not OK.
        not_ok: Vec<CheckName>,
    },
    /// A maintenance is ours from now on.
    Owns {
        /// The app that asks for it.
        app: AppName,
        /// The backend.
        backend: BackendName,
        /// The server.
        server: ServerName,
        /// On whose order, and what was there before.
        owned: Owned,
    },
    /// A maintenance is not ours any more.
    Disowns {
        /// The app that it was for.
        app: AppName,
        /// The backend.
        backend: BackendName,
        /// The server.
        server: ServerName,
    },
    /// Somebody changed by hand what we keep out: it stays out, and what they have set is what will be restored.
    ChangedByHand {
        /// The app that keeps it out.
        app: AppName,
        /// The backend.
        backend: BackendName,
        /// The server.
        server: ServerName,
    },
    /// Another HAProxy process serves.
    ProcessChanged {
        /// Its id.
        process: u32,
    },
    /// HAProxy cannot be asked; told once until it can.
    BalancerFailed {
        /// In words.
        error: String,
    },
    /// HAProxy can be asked again.
    BalancerBack,
    /// HAProxy's state file could not be written.
    DumpFailed {
        /// In words.
        error: String,
    },
    /// The agent's disk does not take its memory.
    DiskFailed {
        /// In words.
        error: String,
    },
    /// A message was delivered.
    Delivered {
        /// Which.
        message: Handed,
        /// To whom.
        recipient: RecipientName,
    },
    /// A message was not delivered.
    NotDelivered {
        /// Which.
        message: Handed,
        /// To whom.
        recipient: RecipientName,
        /// In words.
        error: String,
        /// In how many milliseconds it is tried again, if it is.
        again_in_ms: Option<u64>,
    },
    /// The agent ends; a running upgrade is waited for a little.
    Stopping {
        /// Whether one is.
        upgrading: bool,
    },
}
