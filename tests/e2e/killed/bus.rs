//! The broker killed and started again, with and without its memory, and agents that are cut off from it.

use super::{ends_well, in_the_middle, open_gate};
use crate::parts::namespace::Namespaces;
use crate::scene::{Broker, Plot, Scene};

/// The bus is gone while the upgrade ends, and then comes back.
fn without_the_bus(mut scene: Scene) {
    open_gate(&scene);
    scene.wait_for("the upgrade ends by itself", |scene| scene.running("web2") == "2");
    assert_eq!(scene.admin("lb1", "web2"), 1, "nobody puts it back");
    scene.mosquitto().start_again();
    ends_well(scene, 1);
}

#[test]
fn the_broker_is_killed_and_remembers_nothing() {
    let mut scene = in_the_middle(Plot::new(Broker::Mosquitto));
    scene.mosquitto().kill();
    without_the_bus(scene);
}

#[test]
fn the_broker_is_stopped_and_remembers_all() {
    let mut scene = in_the_middle(Plot { persistent: true, ..Plot::new(Broker::Mosquitto) });
    scene.mosquitto().stop();
    without_the_bus(scene);
}

/// It has no time to write anything, and what is on its disk is of this moment.
#[test]
fn the_broker_is_killed_and_remembers_all() {
    let mut scene = in_the_middle(Plot { persistent: true, ..Plot::new(Broker::Mosquitto) });
    scene.mosquitto().save();
    scene.mosquitto().kill();
    without_the_bus(scene);
}

/// It comes back with assignments, reports and a ledger from before the rollout.
#[test]
fn the_broker_is_killed_and_remembers_what_was() {
    let mut scene = Plot { persistent: true, ..Plot::new(Broker::Mosquitto) }.start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    scene.mosquitto().save();
    scene.begin_load();
    scene.begin();
    scene.mosquitto().kill();
    without_the_bus(scene);
}

/// The broker goes before anybody is told, with the controller, and comes back with a memory of before the rollout.
#[test]
fn the_broker_and_the_controller_are_killed() {
    let mut scene = Plot { persistent: true, ..Plot::new(Broker::Mosquitto) }.start();
    scene.converged("alfa", "1");
    scene.mosquitto().save();
    scene.begin_load();
    scene.begin();
    scene.kill_controller();
    scene.mosquitto().kill();
    open_gate(&scene);
    scene.wait_for("the upgrade ends by itself", |scene| scene.running("web2") == "2");
    scene.mosquitto().start_again();
    scene.start_controller();
    ends_well(scene, 1);
}

/// Runs `scenario` with the agents of `far` behind a cable of their own.
fn with_a_cable(far: &'static [&'static str], scenario: fn(Scene)) {
    // A thread of its own, since it moves into another namespace for good.
    let test = std::thread::spawn(move || {
        let namespaces = Some(Namespaces::enter());
        let plot =
            Plot { namespaces, far: far.to_vec(), keep_alive_s: 5, ..Plot::new(Broker::Mosquitto) };
        scenario(in_the_middle(plot));
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_web_servers_agent_is_cut_off() {
    with_a_cable(&["web2"], |scene| {
        scene.cable().cut();
        open_gate(&scene);
        scene.wait_for("the upgrade ends by itself", |scene| scene.running("web2") == "2");
        scene.wait_for("it is missed", |scene| scene.presence("web2") == "departed");
        assert_eq!(scene.admin("lb1", "web2"), 1, "nobody knows how it is");
        scene.cable().mend();
        ends_well(scene, 1);
    });
}

#[test]
fn a_load_balancers_agent_is_cut_off() {
    with_a_cable(&["lb1"], |scene| {
        scene.cable().cut();
        scene.wait_for("it is missed", |scene| scene.presence("lb1") == "departed");
        open_gate(&scene);
        scene.says("web1", "missing: lb1");
        assert_eq!(scene.admin("lb1", "web2"), 1, "what is out stays out");
        scene.cable().mend();
        ends_well(scene, 1);
    });
}
