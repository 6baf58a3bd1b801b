//! HAProxy reloaded, killed and started again, and stopped.

use super::{ends_well, in_the_middle, open_gate};
use crate::scene::{Broker, Plot, Scene};

/// A fleet whose load goes through the second load balancer: who speaks to one that is killed has to fail.
fn two(plot: Plot) -> Scene {
    let mut scene = Plot { lbs: 2, ..plot }.start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    scene.begin_load_through("lb2");
    scene.begin();
    scene
}

/// HAProxy is told nothing of what was before.
fn forgetful() -> Plot {
    Plot { state_file: false, ..Plot::new(Broker::Mosquitto) }
}

#[test]
fn reloaded() {
    let mut scene = in_the_middle(Plot::new(Broker::Mosquitto));
    scene.lb("lb1").reload();
    assert_eq!(scene.admin("lb1", "web2"), 1, "by its state file, at once");
    open_gate(&scene);
    ends_well(scene, 1);
}

/// Without a state file HAProxy forgets, and its agent reminds it. What it may answer until then is not promised, so
/// the load takes the other way.
#[test]
fn reloaded_without_a_state_file() {
    let mut scene = two(forgetful());
    scene.lb("lb1").reload();
    scene.wait_for("the maintenance is in force again", |scene| scene.admin("lb1", "web2") == 1);
    open_gate(&scene);
    ends_well(scene, 1);
}

#[test]
fn killed_and_started_again() {
    let mut scene = two(Plot::new(Broker::Mosquitto));
    scene.lb("lb1").restart();
    assert_eq!(scene.admin("lb1", "web2"), 1, "by its state file, at once");
    scene.begin_load();
    open_gate(&scene);
    ends_well(scene, 1);
}

#[test]
fn killed_and_started_again_without_a_state_file() {
    let mut scene = two(forgetful());
    scene.lb("lb1").restart();
    scene.wait_for("the maintenance is in force again", |scene| scene.admin("lb1", "web2") == 1);
    scene.begin_load();
    open_gate(&scene);
    ends_well(scene, 1);
}

/// Nothing new is begun while one of them cannot be asked; what runs ends.
#[test]
fn one_of_two_is_stopped_for_a_while() {
    let mut scene = two(Plot { batch: 1, ..Plot::new(Broker::Mosquitto) });
    scene.lb("lb1").stop();
    scene.says("web3", "lb1");
    open_gate(&scene);
    scene.wait_for("the running one ends", |scene| scene.running("web2") == "2");
    assert!(scene.attempts("web3").is_empty(), "nothing is begun");
    assert_eq!(scene.admin("lb2", "web2"), 1, "nor put back");
    scene.lb("lb1").start_again();
    ends_well(scene, 1);
}
