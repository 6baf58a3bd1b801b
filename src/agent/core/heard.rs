//! What the agent of a node hears of the load balancers that a permit names, and whether they prove it.
//!
//! Principle: only what was heard live, on this connection, and lately, proves anything.

use std::collections::{BTreeMap, BTreeSet};

use super::Step;
use super::event::{Effect, Interest};
use crate::model::{
    AppName, BackendSeen, Mono, NodeName, Order, OutProof, Permit, RefusalReason, Report,
};

/// A load balancer that was last heard longer ago is silent. Three heartbeats and their jitter, as
/// the controller counts.
pub(super) const SILENT_MS: u64 = 90_000;

/// Load balancers that one node follows at most; a bound on what a broken controller can make it keep.
const FOLLOWED_MAX: usize = 64;

/// The load balancers of this node's assignments.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    followed: BTreeSet<NodeName>,
    live: BTreeMap<NodeName, (Mono, Report)>,
}

impl Heard {
    /// Whom to subscribe to on a new connection.
    pub(super) fn interests(&self) -> Vec<Interest> {
        self.followed.iter().cloned().map(Interest::ReportOf).collect()
    }

    /// What was heard proves nothing about the present any more.
    pub(super) fn disconnected(&mut self) {
        self.live.clear();
    }

    /// Takes in a load balancer's report.
    pub(super) fn report(&mut self, now: Mono, report: Report, retained: bool) {
        if retained || !self.followed.contains(&report.node) {
            return;
        }
        let newest = self.live.get(&report.node).is_none_or(|(_, known)| {
            (known.boot, known.sequence) <= (report.boot, report.sequence)
        });
        if newest {
            self.live.insert(report.node.clone(), (now, report));
        }
    }

    /// Follows whom the assignments name, and nobody else.
    pub(super) fn advance(&mut self, step: &mut Step, connected: bool) {
        let wanted: BTreeSet<NodeName> = step
            .disk
            .memory()
            .assignments
            .values()
            .filter_map(|assignment| assignment.work.as_ref())
            .flat_map(|work| &work.load_balancers)
            .take(FOLLOWED_MAX)
            .cloned()
            .collect();
        if wanted == self.followed {
            return;
        }
        // Whoever is not followed any more is passed over until the next connection ends the subscription.
        let begun: Vec<Interest> =
            wanted.difference(&self.followed).cloned().map(Interest::ReportOf).collect();
        if connected && !begun.is_empty() {
            step.effects.push(Effect::Subscribe(begun));
        }
        self.live.retain(|node, _| wanted.contains(node));
        self.followed = wanted;
    }

    /// Whether everything that `permit` rests on is seen, now.
    pub(super) fn proves(
        &self,
        app: &AppName,
        permit: &Permit,
        now: Mono,
    ) -> Result<(), RefusalReason> {
        permit.out.iter().try_for_each(|proof| self.is_out(app, proof, now))
    }

    fn is_out(&self, app: &AppName, proof: &OutProof, now: Mono) -> Result<(), RefusalReason> {
        let Some((_, report)) =
            self.live.get(&proof.lb).filter(|(at, _)| now.since_ms(*at) <= SILENT_MS)
        else {
            return Err(RefusalReason::BalancerNotHeard { lb: proof.lb.clone() });
        };
        if shows_out(report, app, proof) {
            return Ok(());
        }
        Err(RefusalReason::NotOut { lb: proof.lb.clone(), server: proof.server.clone() })
    }
}

/// The report's assignment orders the server out, is carried out since `proof.at`, and the server
/// is seen out.
fn shows_out(report: &Report, app: &AppName, proof: &OutProof) -> bool {
    let Some(obeyed) = report.assignments.get(app) else { return false };
    let ordered = obeyed
        .assignment
        .balance
        .get(&proof.backend)
        .and_then(|work| work.servers.get(&proof.server));
    let done = obeyed.done.as_ref().is_some_and(|done| *done >= proof.at);
    let backend =
        report.balancer.as_ref().and_then(|balancer| balancer.backends.get(&proof.backend));
    let seen_out = match backend {
        Some(BackendSeen::Servers(servers)) => {
            servers.get(&proof.server).is_some_and(|server| server.seen.admin.is_out())
        }
        Some(BackendSeen::Unknown(_)) | None => false,
    };
    ordered == Some(&Order::Out) && done && seen_out
}
