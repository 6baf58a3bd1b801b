//! Messages, mailboxes and receipts.

use std::collections::{BTreeMap, BTreeSet};

use super::bench::{Bench, KEY, alfa, at, node, shop};
use crate::bus::intake::Document;
use crate::bus::topics::Topic;
use crate::controller::core::{Input, Publication};
use crate::model::*;

pub fn message(key: &str) -> (MessageKey, Message) {
    let key = MessageKey(key.to_owned());
    let message = Message {
        key: key.clone(),
        app: shop(),
        cluster: alfa(),
        rollout: None,
        cause: Cause::Failed,
        kind: NotifyOn::Failed,
        priority: Priority::High,
        title: String::new(),
        happened: String::new(),
        advice: String::new(),
        link: String::new(),
        revision_from: None,
        revision_to: Revision::new("1").unwrap(),
        commit: String::new(),
        recipients: BTreeSet::from([RecipientName::new("oncall").unwrap()]),
        at: Wall(0),
    };
    (key, message)
}

/// A fleet at 2, whose message of that waits at a server; comes with both.
fn with_message() -> (Bench, String, MessageKey) {
    let mut bench = Bench::up(at("1"));
    bench.step(at("2"));
    bench.settle();
    let mail = bench.mail();
    assert_eq!(mail.len(), 1, "{mail:?}");
    let (server, key) = mail[0].clone();
    (bench, server, key)
}

fn pending(bench: &Bench) -> usize {
    bench.core.apps[&shop()].ledgers[&alfa()].messages.len()
}

#[test]
fn a_receipt_ends_it() {
    let (mut bench, server, key) = with_message();
    bench.receipt(&server, &key, ReceiptOutcome::Delivered);
    bench.settle();
    assert_eq!((pending(&bench), bench.mail()), (0, vec![]));
    assert!(!bench.has_receipt(&server, &key));
    assert_eq!(bench.disk[&shop()].ledgers[&alfa()].messages, BTreeMap::new());
}

#[test]
fn a_receipt_of_an_unknown_message_is_cleared_away() {
    let mut bench = Bench::up(at("1"));
    let key = MessageKey("shop.alfa.gone".to_owned());
    bench.receipt("push1", &key, ReceiptOutcome::Delivered);
    bench.settle();
    assert!(!bench.has_receipt("push1", &key));
}

#[test]
fn a_bad_receipt_moves_it() {
    let (mut bench, server, key) = with_message();
    bench.receipt(&server, &key, ReceiptOutcome::Failed("no".to_owned()));
    bench.settle();
    let mail = bench.mail();
    assert_eq!(mail.len(), 1);
    assert_ne!(mail[0].0, server);
    assert_eq!(pending(&bench), 1);
}

#[test]
fn with_another_key_it_stays_where_it_is_and_is_signed_again() {
    for disk in [true, false] {
        let (mut bench, server, key) = with_message();
        let topic = Topic::Mailbox(node(&server));
        let Document::Mailbox(_, before, _) = bench.retained[&topic].clone() else { panic!() };
        if !disk {
            bench.disk.clear();
        }
        bench.key = PublicKey([2; 32]);
        bench.restart();
        bench.sent.clear();
        bench.connect();
        bench.step(at("2"));
        bench.settle();
        bench.wait(11);
        assert_eq!(bench.mail(), [(server.clone(), key)]);
        let signed = Document::Mailbox(node(&server), before.clone(), Some(bench.key));
        assert_eq!(bench.retained[&topic], signed);
        // It was never gone in between, and so is not delivered twice.
        let taken_away = |sent: &Publication| {
            matches!(sent, Publication::Mailbox(of, mailbox)
            if *of == node(&server) && *mailbox != before)
        };
        assert!(!bench.sent.iter().any(taken_away), "{:?}", bench.sent);
    }
}

#[test]
fn what_somebody_else_hands_out_is_not_signed_by_us() {
    let mut bench = Bench::up(at("1"));
    let topic = Topic::Mailbox(node("push1"));
    let messages = BTreeMap::from([message("shop.alfa.buzz")]);
    let forged = Document::Mailbox(node("push1"), Mailbox { messages }, None);
    bench.retained.insert(topic.clone(), forged.clone());
    for restart in [false, true] {
        if restart {
            bench.retained.insert(topic.clone(), forged.clone());
            bench.disk.clear();
            bench.restart();
            bench.connect();
            bench.step(at("1"));
            bench.settle();
        } else {
            bench.hear(forged.clone());
        }
        bench.wait(30);
        assert_eq!(bench.told(), Vec::<String>::new());
        assert_eq!(bench.mail(), []);
    }
}

#[test]
fn where_too_many_wait_the_least_urgent_gives_way() {
    let mut bench = Bench::up(at("1"));
    let app = bench.core.apps.get_mut(&shop()).unwrap();
    let ledger = app.ledgers.get_mut(&alfa()).unwrap();
    ledger.messages.extend((0..100).map(|number| message(&format!("shop.alfa.old.{number}"))));
    let urgent = ledger.messages.clone();
    // That it is at 2 is less urgent than any of them, and younger.
    bench.step(at("2"));
    bench.settle();
    let ledger = &bench.core.apps[&shop()].ledgers[&alfa()];
    assert_eq!(ledger.converged.as_ref().unwrap().revision.as_str(), "2");
    assert_eq!(ledger.messages, urgent);
}

#[test]
fn messages_that_come_one_at_a_time_are_shared() {
    let (mut bench, server, key) = with_message();
    let mut served = BTreeSet::from([server.clone()]);
    bench.receipt(&server, &key, ReceiptOutcome::Delivered);
    for revision in 3..20 {
        bench.step(at(&revision.to_string()));
        bench.settle();
        let (server, key) = bench.mail()[0].clone();
        served.insert(server.clone());
        bench.receipt(&server, &key, ReceiptOutcome::Delivered);
        bench.settle();
        assert_eq!(bench.mail(), []);
    }
    assert_eq!(served, BTreeSet::from(["push1".to_owned(), "push2".to_owned()]));
}

#[test]
fn silence_moves_it_and_so_does_death() {
    let (mut bench, server, _) = with_message();
    bench.wait(21);
    let second = bench.mail()[0].0.clone();
    assert_ne!(second, server);
    let boot = Boot { started: 1, connection: 1 };
    let gone = Alive { node: node(&second), boot, alive: false };
    bench.silent.insert(node(&second));
    bench.hear(crate::bus::intake::Document::Alive(gone));
    bench.wait(19);
    assert_eq!(bench.mail()[0].0, second, "it may have delivered it just before");
    bench.wait(23); // both have tried: after a pause it begins again
    assert_eq!(bench.mail()[0].0, server);
}

/// The seconds at which the message is in a mailbox, if every server refuses it every time for good.
/// Looks every 20 s.
fn refused_at(bench: &mut Bench, key: &MessageKey, seconds: usize) -> Vec<usize> {
    let mut at = Vec::new();
    for second in (0..seconds).step_by(20) {
        while let [(server, _)] = bench.mail().as_slice() {
            at.push(second);
            bench.receipt(server, key, ReceiptOutcome::Failed("HTTP status 403".to_owned()));
            bench.settle();
            let holder = bench.mail().first().map(|(holder, _)| holder.clone());
            assert_ne!(holder.as_ref(), Some(server), "it would not try again");
        }
        assert_eq!(bench.mail(), []);
        bench.leap(20);
    }
    at
}

fn undelivered(bench: &Bench) -> Condition {
    let view = bench.core.view(bench.now);
    let conditions = &view.apps[&shop()].clusters[&alfa()].conditions;
    conditions.iter().find(|c| c.kind == ConditionType::Undelivered).unwrap().clone()
}

#[test]
fn what_every_server_refuses_is_tried_ever_more_rarely() {
    let (mut bench, _, key) = with_message();
    assert_eq!(undelivered(&bench).status, ConditionStatus::False);
    let at = refused_at(&mut bench, &key, 13_000);
    // By both servers each time, one after the other.
    let rounds: Vec<usize> = at.iter().copied().step_by(2).collect();
    assert_eq!(rounds, at.iter().copied().skip(1).step_by(2).collect::<Vec<_>>());
    let rests: Vec<usize> = rounds.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(rests, [20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
    let shown = undelivered(&bench);
    assert_eq!((shown.status, shown.reason.as_str()), (ConditionStatus::True, "Failing"));
    assert!(shown.message.contains("HTTP status 403"), "{}", shown.message);
    assert!(shown.message.ends_with("at least every 1h"), "{}", shown.message);

    // A person mends it, and the next try ends it.
    bench.leap(3_600);
    let server = bench.mail()[0].0.clone();
    bench.receipt(&server, &key, ReceiptOutcome::Delivered);
    bench.settle();
    assert_eq!((pending(&bench), bench.mail()), (0, vec![]));
    assert_eq!(undelivered(&bench).status, ConditionStatus::False);
}

#[test]
fn one_server_alone_gets_another_try_too() {
    let (mut bench, _, key) = with_message();
    bench.silent.insert(node("push2"));
    let boot = Boot { started: 1, connection: 1 };
    let gone = Alive { node: node("push2"), boot, alive: false };
    bench.hear(crate::bus::intake::Document::Alive(gone));
    bench.settle();
    assert_eq!(refused_at(&mut bench, &key, 100), [0, 20, 60]);
}

#[test]
fn what_is_only_delayed_is_with_nobody_while_it_rests_and_never_rests_for_long() {
    let (mut bench, first, key) = with_message();
    let delayed = || ReceiptOutcome::Delayed("HTTP status 503".to_owned());
    let mut server = first.clone();
    for rest in [20, 40, 60, 60] {
        bench.receipt(&server, &key, delayed());
        bench.settle();
        let other = bench.mail()[0].0.clone();
        assert_ne!(other, server);
        bench.receipt(&other, &key, delayed());
        bench.settle();
        bench.wait(rest - 1);
        assert_eq!(bench.mail(), [], "{rest}");
        assert_eq!(undelivered(&bench).reason, "Failing");
        bench.wait(2);
        server = bench.mail()[0].0.clone();
    }
}

#[test]
fn without_a_server_that_is_said() {
    let (mut bench, ..) = with_message();
    let boot = Boot { started: 1, connection: 1 };
    for server in ["push1", "push2"] {
        bench.silent.insert(node(server));
        let gone = Alive { node: node(server), boot, alive: false };
        bench.hear(crate::bus::intake::Document::Alive(gone));
    }
    bench.settle();
    let shown = undelivered(&bench);
    assert_eq!((shown.status, shown.reason.as_str()), (ConditionStatus::True, "NoServer"));
    assert!(shown.message.contains("oncall"), "{}", shown.message);
}

#[test]
fn while_the_broker_is_away_nobody_is_late() {
    let (mut bench, server, key) = with_message();
    bench.step(Input::Disconnected);
    bench.wait(60);
    bench.connect();
    bench.settle();
    assert_eq!(bench.mail(), [(server.clone(), key)]);
    bench.wait(21);
    assert_ne!(bench.mail()[0].0, server);
}

#[test]
fn a_restart_leaves_the_message_where_it_is() {
    for disk in [true, false] {
        let (mut bench, server, key) = with_message();
        if !disk {
            bench.disk.clear();
        }
        bench.restart();
        bench.sent.clear();
        bench.connect();
        // The list is complete before the files have been read.
        bench.settle();
        bench.step(at("2"));
        bench.settle();
        assert_eq!(bench.mail(), [(server, key)]);
        assert!(!bench.sent.iter().any(|p| matches!(p, Publication::Mailbox(..))), "{disk}");
    }
}

/// The bus has lost its memory together with the controller, as the embedded broker does: nobody knows any more who
/// was given the message, and whoever that was may have delivered it.
#[test]
fn what_an_earlier_life_may_have_handed_out_waits_for_its_receipt() {
    for delivered in [true, false] {
        let (mut bench, server, key) = with_message();
        bench.restart();
        bench.retained.remove(&crate::bus::topics::Topic::Mailbox(node(&server)));
        bench.connect();
        bench.step(at("2"));
        bench.settle();
        bench.wait(5);
        assert_eq!(bench.mail(), []);
        if delivered {
            bench.receipt(&server, &key, ReceiptOutcome::Delivered);
        }
        bench.wait(25);
        let left = usize::from(!delivered);
        assert_eq!((pending(&bench), bench.mail().len()), (left, left));
    }
}

#[test]
fn a_server_that_is_not_heard_yet_keeps_its_message() {
    let (mut bench, server, key) = with_message();
    bench.restart();
    bench.silent.insert(node(&server));
    bench.connect();
    bench.step(at("2"));
    bench.settle();
    bench.wait(5);
    assert_eq!(bench.mail(), [(server.clone(), key)]);
    bench.wait(25);
    assert_ne!(bench.mail()[0].0, server, "not for ever");
}

#[test]
fn a_receipt_that_came_while_nobody_led_counts() {
    let (mut bench, server, key) = with_message();
    bench.restart();
    bench.receipt(&server, &key, ReceiptOutcome::Delivered);
    bench.sent.clear();
    bench.connect();
    bench.settle();
    bench.step(at("2"));
    bench.settle();
    bench.wait(30);
    assert_eq!((pending(&bench), bench.mail()), (0, vec![]));
}

#[test]
fn a_receipt_is_kept_until_the_disk_has_taken_it() {
    let (mut bench, server, key) = with_message();
    bench.disk_full = true;
    bench.sent.clear();
    bench.receipt(&server, &key, ReceiptOutcome::Delivered);
    bench.settle();
    bench.wait(30);
    assert!(bench.has_receipt(&server, &key));
    assert_eq!(bench.mail(), [(server.clone(), key.clone())]);
    assert!(!bench.sent.iter().any(|p| matches!(p, Publication::Mailbox(..))));
    bench.disk_full = false;
    bench.wait(10);
    assert_eq!((pending(&bench), bench.mail()), (0, vec![]));
    assert!(!bench.has_receipt(&server, &key));
}

/// A server that was cut off says late that it has given the message up; another one has delivered it meanwhile, and
/// nobody was there to hear either.
#[test]
fn one_servers_receipt_does_not_hide_anothers() {
    let (mut bench, server, key) = with_message();
    let other = if server == "push1" { "push2" } else { "push1" };
    bench.receipt(other, &key, ReceiptOutcome::Delivered);
    bench.receipt(&server, &key, ReceiptOutcome::Delayed("no answer".to_owned()));
    bench.restart();
    bench.connect();
    bench.settle();
    bench.step(at("2"));
    bench.settle();
    bench.wait(60);
    assert_eq!((pending(&bench), bench.mail()), (0, vec![]));
    assert!(!bench.has_receipt(&server, &key) && !bench.has_receipt(other, &key));
}

#[test]
fn a_mailbox_that_somebody_has_emptied_is_filled_again() {
    let (mut bench, server, key) = with_message();
    let empty = Document::Mailbox(node(&server), Mailbox::default(), Some(KEY));
    bench.retained.insert(crate::bus::topics::Topic::Mailbox(node(&server)), empty.clone());
    bench.hear(empty);
    bench.wait(11);
    assert_eq!(bench.mail(), [(server, key)]);
}

#[test]
fn a_failure_is_told_once_whatever_restarts() {
    for disk in [true, false] {
        let mut bench = Bench::up(at("1"));
        bench.world.failing.insert(node("web2"));
        bench.step(at("2"));
        bench.settle();
        assert_eq!(bench.told(), ["shop/alfa: nodes failed"]);
        for _ in 0..3 {
            if !disk {
                bench.disk.clear();
            }
            bench.restart();
            bench.connect();
            bench.step(at("2"));
            bench.settle();
            bench.wait(60);
        }
        assert_eq!(bench.told(), ["shop/alfa: nodes failed"], "{disk}");
    }
}

#[test]
fn what_a_restart_hides_for_a_moment_is_not_over() {
    let mut bench = Bench::up(at("1"));
    let balancer = bench.report("lb1").balancer.as_mut().unwrap();
    let Some(BackendSeen::Servers(servers)) = balancer.backends.values_mut().next() else {
        panic!("servers")
    };
    servers.values_mut().next().unwrap().seen.admin = AdminBits(1);
    bench.all_report();
    bench.settle();
    bench.wait(70);
    let told = ["shop/alfa: somebody else's maintenance keeps nodes out of service"];
    assert_eq!(bench.told(), told);
    bench.restart();
    bench.connect();
    bench.step(at("1"));
    bench.settle();
    bench.wait(100);
    assert_eq!(bench.told(), told);
    bench.silent.insert(node("web1"));
    bench.step(Input::Disconnected);
    bench.connect();
    bench.settle();
    bench.wait(20);
    assert_eq!(bench.told(), told);
}
