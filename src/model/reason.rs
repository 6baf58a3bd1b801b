//! The closed names of decisions and their reasons, for labels and for the history.

use super::decision::{Act, Blocked, Decision, Done, Wait};

impl Decision {
    /// The kinds of [`Self::names`].
    pub const KINDS: [&str; 4] = ["act", "wait", "blocked", "done"];

    /// The stable names of its kind and of its reason.
    pub fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Act(act) => ("act", act_name(act)),
            Self::Wait { what, .. } => ("wait", wait_name(what)),
            Self::Blocked(by) => ("blocked", blocked_name(by)),
            Self::Done(done) => ("done", done_name(done)),
        }
    }
}

fn act_name(act: &Act) -> &'static str {
    match act {
        Act::Probe => "probe",
        Act::TakeOut => "take_out",
        Act::Upgrade { .. } => "upgrade",
        Act::Withdraw => "withdraw",
        Act::Settle => "settle",
        Act::PutBack => "put_back",
        Act::Release => "release",
    }
}

fn wait_name(wait: &Wait) -> &'static str {
    match wait {
        Wait::Echo { .. } => "echo",
        Wait::Balancer { .. } => "balancer",
        Wait::Floor { .. } => "floor",
        Wait::Batch { .. } => "batch",
        Wait::Start { .. } => "start",
        Wait::Upgrade { .. } => "upgrade",
        Wait::Withdrawal => "withdrawal",
        Wait::Checks { .. } => "checks",
        Wait::Others { .. } => "others",
        Wait::Up { .. } => "up",
        Wait::Soak => "soak",
        Wait::After { .. } => "after",
    }
}

fn blocked_name(by: &Blocked) -> &'static str {
    match by {
        Blocked::Departed => "departed",
        Blocked::Silent => "silent",
        Blocked::Duplicate => "duplicate",
        Blocked::ClaimedTwice { .. } => "claimed_twice",
        Blocked::Missing { .. } => "missing",
        Blocked::BalancerMissing { .. } => "balancer_missing",
        Blocked::BalancerUnread { .. } => "balancer_unread",
        Blocked::BalancerDisobeys { .. } => "balancer_disobeys",
        Blocked::NoServer { .. } => "no_server",
        Blocked::NoServerName { .. } => "no_server_name",
        Blocked::RevisionUnknown { .. } => "revision_unknown",
        Blocked::Unanswered { .. } => "unanswered",
        Blocked::NotStarted { .. } => "not_started",
        Blocked::Overdue => "overdue",
        Blocked::Failed { .. } => "failed",
        Blocked::Rejected { .. } => "rejected",
        Blocked::ForeignMaintenance { .. } => "foreign_maintenance",
        Blocked::NotUp { .. } => "not_up",
        Blocked::Floor { .. } => "floor",
        Blocked::Paused => "paused",
        Blocked::Vanished => "vanished",
    }
}

fn done_name(done: &Done) -> &'static str {
    match done {
        Done::InService { .. } => "in_service",
        Done::Held => "held",
        Done::Serves => "serves",
        Done::Unclaimed => "unclaimed",
    }
}
