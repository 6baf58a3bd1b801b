//! What ONE agent says of its node, whole, never a delta.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::assignment::{Assignment, SettleKey};
use super::key::SignedBy;
use super::name::{
    AppName, BackendName, CheckName, ControllerId, NodeName, RecipientName, Revision, RolloutId,
    ServerName,
};
use super::stamp::{Boot, Epoch, Stamp};
use super::time::Wall;

/// The whole state of one node, as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Who speaks.
    pub node: NodeName,
    /// Which life of the agent speaks.
    pub boot: Boot,
    /// Grows with every report of one boot.
    pub sequence: u64,
    /// When, for people.
    pub at: Wall,
    /// The version of the agent's program.
    pub agent: String,
    /// What the node says of itself; clusters select by it.
    pub facts: BTreeMap<String, String>,
    /// The apps whose role the agent has.
    pub apps: BTreeMap<AppName, AppReport>,
    /// The load balancer, if the agent has that role.
    pub balancer: Option<BalancerReport>,
    /// The notification services, if the agent has that role.
    pub notify: Option<NotifyReport>,
    /// The assignments that the agent obeys, in full, with what became of them.
    pub assignments: BTreeMap<AppName, Obeyed>,
    /// The highest epochs that the agent has heard of, where no assignment above shows them. It
    /// refuses what is below, so that whoever leads has to know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub epochs: BTreeMap<AppName, Epoch>,
    /// Why the agent does not do what was last asked of it for an app for which nothing is in force; of some apps, if there
    /// are many.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refusals: BTreeMap<AppName, Refusal>,
}

impl Report {
    /// The first report of a boot, of an agent without roles that has heard nothing yet.
    pub fn first(node: NodeName, boot: Boot) -> Report {
        Report {
            node,
            boot,
            sequence: 1,
            at: Wall(0),
            agent: String::new(),
            facts: BTreeMap::new(),
            apps: BTreeMap::new(),
            balancer: None,
            notify: None,
            assignments: BTreeMap::new(),
            epochs: BTreeMap::new(),
            refusals: BTreeMap::new(),
        }
    }
}

/// An assignment that the agent obeys. Its stamp is what the design calls `seen`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Obeyed {
    /// The assignment, as received and persisted.
    pub assignment: Assignment,
    /// The last stamp whose every order has been acted on and read back.
    pub done: Option<Stamp>,
    /// Why the agent does not do what was last asked of it, if so.
    pub refusal: Option<Refusal>,
}

/// An agent's answer to an order that it must not, or cannot, follow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// The assignment that was refused.
    pub stamp: Stamp,
    /// Why.
    pub reason: RefusalReason,
}

/// Why an agent refuses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum RefusalReason {
    /// Somebody with a higher epoch commands, or another controller with the same number.
    StaleEpoch {
        /// The epoch that the agent obeys.
        known: Epoch,
    },
    /// The agent takes orders only from those whose keys it was given, and this is from nobody of them.
    Untrusted {
        /// Who has signed it.
        key: SignedBy,
    },
    /// The load balancer has not been heard live by the node's agent.
    BalancerNotHeard {
        /// The load balancer.
        lb: NodeName,
    },
    /// The load balancer, live, does not show the server out at the permitted generation.
    NotOut {
        /// The load balancer.
        lb: NodeName,
        /// The server.
        server: ServerName,
    },
    /// Another upgrade is running on the node.
    UpgradeRunning,
    /// The agent lacks the role, the check or the backend that is asked for.
    NotConfigured {
        /// What is missing, in words.
        what: String,
    },
    /// HAProxy did not take, or did not keep, what was written.
    Balancer {
        /// What HAProxy said, in words.
        error: String,
    },
    /// The agent's disk did not take what must be on it first.
    Disk {
        /// The error, in words.
        error: String,
    },
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StaleEpoch { known } => {
                write!(f, "it obeys epoch {} of controller {}", known.number, known.controller)
            }
            Self::Untrusted { key: Some(key) } => {
                write!(f, "the order is signed by {key}, which is none of its trusted_keys")
            }
            Self::Untrusted { key: None } => {
                f.write_str("the order is not signed, and it has trusted_keys")
            }
            Self::BalancerNotHeard { lb } => write!(f, "it has not heard load balancer {lb} live"),
            Self::NotOut { lb, server } => {
                write!(f, "load balancer {lb} does not show server {server} out")
            }
            Self::UpgradeRunning => f.write_str("another upgrade is running on it"),
            Self::NotConfigured { what } => write!(f, "its agent has no {what}"),
            Self::Balancer { error } => write!(f, "HAProxy: {error}"),
            Self::Disk { error } => write!(f, "its disk: {error}"),
        }
    }
}

/// One app on one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppReport {
    /// The revision that the running service says it has.
    pub revision: RevisionSeen,
    /// The last upgrade attempt, running or ended.
    pub attempt: Option<Attempt>,
    /// The settling that was last asked for.
    pub settle: Option<SettleReport>,
}

/// The revision read back from the running service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RevisionSeen {
    /// The service says that it runs this.
    Running(Revision),
    /// It could not be read.
    Unknown(String),
}

impl RevisionSeen {
    /// The revision, if it is known.
    pub fn known(&self) -> Option<&Revision> {
        match self {
            Self::Running(revision) => Some(revision),
            Self::Unknown(_) => None,
        }
    }
}

/// One upgrade attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// The rollout that permitted it.
    pub rollout: RolloutId,
    /// The revision that was to be brought.
    pub revision: Revision,
    /// The permit's `retry`.
    pub retry: String,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// What became of it.
    pub outcome: AttemptOutcome,
    /// When it started, for people.
    pub started: Wall,
    /// How long it took, in milliseconds; 0 while it runs.
    pub took_ms: u64,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AttemptOutcome {
    /// It runs.
    Running,
    /// The command succeeded, and the running service says that it has the revision.
    Succeeded,
    /// It failed.
    Failed {
        /// Why.
        why: AttemptFailure,
        /// The tail of the command's output, at most 4 KiB.
        tail: String,
    },
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AttemptFailure {
    /// The command ended with this exit code.
    Exit(i32),
    /// The command was ended by this signal.
    Signal(i32),
    /// It ran longer than the time limit, in milliseconds, and its process group was killed.
    TimedOut(u64),
    /// The upgrade went through, but the running service says it has another revision.
    Lied(RevisionSeen),
    /// The agent ended while it ran; what it did is not known.
    Interrupted,
    /// It could not be carried out: no such command, download failed, wrong checksum, ...
    Error(String),
}

impl fmt::Display for AttemptFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "the command ended with exit code {code}"),
            Self::Signal(signal) => write!(f, "the command was ended by signal {signal}"),
            Self::TimedOut(ms) => {
                write!(f, "the command ran longer than {}", super::time::render_duration_ms(*ms))
            }
            Self::Lied(RevisionSeen::Running(revision)) => {
                write!(f, "the command succeeded, but the service runs {revision}")
            }
            Self::Lied(RevisionSeen::Unknown(error)) => write!(
                f,
                "the command succeeded, but the service's revision cannot be read: {error}"
            ),
            Self::Interrupted => f.write_str("the agent ended while it ran"),
            Self::Error(error) => f.write_str(error),
        }
    }
}

/// How a settling goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettleReport {
    /// Which settling.
    pub key: SettleKey,
    /// The life of the agent that ran the checks; only its start counts, not its connection.
    pub boot_started: u64,
    /// The checks that were run.
    pub checks: BTreeSet<CheckName>,
    /// Where it stands.
    pub state: SettleState,
    /// For how long every check has been OK without a break, in milliseconds.
    pub ok_for_ms: u64,
    /// The last result of each check.
    pub results: BTreeMap<CheckName, CheckResult>,
}

/// Where a settling stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SettleState {
    /// Not all checks are OK yet, or no longer, and there is time left.
    Checking,
    /// The last result of every check, started after this was asked for, is OK.
    Settled {
        /// The timeout had passed before.
        late: bool,
    },
    /// The timeout has passed; the checks go on.
    TimedOut,
}

/// The result of one run of a check.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckResult {
    /// The plugin's verdict.
    pub status: CheckStatus,
    /// The plugin's text, without performance data, at most 1 KiB.
    pub text: String,
    /// The plugin's performance data, at most 1 KiB.
    pub performance: String,
    /// How long it ran, in milliseconds.
    pub took_ms: u64,
}

/// The exit codes of a plugin (Monitoring Plugins Development Guidelines, "Plugin Return Codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CheckStatus {
    /// Exit code 0.
    Ok,
    /// Exit code 1.
    Warning,
    /// Exit code 2.
    Critical,
    /// Exit code 3, and whatever else went wrong.
    Unknown,
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        })
    }
}

/// The load balancer of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalancerReport {
    /// Whether HAProxy's state file is configured, so that maintenance survives a reload.
    pub state_file: bool,
    /// The backends of this HAProxy.
    pub backends: BTreeMap<BackendName, BackendSeen>,
}

/// What could be read of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BackendSeen {
    /// Its servers.
    Servers(BTreeMap<ServerName, ServerReport>),
    /// It could not be read.
    Unknown(String),
}

/// A server as HAProxy shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSeen {
    /// The administrative state.
    pub admin: AdminBits,
    /// The operational state.
    pub health: Health,
    /// The weight that is in force.
    pub weight: u32,
    /// Whether the server is a backup.
    pub backup: bool,
    /// Current sessions.
    pub sessions: u32,
}

/// A server as a load balancer's agent reports it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerReport {
    /// What HAProxy shows.
    pub seen: ServerSeen,
    /// Our own maintenance, if there is one.
    pub owned: Option<Owned>,
    /// For how long it has been in service without a break ([`ServerSeen::is_in_service`]), in
    /// milliseconds; for one that is not, for how long it has been administratively clear, or else 0.
    pub steady_for_ms: u64,
}

/// A maintenance that was set by us.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owned {
    /// The assignment that asked for it.
    pub asked: Stamp,
    /// The administrative state to restore when it ends.
    pub before: AdminBits,
}

/// HAProxy's administrative state of a server, a set of bits (`srv_admin_state` in `show servers
/// state`; HAProxy management guide 9.3 and `enum srv_admin`).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct AdminBits(pub u8);

impl AdminBits {
    /// Maintenance set by hand, or by us.
    pub const FORCED_MAINTENANCE: u8 = 1;
    /// Disabled in the configuration; informs only, and stays when the maintenance is lifted.
    pub const CONFIGURED: u8 = 4;
    /// Drain set by hand.
    pub const FORCED_DRAIN: u8 = 8;
    /// Drain inherited from a tracked server.
    pub const INHERITED_DRAIN: u8 = 16;
    /// Any of these, and the server gets no traffic: forced, inherited, unresolved, renamed.
    const OUT: u8 = 1 | 2 | 32 | 64;

    /// The server gets no traffic at all, by administration.
    pub fn is_out(self) -> bool {
        self.0 & Self::OUT != 0
    }

    /// The maintenance bit that a person, the configuration or we set.
    pub fn is_forced_maintenance(self) -> bool {
        self.0 & Self::FORCED_MAINTENANCE != 0
    }

    /// The server gets no new sessions.
    pub fn is_drain(self) -> bool {
        self.0 & (Self::FORCED_DRAIN | Self::INHERITED_DRAIN) != 0
    }

    /// Nothing keeps traffic away: neither out nor drained.
    pub fn is_clear(self) -> bool {
        !self.is_out() && !self.is_drain()
    }
}

/// HAProxy's operational state of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Running, or not checked.
    Up,
    /// Warming up after a slow start.
    Starting,
    /// Down by its checks, or stopped by maintenance.
    Down,
    /// Up but leaving.
    Stopping,
}

impl ServerSeen {
    /// In service: administratively clear and UP (or unchecked).
    pub fn is_in_service(&self) -> bool {
        let up = match self.health {
            Health::Up | Health::Starting => true,
            Health::Down | Health::Stopping => false,
        };
        self.admin.is_clear() && up
    }

    /// Ready, as a floor counts it: in service, with a weight, and not a backup.
    pub fn is_ready(&self) -> bool {
        self.is_in_service() && self.weight > 0 && !self.backup
    }
}

/// The notification role of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyReport {
    /// The recipients that this node knows how to reach.
    pub recipients: BTreeSet<RecipientName>,
}

/// The document at `nodes/<node>/alive`, also as the Last Will.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alive {
    /// Who.
    pub node: NodeName,
    /// Which life, and which connection of it.
    pub boot: Boot,
    /// `true` at every connect; `false` as the will, and before a clean end.
    pub alive: bool,
}

/// The document at `controllers/<id>/alive`, also as the Last Will; and what a controller says to
/// itself at `marker/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerAlive {
    /// Who.
    pub controller: ControllerId,
    /// Which life, and which connection of it.
    pub boot: Boot,
    /// `true` at every connect; `false` as the will, and before a clean end.
    pub alive: bool,
}

/// What the controller knows about the presence of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Heard live within the limit.
    Present,
    /// Its will says that it has gone.
    Departed,
    /// Not heard live, or silent for too long. Never taken as fine.
    Unknown,
    /// Two live agents use this name. Never taken as fine.
    Duplicate,
}

impl fmt::Display for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Present => "present",
            Self::Departed => "departed",
            Self::Unknown => "unknown",
            Self::Duplicate => "duplicate",
        })
    }
}
