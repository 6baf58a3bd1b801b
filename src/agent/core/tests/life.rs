//! Presence, heartbeats, and how a life begins and ends.

use super::node::{lb_report, out, permitted};
use super::rig::*;
use crate::agent::core::Event;
use crate::agent::core::*;
use crate::model::*;

fn alive(started: u64, connection: u64, alive: bool) -> Document {
    Document::Alive(Alive { node: node(), boot: Boot { started, connection }, alive })
}

fn heard(document: Document, retained: bool) -> Event {
    Event::Received { document, retained }
}

#[test]
fn every_connection_announces_itself() {
    let mut rig = Rig::connected(web());
    let boot = Boot { started: WALL, connection: 1 };
    assert_eq!(rig.alives, [Alive { node: node(), boot, alive: true }]);
    assert_eq!(rig.report().boot, boot);
    let wanted = [Interest::OwnAlive, Interest::OwnAssignments, Interest::Leaders];
    let first = [Interest::OwnReport, Interest::OwnMarker];
    assert_eq!(rig.interests, wanted.iter().chain(&first).cloned().collect());
    rig.send(Event::Disconnected);
    let reports = rig.reports.len();
    rig.pass(100_000);
    rig.assign(assignment(1));
    assert_eq!(rig.reports.len(), reports, "nobody would hear it");
    rig.connect();
    assert_eq!(rig.alives.last().unwrap().boot, Boot { started: WALL, connection: 2 });
    assert_eq!(rig.report().boot.connection, 2);
    assert_eq!(rig.obeyed().assignment, assignment(1));
    assert!(rig.report().sequence > 1);
    assert_eq!(rig.interests, wanted.into());
}

#[test]
fn a_start_is_later_than_any_that_is_known() {
    let mut rig = Rig::connected(web());
    let first = rig.core.started();
    rig.now.wall = Wall(5);
    rig.restart();
    assert_eq!(rig.core.started(), first + 1, "by the disk, though the clock went back");
    rig.disk = None;
    rig.restart();
    rig.connect_with(vec![alive(first + 7, 1, true)]);
    assert_eq!(rig.reconnects, [first + 8], "by the retained documents");
    assert!(rig.alives.iter().all(|alive| alive.boot.started <= first));
    rig.connect();
    assert_eq!(rig.alives.last().unwrap().boot.started, first + 8);
    assert_eq!(rig.disk.as_ref().unwrap().started, first + 8);
}

#[test]
fn an_agent_that_sees_itself_departed_speaks_up() {
    for (started, connection, live, speaks) in [
        (WALL, 2, false, true),
        (WALL, 1, false, true),
        (WALL - 1, 9, false, true),
        (WALL + 1, 1, false, false),
        (WALL, 2, true, false),
    ] {
        for retained in [true, false] {
            let mut rig = Rig::connected(web());
            rig.send(Event::Disconnected);
            rig.connect();
            let (alives, reports) = (rig.alives.len(), rig.reports.len());
            rig.send(heard(alive(started, connection, live), retained));
            let spoke = rig.alives.len() - alives;
            assert_eq!(spoke, usize::from(speaks), "{started}.{connection} {live}");
            assert_eq!(rig.reports.len() - reports, spoke);
        }
    }
}

#[test]
fn another_agent_of_the_same_name_is_noticed_once_and_lived_with() {
    let mut rig = Rig::connected(web());
    for _ in 0..3 {
        rig.send(heard(alive(WALL + 50, 1, true), false));
    }
    let taken = |note: &&Note| matches!(note, Note::NameTaken { .. });
    assert_eq!(rig.notes.iter().filter(taken).count(), 1);
    rig.assign(assignment(1));
    assert_eq!(rig.obeyed().assignment, assignment(1));
}

#[test]
fn heartbeats_come_with_jitter_and_only_when_nothing_else_does() {
    let mut rig = Rig::connected(web());
    rig.pass(1_000);
    let mut gaps = Vec::new();
    for _ in 0..20 {
        let (reports, from) = (rig.reports.len(), rig.now.mono);
        while rig.reports.len() == reports {
            rig.pass(100);
        }
        gaps.push(rig.now.mono.since_ms(from));
    }
    assert!(gaps[1..].iter().all(|gap| (26_900..=33_100).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().max().unwrap() - gaps.iter().min().unwrap() > 500, "{gaps:?}");
    let sequences: Vec<u64> = rig.reports.iter().map(|report| report.sequence).collect();
    assert!(sequences.is_sorted_by(|a, b| a < b));
}

#[test]
fn what_comes_together_leaves_together() {
    let mut rig = Rig::connected(web());
    let event =
        |generation| heard(Document::Assignment(Box::new(assignment(generation)), None), true);
    let effects = rig.core.step_all(rig.now, [event(1), event(2), event(3)]);
    let writes: Vec<_> =
        effects.iter().filter(|effect| matches!(effect, Effect::Persist { .. })).collect();
    let [Effect::Persist { memory, .. }] = writes[..] else { panic!("{writes:?}") };
    assert_eq!(memory.assignments[&app()], assignment(3));
}

#[test]
fn the_same_events_have_the_same_effects() {
    let run = || {
        let mut rig = out();
        rig.assign(permitted(2, 1));
        rig.pass(200_000);
        rig.upgrade_ends(Ok(()));
        rig.pass(200_000);
        serde_json::to_string(&rig.reports).unwrap()
    };
    assert_eq!(run(), run());
}

#[test]
fn an_agent_without_work_leaves_at_once() {
    let mut rig = Rig::connected(web());
    rig.send(Event::Stop);
    assert!(rig.exited);
    assert!(!rig.alives.last().unwrap().alive);
}

#[test]
fn an_agent_with_an_upgrade_waits_for_it_and_says_how_it_ended() {
    let mut rig = out();
    rig.assign(permitted(2, 1));
    rig.send(Event::Stop);
    rig.pass(9_000);
    assert!(!rig.exited);
    rig.upgrade_ends(Ok(()));
    assert!(rig.exited);
    assert_eq!(rig.outcome(), Some(&AttemptOutcome::Succeeded));
    assert_eq!(rig.disk.as_ref().unwrap().attempts[&app()].outcome, AttemptOutcome::Succeeded);
}

#[test]
fn an_agent_does_not_wait_for_an_upgrade_for_ever() {
    let mut rig = out();
    rig.assign(permitted(2, 1));
    rig.send(Event::Stop);
    rig.pass(10_000);
    assert!(rig.exited);
    assert!(!rig.alives.last().unwrap().alive);
    assert_eq!(rig.disk.as_ref().unwrap().attempts[&app()].outcome, AttemptOutcome::Running);
    rig.exited = false;
    rig.hear(lb_report(Order::Out, 9, 1));
    assert!(!rig.exited, "it is gone");
}
