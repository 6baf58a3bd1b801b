//! What is remembered: the disk, the broker, the agents; and the desired state over restarts.

use std::collections::BTreeMap;

use super::bench::{Bench, KEY, alfa, at, declared, node, settings, shop};
use crate::bus::intake::Document;
use crate::bus::topics::Topic;
use crate::controller::core::{Input, Publication};
use crate::model::*;

fn faulty() -> Input {
    Input::Desired(BTreeMap::from([(shop(), Err("a fault".to_owned()))]))
}

#[test]
fn after_a_restart_faulty_files_leave_the_last_good_state_in_force() {
    let mut bench = Bench::up(at("1"));
    bench.restart();
    bench.connect();
    bench.step(faulty());
    bench.settle();
    assert_eq!(bench.standing("alfa"), Standing::LastGood("a fault".to_owned()));
    bench.wait(10);
    assert_eq!(bench.told(), ["shop/alfa: the desired files are faulty"]);
}

#[test]
fn after_a_restart_files_that_have_gone_are_told() {
    let mut bench = Bench::up(at("1"));
    bench.restart();
    bench.connect();
    bench.step(Input::Desired(BTreeMap::new()));
    bench.settle();
    assert_eq!(bench.standing("alfa"), Standing::Vanished);
    bench.wait(10);
    assert_eq!(bench.told(), ["shop/alfa: the desired files have gone"]);
}

#[test]
fn a_directory_with_nothing_in_it_is_no_desired_state() {
    let mut bench = Bench::new();
    bench.connect();
    bench.step(Input::Desired(BTreeMap::new()));
    bench.settle();
    assert!(!bench.core.is_ready(), "its path may be wrong");
    bench.step(at("1"));
    bench.settle();
    assert!(bench.core.is_ready());
    bench.step(Input::Desired(BTreeMap::new()));
    assert!(bench.core.is_ready(), "what was there is known");
}

#[test]
fn a_fault_does_not_bring_back_what_had_gone() {
    for restart in [false, true] {
        let both = declared(&[("alfa", settings("1")), ("bravo", bravo())]);
        let mut bench = Bench::up(both);
        bench.step(at("1"));
        bench.settle();
        if restart {
            bench.restart();
            bench.connect();
        }
        bench.step(faulty());
        bench.settle();
        assert_eq!(bench.standing("alfa"), Standing::LastGood("a fault".to_owned()));
        assert_eq!(bench.standing("bravo"), Standing::Vanished, "{restart}");
    }
}

fn bravo() -> DesiredCluster {
    let mut bravo = settings("1");
    bravo.select.insert("cluster".to_owned(), "bravo".to_owned());
    bravo
}

#[test]
fn an_app_that_was_never_readable_is_not_touched() {
    let mut bench = Bench::new();
    bench.connect();
    bench.step(faulty());
    bench.settle();
    bench.wait(60);
    assert!(!bench.sent.iter().any(|p| matches!(p, Publication::Assignment(_))));
}

#[test]
fn a_full_disk_holds_everything_back_and_then_all_of_it_goes_on() {
    let mut bench = Bench::up(at("1"));
    bench.disk_full = true;
    bench.sent.clear();
    bench.step(at("2"));
    bench.settle();
    bench.wait(60);
    let changes = |p: &&Publication| {
        matches!(p, Publication::Assignment(_) | Publication::Ledger(..) | Publication::Mailbox(..))
    };
    assert_eq!(bench.sent.iter().filter(changes).count(), 0);
    bench.disk_full = false;
    bench.wait(10);
    assert_eq!(bench.revisions(), ["2", "2", "2"]);
}

#[test]
fn two_changes_of_one_round_are_both_taken_back() {
    let mut bench = Bench::up(at("1"));
    bench.step(at("2"));
    bench.settle();
    let (server, key) = bench.mail()[0].clone();
    let before = bench.retained.clone();
    bench.disk_full = true;
    // The plan changes something, and so does the receipt.
    bench.receipt(&server, &key, ReceiptOutcome::Delivered);
    bench.step(at("3"));
    bench.settle();
    bench.wait(30);
    let asked = |retained: &BTreeMap<Topic, Document>| -> Vec<Document> {
        let states = |(topic, _): &(&Topic, &Document)| {
            matches!(topic, Topic::Assignment(..) | Topic::Status(..) | Topic::Mailbox(_))
        };
        retained.iter().filter(states).map(|(_, document)| document.clone()).collect()
    };
    assert_eq!(asked(&bench.retained), asked(&before));
    bench.disk_full = false;
    bench.wait(20);
    assert_eq!(bench.revisions(), ["3", "3", "3"]);
    assert_eq!(bench.told(), ["shop/alfa is at 2", "shop/alfa is at 3"]);
}

#[test]
fn a_disk_that_fills_up_at_any_round_changes_nothing_in_the_end() {
    for round in 0..20 {
        let mut bench = Bench::up(at("1"));
        bench.step(at("2"));
        let mut rounds = 0;
        while rounds < round {
            let effects = bench.core.plan(bench.now);
            bench.take(effects);
            rounds += 1;
        }
        bench.disk_full = true;
        bench.wait(7);
        bench.disk_full = false;
        bench.wait(30);
        assert_eq!(bench.revisions(), ["2", "2", "2"], "{round}");
        assert_eq!(bench.told(), ["shop/alfa is at 2"], "{round}");
        let held = &bench.core.apps[&shop()].ledgers;
        assert_eq!(bench.disk[&shop()].ledgers, *held, "{round}");
    }
}

#[test]
fn a_broker_that_has_lost_everything_gets_everything_again() {
    let mut bench = Bench::up(at("1"));
    bench.step(at("2"));
    bench.settle();
    let before = bench.retained.clone();
    bench.retained.clear();
    bench.step(Input::Disconnected);
    bench.connect();
    bench.settle();
    let missing: Vec<&Topic> =
        before.keys().filter(|topic| !bench.retained.contains_key(*topic)).collect();
    assert_eq!(missing, Vec::<&Topic>::new());
}

#[test]
fn what_a_connection_took_with_it_is_published_again_at_the_next() {
    let mut bench = Bench::up(at("1"));
    bench.step(at("2"));
    bench.settle();
    bench.step(at("3"));
    bench.lossy = true;
    bench.settle();
    bench.lossy = false;
    // The broker still shows the assignments before.
    bench.connect();
    bench.settle();
    assert_eq!(bench.revisions(), ["3", "3", "3"]);
}

#[test]
fn what_does_not_come_back_is_published_again() {
    let mut bench = Bench::up(at("1"));
    bench.step(at("2"));
    bench.lossy = true;
    bench.settle();
    bench.lossy = false;
    bench.wait(11);
    assert_eq!(bench.revisions(), ["2", "2", "2"]);
}

#[test]
fn an_older_assignment_that_somebody_retains_over_ours_is_replaced() {
    let mut bench = Bench::up(at("1"));
    bench.step(at("2"));
    bench.settle();
    let topic = Topic::Assignment(node("web1"), shop());
    let ours = bench.retained[&topic].clone();
    let Document::Assignment(mut older, _) = ours.clone() else { panic!("an assignment") };
    older.stamp.generation -= 1;
    bench.retained.insert(topic.clone(), Document::Assignment(older.clone(), Some(KEY)));
    bench.hear(Document::Assignment(older, Some(KEY)));
    bench.wait(11);
    assert_eq!(bench.retained[&topic], ours);
}

/// Every retained assignment, with who has signed it.
fn signed(bench: &Bench) -> Vec<(Assignment, Option<PublicKey>)> {
    let assignment = |document: &Document| match document {
        Document::Assignment(assignment, key) => Some((Assignment::clone(assignment), *key)),
        _ => None,
    };
    bench.retained.values().filter_map(assignment).collect()
}

#[test]
fn what_agents_obey_is_signed_again_with_another_key() {
    for disk in [true, false] {
        for key in [Some(KEY), None] {
            let mut bench = Bench::up(at("2"));
            for document in bench.retained.values_mut() {
                if let Document::Assignment(_, by) = document {
                    *by = key;
                }
            }
            if !disk {
                bench.disk.clear();
            }
            bench.key = PublicKey([2; 32]);
            bench.restart();
            bench.connect();
            bench.step(at("2"));
            bench.settle();
            bench.wait(11);
            assert_eq!(bench.revisions(), ["2", "2", "2"]);
            let all = signed(&bench);
            assert_eq!(all.len(), 4, "{all:?}");
            assert!(all.iter().all(|(_, by)| *by == Some(bench.key)), "{all:?}");
        }
    }
}

#[test]
fn what_somebody_else_has_signed_is_not_signed_by_us_before_it_is_obeyed() {
    for obeyed in [false, true] {
        let mut bench = Bench::up(at("2"));
        let paused = DesiredCluster { paused: true, ..settings("2") };
        bench.step(declared(&[("alfa", paused)]));
        bench.settle();
        let topic = Topic::Assignment(node("web1"), shop());
        let Document::Assignment(ours, _) = bench.retained[&topic].clone() else { panic!() };
        let mut forged = Assignment::clone(&ours);
        forged.stamp.generation += 100;
        let document = Document::Assignment(Box::new(forged.clone()), Some(PublicKey([9; 32])));
        bench.retained.insert(topic.clone(), document.clone());
        bench.hear(document);
        if obeyed {
            bench.report("web1").assignments.get_mut(&shop()).unwrap().assignment = forged.clone();
            bench.speak(&node("web1"));
            bench.settle();
        }
        bench.sent.clear();
        bench.wait(30);
        // The broker loses it, and is given what is the controller's own.
        bench.retained.remove(&topic);
        bench.connect();
        bench.settle();
        bench.wait(30);
        let sent = |asked: &Assignment| {
            bench.sent.iter().any(|sent| matches!(sent, Publication::Assignment(a) if a == asked))
        };
        assert_eq!(sent(&forged), obeyed);
    }
}

#[test]
fn a_node_says_what_it_obeys_itself_and_nothing_of_others() {
    let mut bench = Bench::up(at("2"));
    let asked = |bench: &Bench| bench.core.apps[&shop()].assigned[&node("web2")].clone();
    let before = asked(&bench);
    let mut other = before.assignment.clone();
    other.stamp.generation += 100;
    let obeyed = Obeyed { assignment: other, done: None, refusal: None };
    bench.report("web1").assignments.insert(shop(), obeyed);
    bench.speak(&node("web1"));
    bench.settle();
    assert_eq!(asked(&bench), before);
}

#[test]
fn with_the_disk_gone_the_published_ledger_holds() {
    let mut bench = Bench::up(at("1"));
    bench.step(at("2"));
    bench.settle();
    let held = bench.core.apps[&shop()].ledgers[&alfa()].clone();
    bench.disk.clear();
    bench.restart();
    bench.sent.clear();
    bench.connect();
    bench.step(at("2"));
    bench.settle();
    assert_eq!(bench.core.apps[&shop()].ledgers[&alfa()], held);
    assert!(!bench.sent.iter().any(|p| matches!(p, Publication::Assignment(_))));
}

#[test]
fn a_controller_killed_at_any_round_carries_on() {
    for disk in [true, false] {
        for round in 0..20 {
            let mut bench = Bench::up(at("1"));
            bench.step(at("2"));
            for _ in 0..round {
                let effects = bench.core.plan(bench.now);
                bench.take(effects);
            }
            if !disk {
                bench.disk.clear();
            }
            bench.restart();
            bench.connect();
            bench.step(at("2"));
            bench.settle();
            assert_eq!(bench.revisions(), ["2", "2", "2"], "{disk} {round}");
            assert_eq!(bench.told(), ["shop/alfa is at 2"], "{disk} {round}");
        }
    }
}
