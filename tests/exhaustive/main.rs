//! Every interleaving, within bounds: the real controller core, the real agent cores and the real planner, with
//! everything that can go wrong at every point where it can.
//!
//! Each test is one bounded product. An ordinary run takes small ones; `make exhaustive` takes them as far as a
//! machine can in about an hour. `docs/verification.md` says what they came to, and what is not in them.

#[path = "../planner/fleet.rs"]
#[allow(dead_code)] // the planner's tests use the rest
mod fleet;

#[path = "../sim/mutant.rs"]
#[allow(dead_code)] // the simulator's tests use the rest
mod mutant;

#[path = "../sim/haproxy.rs"]
#[allow(dead_code)] // the simulator's tests use the rest
mod haproxy;

#[path = "../sim/presence.rs"]
#[allow(dead_code)] // the simulator's tests use the rest
mod presence;

mod agents;
mod control;
mod model;
mod plot;
mod print;
mod rest;
mod seen;
mod state;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use evenkeel::checker::Invariant;
use evenkeel::model::{DesiredCluster, OnFailure, Share};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::model::Fleet;
use crate::plot::{Clusters, Kind, Order, Plot, at, cluster, four, node, revision, two, with};

fn explore(plot: Plot) {
    let begun = Instant::now();
    let (name, faults, order) = (plot.name, plot.faults, plot.order);
    let fleet = Fleet { plot: Arc::new(plot) };
    let checker = fleet.checker().threads(2).finish_when(HasDiscoveries::AnyFailures);
    let checker = match std::env::var("DEPTH").ok().and_then(|text| text.parse().ok()) {
        Some(depth) => checker.target_max_depth(depth),
        None => checker,
    };
    let checker = checker.spawn_bfs().join();
    eprintln!(
        "{name}, {faults} faults, {order:?}: {} unique states, {} steps, depth {}, {:.0} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
    let discoveries = checker.discoveries();
    for property in checker.model().properties() {
        match (property.expectation, discoveries.get(property.name)) {
            (Expectation::Sometimes, Some(_)) | (Expectation::Always, None) => {}
            (Expectation::Sometimes, None) => {
                panic!("{name}: it never comes about that {}", property.name)
            }
            (_, Some(path)) => {
                let state = path.last_state().clone();
                let way: Vec<String> = path
                    .clone()
                    .into_actions()
                    .iter()
                    .map(|action| format!("{action:?}"))
                    .collect();
                panic!("{name}: {} breaks\n{}\n{state:?}", property.name, way.join("\n"));
            }
            (Expectation::Eventually, None) => unreachable!("no such property is asked for"),
        }
    }
}

/// A walk over a controller that breaks `mutant` on purpose comes upon it, by name.
fn finds(mutant: Invariant, plot: Plot) {
    let fleet = Fleet { plot: Arc::new(Plot { mutant: Some(mutant), ..plot }) };
    let names = fleet.properties().into_iter().map(|property| property.name);
    let name = names.into_iter().find(|name| *name == format!("{mutant:?}")).expect("a property");
    let until = HasDiscoveries::AnyOf([name].into());
    let checker = fleet.checker().threads(2).finish_when(until).spawn_bfs().join();
    let found: Vec<&str> = checker.discoveries().into_keys().collect();
    let states = checker.unique_state_count();
    assert!(found.contains(&name), "{name}: {found:?} after {states} states");
}

/// How far a product is taken: as far as an ordinary test run can afford, or, where `EXHAUSTIVE` is set, further.
fn bound<T>(in_passing: T, in_full: T) -> T {
    if std::env::var_os("EXHAUSTIVE").is_some() { in_full } else { in_passing }
}

/// Faults and turns together: so many faults in the fixed order; in full one more, and as many beside a turn.
fn reach(faults: u8) -> Vec<(u8, u8)> {
    bound(vec![(faults, 0)], vec![(faults + 1, 0), (faults, 1)])
}

/// `alfa` goes to revision 2, and `bravo` after it.
fn rollout() -> Vec<Clusters> {
    vec![at("1", "1"), after(at("2", "2"))]
}

fn after(mut clusters: Clusters) -> Clusters {
    let bravo = clusters.get_mut(&cluster("bravo")).expect("a cluster");
    bravo.after.insert(cluster("alfa"));
    clusters
}

#[test]
fn in_another_order() {
    let sights = vec![seen::CONVERGES, seen::REFUSES];
    explore(Plot { sights, ..four("orders", rollout(), &[], (0, bound(1, 2))) });
}

#[test]
fn both_clusters_at_once() {
    let sights = vec![seen::CONVERGES, seen::FLOOR];
    // A floor of three leaves one to be taken out at a time.
    let commits = [at("1", "1"), at("2", "2")].map(|clusters| {
        with(clusters, |settings| {
            if let Some(balancing) = &mut settings.load_balancer {
                balancing.min_ready = Share::Percent(75);
            }
        })
    });
    explore(Plot { sights, ..four("both at once", commits.into(), &[], (0, bound(0, 1))) });
}

#[test]
fn two_nodes_in_any_order() {
    let commits = vec![at("1", "1"), at("2", "2")];
    explore(Plot { sights: vec![seen::CONVERGES], ..two("two", commits, &[], 0) });
}

#[test]
fn two_nodes_in_any_order_with_any_fault() {
    let sights = vec![seen::CONVERGES, seen::SECOND_LIFE, seen::FOREIGN, seen::INTERRUPTED];
    let commits = vec![at("1", "1"), at("2", "1"), at("3", "1")];
    let order = bound(Order::Turns(0), Order::Any);
    explore(Plot { sights, order, ..two("two, any fault", commits, &Kind::ALL, 1) });
}

#[test]
fn documents_get_lost_late_reordered_or_doubled() {
    let kinds = [Kind::Lost, Kind::Doubled, Kind::Reordered, Kind::Silent, Kind::Reconnects];
    // Two of these take more memory than most machines have.
    for reach in bound(vec![(1, 0)], vec![(1, 1)]) {
        let sights = vec![seen::CONVERGES, seen::SILENT];
        explore(Plot { sights, ..four("bus", rollout(), &kinds, reach) });
    }
}

#[test]
fn agents_die() {
    for reach in reach(1) {
        let sights = vec![seen::CONVERGES, seen::INTERRUPTED, seen::SUCCEEDS_LATER];
        explore(Plot { sights, ..four("agents", rollout(), &[Kind::AgentDies], reach) });
    }
}

#[test]
fn the_controller_dies() {
    let kinds = [Kind::ControllerDies, Kind::ControllerWiped];
    for reach in reach(1) {
        let sights = vec![seen::CONVERGES, seen::SECOND_LIFE];
        explore(Plot { sights, ..four("controller", rollout(), &kinds, reach) });
    }
}

#[test]
fn haproxy_is_reloaded_and_set_by_hand() {
    for reach in reach(1) {
        let sights = vec![seen::CONVERGES, seen::FOREIGN];
        explore(Plot { sights, ..four("haproxy", rollout(), &[Kind::Reload, Kind::Hand], reach) });
    }
}

#[test]
fn haproxy_is_reloaded_without_a_state_file() {
    for reach in reach(1) {
        let sights = vec![seen::CONVERGES, seen::LOST_BY_RELOAD];
        let plot = four("no state file", rollout(), &[Kind::Reload, Kind::Hand], reach);
        explore(Plot { sights, state_file: false, ..plot });
    }
}

#[test]
fn upgrades_and_checks_fail() {
    for reach in reach(2) {
        let sights = vec![seen::CONVERGES, seen::FAILS, seen::SUCCEEDS_LATER];
        let kinds = [Kind::UpgradeFails, Kind::CheckFails];
        explore(Plot { sights, ..four("failures", rollout(), &kinds, reach) });
    }
}

#[test]
fn a_cluster_rolls_back() {
    let hasty = |clusters| {
        with(clusters, |settings| {
            settings.rollout.on_failure = OnFailure::Rollback;
            settings.rollout.tries = 1;
        })
    };
    for reach in reach(1) {
        let sights = vec![seen::CONVERGES, seen::ROLLS_BACK];
        let kinds = [Kind::UpgradeFails, Kind::CheckFails, Kind::Commit];
        let commits = rollout().into_iter().map(hasty).collect();
        explore(Plot { sights, ..four("rollback", commits, &kinds, reach) });
    }
}

#[test]
fn other_files_are_committed() {
    let mut commits = rollout();
    let second = commits[1].clone();
    commits.push(with(second.clone(), |settings| {
        if settings.revision == revision("2") {
            settings.revision = revision("3");
        }
    }));
    commits.push(with(second.clone(), |settings| settings.paused = true));
    commits.push(with(second, |settings| {
        settings.hold.insert(node("web1"));
    }));
    for reach in reach(1) {
        let sights = vec![seen::CONVERGES, seen::SUPERSEDED, seen::PAUSED, seen::HELD];
        explore(Plot { sights, ..four("commits", commits.clone(), &[Kind::Commit], reach) });
    }
}

#[test]
fn broken_rules_are_found() {
    let both = || vec![at("1", "1"), at("2", "2")];
    let under = |floor: u32, clusters: Vec<Clusters>| -> Vec<Clusters> {
        let under = |settings: &mut DesiredCluster| {
            if let Some(balancing) = &mut settings.load_balancer {
                balancing.min_ready = Share::Percent(floor);
            }
        };
        clusters.into_iter().map(|clusters| with(clusters, under)).collect()
    };
    let hasty = |clusters| with(clusters, |settings| settings.rollout.tries = 1);
    let mut paused = rollout();
    paused.push(with(paused[1].clone(), |settings| settings.paused = true));
    let hasty = rollout().into_iter().map(hasty).collect();
    let none = (0, 0);
    let products = [
        (Invariant::AfterGatesStart, four("after", under(0, rollout()), &[], (0, 1))),
        (Invariant::FloorKept, four("floor", under(75, both()), &[], none)),
        (Invariant::BatchKept, four("batch", both(), &[], none)),
        (Invariant::Converges, four("put back", rollout(), &[], none)),
        (Invariant::PutBackOnlySettled, four("settle", rollout(), &[Kind::CheckFails], (1, 1))),
        (Invariant::TriesBounded, four("tries", hasty, &[Kind::UpgradeFails], (2, 0))),
        (Invariant::ForeignKept, four("hands", rollout(), &[Kind::Hand], (1, 0))),
        (Invariant::SilenceBlocks, four("silence", rollout(), &[Kind::Silent], (1, 0))),
        (Invariant::UntouchedWherePaused, four("pause", paused, &[Kind::Commit], (1, 0))),
        (Invariant::UpgradedOnlyWhileOut, four("out", rollout(), &[], none)),
        (Invariant::QuietAtGoal, four("quiet", rollout(), &[], none)),
        (Invariant::ToldOnce, four("told", rollout(), &[], none)),
    ];
    let all: BTreeSet<Invariant> = products.iter().map(|(mutant, _)| *mutant).collect();
    assert_eq!(all, Invariant::ALL.into());
    for (mutant, plot) in products {
        finds(mutant, plot);
    }
}
