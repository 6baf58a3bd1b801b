//! The mailbox.

use std::collections::{BTreeMap, BTreeSet};

use super::rig::*;
use crate::agent::core::Event;
use crate::agent::core::*;
use crate::model::*;
use crate::plan::ports::DeliverError;

fn name(text: &str) -> RecipientName {
    RecipientName::new(text).unwrap()
}

fn key(text: &str) -> MessageKey {
    MessageKey(text.to_owned())
}

fn message(text: &str, recipients: &[&str]) -> Message {
    Message {
        key: key(text),
        app: app(),
        cluster: ClusterName::new("alfa").unwrap(),
        rollout: None,
        cause: Cause::Completed,
        kind: NotifyOn::Completed,
        priority: Priority::Low,
        title: "done".into(),
        happened: "done".into(),
        advice: String::new(),
        link: String::new(),
        revision_from: None,
        revision_to: revision("2"),
        commit: String::new(),
        recipients: recipients.iter().map(|text| name(text)).collect(),
        at: Wall(0),
    }
}

fn mailbox(messages: &[Message]) -> Event {
    signed(messages, None)
}

fn signed(messages: &[Message], key: SignedBy) -> Event {
    let messages = messages.iter().map(|m| (m.key.clone(), m.clone())).collect();
    let document = Document::Mailbox(Box::new(Mailbox { messages }), key);
    Event::Received { document, retained: true }
}

fn server() -> Rig {
    let recipients = Some(BTreeSet::from([name("anna"), name("bert")]));
    Rig::connected(Setup { recipients, ..setup() })
}

fn transient(retry_after_ms: Option<u64>) -> Result<(), DeliverError> {
    Err(DeliverError::Transient { error: "busy".into(), retry_after_ms })
}

/// Ends the oldest delivery under way.
fn ends(rig: &mut Rig, result: Result<(), DeliverError>) {
    let (recipient, message) = rig.deliveries.pop_front().expect("a delivery is under way");
    rig.send(Event::Delivered { key: message.key, recipient, result });
}

fn outcomes(list: &[(&str, ReceiptOutcome)]) -> BTreeMap<RecipientName, ReceiptOutcome> {
    list.iter().map(|(text, outcome)| (name(text), outcome.clone())).collect()
}

#[test]
fn every_recipient_gets_it_once_and_the_receipt_follows_the_disk() {
    let mut rig = server();
    rig.send(mailbox(&[message("k1", &["anna", "bert"])]));
    assert_eq!(rig.deliveries.len(), 2);
    ends(&mut rig, Ok(()));
    assert!(rig.receipts.is_empty(), "not before all have an outcome");
    rig.slow_disk = true;
    ends(&mut rig, Err(DeliverError::Terminal { error: "gone".into() }));
    assert!(rig.receipts.is_empty(), "not before it is on disk");
    rig.write();
    let expected = outcomes(&[
        ("anna", ReceiptOutcome::Delivered),
        ("bert", ReceiptOutcome::Failed("gone".into())),
    ]);
    let receipt = Receipt { key: key("k1"), node: node(), outcomes: expected };
    assert_eq!(rig.receipts, std::slice::from_ref(&receipt));
    rig.send(mailbox(&[message("k1", &["anna", "bert"])]));
    rig.pass(120_000);
    assert!(rig.deliveries.is_empty());
    assert_eq!(rig.receipts.len(), 1);

    rig.slow_disk = false;
    rig.restart();
    rig.connect_with(vec![Document::Mailbox(
        Box::new(Mailbox {
            messages: BTreeMap::from([(key("k1"), message("k1", &["anna", "bert"]))]),
        }),
        None,
    )]);
    assert!(rig.deliveries.is_empty(), "nor after a restart");
    assert_eq!(rig.receipts, [receipt.clone(), receipt], "the receipt may have been lost");
}

#[test]
fn an_untrusted_mailbox_is_not_delivered_and_takes_nothing_away() {
    let ours = Some(PublicKey([1; 32]));
    let recipients = Some(BTreeSet::from([name("anna")]));
    let trusted_keys = ours.into_iter().collect();
    let mut rig = Rig::connected(Setup { recipients, trusted_keys, ..setup() });
    rig.send(signed(&[message("k1", &["anna"])], ours));
    for key in [None, Some(PublicKey([7; 32])), Some(PublicKey([7; 32]))] {
        rig.send(signed(&[message("k2", &["anna"])], key));
    }
    let notes = rig.notes.iter().filter(|note| matches!(note, Note::UntrustedMailbox { .. }));
    assert_eq!(notes.count(), 2, "one for each of whom it is from, in turn");
    assert_eq!(rig.deliveries.len(), 1);
    ends(&mut rig, Ok(()));
    assert_eq!(rig.receipts[0].key, key("k1"), "it is still wanted");
    let signed = |note: &Note| match note {
        Note::Delivered { message, .. } => Some(message.signed),
        _ => None,
    };
    assert_eq!(rig.notes.iter().find_map(signed), Some(ours));
}

#[test]
fn what_a_service_is_spared_counts_as_no_try() {
    let mut rig = server();
    rig.send(mailbox(&[message("k1", &["anna"])]));
    for _ in 0..10 {
        ends(&mut rig, Err(DeliverError::Paced { again_in_ms: 5_000 }));
        assert!(rig.deliveries.is_empty());
        rig.pass(5_000);
    }
    assert!(rig.receipts.is_empty(), "nothing has failed");
    ends(&mut rig, Ok(()));
    assert_eq!(rig.receipts[0].outcomes, outcomes(&[("anna", ReceiptOutcome::Delivered)]));
}

#[test]
fn what_is_urgent_goes_first_and_what_is_old_before_what_is_new() {
    let mut rig = server();
    let of =
        |key: &str, priority, at| Message { priority, at: Wall(at), ..message(key, &["anna"]) };
    let (low, high) = (Priority::Low, Priority::High);
    rig.send(mailbox(&[of("a", low, 3), of("b", low, 2), of("c", high, 4), of("d", high, 1)]));
    let order: Vec<&str> = rig.deliveries.iter().map(|(_, m)| m.key.0.as_str()).collect();
    assert_eq!(order, ["d", "c", "b", "a"]);
}

#[test]
fn what_was_under_way_at_a_crash_is_delivered_again() {
    let mut rig = server();
    rig.send(mailbox(&[message("k1", &["anna", "bert"])]));
    ends(&mut rig, Ok(()));
    rig.restart();
    rig.connect();
    rig.send(mailbox(&[message("k1", &["anna", "bert"])]));
    assert_eq!(rig.deliveries.len(), 1);
    assert_eq!(rig.deliveries[0].0, name("bert"));
}

#[test]
fn a_message_that_leaves_the_mailbox_is_forgotten() {
    let mut rig = server();
    rig.send(mailbox(&[message("k1", &["anna"]), message("k2", &["anna"])]));
    ends(&mut rig, Ok(()));
    rig.send(mailbox(&[]));
    ends(&mut rig, Ok(()));
    assert!(rig.disk.as_ref().unwrap().delivered.is_empty());
    assert_eq!(rig.receipts.len(), 1);
    rig.pass(120_000);
    assert!(rig.deliveries.is_empty());
}

#[test]
fn transient_failures_are_tried_again_and_then_left() {
    let mut rig = server();
    rig.send(mailbox(&[message("k1", &["anna"])]));
    for wait_ms in [1_000, 2_000] {
        ends(&mut rig, transient(None));
        rig.pass(wait_ms - 1);
        assert!(rig.deliveries.is_empty(), "{wait_ms}");
        rig.pass(1);
        assert_eq!(rig.deliveries.len(), 1, "{wait_ms}");
    }
    assert!(rig.receipts.is_empty());
    ends(&mut rig, transient(None));
    assert!(matches!(rig.receipts[0].outcomes[&name("anna")], ReceiptOutcome::Delayed(_)));
    rig.pass(3_600_000);
    assert!(rig.deliveries.is_empty(), "somebody else may have it by now");
    rig.send(mailbox(&[]));
    rig.send(mailbox(&[message("k1", &["anna"])]));
    assert_eq!(rig.deliveries.len(), 1, "handed out anew");
    ends(&mut rig, Ok(()));
    let delivered = outcomes(&[("anna", ReceiptOutcome::Delivered)]);
    assert_eq!(rig.receipts.last().unwrap().outcomes, delivered);
}

#[test]
fn a_service_that_asks_for_patience_gets_it() {
    let mut rig = server();
    rig.send(mailbox(&[message("k1", &["anna"])]));
    ends(&mut rig, transient(Some(90_000)));
    rig.pass(89_999);
    assert!(rig.deliveries.is_empty());
    rig.pass(1);
    assert_eq!(rig.deliveries.len(), 1);
}

#[test]
fn an_unknown_recipient_fails_for_good() {
    let mut rig = server();
    rig.send(mailbox(&[message("k1", &["carl"])]));
    assert!(rig.deliveries.is_empty());
    let outcome = &rig.receipts[0].outcomes[&name("carl")];
    assert!(matches!(outcome, ReceiptOutcome::Failed(error) if error.contains("carl")));
}

#[test]
fn few_deliveries_are_under_way_at_once() {
    let mut rig = server();
    let messages: Vec<Message> =
        (10..40).map(|number| message(&format!("k{number}"), &["anna"])).collect();
    rig.send(mailbox(&messages));
    assert_eq!(rig.deliveries.len(), 8);
    for _ in 0..30 {
        ends(&mut rig, Ok(()));
        assert!(rig.deliveries.len() <= 8);
    }
    assert_eq!(rig.receipts.len(), 30);
}
