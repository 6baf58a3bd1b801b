//! The controller, killed before and after every single effect of a rollout.

use super::traced::{Place, Traced, calls, places};
use super::{ALFA, tried};
use crate::parts::process::eventually;
use crate::scene::{Broker, Plot, Scene};

/// Asks for a revision, and has a controller carry it out that is killed at `place`. Whether it got there.
fn roll_out(scene: &mut Scene, revision: u32, place: Option<&Place>) -> bool {
    scene.write_cluster("alfa", &format!("revision = \"{revision}\""));
    let trace = scene.folder.join("trace");
    let mut command = scene.controller_command();
    // The history's writes are none of the rollout; its thread would get to most numbers first.
    command.arg("--history-max-entries=0");
    let mut traced = Traced::start(scene, &command, &trace, place);
    // Nobody asks the controller meanwhile: an answer would be a call, too.
    eventually("it is killed, or has done all", || {
        let told = scene.titles().len() >= revision as usize - 1;
        let back = || ALFA.iter().all(|node| scene.admin("lb1", node) == 0);
        (traced.has_ended() || told && back()).then_some(())
    });
    // The last effects come after what can be seen from outside.
    let quiet = |scene: &Scene| scene.cluster("alfa").is_some_and(|c| c.messages_pending == 0);
    eventually("it is killed, or at rest", || (traced.has_ended() || quiet(scene)).then_some(()));
    let mut killed = traced.has_ended();
    if !killed {
        traced.kill();
        // Where two documents leave in one call, a rollout has fewer places than the one that was counted.
        let calls = place.map_or(0, |place| calls(&trace, place));
        let number = place.map_or(usize::MAX, |place| place.number);
        assert!(calls <= number, "it came to {place:?}, went on, and was not killed: {calls}");
        killed = calls == number;
    }
    killed
}

fn at_rest(scene: &mut Scene, revision: u32) {
    scene.start_controller();
    scene.converged("alfa", &revision.to_string());
    let titles: Vec<String> =
        (2..=revision).map(|revision| format!("shop/alfa is at {revision}")).collect();
    scene.told(&titles.iter().map(String::as_str).collect::<Vec<_>>());
    let attempts: Vec<String> = (2..=revision).map(|revision| revision.to_string()).collect();
    for node in ALFA {
        assert_eq!(scene.admin("lb1", node), 0, "{node}");
        assert_eq!(scene.attempts(node), attempts, "{node} is upgraded once for each revision");
    }
    scene.kill_controller();
}

on_both_brokers! {
    fn at_every_effect(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.kill_controller();
        assert!(!roll_out(&mut scene, 2, None), "nobody kills this one before it is done");
        let all = places(&scene.folder.join("trace"));
        at_rest(&mut scene, 2);
        // With the embedded broker each death is that of the bus, too, and every agent has to come back.
        let some = if broker == Broker::Mosquitto { 16 } else { 4 };
        let places = tried(&all, some);
        let mut killed = 0;
        for (revision, place) in (3..).zip(&places) {
            killed += usize::from(roll_out(&mut scene, revision, Some(place)));
            at_rest(&mut scene, revision);
        }
        scene.end_load();
        let tried = places.len();
        println!("killed {killed} times, at {tried} of {} places", all.len());
        assert!(killed * 3 >= tried * 2, "most places are reached");
    }
}
