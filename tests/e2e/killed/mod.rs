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

use traced::Place;

use crate::scene::{Broker, Plot, Scene};

const ALFA: [&str; 3] = ["web1", "web2", "web3"];

/// All places if `EVENKEEL_EVERY_PLACE` is set (`make killed`); otherwise `some` of them, evenly spread, for which a
/// minute is enough.
fn tried(all: &[Place], some: usize) -> Vec<Place> {
    let every = std::env::var_os("EVENKEEL_EVERY_PLACE").is_some();
    let (some, last) = (if every { all.len() } else { some }, all.len() - 1);
    (0..some).map(|at| all[at * last / (some - 1)].clone()).collect()
}

/// The cluster that is upgraded, and one that serves meanwhile.
fn small(broker: Broker) -> Plot {
    Plot { clusters: vec![("alfa", 3), ("bravo", 2)], ..Plot::new(broker) }
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

/// The rollout ends as if nothing had happened, but for the attempts at `web2`.
fn ends_well(mut scene: Scene, attempts: usize) {
    scene.converged("alfa", "2");
    scene.end_load();
    for node in ALFA {
        for lb in scene.lbs.keys() {
            assert_eq!(scene.admin(lb, node), 0, "{node} at {lb}");
        }
        assert_eq!(scene.running(node), "2", "{node}");
        let expected = if node == "web2" { attempts } else { 1 };
        assert_eq!(scene.attempts(node).len(), expected, "{node}");
    }
    scene.told(&["shop/alfa is at 2"]);
}
