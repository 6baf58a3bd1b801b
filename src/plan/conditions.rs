//! The state of a cluster, said in conditions, in one word, and in causes worth telling.

use std::collections::BTreeMap;

use crate::model::{
    Blocked, Cause, Condition, ConditionStatus, ConditionType, Decision, Expect, FailureCause,
    NodeName, Standing,
};

use super::input::{ClusterPlan, Phase};
use super::planner::ClusterWork;
use super::rollout::is_vanished;
use super::view::Fleet;

/// The state of a cluster whose verdicts are final.
pub(super) fn cluster_plan(fleet: &Fleet<'_>, work: &ClusterWork) -> ClusterPlan {
    let cluster = &work.course.cluster;
    let settings = &fleet.desire(cluster).settings;
    let phase = phase(work);
    let names = &fleet.clusters[cluster];
    let at_target = |name: &&NodeName| {
        matches!(
            &work.verdicts[*name].decision,
            Decision::Done(crate::model::Done::InService { revision }) if *revision == settings.revision
        )
    };
    ClusterPlan {
        target: settings.revision.clone(),
        rollout: work.course.id.clone(),
        phase,
        expected: match &settings.expect {
            Expect::Count(count) => *count as usize,
            Expect::Nodes(nodes) => nodes.len(),
        },
        present: names.iter().filter(|name| fleet.members[*name].is_present()).count(),
        converged: names.iter().filter(at_target).count(),
        conditions: conditions(fleet, work, phase),
        causes: causes(fleet, work),
    }
}

fn phase(work: &ClusterWork) -> Phase {
    if work.converged {
        return Phase::Converged;
    }
    let moves = work.verdicts.values().any(|verdict| match verdict.decision {
        Decision::Act(_) | Decision::Wait { .. } => true,
        Decision::Blocked(_) | Decision::Done(_) => false,
    });
    if moves { Phase::Progressing } else { Phase::Degraded }
}

fn blocked(work: &ClusterWork) -> impl Iterator<Item = (&NodeName, &Blocked)> {
    work.verdicts.iter().filter_map(|(name, verdict)| match &verdict.decision {
        Decision::Blocked(blocked) => Some((name, blocked)),
        Decision::Act(_) | Decision::Wait { .. } | Decision::Done(_) => None,
    })
}

fn conditions(fleet: &Fleet<'_>, work: &ClusterWork, phase: Phase) -> Vec<Condition> {
    use ConditionStatus::{False, True, Unknown};
    let condition = |kind, status, reason: &str, message: String| Condition {
        kind,
        status,
        reason: reason.to_owned(),
        message,
    };
    let settings = &fleet.desire(&work.course.cluster).settings;
    let target = &settings.revision;
    let first = blocked(work).next().map(|(name, by)| format!("{name}: {by}"));
    let trouble = work
        .gate
        .absent
        .as_ref()
        .map(ToString::to_string)
        .or_else(|| first.clone())
        .unwrap_or_default();
    let converged = match (phase, &work.gate.absent) {
        (Phase::Converged, _) => (True, "AllInService", format!("every node serves {target}")),
        (Phase::Progressing | Phase::Degraded, Some(absent)) => {
            (Unknown, "Unreachable", absent.to_string())
        }
        (Phase::Progressing | Phase::Degraded, None) => {
            (False, "Diverged", format!("not every node serves {target}"))
        }
    };
    let progressing = match phase {
        Phase::Converged => (False, "Converged", String::new()),
        Phase::Progressing => (True, "RollingOut", format!("towards {}", work.course.aim)),
        Phase::Degraded if settings.paused => (False, "Paused", "the cluster is paused".to_owned()),
        Phase::Degraded => (False, "Blocked", trouble.clone()),
    };
    let degraded = match &work.course.ledger.rejected {
        Some(rejected) if rejected.rollback => {
            (True, "RolledBack", format!("{} was rejected", rejected.revision))
        }
        Some(rejected) => (True, "Rejected", format!("{} was rejected", rejected.revision)),
        None if !trouble.is_empty() => (True, "Blocked", trouble),
        None => (False, "Fine", String::new()),
    };
    let valid = match &fleet.desire(&work.course.cluster).standing {
        Standing::Current => (True, "Read", String::new()),
        Standing::LastGood(fault) => (False, "Invalid", fault.clone()),
        Standing::Vanished => (False, "Vanished", "its desired file has gone".to_owned()),
    };
    let unsafe_at: Vec<String> = fleet
        .balancers_of(&work.course.cluster)
        .into_iter()
        .filter(|(_, balancer)| !balancer.state_file)
        .map(|(name, _)| name.to_string())
        .collect();
    let reload = if unsafe_at.is_empty() {
        (False, "StateFile", String::new())
    } else {
        let message = format!(
            "without state_file a reload of HAProxy puts back, for up to 200 ms, what is out: {}",
            unsafe_at.join(", ")
        );
        (True, "NoStateFile", message)
    };
    [
        (ConditionType::Converged, converged),
        (ConditionType::Progressing, progressing),
        (ConditionType::Degraded, degraded),
        (ConditionType::DesiredValid, valid),
        (ConditionType::ReloadUnsafe, reload),
    ]
    .into_iter()
    .map(|(kind, (status, reason, message))| condition(kind, status, reason, message))
    .collect()
}

/// What somebody should know while it lasts; one text per cause, however many nodes it hits.
fn causes(fleet: &Fleet<'_>, work: &ClusterWork) -> BTreeMap<Cause, String> {
    let mut found: BTreeMap<Cause, Vec<String>> = BTreeMap::new();
    let mut add = |cause, text: String| found.entry(cause).or_default().push(text);
    for (name, failure) in work.course.ledger.rollout.iter().flat_map(|r| &r.failed) {
        add(Cause::Failed, format!("{name}: {}: {}", failure.cause, failure.detail));
    }
    if let Some(rejected) = &work.course.ledger.rejected {
        // It is not over when those who failed serve something else again.
        add(Cause::Failed, format!("{} is not tried any more", rejected.revision));
    }
    let empty = fleet.clusters[&work.course.cluster].is_empty();
    if let Some(absent) = &work.gate.absent
        && !(empty && is_vanished(fleet, &work.course.cluster))
    {
        add(Cause::Unreachable, absent.to_string());
    }
    for (lb, backend, server) in fleet.stranded(&work.course.cluster) {
        let text = format!("{server} of {backend} is kept out at {lb}, and is no node's any more");
        add(Cause::Stuck, text);
    }
    for (name, by) in blocked(work) {
        if let Some(cause) = cause_of(by)
            && !(work.gate.absent.is_some() && cause == Cause::Stuck)
        {
            add(cause, format!("{name}: {by}"));
        }
    }
    for member in fleet.members.values() {
        if member.claims.len() > 1 && member.claims.contains(&work.course.cluster) {
            add(Cause::Ambiguous, format!("{} is claimed by more than one cluster", member.name));
        }
    }
    match &fleet.desire(&work.course.cluster).standing {
        Standing::Current => {}
        Standing::LastGood(fault) => add(Cause::DesiredInvalid, fault.clone()),
        Standing::Vanished => add(Cause::DesiredVanished, "its desired file has gone".to_owned()),
    }
    let joined = |texts: Vec<String>| {
        let more = texts.len().saturating_sub(5);
        let mut text = texts.into_iter().take(5).collect::<Vec<_>>().join("\n");
        if more > 0 {
            text.push_str(&format!("\nand {more} more"));
        }
        text
    };
    found.into_iter().map(|(cause, texts)| (cause, joined(texts))).collect()
}

/// The cause that a blocked node stands for; `None` where it is told otherwise, or wanted.
fn cause_of(by: &Blocked) -> Option<Cause> {
    match by {
        Blocked::Duplicate => Some(Cause::Ambiguous),
        Blocked::ClaimedTwice { .. } => Some(Cause::Ambiguous),
        Blocked::ForeignMaintenance { .. } => Some(Cause::ForeignMaintenance),
        Blocked::BalancerUnread { .. }
        | Blocked::BalancerDisobeys { .. }
        | Blocked::NoServer { .. }
        | Blocked::NoServerName { .. }
        | Blocked::RevisionUnknown { .. }
        | Blocked::Unanswered { .. }
        | Blocked::NotStarted { .. }
        | Blocked::Overdue
        | Blocked::NotUp { .. }
        | Blocked::Floor { .. } => Some(Cause::Stuck),
        Blocked::Failed { cause, .. } => match cause {
            FailureCause::TriesSpent
            | FailureCause::NotSettled
            | FailureCause::NotUp
            | FailureCause::SoakFailed => None, // booked in the ledger, and told from there
        },
        Blocked::Departed
        | Blocked::Silent
        | Blocked::Missing { .. }
        | Blocked::BalancerMissing { .. }
        | Blocked::Rejected { .. }
        | Blocked::Paused
        | Blocked::Vanished => None,
    }
}
