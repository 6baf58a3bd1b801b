//! Each component's disk lost in turn, in the middle of a rollout: the rows of a table in `docs/safety.md`.

use super::{begin, ends_well, in_the_middle, open_gate, small};
use crate::scene::{Broker, Plot};

#[test]
fn the_controllers() {
    let mut scene = in_the_middle(small(Broker::Mosquitto));
    scene.kill_controller();
    scene.wipe("controller");
    open_gate(&scene);
    scene.start_controller();
    ends_well(scene, 1);
}

/// Its own retained report says which attempt it was at.
#[test]
fn a_web_servers() {
    let mut scene = in_the_middle(small(Broker::Mosquitto));
    scene.agent("web2").kill();
    open_gate(&scene);
    scene.wait_for("its command ends", |scene| scene.running("web2") == "2");
    scene.wipe("web2");
    scene.start_agent("web2");
    ends_well(scene, 2);
}

/// Its own retained report says which maintenance is its.
#[test]
fn a_load_balancers() {
    let mut scene = in_the_middle(small(Broker::Mosquitto));
    scene.agent("lb1").kill();
    scene.wipe("lb1");
    scene.start_agent("lb1");
    open_gate(&scene);
    ends_well(scene, 1);
}

#[test]
fn the_brokers() {
    let mut scene = Plot { persistent: true, ..small(Broker::Mosquitto) }.start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    scene.begin_load();
    begin(&scene);
    scene.mosquitto().stop();
    scene.mosquitto().wipe();
    open_gate(&scene);
    scene.mosquitto().start_again();
    ends_well(scene, 1);
}

/// The ledger is lost with both: the rollout is found again in the fleet, and carried on.
#[test]
fn the_controllers_and_the_brokers() {
    let mut scene = in_the_middle(small(Broker::Mosquitto));
    scene.kill_controller();
    scene.wipe("controller");
    scene.mosquitto().kill();
    scene.mosquitto().start_again();
    scene.start_controller();
    open_gate(&scene);
    ends_well(scene, 1);
}
