//! Floor 0: the values that every other floor speaks in. No IO, no clock, no policy.
//!
//! What is said on the wire and kept on disk is exactly these values (serde), inside the versioned
//! envelope of [`crate::bus::wire`]. Names are validated where they are made, so that a value that
//! exists is a value that may be used in a topic, a path or a HAProxy command.

mod assignment;
pub mod buckets;
mod change;
mod condition;
mod decision;
mod desired;
mod event;
mod key;
mod ledger;
mod message;
mod name;
mod reason;
mod record;
mod report;
mod stamp;
mod time;

pub use assignment::{Assignment, BalancerWork, NodeWork, Order, OutProof, Permit, SettleKey};
pub use change::{Asked, Change};
pub use condition::{Condition, ConditionStatus, ConditionType};
pub use decision::{Act, Blocked, Decision, Done, Wait};
pub use desired::{
    Commit, DesiredApp, DesiredCluster, Expect, Fault, LoadBalancer, NotifyOn, NotifyPolicy,
    OnFailure, RolloutPolicy, ServerTemplate, SettlePolicy, Share, Standing, TakeOut,
};
pub use event::{Event, EventKind};
pub use key::{KeyError, PublicKey, Signature, SignatureError, SignedBy};
pub use ledger::{ClusterLedger, Convergence, Failure, FailureCause, Rejection, Rollout, Told};
pub use message::{Cause, Mailbox, Message, MessageKey, Priority, Receipt, ReceiptOutcome};
pub use name::{
    AppName, BackendName, CheckName, ClusterName, ControllerId, FleetName, NameError, NodeName,
    RecipientName, Revision, RolloutId, ServerName,
};
pub use record::{Record, What};
pub use report::{
    AdminBits, Alive, AppReport, Attempt, AttemptFailure, AttemptOutcome, BackendSeen,
    BalancerReport, CheckResult, CheckStatus, ControllerAlive, Health, NotifyReport, Obeyed, Owned,
    Presence, Refusal, RefusalReason, Report, RevisionSeen, ServerReport, ServerSeen, SettleReport,
    SettleState,
};
pub use stamp::{Boot, Epoch, Leader, Stamp};
pub use time::{DURATION_MS_MAX, Mono, Now, Wall, parse_duration_ms, render_duration_ms};
