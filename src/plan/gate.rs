//! Whether a cluster may be touched at all: who must be there, and who must have answered.

use std::collections::BTreeSet;

use crate::model::{Blocked, ClusterName, Decision, Expect, NodeName, Wait};

use super::rollout::Course;
use super::view::Fleet;

/// How long an agent that is heard may take to echo or carry out what it was asked, in
/// milliseconds, before that counts as blocked. A healthy one takes a few; what is slower than this needs a person.
pub(super) const OBEY_MS_MAX: u64 = 30_000;

/// What a cluster may do now.
pub(super) struct Gate {
    /// Taking out and permitting: every expected node and load balancer is there and has answered,
    /// and every load balancer's observation is of after the last change that was asked of it.
    pub changes: Result<(), Decision>,
    /// Putting back: every load balancer is there and obeys this epoch.
    pub returns: Result<(), Decision>,
    /// Who is not there though expected, in words; for whoever has to be told.
    pub absent: Option<Blocked>,
    /// Agents that must be asked (again) before anything can be changed.
    pub to_probe: BTreeSet<NodeName>,
}

impl Gate {
    pub fn new(fleet: &Fleet<'_>, course: &Course) -> Self {
        let cluster = &course.cluster;
        let balancers = balancers_there(fleet, cluster);
        let members = members_there(fleet, cluster);
        let absent = balancers.clone().and(members.clone()).err();
        let to_probe = to_probe(fleet, course);
        let seen = balancers
            .map_err(Decision::Blocked)
            .and_then(|()| answered(fleet, course, &balancer_names(fleet, cluster), &to_probe));
        let begun = || {
            if course.is_begun() {
                return Ok(());
            }
            let held = &fleet.desire(cluster).settings.hold;
            let names: Vec<NodeName> = fleet.clusters[cluster]
                .iter()
                .filter(|name| !held.contains(name) && fleet.members[*name].is_present())
                .cloned()
                .collect();
            answered(fleet, course, &names, &to_probe)
        };
        let changes = members
            .map_err(Decision::Blocked)
            .and_then(|()| seen.clone())
            .and_then(|()| done(fleet, cluster))
            .and_then(|()| begun());
        Self { changes, returns: seen, absent, to_probe }
    }
}

fn balancer_names(fleet: &Fleet<'_>, cluster: &ClusterName) -> Vec<NodeName> {
    fleet.balancers_of(cluster).into_iter().map(|(name, _)| name.clone()).collect()
}

/// Every expected and every known load balancer is present, and reads its backend.
fn balancers_there(fleet: &Fleet<'_>, cluster: &ClusterName) -> Result<(), Blocked> {
    let Some(lb) = &fleet.desire(cluster).settings.load_balancer else { return Ok(()) };
    let all = fleet.balancers_of(cluster);
    let absent: Vec<NodeName> =
        all.iter().filter(|(_, b)| !b.is_present()).map(|(name, _)| (*name).clone()).collect();
    let present = all.len() - absent.len();
    let expected = match &lb.expect {
        Expect::Count(count) => (*count as usize).max(all.len()),
        Expect::Nodes(_) => all.len(),
    };
    if present < expected || all.is_empty() {
        return Err(Blocked::BalancerMissing { present, expected: expected.max(1), names: absent });
    }
    for (name, balancer) in all {
        if let Err(error) = &balancer.servers {
            return Err(Blocked::BalancerUnread { lb: name.clone(), error: error.clone() });
        }
    }
    Ok(())
}

/// No more expected nodes are absent than tolerated, and not all of them: where nobody is there, nothing is
/// known. Held ones are not missing.
pub(super) fn members_there(fleet: &Fleet<'_>, cluster: &ClusterName) -> Result<(), Blocked> {
    let settings = &fleet.desire(cluster).settings;
    let here = |name: &NodeName| fleet.members.get(name).is_some_and(|m| m.is_present());
    let (wanted, missing, names) = match &settings.expect {
        Expect::Nodes(listed) => {
            let wanted = listed.iter().filter(|name| !settings.hold.contains(*name));
            let names: Vec<NodeName> = wanted
                .clone()
                .filter(|name| !fleet.clusters[cluster].contains(*name) || !here(name))
                .cloned()
                .collect();
            (wanted.count(), names.len(), names)
        }
        Expect::Count(count) => {
            let members = &fleet.clusters[cluster];
            let absent: Vec<NodeName> = members
                .iter()
                .filter(|name| !settings.hold.contains(name) && !here(name))
                .cloned()
                .collect();
            // A held one that is known, and is not there, fills its place all the same; a name in
            // `hold` that nobody ever had fills none.
            let there = members.len() - absent.len();
            let held = members.iter().filter(|name| settings.hold.contains(*name)).count();
            let count = *count as usize;
            (count.saturating_sub(held), count.saturating_sub(there), absent)
        }
    };
    let tolerated = (settings.rollout.max_missing as usize).min(wanted.saturating_sub(1));
    if missing <= tolerated {
        return Ok(());
    }
    Err(Blocked::Missing { missing, tolerated, names })
}

/// Present agents whose assignment is not of this epoch, or lacks this rollout's probe.
fn to_probe(fleet: &Fleet<'_>, course: &Course) -> BTreeSet<NodeName> {
    let cluster = &course.cluster;
    let members = fleet.clusters[cluster]
        .iter()
        .map(|name| &fleet.members[name])
        .filter(|member| member.is_present())
        .map(|member| (&member.name, member.assigned));
    let balancers = fleet
        .balancers_of(cluster)
        .into_iter()
        .filter(|(_, balancer)| balancer.is_present())
        .map(|(name, balancer)| (name, balancer.assigned));
    members
        .chain(balancers)
        .filter(|(_, assigned)| {
            assigned.is_none_or(|a| {
                a.assignment.stamp.epoch != *fleet.input.epoch
                    || !a.assignment.probes.contains(&course.id)
            })
        })
        .map(|(name, _)| name.clone())
        .collect()
}

/// Each of `names` has echoed the assignment in force, which probes for this rollout.
fn answered(
    fleet: &Fleet<'_>,
    course: &Course,
    names: &[NodeName],
    to_probe: &BTreeSet<NodeName>,
) -> Result<(), Decision> {
    if names.iter().any(|name| to_probe.contains(name)) {
        return Err(Decision::Act(crate::model::Act::Probe));
    }
    let input = fleet.input;
    let mut silent = Vec::new();
    let mut oldest_ms = 0;
    let mut refusal = None;
    for name in names {
        let balancer = fleet.balancers_of(&course.cluster).into_iter().find(|(n, _)| *n == name);
        let (seen, assigned, said) = match (fleet.members.get(name), balancer) {
            (_, Some((_, b))) => (b.has_seen(input), b.assigned, b.refusal(input)),
            (Some(m), None) => (m.has_seen(input), m.assigned, m.refusal(input)),
            (None, None) => continue,
        };
        if !seen {
            silent.push(name.clone());
            oldest_ms = oldest_ms.max(assigned.map_or(0, |a| a.age_ms));
            refusal = refusal.or(said);
        }
    }
    if silent.is_empty() {
        return Ok(());
    }
    Err(if oldest_ms > OBEY_MS_MAX {
        Decision::Blocked(Blocked::Unanswered { from: silent, refusal })
    } else {
        Decision::Wait {
            what: Wait::Echo { from: silent, refusal },
            until_ms: Some(OBEY_MS_MAX + 1 - oldest_ms),
        }
    })
}

/// Every load balancer has done all that was asked of it, and says so.
fn done(fleet: &Fleet<'_>, cluster: &ClusterName) -> Result<(), Decision> {
    for (name, balancer) in fleet.balancers_of(cluster) {
        if !balancer.has_done(fleet.input) {
            return Err(pending(fleet, cluster, name));
        }
    }
    Ok(())
}

/// The wait for a load balancer that has not yet done what it was asked, or the end of patience.
pub(super) fn pending(fleet: &Fleet<'_>, cluster: &ClusterName, lb: &NodeName) -> Decision {
    let balancers = fleet.balancers_of(cluster);
    let balancer = balancers.iter().find(|(name, _)| *name == lb).map(|(_, balancer)| balancer);
    let refusal = balancer.and_then(|b| b.refusal(fleet.input));
    let age_ms = balancer.and_then(|b| b.assigned).map_or(0, |a| a.age_ms);
    let drain_ms = fleet.desire(cluster).settings.load_balancer.as_ref().map_or(0, |l| l.drain_ms);
    let limit_ms = OBEY_MS_MAX + drain_ms;
    if age_ms > limit_ms {
        return Decision::Blocked(Blocked::BalancerDisobeys { lb: lb.clone(), refusal });
    }
    Decision::Wait {
        what: Wait::Balancer { lb: lb.clone(), refusal },
        until_ms: Some(limit_ms + 1 - age_ms),
    }
}
