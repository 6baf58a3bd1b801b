//! What a cluster aims at: its rollout, who has failed in it, what is rejected, and each node's goal.
//!
//! All of it follows from the ledger and the present; the ledger holds only what cannot be observed
//! any more. The rejected alternative, an "operation" object with steps, would have to be repaired
//! after every crash; this is computed anew each time.

use std::collections::BTreeMap;

use crate::model::{
    AttemptFailure, AttemptOutcome, CheckStatus, ClusterLedger, ClusterName, DesiredCluster,
    EventKind, Failure, FailureCause, NodeName, OnFailure, Rejection, Revision, Rollout, RolloutId,
    SettleReport, SettleState, Standing,
};

use super::gate::members_there;
use super::input::PlanEvent;
use super::traffic::Traffic;
use super::view::{Fleet, Member};

/// One cluster's aim, and the ledger as it should be from now on.
pub(super) struct Course {
    pub cluster: ClusterName,
    /// The revision that the cluster aims at now: its target, or, while `after` holds that back,
    /// the last converged one; without one, that of the rollout that the files have overtaken.
    pub aim: Revision,
    /// What the files want.
    target: Revision,
    /// The id of the rollout that leads there.
    pub id: RolloutId,
    /// The cluster that has to converge on the target first, if one does.
    pub waits_after: Option<ClusterName>,
    /// The next ledger.
    pub ledger: ClusterLedger,
    pub events: Vec<PlanEvent>,
}

impl Course {
    pub fn new(fleet: &Fleet<'_>, cluster: &ClusterName) -> Self {
        let settings = &fleet.desire(cluster).settings;
        let mut ledger = fleet.input.ledgers.get(cluster).cloned().unwrap_or_default();
        let derive = |revision: &Revision| {
            let previous = ledger.converged.as_ref().map(|c| &c.rollout);
            RolloutId::derive(fleet.input.app, cluster, revision, &settings.retry, previous)
        };
        let id = derive(&settings.revision);
        let begun = ledger.rollout.as_ref().is_some_and(|r| r.id == id);
        let changes = ledger.converged.as_ref().is_none_or(|c| c.revision != settings.revision);
        let starts = changes && !begun && !is_there_already(fleet, cluster);
        let waits_after = if starts { not_converged_yet(fleet, cluster) } else { None };
        let (aim, id) = match (&waits_after, &ledger.converged, &ledger.rollout) {
            (Some(_), Some(last), _) => (last.revision.clone(), derive(&last.revision)),
            (Some(_), None, Some(overtaken)) => (overtaken.revision.clone(), overtaken.id.clone()),
            (Some(_), None, None) | (None, _, _) => (settings.revision.clone(), id),
        };
        if ledger.rollout.as_ref().is_some_and(|r| r.id != id) {
            ledger.rollout = None; // superseded
        }
        if ledger.rejected.as_ref().is_some_and(|r| r.revision != aim || r.retry != settings.retry)
        {
            ledger.rejected = None;
        }
        let (cluster, target) = (cluster.clone(), settings.revision.clone());
        let events = Vec::new();
        let mut course = Self { cluster, aim, target, id, waits_after, ledger, events };
        course.settle_accounts(fleet);
        course
    }

    /// The revision that `member` should run now; `None` where nothing says so.
    pub fn goal(&self, member: &Member<'_>) -> Option<Revision> {
        if self.waits_after.is_some() && self.ledger.converged.is_none() {
            return self.goal_in_between(member);
        }
        let Some(rejected) = &self.ledger.rejected else { return Some(self.aim.clone()) };
        let converged = self.ledger.converged.as_ref().map(|c| &c.revision);
        if rejected.rollback {
            return converged.cloned();
        }
        // Hold. What has failed stays as it is, out; what was tried stays at the target; the rest comes back with what
        // it runs, if that is where it came from, though the cluster as a whole may never have got there.
        let failed = self.ledger.rollout.as_ref().and_then(|r| r.failed.get(&member.name));
        if let Some(failure) = failed {
            return Some(failure.revision.clone());
        }
        let last = member.app.attempt.as_ref().filter(|a| a.rollout == self.id);
        let tried = last.map(|a| &a.revision);
        if member.revision() == Some(&self.aim) {
            return Some(self.aim.clone());
        }
        if tried == Some(&self.aim) {
            return Some(self.aim.clone());
        }
        let from = self.ledger.rollout.as_ref().and_then(|r| r.from.get(&member.name));
        let has_failed = member.app.attempt.as_ref().is_some_and(|attempt| {
            Some(&attempt.revision) == from
                && matches!(attempt.outcome, AttemptOutcome::Failed { .. })
        });
        let untouched = from.filter(|from| member.revision() == Some(from) && !has_failed);
        untouched.or(converged).or(from).cloned()
    }

    /// Nothing may start, and there is nothing to go back to: what is out comes back with what it runs, if that is
    /// what the files want, or what it came from, or what the overtaken rollout has brought. Were it to stay out, the cluster that is
    /// waited for could find itself under a floor that binds for just that reason.
    fn goal_in_between(&self, member: &Member<'_>) -> Option<Revision> {
        let overtaken = self.ledger.rollout.as_ref();
        let from = overtaken.and_then(|rollout| rollout.from.get(&member.name));
        let known = [Some(&self.target), overtaken.map(|rollout| &rollout.revision), from];
        member.revision().filter(|runs| known.contains(&Some(*runs))).cloned()
    }

    /// The failure of `member` at `goal` in this rollout.
    pub fn failure_at(&self, member: &Member<'_>, goal: &Revision) -> Option<&Failure> {
        let rollout = self.ledger.rollout.as_ref()?;
        rollout.failed.get(&member.name).filter(|failure| failure.revision == *goal)
    }

    /// The rollout has begun: everybody concerned has answered.
    pub fn is_begun(&self) -> bool {
        self.ledger.rollout.is_some()
    }

    /// A node that its goal was rejected for, and that is not to be touched.
    pub fn holds_back(&self) -> Option<&Rejection> {
        self.ledger.rejected.as_ref().filter(|r| !r.rollback)
    }

    /// It has not begun, and is not held back: an act that is none of it, such as taking out a held node, must not
    /// begin a revision that waits for another cluster.
    pub fn may_begin(&self) -> bool {
        !self.is_begun() && (self.waits_after.is_none() || self.ledger.converged.is_some())
    }

    /// The rollout begins.
    pub fn begin(&mut self, fleet: &Fleet<'_>) {
        let (rollout, revision) = (self.id.clone(), self.aim.clone());
        self.ledger.rollout = Some(Rollout {
            id: rollout.clone(),
            revision: revision.clone(),
            from: revisions_now(fleet, &self.cluster),
            begun: fleet.input.wall,
            failed: BTreeMap::new(),
        });
        self.tell(None, EventKind::RolloutBegun { rollout, revision });
    }

    /// A node can be found out of service, at its goal, and unfit, with nothing to do that its rollout would begin
    /// with: then it begins with that, so that the failure is booked.
    pub fn begin_with_failures(&mut self, fleet: &Fleet<'_>) {
        let fails = |name: &NodeName| {
            let member = &fleet.members[name];
            let failure = |goal| detect_failure(fleet, self, member, &goal);
            self.goal(member).and_then(failure).is_some()
        };
        if self.may_begin() && fleet.clusters[&self.cluster].iter().any(fails) {
            self.begin(fleet);
            self.settle_accounts(fleet);
        }
    }

    /// Books failures and recoveries, and rejects the revision when there are too many.
    fn settle_accounts(&mut self, fleet: &Fleet<'_>) {
        if self.ledger.rollout.is_none() {
            return;
        }
        let settings = &fleet.desire(&self.cluster).settings;
        for name in &fleet.clusters[&self.cluster] {
            let member = &fleet.members[name];
            let Some(goal) = self.goal(member) else { continue };
            let booked = self.failure_at(member, &goal).cloned();
            let next = match &booked {
                None => detect_failure(fleet, self, member, &goal),
                Some(failure) if is_mended(fleet, self, member, &goal, failure) => None,
                Some(failure) => Some(failure.clone()),
            };
            if next != booked {
                self.book(name, next);
            }
        }
        let Some(rollout) = &self.ledger.rollout else { return };
        let failed_at = |revision: &Revision| {
            rollout.failed.values().filter(|failure| failure.revision == *revision).count()
        };
        let tolerated = settings.rollout.max_failed as usize;
        let converged = self.ledger.converged.as_ref().map(|c| c.revision.clone());
        let other = converged.filter(|revision| *revision != self.aim);
        match &mut self.ledger.rejected {
            None if failed_at(&self.aim) > tolerated => {
                let rollback =
                    settings.rollout.on_failure == OnFailure::Rollback && other.is_some();
                let revision = self.aim.clone();
                self.ledger.rejected = Some(Rejection {
                    revision: revision.clone(),
                    retry: settings.retry.clone(),
                    rollback,
                });
                self.tell(None, EventKind::Rejected { revision, rollback });
            }
            Some(rejected) if rejected.rollback => {
                // A rollback that fails is a hold.
                if other.is_none_or(|revision| failed_at(&revision) > tolerated) {
                    rejected.rollback = false;
                    let revision = rejected.revision.clone();
                    self.tell(None, EventKind::Rejected { revision, rollback: false });
                }
            }
            Some(_) | None => {}
        }
    }

    fn book(&mut self, name: &NodeName, failure: Option<Failure>) {
        let Some(rollout) = &mut self.ledger.rollout else { return };
        match failure {
            Some(failure) => {
                let detail = format!("{}: {}", failure.cause, failure.detail);
                rollout.failed.insert(name.clone(), failure);
                self.tell(Some(name), EventKind::NodeFailed { detail });
            }
            None => {
                rollout.failed.remove(name);
                self.tell(Some(name), EventKind::NodeRecovered);
            }
        }
    }

    pub fn tell(&mut self, node: Option<&NodeName>, kind: EventKind) {
        self.events.push(PlanEvent { cluster: self.cluster.clone(), node: node.cloned(), kind });
    }
}

/// Every node is at the declared revision and in service, whoever brought it there: nothing is left to be started.
fn is_there_already(fleet: &Fleet<'_>, cluster: &ClusterName) -> bool {
    let target = &fleet.desire(cluster).settings.revision;
    let is_there = |name: &NodeName| {
        let member = &fleet.members[name];
        let in_service = match Traffic::of(fleet, cluster, member) {
            Traffic::Balanced(servers) => servers.not_up().is_none() && !servers.any_ours(),
            Traffic::Unbalanced => true,
            Traffic::Unreadable(_) => false,
        };
        member.is_present() && member.revision() == Some(target) && in_service
    };
    members_there(fleet, cluster).is_ok() && fleet.clusters[cluster].iter().all(is_there)
}

/// The first cluster of `after` that has not converged on the same revision.
fn not_converged_yet(fleet: &Fleet<'_>, cluster: &ClusterName) -> Option<ClusterName> {
    let settings = &fleet.desire(cluster).settings;
    settings
        .after
        .iter()
        .find(|other| {
            let converged =
                fleet.input.ledgers.get(other).and_then(|ledger| ledger.converged.as_ref());
            converged.is_none_or(|c| c.revision != settings.revision)
        })
        .cloned()
}

/// The settling that was asked for last, if the report is about just that: same key, same life of
/// the agent, same checks as the files want now.
pub(super) fn settling<'a>(
    fleet: &Fleet<'_>,
    course: &Course,
    member: &Member<'a>,
) -> Option<&'a SettleReport> {
    let work = member.work()?;
    let key = work.settle.as_ref()?;
    let settings = &fleet.desire(&course.cluster).settings;
    member.app.settle.as_ref().filter(|report| {
        report.key == *key
            && key.rollout == course.id
            && key.retry == settings.retry
            && report.boot_started == member.report.boot.started
            && report.checks == settings.settle.checks
    })
}

/// The checks of a settling that are not OK, with their verdicts.
pub(super) fn not_ok(report: &SettleReport) -> Vec<(crate::model::CheckName, String)> {
    report
        .results
        .iter()
        .filter(|(_, result)| result.status != CheckStatus::Ok)
        .map(|(name, result)| {
            (name.clone(), format!("{} {}", result.status, result.text).trim_end().to_owned())
        })
        .collect()
}

fn detect_failure(
    fleet: &Fleet<'_>,
    course: &Course,
    member: &Member<'_>,
    goal: &Revision,
) -> Option<Failure> {
    if !member.is_present() || member.is_running() {
        return None;
    }
    let settings = &fleet.desire(&course.cluster).settings;
    let failure = |cause, detail| Some(Failure { revision: goal.clone(), cause, detail });
    if !is_at_goal(course, settings, member, goal) {
        let attempt = attempt_at(course, &settings.retry, member, goal)?;
        if attempt.attempt < settings.rollout.tries {
            return None;
        }
        return match &attempt.outcome {
            AttemptOutcome::Running => None,
            AttemptOutcome::Failed { why, .. } => {
                failure(FailureCause::TriesSpent, why.to_string())
            }
            AttemptOutcome::Succeeded => {
                let now = member.revision().map_or("an unknown revision", Revision::as_str);
                failure(FailureCause::TriesSpent, format!("it succeeded, but {now} runs now"))
            }
        };
    }
    let report = settling(fleet, course, member)?;
    let verdicts = || {
        let not_ok = not_ok(report);
        let texts: Vec<String> = not_ok.iter().map(|(n, v)| format!("{n} {v}")).collect();
        texts.join("; ")
    };
    match Traffic::of(fleet, &course.cluster, member) {
        Traffic::Balanced(servers) if !servers.any_ours() => {
            if let Some(lb) = servers.clear_but_not_up_for(settings.settle.timeout_ms) {
                return failure(FailureCause::NotUp, format!("not UP at {lb}"));
            }
            if !not_ok(report).is_empty() {
                return failure(FailureCause::SoakFailed, verdicts());
            }
            None
        }
        Traffic::Balanced(_) | Traffic::Unbalanced => match report.state {
            SettleState::TimedOut => failure(FailureCause::NotSettled, verdicts()),
            SettleState::Checking | SettleState::Settled { .. } => None,
        },
        Traffic::Unreadable(_) => None,
    }
}

/// A booked failure has been mended: by a late OK, or by whoever brought the revision by hand.
fn is_mended(
    fleet: &Fleet<'_>,
    course: &Course,
    member: &Member<'_>,
    goal: &Revision,
    failure: &Failure,
) -> bool {
    let settings = &fleet.desire(&course.cluster).settings;
    if !member.is_present() || !is_at_goal(course, settings, member, goal) {
        return false;
    }
    match failure.cause {
        FailureCause::TriesSpent | FailureCause::NotSettled => settling(fleet, course, member)
            .is_some_and(|report| matches!(report.state, SettleState::Settled { .. })),
        // It was fit by its checks when it failed in service: only a new try can tell more.
        FailureCause::NotUp | FailureCause::SoakFailed => false,
    }
}

/// The attempt on record for `goal` in this rollout.
pub(super) fn attempt_at<'a>(
    course: &Course,
    retry: &str,
    member: &Member<'a>,
    goal: &Revision,
) -> Option<&'a crate::model::Attempt> {
    member
        .app
        .attempt
        .as_ref()
        .filter(|a| a.rollout == course.id && a.revision == *goal && a.retry == retry)
}

/// It runs `goal`, and not by an attempt that broke off on the way: what the running service says
/// does not tell how much of such an attempt was done.
pub(super) fn is_at_goal(
    course: &Course,
    settings: &DesiredCluster,
    member: &Member<'_>,
    goal: &Revision,
) -> bool {
    let broke_off = attempt_at(course, &settings.retry, member, goal).is_some_and(|a| {
        let again = a.attempt < settings.rollout.tries;
        match &a.outcome {
            AttemptOutcome::Failed { why: AttemptFailure::Interrupted, .. } => true,
            // With the tries spent, whoever brought the revision did it by hand.
            AttemptOutcome::Failed { .. } => again,
            AttemptOutcome::Running | AttemptOutcome::Succeeded => false,
        }
    });
    member.revision() == Some(goal) && !broke_off
}

/// The number of the last attempt at `goal` that was made or permitted in this rollout.
pub(super) fn attempts_made(
    course: &Course,
    retry: &str,
    member: &Member<'_>,
    goal: &Revision,
) -> u32 {
    let made = attempt_at(course, retry, member, goal).map_or(0, |a| a.attempt);
    let permitted = member
        .permit()
        .filter(|p| p.rollout == course.id && p.revision == *goal && p.retry == retry)
        .map_or(0, |p| p.attempt);
    made.max(permitted)
}

/// What each present member ran when the rollout began.
pub(super) fn revisions_now(
    fleet: &Fleet<'_>,
    cluster: &ClusterName,
) -> BTreeMap<NodeName, Revision> {
    fleet.clusters[cluster]
        .iter()
        .filter_map(|name| {
            fleet.members[name].revision().map(|revision| (name.clone(), revision.clone()))
        })
        .collect()
}

/// Nothing new may be begun in the cluster: its file has gone.
pub(super) fn is_vanished(fleet: &Fleet<'_>, cluster: &ClusterName) -> bool {
    match fleet.desire(cluster).standing {
        Standing::Vanished => true,
        Standing::Current | Standing::LastGood(_) => false,
    }
}
