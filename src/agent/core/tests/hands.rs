//! What hands set at HAProxy beside our orders stays theirs.

use super::balancer::{before, lb, ordered};
use super::rig::*;
use crate::agent::core::Event;
use crate::model::Order::{In, Out};

#[test]
fn a_hand_that_enables_what_the_configuration_disables_is_seen_over_a_reload() {
    let mut rig = lb();
    rig.haproxy.by_hand("s1", 5);
    rig.assign(ordered(1, &[("s1", Out)]));
    assert_eq!(before(&rig, "s1"), Some(5));
    rig.haproxy.process += 1;
    rig.haproxy.by_hand("s1", 4);
    rig.pass(2_000);
    assert_eq!((rig.haproxy.admin("s1"), before(&rig, "s1")), (5, Some(4)));
    rig.assign(ordered(2, &[("s1", In)]));
    assert_eq!((rig.haproxy.admin("s1"), before(&rig, "s1")), (4, None));
}

#[test]
fn maintenance_that_a_hand_sets_just_after_ours_was_lifted_stays() {
    let mut rig = lb();
    rig.assign(ordered(1, &[("s1", Out)]));
    rig.slow_haproxy = true;
    rig.assign(ordered(2, &[("s1", In)]));
    rig.read();
    assert_eq!(rig.haproxy.admin("s1"), 0);
    rig.haproxy.by_hand("s1", 1);
    rig.slow_haproxy = false;
    rig.read();
    rig.pass(5_000);
    assert_eq!((rig.haproxy.admin("s1"), before(&rig, "s1")), (1, None));
    assert_eq!(rig.obeyed().done, Some(stamp(2)));
}

#[test]
fn maintenance_that_a_hand_sets_in_a_process_in_which_ours_was_lifted_stays() {
    let mut rig = lb();
    rig.assign(ordered(1, &[("s1", Out)]));
    rig.slow_dump = true;
    // Ours is carried over by a reload, and lifted in the new process, which the agent does not know yet.
    rig.haproxy.process += 1;
    rig.assign(ordered(2, &[("s1", In)]));
    rig.send(Event::StateDumped(Ok(())));
    assert_eq!((rig.haproxy.admin("s1"), before(&rig, "s1")), (0, Some(0)));
    rig.haproxy.by_hand("s1", 1);
    rig.send(Event::StateDumped(Ok(())));
    rig.pass(2_000);
    assert_eq!((rig.haproxy.admin("s1"), before(&rig, "s1")), (1, None));
    rig.send(Event::StateDumped(Ok(())));
    rig.haproxy.process += 1;
    rig.pass(2_000);
    assert_eq!((rig.haproxy.admin("s1"), before(&rig, "s1")), (1, None), "nor is it lifted later");
    assert_eq!(rig.obeyed().done, Some(stamp(2)));
}

#[test]
fn what_a_hand_wants_of_a_drain_that_was_restored_stays() {
    let mut rig = lb();
    rig.haproxy.by_hand("s1", 8);
    rig.assign(ordered(1, &[("s1", Out)]));
    rig.slow_dump = true;
    rig.haproxy.process += 1;
    rig.assign(ordered(2, &[("s1", In)]));
    rig.send(Event::StateDumped(Ok(())));
    assert_eq!((rig.haproxy.admin("s1"), before(&rig, "s1")), (8, Some(8)));
    rig.haproxy.by_hand("s1", 0);
    rig.send(Event::StateDumped(Ok(())));
    rig.pass(2_000);
    assert_eq!(rig.haproxy.admin("s1"), 0);
    rig.haproxy.by_hand("s1", 1);
    rig.send(Event::StateDumped(Ok(())));
    rig.pass(2_000);
    assert_eq!((rig.haproxy.admin("s1"), before(&rig, "s1")), (1, None));
}
