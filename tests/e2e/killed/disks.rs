//! Each component's disk lost in turn, in the middle of a rollout: the rows of a table in `docs/safety.md`.

use super::{ends_well, ends_well_within, in_the_middle, open_gate};
use crate::scene::{Broker, Plot};

#[test]
fn the_controllers() {
    let mut scene = in_the_middle(Plot::new(Broker::Mosquitto));
    scene.kill_controller();
    scene.wipe("controller");
    open_gate(&scene);
    scene.start_controller();
    ends_well(scene, 1);
}

/// Its own retained report says which attempt it was at.
#[test]
fn a_web_servers() {
    let mut scene = in_the_middle(Plot::new(Broker::Mosquitto));
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
    let mut scene = in_the_middle(Plot::new(Broker::Mosquitto));
    scene.agent("lb1").kill();
    scene.wipe("lb1");
    scene.start_agent("lb1");
    open_gate(&scene);
    ends_well(scene, 1);
}

/// What it has to deliver it finds in its mailbox.
#[test]
fn a_notification_servers() {
    let mut scene = in_the_middle(Plot::new(Broker::Mosquitto));
    for name in ["notify1", "notify2"] {
        scene.agent(name).kill();
        scene.wipe(name);
        scene.start_agent(name);
    }
    open_gate(&scene);
    ends_well(scene, 1);
}

/// A reload is one without a state file then. What may be answered until the agent has reminded HAProxy is not
/// promised, so the load goes another way.
#[test]
fn the_state_file() {
    let mut scene = Plot { lbs: 2, ..Plot::new(Broker::Mosquitto) }.start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    scene.begin_load_through("lb2");
    scene.begin();
    let file = scene.lb("lb1").state_file();
    std::fs::remove_file(&file).expect("a state file");
    scene.lb("lb1").reload();
    scene.wait_for("the maintenance is in force again", |scene| scene.admin("lb1", "web2") == 1);
    scene.wait_for("it is written again", |_| file.exists());
    scene.lb("lb1").reload();
    assert_eq!(scene.admin("lb1", "web2"), 1, "by its state file, at once");
    open_gate(&scene);
    ends_well(scene, 1);
}

/// Nobody knows any more what was tried: it is tried anew, unless it tells what it runs before it is.
#[test]
fn a_web_servers_and_the_brokers() {
    let mut scene = in_the_middle(Plot::new(Broker::Mosquitto));
    scene.agent("web2").kill();
    open_gate(&scene);
    scene.wait_for("its command ends", |scene| scene.running("web2") == "2");
    scene.wipe("web2");
    scene.mosquitto().kill();
    scene.mosquitto().start_again();
    scene.start_agent("web2");
    ends_well_within(scene, 1..=2);
}

#[test]
fn the_brokers() {
    let mut scene = Plot { persistent: true, ..Plot::new(Broker::Mosquitto) }.start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    scene.begin_load();
    scene.begin();
    scene.mosquitto().stop();
    scene.mosquitto().wipe();
    open_gate(&scene);
    scene.mosquitto().start_again();
    ends_well(scene, 1);
}

/// The ledger is lost with both: the rollout is found again in the fleet, and carried on.
#[test]
fn the_controllers_and_the_brokers() {
    let mut scene = in_the_middle(Plot::new(Broker::Mosquitto));
    scene.kill_controller();
    scene.wipe("controller");
    scene.mosquitto().kill();
    scene.mosquitto().start_again();
    scene.start_controller();
    open_gate(&scene);
    ends_well(scene, 1);
}

/// Nobody knows any more whose the maintenance is: it stays, and a person has to end it.
#[test]
fn a_load_balancers_and_the_brokers() {
    let mut scene = in_the_middle(Plot::new(Broker::Mosquitto));
    scene.agent("lb1").kill();
    scene.wipe("lb1");
    scene.mosquitto().kill();
    scene.mosquitto().start_again();
    scene.start_agent("lb1");
    open_gate(&scene);
    for node in super::ALFA {
        scene.wait_for("it is upgraded all the same", |scene| scene.running(node) == "2");
        scene.says(node, "maintenance at load balancer lb1 that evenkeel did not set");
        assert_eq!(scene.admin("lb1", node), 1, "{node}");
    }
    for node in super::ALFA {
        scene.lb("lb1").command(&format!("set server app/{node} state ready"));
    }
    ends_well(scene, 1);
}
