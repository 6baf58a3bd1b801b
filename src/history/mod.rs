//! Floor 2: what happened, kept: a database in the controller's state directory, and an audit trail
//! of JSON lines. Written by a thread of its own, so that nobody waits for the disk; read by whoever asks.

mod audit;
mod entry;
mod keeper;
mod query;
#[cfg(feature = "history")]
mod reader;
#[cfg(not(feature = "history"))]
#[path = "absent.rs"]
mod reader;
mod sink;
#[cfg(feature = "history")]
mod store;
mod trail;

pub(crate) use audit::time;
pub use audit::{AuditError, Lines, Rotation};
pub use entry::{Entry, Kind, TEXT_MAX};
pub use keeper::{Config, Counters, Keeper};
pub use query::{Filter, LIMIT_MAX, Page, Rollout, RolloutOutcome, RolloutPage, Rollouts, age_ms};
pub use reader::{ReadError, Reader};
pub use sink::SinkCounters;
pub use trail::Trail;

/// The database's name in the state directory.
pub const FILE: &str = "history.db";
