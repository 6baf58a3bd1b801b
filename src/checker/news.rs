//! The other half of invariant 7: nobody is told of what has never been so.
//!
//! What a message says must have happened at some time before, to anybody of the app. That is little, and still more than
//! a fleet in which nothing has happened at all may be told.

use std::collections::BTreeSet;

use super::{By, Checker, Fact, Invariant, Tale};
use crate::model::{
    AppName, Attempt, AttemptOutcome, Cause, CheckStatus, NotifyOn, Report, SettleReport,
    SettleState, Standing,
};

/// What has ever been so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Somewhere.
    causes: BTreeSet<Cause>,
}

impl News {
    pub(super) fn read(&mut self, app: &AppName, fact: &Fact) {
        let cause = match fact {
            Fact::Desired { standing: Standing::LastGood(_), .. } => Cause::DesiredInvalid,
            Fact::Desired { standing: Standing::Vanished, .. } => Cause::DesiredVanished,
            Fact::Heard(report) if has_failed(report, app) => Cause::Failed,
            Fact::Server { seen, .. } if seen.admin.is_clear() && !seen.is_in_service() => {
                Cause::Failed
            }
            Fact::Server { seen, by: By::Hand | By::Reload | By::Itself, .. }
                if !seen.admin.is_clear() =>
            {
                Cause::ForeignMaintenance
            }
            // Whose maintenance it is may be forgotten with what was tried.
            Fact::TriesLost { .. } | Fact::MemoryLost => Cause::ForeignMaintenance,
            _ => return,
        };
        self.causes.insert(cause);
    }

    /// What forbids to tell it.
    fn forbids(&self, tale: &Tale) -> Option<&'static str> {
        let untrue = tale.kind == NotifyOn::Failed && !self.causes.contains(&tale.cause);
        match tale.cause {
            Cause::Failed => untrue.then_some("nothing has ever failed"),
            Cause::ForeignMaintenance => untrue.then_some("nobody else has ever taken one out"),
            Cause::DesiredInvalid => untrue.then_some("the files have never had a fault"),
            Cause::DesiredVanished => untrue.then_some("the files have never gone"),
            // Silence, doubles and delays are what somebody thinks of what is heard.
            Cause::Completed | Cause::Unreachable | Cause::Ambiguous | Cause::Stuck => None,
        }
    }
}

/// An attempt, or a check.
fn has_failed(report: &Report, app: &AppName) -> bool {
    report.apps.get(app).is_some_and(|state| {
        // One that succeeded, and something else runs.
        let failed = |attempt: &Attempt| match &attempt.outcome {
            AttemptOutcome::Succeeded => state.revision.known() != Some(&attempt.revision),
            AttemptOutcome::Failed { .. } => true,
            AttemptOutcome::Running => false,
        };
        let mut results = state.settle.iter().flat_map(|settle| settle.results.values());
        let timed_out = |settle: &SettleReport| settle.state == SettleState::TimedOut;
        state.attempt.as_ref().is_some_and(failed)
            || state.settle.as_ref().is_some_and(timed_out)
            || results.any(|result| result.status != CheckStatus::Ok)
    })
}

impl Checker {
    pub(super) fn is_news(&mut self, tale: &Tale) {
        let unnamed = !self.known.wanted.contains_key(&tale.cluster);
        let unnamed = unnamed.then_some("no file has ever named the cluster");
        if let Some(forbidden_by) = unnamed.or_else(|| self.news.forbids(tale)) {
            let happened = format!("a person was told of {} ({})", tale.cause.as_str(), tale.key);
            self.breach(Invariant::QuietAtGoal, &tale.cluster, happened, forbidden_by);
        }
    }
}
