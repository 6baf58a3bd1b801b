//! What must come about at least once in a plot, so that what holds there does not hold for want of anything
//! that happens.

use evenkeel::model::*;

use crate::haproxy::FIRST;
use crate::model::{Fleet, has_converged};
use crate::plot::{backend, revision, server};
use crate::state::State;

/// A sight: its name, and how it is told.
pub type Sight = (&'static str, fn(&Fleet, &State) -> bool);

pub const CONVERGES: Sight = ("a rollout converges", |_, state| converges(state));

pub const SUPERSEDED: Sight = ("a later revision converges", |_, state| {
    let runs = |web: &NodeName| state.agents[web].runs.as_ref();
    converges(state) && state.plot.webs.iter().any(|(web, _)| runs(web) == Some(&revision("3")))
});

pub const ROLLS_BACK: Sight = ("a cluster rolls back", |_, state| {
    state.broker.ledgers.values().any(|ledger| ledger.rejected.as_ref().is_some_and(|r| r.rollback))
});

pub const FAILS: Sight = ("a node has failed", |_, state| {
    decides(state, |decision| matches!(decision, Decision::Blocked(Blocked::Failed { .. })))
});

pub const HELD: Sight = ("a node is held, out of service", |_, state| {
    state.control.shown.iter().any(|(web, shown)| {
        shown.decision == Decision::Done(Done::Held)
            && state.plot.balancers.iter().all(|lb| state.agents[lb].bits(web).is_out())
    })
});

pub const PAUSED: Sight = ("a cluster is paused with a node out", |_, state| {
    state.control.shown.iter().any(|(web, shown)| {
        shown.decision == Decision::Blocked(Blocked::Paused)
            && state.plot.balancers.iter().any(|lb| state.agents[lb].bits(web).is_out())
    })
});

pub const FOREIGN: Sight = ("somebody else's maintenance is seen", |_, state| {
    decides(state, |d| matches!(d, Decision::Blocked(Blocked::ForeignMaintenance { .. })))
});

pub const FLOOR: Sight = ("a floor binds", |_, state| {
    decides(state, |decision| {
        matches!(
            decision,
            Decision::Wait { what: Wait::Floor { .. }, .. }
                | Decision::Blocked(Blocked::Floor { .. })
        )
    })
});

pub const SILENT: Sight = ("a load balancer is silent", |_, state| {
    decides(state, |d| matches!(d, Decision::Blocked(Blocked::BalancerMissing { .. })))
});

pub const REFUSES: Sight = ("a permit is refused", |_, state| {
    let reports = state.broker.reports.values().map(|sealed| &sealed.report);
    let mut refusals = reports.filter_map(|r| r.assignments.values().next()?.refusal.as_ref());
    refusals.any(|refusal| {
        matches!(
            refusal.reason,
            RefusalReason::NotOut { .. } | RefusalReason::BalancerNotHeard { .. }
        )
    })
});

pub const INTERRUPTED: Sight = ("an upgrade is interrupted", |_, state| {
    let reports = state.broker.reports.values().map(|sealed| &sealed.report);
    let mut attempts = reports.filter_map(|r| r.apps.values().next()?.attempt.as_ref());
    attempts.any(|attempt| {
        matches!(attempt.outcome, AttemptOutcome::Failed { why: AttemptFailure::Interrupted, .. })
    })
});

pub const SUCCEEDS_LATER: Sight = ("a second attempt succeeds", |_, state| {
    let reports = state.broker.reports.values().map(|sealed| &sealed.report);
    let mut attempts = reports.filter_map(|r| r.apps.values().next()?.attempt.as_ref());
    attempts.any(|attempt| attempt.attempt == 2 && attempt.outcome == AttemptOutcome::Succeeded)
});

pub const LOST_BY_RELOAD: Sight = ("a reload puts back what is to be out", |_, state| {
    state.plot.webs.iter().any(|(web, _)| {
        state.plot.balancers.iter().any(|lb| {
            let work = state.broker.assignments.get(lb).and_then(|a| a.balance.get(&backend()));
            let order = work.and_then(|work| work.servers.get(&server(web)));
            order == Some(&Order::Out)
                && !state.agents[lb].bits(web).is_out()
                && state.agents[lb].haproxy.as_ref().is_some_and(|haproxy| haproxy.process > FIRST)
        })
    })
});

pub const SECOND_LIFE: Sight = ("a controller that knows nothing leads", |_, state| {
    state.broker.leader.as_ref().is_some_and(|l| l.epoch.controller.as_str() != "c1")
});

fn converges(state: &State) -> bool {
    let desired = &state.plot.commits[state.committed];
    let at_target = |(web, of): &(NodeName, ClusterName)| {
        state.agents[web].runs.as_ref() == Some(&desired[of].revision)
    };
    state.queues.is_empty() && has_converged(state) && state.plot.webs.iter().all(at_target)
}

fn decides(state: &State, is: impl Fn(&Decision) -> bool) -> bool {
    state.control.shown.values().any(|shown| is(&shown.decision))
}
