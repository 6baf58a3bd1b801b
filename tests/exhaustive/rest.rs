//! From any state, when nothing more goes wrong: everybody does what is to be done, until nothing is; then the
//! fleet has converged, or is blocked by exactly what is true.
//!
//! The way from one state leads over others, so each state is walked from once: where a way meets one that has been
//! walked, it ends as that one did.

use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, Mutex, PoisonError};

use evenkeel::model::*;
use evenkeel::plan::Phase;

use crate::model::{Action, after, expected, has_converged};
use crate::plot::{Kind, server};
use crate::state::State;

/// Steps in which everything that can be under way has come to its end, with every try and every timeout.
const STEPS_MAX: usize = 3_000;

/// Times that time passes, and nobody is asked for anything, after which nobody will be: longer than every
/// deadline of the plots.
const WAITS_MAX: u8 = 13;

/// How the ways ended that were walked, by fingerprint.
static WALKED: LazyLock<Mutex<HashMap<(u64, u8), bool>>> = LazyLock::new(Mutex::default);

/// Whether it ends well.
pub fn comes_to_rest(from: &State) -> bool {
    let mut way = Vec::new();
    let mut state = from.clone();
    // What more could have gone wrong does not matter any more.
    (state.faults, state.turns) = (0, 0);
    state.put_off.clear();
    state.seal();
    let ends_well = loop {
        let at = state.fingerprint();
        let walked = WALKED.lock().unwrap_or_else(PoisonError::into_inner).get(&at).copied();
        if let Some(known) = walked {
            break known;
        }
        way.push(at);
        if way.len() > STEPS_MAX {
            eprintln!("it does not come to rest: {state:?}");
            break false;
        }
        if let Some(breach) = state.checker.breaches().first() {
            // What broke in the walk is told by its invariant; what breaks on the way to rest, by nobody else.
            let is_told = !from.checker.breaches().is_empty();
            if !is_told {
                eprintln!("on the way to rest: {breach}: {state:?}");
            }
            break is_told;
        }
        let next = expected(&state).into_iter().find_map(|action| after(&state, &action));
        state = match next {
            Some(next) => next,
            None if has_converged(&state) || state.waited >= WAITS_MAX => {
                break match judge(&state) {
                    Ok(()) => true,
                    Err(what) => {
                        eprintln!("{what}: {state:?}");
                        false
                    }
                };
            }
            None => match after(&state, &Action::TimePasses) {
                Some(next) => next,
                None => break false,
            },
        };
    };
    let mut walked = WALKED.lock().unwrap_or_else(PoisonError::into_inner);
    walked.extend(way.into_iter().map(|at| (at, ends_well)));
    ends_well
}

/// What is wrong with a state of rest.
fn judge(state: &State) -> Result<(), String> {
    if let Some(breach) = state.checker.end().first() {
        return Err(breach.to_string());
    }
    for (web, of) in &state.plot.webs {
        let shown = state.control.shown.get(web).ok_or("it is not shown")?;
        if !is_true(state, web, of, &shown.decision) {
            return Err(format!("{web} rests without reason: {}", shown.decision));
        }
    }
    Ok(())
}

fn is_ready(state: &State, lb: &NodeName, web: &NodeName) -> bool {
    state.agents[lb].haproxy.as_ref().is_some_and(|haproxy| haproxy.seen(&server(web)).is_ready())
}

/// Whether a decision is one to rest with, and what it says is so, in truth.
fn is_true(state: &State, web: &NodeName, of: &ClusterName, decision: &Decision) -> bool {
    let desired = &state.plot.commits[state.committed];
    let settings = &desired[of];
    let members: BTreeMap<&NodeName, &ClusterName> =
        state.plot.webs.iter().map(|(name, of)| (name, of)).collect();
    let failed = |name: &NodeName| {
        let (agent, target) = (&state.agents[name], &settings.revision);
        agent.failed.get(target).is_some_and(|times| *times >= settings.rollout.tries)
            || agent.unsettled.get(target) == Some(&true)
    };
    // What was rejected then stays so, whatever its checks say later.
    let has_failed = |name: &NodeName| {
        failed(name) || state.agents[name].unsettled.contains_key(&settings.revision)
    };
    // A rollback that fails is held, at what it was to go back to.
    let rolls_back = settings.rollout.on_failure == OnFailure::Rollback;
    let fails_back = |name: &NodeName| {
        let mut failed = state.agents[name].failed.values();
        rolls_back && failed.any(|times| *times >= settings.rollout.tries)
    };
    let siblings = || members.iter().filter(|(_, cluster)| **cluster == of).map(|(name, _)| *name);
    let is_late = |other: &ClusterName| {
        let of_it = || members.iter().filter(|(_, cluster)| **cluster == other);
        of_it().any(|(name, _)| state.agents[*name].runs.as_ref() != Some(&settings.revision))
            || state.control.phases.get(other) != Some(&Phase::Converged)
    };
    let is_out = || state.plot.balancers.iter().all(|lb| state.agents[lb].bits(web).is_out());
    match decision {
        Decision::Done(Done::InService { revision }) => {
            let excused =
                settings.paused || siblings().any(has_failed) || settings.after.iter().any(is_late);
            state.agents[web].runs.as_ref() == Some(revision)
                && state.plot.balancers.iter().all(|lb| is_ready(state, lb, web))
                && (*revision == settings.revision || excused)
        }
        Decision::Done(Done::Held) => settings.hold.contains(web) && is_out(),
        Decision::Blocked(Blocked::Paused) => settings.paused,
        Decision::Blocked(Blocked::Failed { .. }) => (failed(web) || fails_back(web)) && is_out(),
        Decision::Blocked(Blocked::Rejected { .. }) => siblings().any(has_failed),
        Decision::Blocked(Blocked::ForeignMaintenance { lb, .. }) => {
            let backend = settings.load_balancer.as_ref().map(|balancing| &balancing.backend);
            let ours = backend.is_some_and(|of| state.checker.is_ours(lb, of, &server(web)));
            let hands = state.plot.kinds.contains(&Kind::Hand);
            hands && !state.agents[lb].bits(web).is_clear() && !ours
        }
        Decision::Blocked(Blocked::Floor { lb, floor, .. }) => {
            let ready = members.keys().filter(|web| is_ready(state, lb, web)).count();
            ready <= *floor
        }
        Decision::Wait { what: Wait::After { cluster, revision }, .. } => {
            *revision == settings.revision && is_late(cluster)
        }
        _ => false,
    }
}
