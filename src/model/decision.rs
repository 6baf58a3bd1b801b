//! The decision about a node, as a value that carries the facts it rests on.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ledger::FailureCause;
use super::name::{BackendName, CheckName, ClusterName, NodeName, Revision, ServerName};
use super::report::AdminBits;
use super::time::render_duration_ms;

/// What the planner decided about one node, and why. Its `Display` is what `evenkeel why` prints.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Something is asked for now.
    Act(Act),
    /// Something that was asked for, or that goes on by itself, must come first.
    Wait {
        /// What.
        #[serde(rename = "for")]
        what: Wait,
        /// In how many milliseconds the wait ends one way or the other, where that is known.
        until_ms: Option<u64>,
    },
    /// Nothing leads on from here by itself.
    Blocked(Blocked),
    /// Nothing is to be done.
    Done(Done),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Ask it, and the load balancers, to echo, before anything is touched.
    Probe,
    /// Take it out of the load balancers.
    TakeOut,
    /// Permit an attempt.
    Upgrade {
        /// The revision.
        revision: Revision,
        /// Which attempt.
        attempt: u32,
        /// Of how many.
        tries: u32,
    },
    /// Withdraw the permit of an attempt that has ended, or is no longer wanted.
    Withdraw,
    /// Run its checks.
    Settle,
    /// Put it back.
    PutBack,
    /// End the soak.
    Release,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Echoes of the probe.
    Echo {
        /// The agents that have not echoed yet.
        from: Vec<NodeName>,
        /// What one of them last said against it, if anything.
        refusal: Option<String>,
    },
    /// Load balancers to carry out, and read back, what they were asked.
    Balancer {
        /// Which.
        lb: NodeName,
        /// What it last said against it, if anything.
        refusal: Option<String>,
    },
    /// The floor to allow a take-out.
    Floor {
        /// The load balancer where it binds.
        lb: NodeName,
        /// The backend there.
        backend: BackendName,
        /// Ready servers that are not asked out.
        ready: usize,
        /// The floor.
        floor: usize,
    },
    /// A place in the batch.
    Batch {
        /// How many of the app upgrade or are permitted to.
        upgrading: usize,
        /// How many may.
        batch: usize,
    },
    /// The attempt to start.
    Start {
        /// Which attempt.
        attempt: u32,
        /// What the node's agent last said against it, if anything.
        refusal: Option<String>,
    },
    /// The attempt to end.
    Upgrade {
        /// The revision.
        revision: Revision,
        /// Which attempt.
        attempt: u32,
    },
    /// The withdrawal of a permit to be seen.
    Withdrawal,
    /// Its checks to be OK.
    Checks {
        /// Those that are not, with their verdicts.
        not_ok: Vec<(CheckName, String)>,
    },
    /// Others of its cluster, to be put back together with them.
    Others {
        /// How many.
        unsettled: usize,
    },
    /// The server to be UP.
    Up {
        /// Where it is not.
        lb: NodeName,
    },
    /// The soak to end.
    Soak,
    /// Another cluster to converge on the revision.
    After {
        /// Which.
        cluster: ClusterName,
        /// On what.
        revision: Revision,
    },
}

/// What blocks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blocked {
    /// Its agent has gone.
    Departed,
    /// Its agent is not heard.
    Silent,
    /// Two live agents use its name.
    Duplicate,
    /// Two clusters claim it.
    ClaimedTwice {
        /// Which.
        clusters: Vec<ClusterName>,
    },
    /// More expected nodes of the cluster than tolerated are not there.
    Missing {
        /// How many are not there.
        missing: usize,
        /// How many may be absent.
        tolerated: usize,
        /// Their names, where they are known.
        names: Vec<NodeName>,
    },
    /// Expected load balancers are not there, or not heard.
    BalancerMissing {
        /// How many are there and heard.
        present: usize,
        /// How many must be.
        expected: usize,
        /// The names of those that are not, where they are known.
        names: Vec<NodeName>,
    },
    /// The backend cannot be read at a load balancer.
    BalancerUnread {
        /// Which.
        lb: NodeName,
        /// What it says.
        error: String,
    },
    /// A load balancer does not do what it is asked.
    BalancerDisobeys {
        /// Which.
        lb: NodeName,
        /// What it last said against it, if anything.
        refusal: Option<String>,
    },
    /// A load balancer does not know the node's server.
    NoServer {
        /// Which.
        lb: NodeName,
        /// The server's name.
        server: ServerName,
    },
    /// The server's name cannot be told.
    NoServerName {
        /// Why not.
        error: String,
    },
    /// The revision of the running service cannot be read.
    RevisionUnknown {
        /// Why not.
        error: String,
    },
    /// Agents are heard, but do not echo what they are asked.
    Unanswered {
        /// Which.
        from: Vec<NodeName>,
        /// What one of them last said against it, if anything.
        refusal: Option<String>,
    },
    /// The agent does not start the permitted attempt.
    NotStarted {
        /// What it last said against it, if anything.
        refusal: Option<String>,
    },
    /// The attempt does not end.
    Overdue,
    /// It has failed in this rollout.
    Failed {
        /// How.
        cause: FailureCause,
        /// In words.
        detail: String,
    },
    /// The revision has failed on too many nodes; this one is not tried any more.
    Rejected {
        /// The revision.
        revision: Revision,
        /// The last attempt here and how it failed, where there was one.
        failed: Option<(u32, String)>,
    },
    /// Somebody else keeps it out of service.
    ForeignMaintenance {
        /// Where.
        lb: NodeName,
        /// The administrative state that is theirs.
        admin: AdminBits,
    },
    /// At its revision and nobody keeps it out, but it is not UP at a load balancer.
    NotUp {
        /// Where.
        lb: NodeName,
    },
    /// The floor forbids to take it out, and nothing under way will change that.
    Floor {
        /// The load balancer where it binds.
        lb: NodeName,
        /// The backend there.
        backend: BackendName,
        /// Ready servers that are not asked out.
        ready: usize,
        /// The floor.
        floor: usize,
    },
    /// The cluster is paused.
    Paused,
    /// The cluster's file has gone.
    Vanished,
}

/// Why nothing is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// At its goal and in service.
    InService {
        /// The revision.
        revision: Revision,
    },
    /// Held out of service by the desired file.
    Held,
    /// A load balancer or notification server: it has no revision.
    Serves,
    /// Not claimed by any cluster.
    Unclaimed,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Act(act) => write!(f, "{act}"),
            Self::Wait { what, until_ms: None } => write!(f, "waiting for {what}"),
            Self::Wait { what, until_ms: Some(ms) } => {
                // To the second: the exact deadline moves with every look and is nobody's business.
                let left = render_duration_ms(ms.div_ceil(1000) * 1000);
                write!(f, "waiting for {what} (at most {left} more)")
            }
            Self::Blocked(blocked) => write!(f, "blocked: {blocked}"),
            Self::Done(done) => write!(f, "{done}"),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe => f.write_str("asking everybody concerned to answer"),
            Self::TakeOut => f.write_str("taking it out of the load balancer"),
            Self::Upgrade { revision, attempt, tries } => {
                write!(f, "upgrading to {revision}, attempt {attempt} of {tries}")
            }
            Self::Withdraw => f.write_str("withdrawing the permit to upgrade"),
            Self::Settle => f.write_str("running its checks"),
            Self::PutBack => f.write_str("putting it back into service"),
            Self::Release => f.write_str("ending the soak"),
        }
    }
}

fn with_refusal(f: &mut fmt::Formatter<'_>, refusal: Option<&String>) -> fmt::Result {
    match refusal {
        Some(refusal) => write!(f, "; it says: {refusal}"),
        None => Ok(()),
    }
}

fn join<T: fmt::Display>(items: &[T]) -> String {
    /// More names than this do not help a person any more.
    const SHOWN_MAX: usize = 8;
    let shown: Vec<String> = items.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
    match items.len().checked_sub(SHOWN_MAX) {
        Some(more) if more > 0 => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo { from, refusal } => {
                write!(f, "an answer of {}", join(from))?;
                with_refusal(f, refusal.as_ref())
            }
            Self::Balancer { lb, refusal } => {
                write!(f, "load balancer {lb} to carry out what it was asked")?;
                with_refusal(f, refusal.as_ref())
            }
            Self::Floor { lb, backend, ready, floor } => write!(
                f,
                "more ready servers: {backend} at {lb} has {ready}, and its floor is {floor}"
            ),
            Self::Batch { upgrading, batch } => {
                write!(f, "a place in the batch: {upgrading} of {batch} are upgrading")
            }
            Self::Start { attempt, refusal } => {
                write!(f, "attempt {attempt} to start")?;
                with_refusal(f, refusal.as_ref())
            }
            Self::Upgrade { revision, attempt } => {
                write!(f, "the upgrade to {revision}, attempt {attempt}")
            }
            Self::Withdrawal => f.write_str("its agent to see that the permit is withdrawn"),
            Self::Checks { not_ok } if not_ok.is_empty() => f.write_str("its first checks"),
            Self::Checks { not_ok } => {
                let not_ok: Vec<String> =
                    not_ok.iter().map(|(name, verdict)| format!("{name} ({verdict})")).collect();
                write!(f, "its checks: {}", join(&not_ok))
            }
            Self::Others { unsettled } => {
                write!(f, "{unsettled} others of its cluster, to be put back together")
            }
            Self::Up { lb } => write!(f, "load balancer {lb} to see it UP"),
            Self::Soak => f.write_str("the soak to end"),
            Self::After { cluster, revision } => {
                write!(f, "cluster {cluster} to converge on {revision} first")
            }
        }
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Departed => f.write_str("its agent has gone"),
            Self::Silent => f.write_str("its agent is not heard"),
            Self::Duplicate => f.write_str("two live agents use its name"),
            Self::ClaimedTwice { clusters } => {
                write!(f, "the clusters {} all claim it", join(clusters))
            }
            Self::Missing { missing, tolerated, names } => {
                write!(f, "{missing} expected nodes are not there, {tolerated} may be absent")?;
                if names.is_empty() { Ok(()) } else { write!(f, ": {}", join(names)) }
            }
            Self::BalancerMissing { present, expected, names } => {
                write!(f, "{present} of {expected} load balancers are heard")?;
                if names.is_empty() { Ok(()) } else { write!(f, "; missing: {}", join(names)) }
            }
            Self::BalancerUnread { lb, error } => {
                write!(f, "load balancer {lb} cannot read its backend: {error}")
            }
            Self::BalancerDisobeys { lb, refusal } => {
                write!(f, "load balancer {lb} does not carry out what it was asked")?;
                with_refusal(f, refusal.as_ref())
            }
            Self::NoServer { lb, server } => {
                write!(f, "load balancer {lb} has no server {server}")
            }
            Self::NoServerName { error } => f.write_str(error),
            Self::RevisionUnknown { error } => {
                write!(f, "its running revision cannot be read: {error}")
            }
            Self::Unanswered { from, refusal } => {
                write!(f, "no answer to what was asked of {}", join(from))?;
                with_refusal(f, refusal.as_ref())
            }
            Self::NotStarted { refusal } => {
                f.write_str("its agent does not start the upgrade")?;
                with_refusal(f, refusal.as_ref())
            }
            Self::Overdue => f.write_str("its upgrade does not end"),
            Self::Failed { cause, detail } => write!(f, "{cause}: {detail}"),
            Self::Rejected { revision, failed: None } => {
                write!(f, "{revision} has failed on other nodes, and this one is not tried")
            }
            Self::Rejected { revision, failed: Some((attempt, why)) } => {
                write!(
                    f,
                    "{revision} has failed on other nodes, and this one is not tried again: "
                )?;
                write!(f, "attempt {attempt} failed: {why}")
            }
            Self::ForeignMaintenance { lb, admin } => {
                let what = if admin.is_out() { "maintenance" } else { "drain" };
                write!(f, "{what} at load balancer {lb} that evenkeel did not set")
            }
            Self::NotUp { lb } => write!(f, "load balancer {lb} does not see it UP"),
            Self::Floor { lb, backend, ready, floor } => {
                write!(f, "{backend} at {lb} has {ready} ready servers, and its floor is {floor}")
            }
            Self::Paused => f.write_str("the cluster is paused"),
            Self::Vanished => f.write_str("the cluster's desired file has gone"),
        }
    }
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TriesSpent => "every attempt has failed",
            Self::NotSettled => "its checks were not OK in time",
            Self::NotUp => "it did not come UP in time",
            Self::SoakFailed => "it did not last through the soak",
        })
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InService { revision } => write!(f, "in service at {revision}"),
            Self::Held => f.write_str("held out of service by the desired file"),
            Self::Serves => f.write_str("serves the fleet"),
            Self::Unclaimed => f.write_str("no cluster claims it"),
        }
    }
}
