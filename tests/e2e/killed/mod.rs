//! The real thing, killed: every part of a fleet, ended where it stands, in the middle of a rollout and under load.
//!
//! Each must end converged, with no request failed, none answered by a node that was being upgraded or had not
//! settled since, no node left in maintenance, and one message a cause.

mod agents;
mod balancers;
mod bus;
mod disks;
mod effects;
mod traced;

use std::ops::RangeInclusive;

use evenkeel::checker::Invariant;
use traced::Place;

use crate::scene::{Plot, Scene};

/// The cluster that is upgraded, in the reference scenario.
const ALFA: [&str; 5] = ["web1", "web2", "web3", "web4", "web5"];

/// Those that nothing is asked of.
const BRAVO: [&str; 4] = ["web6", "web7", "web8", "web9"];

/// All places if `EVENKEEL_EVERY_PLACE` is set (`make killed`); otherwise `some` of them, evenly spread, for which a
/// minute is enough.
fn tried(all: &[Place], some: usize) -> Vec<Place> {
    let every = std::env::var_os("EVENKEEL_EVERY_PLACE").is_some();
    let (some, last) = (if every { all.len() } else { some }, all.len() - 1);
    (0..some).map(|at| all[at * last / (some - 1)].clone()).collect()
}

/// A fleet under load, in mid-rollout: `web2` is being upgraded, and will be until its gate is opened.
fn in_the_middle(plot: Plot) -> Scene {
    let mut scene = plot.start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    scene.begin_load();
    scene.begin();
    scene
}

fn open_gate(scene: &Scene) {
    scene.remove("web2", "gate");
}

/// The rollout ends as if nothing had happened, but for the attempts at `web2`; and nothing has happened to the others.
fn ends_well(scene: Scene, attempts: usize) {
    ends_well_within(scene, attempts..=attempts);
}

fn ends_well_within(mut scene: Scene, attempts: RangeInclusive<usize>) {
    scene.converged("alfa", "2");
    scene.converged("bravo", "1");
    scene.end_load();
    let told = ["shop/alfa is at 2"];
    scene.told(&told);
    scene.nothing_is_under_way();
    scene.told(&told);
    for node in ALFA.iter().chain(&BRAVO) {
        let is_alfa = ALFA.contains(node);
        for lb in scene.lbs.keys() {
            let bits = scene.admin(lb, node);
            assert_eq!(bits, 0, "{} broke: {node} is out at {lb}", Invariant::Converges);
        }
        assert_eq!(scene.running(node), if is_alfa { "2" } else { "1" }, "{node}");
        let made = scene.attempts(node).len();
        let expected = match *node {
            "web2" => attempts.clone(),
            _ => usize::from(is_alfa)..=usize::from(is_alfa),
        };
        let names = Invariant::TriesBounded;
        assert!(expected.contains(&made), "{names} broke: {made} attempts at {node}");
    }
}
