//! Who commands, and what two controllers by mistake do to each other.

use super::bench::{Bench, alfa, at, id, shop};
use crate::bus::intake::Document;
use crate::bus::topics::Topic;
use crate::controller::core::{Input, Publication};
use crate::model::*;

fn leader(who: &str, number: u64) -> Document {
    let epoch = Epoch { number, controller: id(who) };
    Document::Leader(Leader { app: shop(), epoch, boot: Boot { started: 1, connection: 1 } })
}

fn controller(who: &str, alive: bool) -> Document {
    let boot = Boot { started: 1, connection: 1 };
    Document::Controller(ControllerAlive { controller: id(who), boot, alive })
}

fn retain(bench: &mut Bench, document: Document) {
    let topic = match &document {
        Document::Leader(leader) => Topic::Leader(leader.app.clone()),
        Document::Controller(alive) => Topic::Controller(alive.controller.clone()),
        other => panic!("not for here: {other:?}"),
    };
    bench.retained.insert(topic, document);
}

#[test]
fn a_lone_controller_claims_above_everything_shown() {
    let mut bench = Bench::new();
    retain(&mut bench, leader("other", 7));
    retain(&mut bench, controller("other", false));
    bench.connect();
    bench.step(at("1"));
    bench.settle();
    assert_eq!(bench.epoch(), Some(8));
}

#[test]
fn a_leader_that_lives_is_left_alone() {
    let mut bench = Bench::new();
    retain(&mut bench, leader("other", 7));
    retain(&mut bench, controller("other", true));
    let message = Document::Mailbox(
        NodeName::new("push1").unwrap(),
        Mailbox { messages: std::collections::BTreeMap::from([super::mail::message("a")]) },
        None,
    );
    bench.retained.insert(Topic::Mailbox(NodeName::new("push1").unwrap()), message);
    bench.connect();
    bench.step(at("2"));
    bench.settle();
    assert_eq!((bench.epoch(), &bench.resigned), (None, &None));
    bench.hear(controller("other", true));
    bench.settle();
    assert!(bench.resigned.is_some());
    // And nothing was said in the meantime but that it is there.
    assert!(bench.sent.iter().all(|publication| matches!(
        publication,
        Publication::Controller(_) | Publication::Marker(..)
    )));
}

#[test]
fn a_dead_leaders_retained_word_is_given_time_and_then_passed_over() {
    let mut bench = Bench::new();
    retain(&mut bench, leader("other", 7));
    retain(&mut bench, controller("other", true));
    bench.connect();
    bench.step(at("1"));
    bench.settle();
    assert_eq!(bench.epoch(), None);
    bench.wait(6);
    assert_eq!((bench.epoch(), &bench.resigned), (Some(8), &None));
}

#[test]
fn an_epoch_that_only_agents_remember_is_passed() {
    let mut bench = Bench::up(at("1"));
    let epoch = Epoch { number: 7, controller: id("another") };
    bench.report("web1").epochs.insert(shop(), epoch);
    bench.all_report();
    bench.settle();
    assert_eq!((bench.epoch(), &bench.resigned), (Some(8), &None));
}

#[test]
fn an_overtaken_leader_stops() {
    let mut bench = Bench::up(at("1"));
    assert_eq!(bench.epoch(), Some(1));
    bench.hear(leader("other", 2));
    assert!(bench.resigned.is_some());
}

#[test]
fn an_overtaken_leader_does_not_speak_over_the_new_one_when_it_comes_back() {
    let mut bench = Bench::up(at("1"));
    bench.step(Input::Disconnected);
    retain(&mut bench, leader("other", 2));
    retain(&mut bench, controller("other", true));
    bench.sent.clear();
    bench.connect();
    bench.settle();
    assert!(!bench.sent.iter().any(|p| matches!(p, Publication::Leader(_))), "{:?}", bench.sent);
    bench.hear(controller("other", true));
    bench.settle();
    assert!(bench.resigned.is_some());
}

#[test]
fn of_two_claims_to_one_number_neither_stays() {
    // Agents keep to whom they heard first, so that the number is of no use to anybody.
    let mut bench = Bench::up(at("1"));
    bench.hear(leader("a-lower-id", 1));
    bench.settle();
    assert_eq!((bench.epoch(), &bench.resigned), (Some(2), &None));
}

#[test]
fn a_higher_epoch_that_an_agent_knows_is_topped() {
    let mut bench = Bench::up(at("1"));
    let stamp = Stamp { epoch: Epoch { number: 1, controller: id("me") }, generation: 1 };
    let known = Epoch { number: 9, controller: id("other") };
    let reason = RefusalReason::StaleEpoch { known };
    let lb = NodeName::new("lb1").unwrap();
    let assignment = Assignment {
        app: shop(),
        node: lb.clone(),
        stamp: stamp.clone(),
        probes: Default::default(),
        work: None,
        balance: Default::default(),
    };
    let refusal = Some(Refusal { stamp, reason });
    bench.report("lb1").assignments.insert(shop(), Obeyed { assignment, done: None, refusal });
    bench.speak(&lb);
    bench.settle();
    assert_eq!((bench.epoch(), &bench.resigned), (Some(10), &None));
}

#[test]
fn its_own_late_will_is_not_the_last_word() {
    let mut bench = Bench::up(at("1"));
    bench.sent.clear();
    bench.hear(controller("me", false));
    assert!(matches!(bench.sent.as_slice(), [Publication::Controller(c)] if c.alive));
}

#[test]
fn nothing_follows_where_nothing_has_changed() {
    let mut bench = Bench::up(at("1"));
    let ledger = bench.core.apps[&shop()].ledgers[&alfa()].clone();
    assert_eq!(ledger.converged.map(|c| c.revision.to_string()), Some("1".to_owned()));
    bench.sent.clear();
    bench.wait(120);
    bench.sent.retain(|publication| !matches!(publication, Publication::Controller(_)));
    assert_eq!(bench.sent, []);
    assert_eq!(bench.core.plan(bench.now), []);
    assert!(bench.core.events.len() < 50, "{}", bench.core.events.len());
}

#[test]
fn an_upgrade_goes_through_and_comes_to_rest() {
    let mut bench = Bench::up(at("1"));
    bench.step(at("2"));
    bench.settle();
    assert_eq!(bench.revisions(), ["2", "2", "2"]);
    assert_eq!(bench.told(), ["shop/alfa is at 2"]);
}
