//! Orders and ownership.

use std::collections::BTreeMap;

use super::drain::drained;
use super::rig::*;
use crate::agent::core::Event;
use crate::agent::core::*;
use crate::model::Order::{In, Out};
use crate::model::*;
use crate::plan::ports::{BalancerError, SetState};

/// Orders for servers of the backend.
pub fn ordered(generation: u64, orders: &[(&str, Order)]) -> Assignment {
    let servers = orders.iter().map(|(name, order)| (server(name), *order)).collect();
    let work = BalancerWork { drain_ms: 0, servers };
    Assignment { balance: BTreeMap::from([(backend(), work)]), ..assignment(generation) }
}

pub fn lb() -> Rig {
    Rig::connected(balancer())
}

pub fn states(rig: &Rig) -> Vec<SetState> {
    rig.sets.iter().map(|set| set.state).collect()
}

pub fn before(rig: &Rig, name: &str) -> Option<u8> {
    rig.server(name).owned.as_ref().map(|owned| owned.before.0)
}

#[test]
fn out_and_in_from_every_state() {
    // The bits before; whether maintenance must be set; the bits after In.
    for (bits, sets, after) in [
        (0, true, 0),
        (8, true, 8),   // an operator's drain, which maintenance erases
        (1, false, 1),  // an operator's maintenance, which is not ours to lift
        (5, false, 5),  // disabled in the configuration
        (4, true, 4),   // configured, but enabled by hand
        (32, true, 32), // unresolved: out by itself, and in again by itself, so it is set all the same
    ] {
        let mut rig = lb();
        rig.haproxy.by_hand("s1", bits);
        rig.pass(1_000);
        rig.assign(ordered(1, &[("s1", Out)]));
        assert_eq!(!rig.sets.is_empty(), sets, "bits {bits}");
        assert_ne!(rig.haproxy.admin("s1") & 1, 0, "bits {bits}");
        assert_eq!(rig.obeyed().done, Some(stamp(1)), "bits {bits}");
        assert_eq!(
            rig.server("s1").owned,
            Some(Owned { asked: stamp(1), before: AdminBits(bits) })
        );
        rig.assign(ordered(2, &[("s1", In)]));
        assert_eq!(rig.haproxy.admin("s1"), after, "bits {bits}");
        assert_eq!(rig.server("s1").owned, None, "bits {bits}");
        assert_eq!(rig.obeyed().done, Some(stamp(2)), "bits {bits}");
        assert!(rig.disk.as_ref().unwrap().owned.is_empty(), "bits {bits}");
        let mut obeyed = rig.reports.iter().flat_map(|report| report.assignments.values());
        assert!(obeyed.all(|obeyed| obeyed.refusal.is_none()), "bits {bits}: nothing went wrong");
    }
}

#[test]
fn ownership_is_on_disk_with_the_assignment_before_anything_is_set() {
    let mut rig = lb();
    rig.pass(500);
    rig.slow_disk = true;
    let writes = rig.writes_seen;
    rig.assign(ordered(1, &[("s1", Out), ("s2", Out)]));
    rig.pass(2_000);
    assert!(rig.sets.is_empty());
    rig.write();
    assert_eq!(states(&rig), [SetState::Maint, SetState::Maint]);
    assert_eq!(rig.obeyed().done, Some(stamp(1)));
    assert!(rig.server("s1").owned.is_some());
    assert_eq!(rig.writes_seen - writes, 1, "one write carries all of it");
}

#[test]
fn ownership_is_on_disk_even_if_the_assignment_was_there_long_before() {
    let mut rig = lb();
    rig.haproxy.down = true;
    rig.pass(1_000);
    rig.assign(ordered(1, &[("s1", Out)]));
    rig.haproxy.down = false;
    rig.slow_disk = true;
    rig.pass(5_000);
    assert!(rig.sets.is_empty());
    assert_eq!(rig.server("s1").owned, None);
    rig.write();
    assert_eq!(rig.obeyed().done, Some(stamp(1)));
    assert!(rig.server("s1").owned.is_some());
}

#[test]
fn what_changed_since_the_last_look_is_what_is_restored() {
    let mut rig = lb();
    rig.pass(500);
    rig.haproxy.by_hand("s1", 8);
    rig.assign(ordered(1, &[("s1", Out)]));
    assert_eq!(before(&rig, "s1"), Some(8));
}

#[test]
fn what_is_not_owned_is_never_lifted() {
    let mut rig = lb();
    rig.haproxy.by_hand("s1", 1);
    rig.haproxy.by_hand("s2", 8);
    rig.assign(ordered(1, &[("s1", In), ("s2", In)]));
    rig.pass(3_000);
    assert!(rig.sets.is_empty());
    assert_eq!(rig.obeyed().done, Some(stamp(1)));
}

#[test]
fn what_is_not_named_is_left_alone_and_stays_owned() {
    let mut rig = lb();
    rig.assign(ordered(1, &[("s1", Out)]));
    rig.assign(ordered(2, &[("s2", In)]));
    rig.pass(3_000);
    assert_eq!(rig.haproxy.admin("s1"), 1);
    assert_eq!(before(&rig, "s1"), Some(0));
    rig.haproxy.by_hand("s1", 0);
    rig.pass(3_000);
    assert_eq!(rig.haproxy.admin("s1"), 0);
    rig.assign(ordered(3, &[("s1", In), ("s2", In)]));
    assert_eq!(before(&rig, "s1"), None);
}

#[test]
fn a_second_out_keeps_the_first_stamp() {
    let mut rig = lb();
    rig.assign(ordered(1, &[("s1", Out)]));
    rig.assign(ordered(2, &[("s1", Out), ("s2", Out)]));
    assert_eq!(rig.server("s1").owned.as_ref().unwrap().asked, stamp(1));
    assert_eq!(rig.server("s2").owned.as_ref().unwrap().asked, stamp(2));
    assert_eq!(rig.obeyed().done, Some(stamp(2)));
}

#[test]
fn a_reload_is_answered_at_once_and_what_was_before_stays() {
    let mut rig = lb();
    rig.haproxy.by_hand("s1", 8);
    rig.pass(1_000);
    rig.assign(ordered(1, &[("s1", Out)]));
    rig.pass(350);
    rig.haproxy.reload();
    rig.pass(200);
    assert_eq!(rig.haproxy.admin("s1"), 1);
    assert_eq!(before(&rig, "s1"), Some(8));
    rig.haproxy.reload();
    rig.pass(200);
    assert_eq!(before(&rig, "s1"), Some(8), "a second one too");
    rig.assign(ordered(2, &[("s1", In)]));
    assert_eq!(rig.haproxy.admin("s1"), 8);
}

#[test]
fn a_hand_that_lifts_it_is_overruled_and_its_wish_restored() {
    let mut rig = lb();
    rig.haproxy.by_hand("s1", 1);
    rig.pass(1_000);
    rig.assign(ordered(1, &[("s1", Out)]));
    assert_eq!(before(&rig, "s1"), Some(1));
    rig.haproxy.by_hand("s1", 0);
    rig.pass(1_000);
    assert_eq!(rig.haproxy.admin("s1"), 1);
    assert_eq!(before(&rig, "s1"), Some(0));
    let (app, backend, server) = (app(), backend(), server("s1"));
    assert!(rig.notes.contains(&Note::ChangedByHand { app, backend, server }));
    rig.assign(ordered(2, &[("s1", In)]));
    assert_eq!(rig.haproxy.admin("s1"), 0);
}

#[test]
fn a_hand_that_is_quicker_keeps_its_maintenance() {
    // Not seen yet when the order comes; or set while sessions end.
    for drain_ms in [0, 5_000] {
        let mut rig = lb();
        rig.haproxy.servers.get_mut("s1").unwrap().sessions = 3;
        rig.pass(1_000);
        let order = drained(1, drain_ms);
        if drain_ms == 0 {
            rig.haproxy.by_hand("s1", 1);
            rig.assign(order);
        } else {
            rig.assign(order);
            rig.pass(1_000);
            assert_eq!(rig.haproxy.admin("s1"), 8);
            rig.haproxy.by_hand("s1", 1);
        }
        rig.pass(1_000);
        assert_eq!((rig.haproxy.admin("s1"), before(&rig, "s1")), (1, Some(1)), "{drain_ms}");
        rig.assign(ordered(2, &[("s1", In)]));
        assert_eq!((rig.haproxy.admin("s1"), before(&rig, "s1")), (1, None), "{drain_ms}");
    }
}

#[test]
fn a_reload_while_the_agent_is_away_is_none_of_a_hand() {
    let mut rig = lb();
    rig.haproxy.by_hand("s1", 8);
    rig.pass(1_000);
    rig.assign(ordered(1, &[("s1", Out)]));
    rig.haproxy.reload();
    rig.restart();
    assert_eq!(rig.haproxy.admin("s1"), 1, "without the bus");
    rig.connect();
    assert_eq!(before(&rig, "s1"), Some(8));
    rig.haproxy.by_hand("s1", 0);
    rig.restart();
    rig.connect();
    assert_eq!(rig.haproxy.admin("s1"), 1);
    assert_eq!(before(&rig, "s1"), Some(0), "a hand while it is away is one");
}

#[test]
fn a_drain_in_a_new_process_is_a_hands() {
    let mut rig = lb();
    rig.assign(ordered(1, &[("s1", Out)]));
    assert_eq!(before(&rig, "s1"), Some(0));
    rig.haproxy.reload();
    rig.haproxy.by_hand("s1", 8);
    rig.restart();
    rig.connect();
    assert_eq!((rig.haproxy.admin("s1"), before(&rig, "s1")), (1, Some(8)));
    rig.assign(ordered(2, &[("s1", In)]));
    assert_eq!(rig.haproxy.admin("s1"), 8);
}

#[test]
fn killed_between_any_two_steps_it_carries_on() {
    for steps in 0..12 {
        let mut rig = lb();
        rig.haproxy.by_hand("s1", 8);
        rig.pass(1_000);
        rig.slow_disk = true;
        rig.assign(ordered(1, &[("s1", Out)]));
        for _ in 0..steps {
            if rig.is_writing() {
                rig.write();
            }
        }
        rig.slow_disk = false;
        rig.restart();
        rig.connect_with(vec![Document::Assignment(Box::new(ordered(1, &[("s1", Out)])), None)]);
        assert_eq!(rig.haproxy.admin("s1"), 1, "{steps}");
        assert_eq!(before(&rig, "s1"), Some(8), "{steps}");
        rig.slow_disk = true;
        rig.assign(ordered(2, &[("s1", In)]));
        for _ in 0..steps {
            if rig.is_writing() {
                rig.write();
            }
        }
        rig.slow_disk = false;
        rig.restart();
        rig.connect_with(vec![Document::Assignment(Box::new(ordered(2, &[("s1", In)])), None)]);
        assert_eq!(rig.haproxy.admin("s1"), 8, "{steps}");
        assert_eq!(before(&rig, "s1"), None, "{steps}");
        assert_eq!(rig.obeyed().done, Some(stamp(2)), "{steps}");
    }
}

#[test]
fn a_lost_disk_is_recovered_from_the_retained_report() {
    let mut rig = lb();
    rig.haproxy.by_hand("s1", 8);
    rig.pass(1_000);
    rig.assign(ordered(3, &[("s1", Out)]));
    let report = rig.report().clone();
    rig.disk = None;
    rig.restart();
    rig.connect_with(vec![
        Document::Assignment(Box::new(ordered(2, &[("s1", In)])), None),
        Document::Report(Box::new(report)),
    ]);
    assert_eq!(rig.obeyed().assignment, ordered(3, &[("s1", Out)]), "the higher stamp wins");
    assert_eq!(before(&rig, "s1"), Some(8));
    rig.assign(ordered(4, &[("s1", In)]));
    assert_eq!(rig.haproxy.admin("s1"), 8);
    assert_eq!(rig.disk.as_ref().unwrap().assignments[&app()].stamp, stamp(4));
}

#[test]
fn a_lost_disk_without_a_report_makes_it_somebody_elses_maintenance() {
    let mut rig = lb();
    rig.assign(ordered(3, &[("s1", Out)]));
    rig.disk = None;
    rig.restart();
    rig.connect_with(vec![Document::Assignment(Box::new(ordered(4, &[("s1", In)])), None)]);
    rig.pass(3_000);
    assert_eq!(rig.haproxy.admin("s1"), 1);
    assert_eq!(before(&rig, "s1"), None);
}

#[test]
fn nothing_is_done_before_the_retained_documents_are_read() {
    let mut rig = Rig::new(balancer());
    rig.connect_unmarked(vec![Document::Assignment(Box::new(ordered(1, &[("s1", Out)])), None)]);
    rig.pass(5_000);
    assert!(rig.sets.is_empty());
    assert!(rig.reports.is_empty() && rig.alives.is_empty());
}

#[test]
fn refused_writes_are_said_and_tried_each_second() {
    for (name, error) in [("refused", Some("No such server.")), ("ignored", None)] {
        let mut rig = lb();
        rig.haproxy.refuses = error;
        rig.haproxy.deaf = error.is_none();
        rig.assign(ordered(1, &[("s1", Out)]));
        let Some(RefusalReason::Balancer { error: said }) = rig.refusal() else {
            panic!("{name}: {:?}", rig.refusal())
        };
        assert!(error.is_none_or(|error| error == said), "{name}: {said}");
        assert_eq!(rig.obeyed().done, None, "{name}");
        let reports = rig.reports.len();
        rig.pass(5_500);
        assert!((5..=7).contains(&rig.sets.len()), "{name}: {} tries", rig.sets.len());
        assert_eq!(rig.reports.len(), reports, "{name}: it is said once");
        (rig.haproxy.refuses, rig.haproxy.deaf) = (None, false);
        rig.pass(2_000);
        assert_eq!(rig.obeyed().done, Some(stamp(1)), "{name}");
        assert_eq!(rig.refusal(), None, "{name}");
    }
}

#[test]
fn a_haproxy_that_is_gone_is_said_and_obeyed_for_when_it_is_back() {
    let mut rig = lb();
    rig.pass(1_000);
    rig.haproxy.down = true;
    rig.pass(300);
    let balancer = rig.report().balancer.as_ref().unwrap();
    assert!(matches!(balancer.backends[&backend()], BackendSeen::Unknown(_)));
    rig.assign(ordered(1, &[("s1", Out)]));
    assert!(matches!(rig.refusal(), Some(RefusalReason::Balancer { .. })));
    rig.pass(5_000);
    rig.haproxy.down = false;
    rig.pass(200);
    assert_eq!(rig.obeyed().done, Some(stamp(1)));
}

#[test]
fn what_haproxy_does_not_have_is_refused_when_out_and_fine_when_in() {
    let mut rig = lb();
    rig.assign(ordered(1, &[("s9", In)]));
    assert_eq!(rig.obeyed().done, Some(stamp(1)));
    rig.assign(ordered(2, &[("s9", Out)]));
    assert_eq!(
        rig.refusal(),
        Some(&RefusalReason::NotConfigured { what: "server s9 in backend app".into() })
    );
    let mut other = ordered(3, &[]);
    let work = BalancerWork { drain_ms: 0, servers: BTreeMap::from([(server("s1"), Out)]) };
    other.balance = BTreeMap::from([(BackendName::new("nope").unwrap(), work)]);
    rig.assign(other);
    assert_eq!(rig.refusal(), Some(&RefusalReason::NotConfigured { what: "backend nope".into() }));
    assert_eq!(rig.obeyed().done, Some(stamp(1)));
}

#[test]
fn an_out_server_that_vanishes_is_released_by_in() {
    let mut rig = lb();
    rig.assign(ordered(1, &[("s1", Out)]));
    rig.haproxy.servers.remove("s1");
    rig.pass(1_000);
    rig.assign(ordered(2, &[("s1", In)]));
    assert_eq!(rig.obeyed().done, Some(stamp(2)));
    assert!(rig.disk.as_ref().unwrap().owned.is_empty());
}

#[test]
fn the_state_file_is_written_after_every_observed_change() {
    let mut rig = lb();
    let first = rig.dumps;
    rig.pass(5_000);
    assert_eq!(rig.dumps, first, "not without one");
    rig.haproxy.by_hand("s2", 1);
    rig.pass(1_000);
    assert_eq!(rig.dumps, first + 1, "a foreign one too");
    rig.assign(ordered(1, &[("s1", Out)]));
    assert_eq!(rig.dumps, first + 2);
}

#[test]
fn nothing_is_done_that_a_reload_could_undo() {
    let mut rig = lb();
    rig.slow_dump = true;
    rig.assign(ordered(1, &[("s1", Out)]));
    assert_eq!((rig.haproxy.admin("s1"), rig.obeyed().done.clone()), (1, None));
    rig.send(Event::StateDumped(Ok(())));
    assert_eq!(rig.obeyed().done, Some(stamp(1)));

    // The file has the maintenance yet when HAProxy is reloaded: it comes back, and is still ours.
    rig.assign(ordered(2, &[("s1", In)]));
    assert_eq!((rig.haproxy.admin("s1"), rig.obeyed().done.clone()), (0, Some(stamp(1))));
    assert_eq!(before(&rig, "s1"), Some(0));
    rig.haproxy.process += 1;
    rig.haproxy.by_hand("s1", 1);
    rig.slow_dump = false;
    rig.send(Event::StateDumped(Ok(())));
    assert_eq!((rig.haproxy.admin("s1"), before(&rig, "s1")), (0, None));
    assert_eq!(rig.obeyed().done, Some(stamp(2)));

    // A file that cannot be written holds nothing up: that a reload is unsafe is told.
    rig.slow_dump = true;
    rig.assign(ordered(3, &[("s1", Out)]));
    let error = BalancerError::StateFile { path: "file".into(), error: "full".into() };
    rig.send(Event::StateDumped(Err(error)));
    assert_eq!(rig.obeyed().done, Some(stamp(3)));
}

#[test]
fn the_state_file_of_one_app_is_not_waited_for_by_another() {
    let mut rig = lb();
    let blog = AppName::new("blog").unwrap();
    rig.assign(Assignment { app: blog.clone(), ..ordered(1, &[("s2", Out)]) });
    rig.slow_dump = true;
    rig.assign(ordered(1, &[("s1", Out)]));
    let obeyed = &rig.reports.last().unwrap().assignments;
    assert_eq!((&obeyed[&blog].done, &obeyed[&app()].done), (&Some(stamp(1)), &None));
}

#[test]
fn steady_is_counted_as_the_reports_say() {
    let mut rig = lb();
    rig.pass(3_000);
    let reports = rig.reports.len();
    rig.pass(3_000);
    assert_eq!(rig.reports.len(), reports, "time alone is no news");
    rig.haproxy.servers.get_mut("s1").unwrap().health = Health::Down;
    rig.pass(1_000);
    assert!(rig.server("s1").steady_for_ms >= 6_000, "clear all the time");
    assert!(rig.server("s2").steady_for_ms >= 6_000);
    rig.haproxy.servers.get_mut("s1").unwrap().health = Health::Up;
    rig.pass(1_000);
    assert_eq!(rig.server("s1").steady_for_ms, 0, "ready only now");
    rig.haproxy.servers.get_mut("s1").unwrap().sessions = 7;
    let reports = rig.reports.len();
    rig.pass(2_000);
    assert_eq!(rig.reports.len(), reports, "sessions are no news");
}

#[test]
fn an_order_waits_for_a_reading_begun_after_it_and_no_longer() {
    let mut rig = lb();
    rig.slow_haproxy = true;
    rig.pass(1_000);
    assert!(rig.is_reading);
    rig.assign(ordered(1, &[("s1", Out)]));
    rig.read();
    assert!(rig.sets.is_empty(), "it was begun before");
    rig.read();
    assert_eq!(states(&rig), [SetState::Maint], "the next one is begun at once");
    rig.read();
    assert_eq!(rig.obeyed().done, None, "the state file has been written since");
    rig.read();
    assert_eq!(rig.obeyed().done, Some(stamp(1)));
}

#[test]
fn nothing_is_put_back_while_a_newer_out_is_being_written() {
    let mut rig = lb();
    rig.assign(ordered(1, &[("s1", Out)]));
    rig.slow_haproxy = true;
    rig.assign(ordered(2, &[("s1", In)]));
    rig.slow_disk = true;
    rig.assign(ordered(3, &[("s1", Out)]));
    rig.slow_haproxy = false;
    rig.read();
    assert_eq!(states(&rig), [SetState::Maint]);
    rig.write();
    assert_eq!(states(&rig), [SetState::Maint]);
    assert_eq!(rig.obeyed().done, Some(stamp(3)));
    assert_eq!(rig.server("s1").owned.as_ref().unwrap().asked, stamp(1));
}

#[test]
fn the_last_session_of_a_server_that_is_out_is_news() {
    let mut rig = lb();
    let sessions = |rig: &mut Rig, count| {
        rig.haproxy.servers.get_mut("s1").unwrap().sessions = count;
        let before = rig.reports.len();
        rig.pass(1_000);
        rig.reports.len() - before
    };
    rig.assign(ordered(1, &[("s1", Out)]));
    assert_eq!(sessions(&mut rig, 3), 1);
    assert_eq!(sessions(&mut rig, 2), 0);
    assert_eq!(sessions(&mut rig, 0), 1);
}

#[test]
fn who_comes_hears_what_is_out() {
    let comes = |rig: &mut Rig, name: &str, alive: bool, retained: bool| {
        let boot = Boot { started: WALL, connection: 2 };
        let alive = Alive { node: NodeName::new(name).unwrap(), boot, alive };
        rig.send(Event::Received { document: Document::Alive(alive), retained });
    };
    let mut rig = Rig::connected(balancer());
    assert!(rig.interests.contains(&Interest::Arrivals));
    rig.pass(2_000);
    let said = rig.reports.len();
    comes(&mut rig, "web1", true, false);
    rig.pass(2_000);
    assert_eq!(rig.reports.len(), said, "no permit can rest on it");

    rig.assign(ordered(1, &[("s1", Out)]));
    rig.pass(2_000);
    let said = rig.reports.len();
    comes(&mut rig, "web1", true, true);
    comes(&mut rig, "web1", false, false);
    assert_eq!(rig.reports.len(), said, "nobody has come");
    comes(&mut rig, "web1", true, false);
    assert_eq!(rig.reports.len(), said + 1, "at once");
    for number in 2..50 {
        comes(&mut rig, &format!("web{number}"), true, false);
    }
    assert_eq!(rig.reports.len(), said + 1, "not for each");
    rig.pass(1_000);
    assert_eq!(rig.reports.len(), said + 2, "for all of them");
    rig.pass(5_000);
    assert_eq!(rig.reports.len(), said + 2);
    assert!(Rig::connected(web()).interests.iter().all(|interest| *interest != Interest::Arrivals));
}
