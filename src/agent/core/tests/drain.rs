//! Drains on the way to maintenance, ours and those of hands.

use super::balancer::{before, lb, ordered, states};
use super::rig::*;
use crate::model::Order::{In, Out};
use crate::model::*;
use crate::plan::ports::SetState;

pub fn drained(generation: u64, drain_ms: u64) -> Assignment {
    let mut assignment = ordered(generation, &[("s1", Out)]);
    assignment.balance.get_mut(&backend()).unwrap().drain_ms = drain_ms;
    assignment
}

#[test]
fn a_drain_ends_with_the_last_session_or_with_its_time() {
    for sessions_end in [true, false] {
        let mut rig = lb();
        rig.haproxy.servers.get_mut("s1").unwrap().sessions = 3;
        rig.assign(drained(1, 10_000));
        assert_eq!(states(&rig), [SetState::Drain]);
        assert_eq!(before(&rig, "s1"), Some(0));
        assert_eq!(rig.obeyed().done, None);
        rig.pass(9_000);
        assert_eq!(states(&rig), [SetState::Drain]);
        if sessions_end {
            rig.haproxy.servers.get_mut("s1").unwrap().sessions = 0;
            rig.pass(200);
        } else {
            rig.pass(1_000);
        }
        assert_eq!(states(&rig), [SetState::Drain, SetState::Maint]);
        assert_eq!(rig.obeyed().done, Some(stamp(1)));
        assert_eq!(before(&rig, "s1"), Some(0), "the drain was ours");
        rig.assign(ordered(2, &[("s1", In)]));
        assert_eq!(rig.haproxy.admin("s1"), 0);
    }
}

#[test]
fn a_drain_survives_restart_and_reload_and_is_never_taken_for_a_foreign_one() {
    for reload in [true, false] {
        let mut rig = lb();
        rig.haproxy.servers.get_mut("s1").unwrap().sessions = 3;
        rig.assign(drained(1, 10_000));
        if reload {
            rig.haproxy.reload();
        }
        rig.restart();
        rig.connect();
        assert_eq!(rig.haproxy.admin("s1"), 8);
        assert_eq!(before(&rig, "s1"), Some(0));
        rig.assign(ordered(2, &[("s1", In)]));
        assert_eq!(rig.haproxy.admin("s1"), 0, "reload: {reload}");
        assert_eq!(rig.server("s1").owned, None);
    }
}

/// While we drain, and have not set maintenance yet, only a hand can have.
#[test]
fn maintenance_that_a_hand_sets_while_we_drain_is_never_lifted() {
    for seen_before_it_is_put_back in [true, false] {
        let mut rig = lb();
        rig.haproxy.servers.get_mut("s1").unwrap().sessions = 3;
        rig.assign(drained(1, 10_000));
        rig.haproxy.by_hand("s1", 1);
        if seen_before_it_is_put_back {
            rig.pass(20_000);
            assert_eq!(before(&rig, "s1"), Some(1));
            assert_eq!(rig.obeyed().done, Some(stamp(1)), "it is out");
            rig.restart();
            rig.connect();
        }
        rig.assign(ordered(2, &[("s1", In)]));
        rig.pass(2_000);
        assert_eq!(rig.haproxy.admin("s1"), 1, "{seen_before_it_is_put_back}");
        assert_eq!(states(&rig), [SetState::Drain]);
        assert_eq!(rig.server("s1").owned, None);
    }
}

/// The agent dies after it has set maintenance at the end of a drain, and before it has seen it.
#[test]
fn our_own_maintenance_after_a_drain_is_known_as_ours_by_the_next_life() {
    let mut rig = lb();
    rig.haproxy.servers.get_mut("s1").unwrap().sessions = 3;
    rig.assign(drained(1, 10_000));
    rig.slow_haproxy = true;
    rig.pass(10_000);
    rig.read();
    assert_eq!(states(&rig), [SetState::Drain, SetState::Maint]);
    rig.slow_haproxy = false;
    rig.is_reading = false;
    rig.restart();
    rig.connect();
    assert_eq!(before(&rig, "s1"), Some(0));
    rig.assign(ordered(2, &[("s1", In)]));
    assert_eq!(rig.haproxy.admin("s1"), 0);
}

#[test]
fn a_server_that_is_out_already_is_not_drained() {
    let mut rig = lb();
    rig.haproxy.by_hand("s1", 1);
    rig.pass(1_000);
    rig.assign(drained(1, 10_000));
    assert!(rig.sets.is_empty());
    assert_eq!(rig.obeyed().done, Some(stamp(1)));
}

/// What a hand drains before our own drain is set is not ours to lift, though nobody has looked since.
#[test]
fn a_hand_that_drains_before_we_do_keeps_its_drain() {
    for sessions in [0, 3] {
        let mut rig = lb();
        rig.haproxy.servers.get_mut("s1").unwrap().sessions = sessions;
        rig.haproxy.by_hand("s1", 8);
        rig.assign(drained(1, 10_000));
        rig.pass(20_000);
        assert_eq!(rig.haproxy.admin("s1"), 1, "{sessions} sessions");
        assert_eq!(before(&rig, "s1"), Some(8));
        rig.assign(ordered(2, &[("s1", In)]));
        assert_eq!(rig.haproxy.admin("s1"), 8);
    }
}
