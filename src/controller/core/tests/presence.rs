//! Who is there, who has gone, and who is not heard.

use std::collections::BTreeSet;

use super::bench::{Bench, alfa, at, node, shop};
use crate::bus::intake::Document;
use crate::controller::core::{Input, SILENT_MS};
use crate::model::*;

fn presence(bench: &Bench, name: &str) -> Presence {
    bench.core.nodes[&node(name)].presence(bench.now.mono)
}

fn alive(name: &str, connection: u64, alive: bool) -> Document {
    Document::Alive(Alive { node: node(name), boot: Boot { started: 1, connection }, alive })
}

#[test]
fn silence_counts_after_ninety_seconds() {
    let mut bench = Bench::up(at("1"));
    bench.all_report();
    bench.settle();
    bench.now.mono = bench.now.mono.plus_ms(SILENT_MS);
    assert_eq!(presence(&bench, "web1"), Presence::Present);
    bench.now.mono = bench.now.mono.plus_ms(1);
    assert_eq!(presence(&bench, "web1"), Presence::Unknown);
    assert!(bench.core.due().is_some_and(|due| due <= bench.now.mono));
}

#[test]
fn what_was_heard_on_an_earlier_connection_proves_nothing() {
    let mut bench = Bench::up(at("1"));
    bench.silent.insert(node("web1"));
    bench.step(Input::Disconnected);
    bench.connect();
    assert_eq!(presence(&bench, "web1"), Presence::Unknown);
    assert_eq!(presence(&bench, "web2"), Presence::Unknown, "not before it has answered");
    bench.settle();
    assert_eq!(presence(&bench, "web1"), Presence::Unknown);
    assert_eq!(presence(&bench, "web2"), Presence::Present);
}

#[test]
fn an_absence_is_young_until_it_is_told() {
    let mut bench = Bench::up(at("1"));
    bench.settle();
    bench.silent.insert(node("web1"));
    bench.step(Input::Disconnected);
    bench.connect();
    let cluster = |bench: &Bench| {
        let mut view = bench.core.view(bench.now);
        view.apps.get_mut(&shop()).unwrap().clusters.remove(&alfa()).unwrap()
    };
    let unreachable = BTreeSet::from([Cause::Unreachable]);
    bench.wait(29);
    let early = cluster(&bench);
    assert_eq!((early.young, early.messages_pending), (unreachable, 0));
    bench.wait(2);
    let late = cluster(&bench);
    assert_eq!((late.young, late.messages_pending), (BTreeSet::new(), 1));
    assert!(late.causes.contains_key(&Cause::Unreachable));
}

#[test]
fn a_retained_report_proves_nothing() {
    let mut bench = Bench::new();
    bench.connect();
    assert_eq!(presence(&bench, "web1"), Presence::Unknown);
}

#[test]
fn the_will_of_an_older_connection_is_ignored_and_one_of_this_is_not() {
    let mut bench = Bench::up(at("1"));
    bench.report("web1").boot.connection = 2;
    bench.speak(&node("web1"));
    bench.settle();
    bench.hear(alive("web1", 1, false));
    assert_eq!(presence(&bench, "web1"), Presence::Present);
    bench.hear(alive("web1", 2, false));
    assert_eq!(presence(&bench, "web1"), Presence::Departed);
}

#[test]
fn whoever_speaks_up_again_is_there() {
    // Also in the same life: an agent that sees itself departed says that it is there.
    for connection in [1, 2] {
        let mut bench = Bench::up(at("1"));
        bench.hear(alive("web1", 1, false));
        assert_eq!(presence(&bench, "web1"), Presence::Departed);
        bench.hear(alive("web1", connection, true));
        bench.report("web1").boot.connection = connection;
        bench.speak(&node("web1"));
        bench.settle();
        assert_eq!(presence(&bench, "web1"), Presence::Present, "{connection}");
    }
}

#[test]
fn two_agents_of_one_name_are_both_left_out_for_a_while() {
    let mut bench = Bench::up(at("1"));
    let mut other = bench.report("web1").clone();
    other.boot.started = 2;
    bench.hear(Document::Report(Box::new(other)));
    bench.speak(&node("web1"));
    bench.settle();
    assert_eq!(presence(&bench, "web1"), Presence::Duplicate);
    bench.now.mono = bench.now.mono.plus_ms(SILENT_MS + 1);
    assert_ne!(presence(&bench, "web1"), Presence::Duplicate);
}

#[test]
fn only_what_is_not_there_is_forgotten() {
    let mut bench = Bench::up(at("1"));
    let web1 = node("web1");
    assert!(bench.core.may_forget(bench.now, &web1).is_err());
    bench.step(Input::Forget(web1.clone()));
    assert!(bench.core.nodes.contains_key(&web1));
    // Silent, and no will: the broker died with it.
    bench.silent.insert(web1.clone());
    bench.wait(120);
    assert_eq!(presence(&bench, "web1"), Presence::Unknown);
    assert!(bench.core.may_forget(bench.now, &web1).is_ok());
    bench.step(Input::Forget(web1.clone()));
    bench.settle();
    assert!(!bench.core.nodes.contains_key(&web1));
    assert!(!bench.retained.keys().any(|topic| format!("{topic:?}").contains("web1")));
}
