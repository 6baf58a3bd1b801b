//! Agents: killed in mid-upgrade, killed at their own effects, frozen and woken.

use rustix::process::Signal;

use super::traced::{Place, Traced, calls, places};
use super::{ends_well, in_the_middle, open_gate};
use crate::parts::process::eventually;
use crate::scene::{Broker, Plot, Scene};

on_both_brokers! {
    /// The deploy command lives on. Until it has ended it is an upgrade that runs: it keeps its place in the batch, and
    /// no other attempt begins, though one is allowed and another node may be missing.
    fn its_command_outlives_it(broker) {
        let app = vec![("rollout", "max_missing = 1")];
        let mut scene = in_the_middle(Plot { batch: 1, app, ..Plot::new(broker) });
        scene.agent("web2").kill();
        scene.wait_for("its will is seen", |scene| scene.presence("web2") == "departed");
        assert!(scene.attempts("web3").is_empty(), "it may well be running");
        scene.start_agent("web2");
        scene.wait_for("it is back", |scene| scene.presence("web2") == "present");
        scene.says("web2", "the upgrade to 2, attempt 1");
        assert_eq!(scene.attempts("web2").len(), 1);
        assert!(scene.attempts("web3").is_empty(), "it runs");
        open_gate(&scene);
        ends_well(scene, 2);
    }
}

/// The first signal lets its command end, and it says how that went before it goes.
#[test]
fn asked_to_end_in_mid_upgrade() {
    let mut scene = in_the_middle(Plot::new(Broker::Embedded));
    scene.agent("web2").signal(Signal::TERM);
    scene.logs("web2", "ending upgrading=true");
    scene.agent("web2").assert_running();
    open_gate(&scene);
    assert!(scene.agent("web2").wait().success());
    scene.logs("web2", "upgrade succeeded");
    scene.start_agent("web2");
    ends_well(scene, 1);
}

/// The second does not: its command is killed, and another attempt is needed.
#[test]
fn forced_to_end_in_mid_upgrade() {
    let mut scene = in_the_middle(Plot::new(Broker::Embedded));
    scene.agent("web2").signal(Signal::TERM);
    scene.logs("web2", "ending upgrading=true");
    scene.agent("web2").signal(Signal::INT);
    assert_eq!(scene.agent("web2").wait().code(), Some(1));
    scene.logs("web2", "ended at once, by a second signal; what was running was killed");
    open_gate(&scene);
    scene.start_agent("web2");
    ends_well(scene, 2);
}

/// It is not there when its turn is over, nor when the rollout is; then it tells how it went.
#[test]
fn frozen_in_mid_upgrade_and_woken_after_the_rollout() {
    let app = vec![("rollout", "max_missing = 1")];
    let mut scene = in_the_middle(Plot { app, keep_alive_s: 5, ..Plot::new(Broker::Mosquitto) });
    scene.agent("web2").signal(Signal::STOP);
    open_gate(&scene);
    scene.wait_for("its command ends", |scene| scene.running("web2") == "2");
    scene.wait_for("it is missed", |scene| scene.presence("web2") == "departed");
    scene.converged("alfa", "2");
    assert_eq!(scene.admin("lb1", "web2"), 1, "nobody knows how it is");
    scene.agent("web2").signal(Signal::CONT);
    scene.wait_for("it is put back", |scene| scene.admin("lb1", "web2") == 0);
    ends_well(scene, 1);
}

/// Has an agent carry out its part of a rollout, killed at `place`. Whether it got there.
fn roll_out(scene: &mut Scene, name: &str, revision: u32, place: Option<&Place>) -> bool {
    scene.agent(name).kill();
    scene.wait_for("it is gone", |scene| scene.presence(name) == "departed");
    let trace = scene.folder.join("trace");
    let mut traced = Traced::start(scene, &scene.agent_command(name), &trace, place);
    eventually("it is there, or killed", || {
        (traced.has_ended() || scene.presence(name) == "present").then_some(())
    });
    scene.write_cluster("alfa", &format!("revision = \"{revision}\""));
    let done = |scene: &Scene| scene.is_converged("alfa", &revision.to_string());
    eventually("it is killed, or all is done", || {
        (traced.has_ended() || done(scene)).then_some(())
    });
    let mut killed = traced.has_ended();
    if !killed {
        traced.kill();
        // Where two documents leave in one call, a rollout has fewer places than the one that was counted.
        let calls = place.map_or(0, |place| calls(&trace, place));
        let number = place.map_or(usize::MAX, |place| place.number);
        assert!(calls <= number, "it came to {place:?}, went on, and was not killed: {calls}");
        killed = calls == number;
    }
    scene.start_agent(name);
    scene.converged("alfa", &revision.to_string());
    let titles: Vec<String> = (2..=revision).map(|n| format!("shop/alfa is at {n}")).collect();
    scene.told(&titles.iter().map(String::as_str).collect::<Vec<_>>());
    for node in super::ALFA {
        assert_eq!(scene.admin("lb1", node), 0, "{node}");
        assert_eq!(scene.running(node), revision.to_string(), "{node}");
    }
    killed
}

fn at_its_effects(name: &str) {
    let mut scene = Plot::new(Broker::Mosquitto).start();
    scene.converged("alfa", "1");
    scene.begin_load();
    assert!(!roll_out(&mut scene, name, 2, None), "nobody kills this one before it is done");
    let all = places(&scene.folder.join("trace"));
    let tried = super::tried(&all, 8);
    let mut killed = 0;
    for (revision, place) in (3..).zip(&tried) {
        killed += usize::from(roll_out(&mut scene, name, revision, Some(place)));
    }
    scene.end_load();
    println!("{name}: killed {killed} times, at {} of {} places", tried.len(), all.len());
    assert!(killed * 2 >= tried.len(), "most places are reached");
}

#[test]
fn a_web_servers_agent_at_its_effects() {
    at_its_effects("web2");
}

#[test]
fn a_load_balancers_agent_at_its_effects() {
    at_its_effects("lb1");
}

#[test]
fn a_notification_servers_agent_in_mid_rollout() {
    let mut scene = in_the_middle(Plot::new(Broker::Mosquitto));
    scene.agent("notify1").kill();
    scene.agent("notify2").kill();
    open_gate(&scene);
    scene.converged("alfa", "2");
    scene.start_agent("notify2");
    ends_well(scene, 1);
}

/// Somebody is at work on the load balancer while its agent is away.
#[test]
fn a_load_balancers_agent_in_mid_rollout() {
    let mut scene = Plot::new(Broker::Mosquitto).start();
    scene.converged("alfa", "1");
    scene.begin_load();
    scene.begin();
    scene.agent("lb1").kill();
    open_gate(&scene);
    scene.wait_for("the running one ends", |scene| scene.running("web2") == "2");
    scene.start_agent("lb1");
    ends_well(scene, 1);
}
