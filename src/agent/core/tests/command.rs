//! Who commands.

use std::collections::{BTreeMap, BTreeSet};

use super::rig::*;
use crate::agent::core::Event;
use crate::agent::core::*;
use crate::model::*;

/// `epoch.generation`, and the controller.
type Order = (u64, &'static str, u64);

fn order((number, controller, generation): Order) -> Assignment {
    let stamp = Stamp { epoch: epoch(number, controller), generation };
    Assignment { stamp, ..assignment(0) }
}

#[test]
fn the_highest_stamp_of_the_one_who_commands_is_in_force() {
    // What comes in, in order; what is in force after it; whether the last was refused.
    let cases: [(&[Order], Order, bool); 8] = [
        (&[(1, "c1", 5)], (1, "c1", 5), false),
        (&[(1, "c1", 5), (1, "c1", 5)], (1, "c1", 5), false),
        (&[(1, "c1", 5), (1, "c1", 4)], (1, "c1", 5), false),
        (&[(1, "c1", 5), (1, "c1", 6)], (1, "c1", 6), false),
        (&[(1, "c1", 5), (1, "c2", 6)], (1, "c1", 5), true),
        (&[(2, "c1", 5), (1, "c2", 6)], (2, "c1", 5), true),
        (&[(1, "c1", 5), (2, "c2", 1)], (2, "c2", 1), false),
        (&[(1, "c1", 5), (2, "c2", 1), (1, "c1", 6), (2, "c2", 2)], (2, "c2", 2), false),
    ];
    for (orders, in_force, refused) in cases {
        let mut rig = Rig::connected(web());
        for one in orders {
            rig.assign(order(*one));
        }
        assert_eq!(rig.obeyed().assignment, order(in_force), "{orders:?}");
        let stale = matches!(rig.refusal(), Some(RefusalReason::StaleEpoch { .. }));
        assert_eq!(stale, refused, "{orders:?}");
        if refused {
            let refusal = rig.obeyed().refusal.as_ref().unwrap();
            assert_eq!(refusal.stamp, order(*orders.last().unwrap()).stamp, "{orders:?}");
        }
    }
}

#[test]
fn a_leader_raises_the_epoch_and_what_is_in_force_stays() {
    let mut rig = Rig::connected(web());
    rig.assign(order((1, "c1", 5)));
    let leader = |number, controller| Event::Received {
        document: Document::Leader(Leader {
            app: app(),
            epoch: epoch(number, controller),
            boot: Boot::default(),
        }),
        retained: true,
    };
    rig.send(leader(3, "c3"));
    assert_eq!(rig.obeyed().assignment, order((1, "c1", 5)));
    assert_eq!(rig.refusal(), None);
    assert_eq!(rig.report().epochs, BTreeMap::from([(app(), epoch(3, "c3"))]));
    rig.assign(order((1, "c1", 6)));
    let known = epoch(3, "c3");
    assert_eq!(rig.refusal(), Some(&RefusalReason::StaleEpoch { known: known.clone() }));
    rig.send(leader(3, "c4"));
    assert_eq!(rig.refusal(), Some(&RefusalReason::StaleEpoch { known }));
    assert_eq!(rig.obeyed().assignment, order((1, "c1", 5)));

    rig.restart();
    rig.connect();
    rig.assign(order((2, "c2", 9)));
    assert_eq!(rig.obeyed().assignment, order((1, "c1", 5)), "the epoch is on disk");
}

#[test]
fn an_untrusted_order_changes_nothing_and_is_said_until_one_is_taken() {
    let ours = Some(PublicKey([1; 32]));
    let theirs = Some(PublicKey([7; 32]));
    let trusting = |setup| Setup { trusted_keys: ours.into_iter().collect(), ..setup };
    let send = |rig: &mut Rig, order: Assignment, key| {
        let document = Document::Assignment(Box::new(order), key);
        rig.send(Event::Received { document, retained: true });
    };
    let mut rig = Rig::connected(trusting(web()));
    send(&mut rig, order((9, "c9", 1)), theirs);
    let untrusted = RefusalReason::Untrusted { key: theirs };
    assert_eq!(rig.report().refusals[&app()].reason, untrusted);
    assert!(rig.report().assignments.is_empty());
    assert!(rig.report().epochs.is_empty(), "its epoch counts for nothing");
    // A claim, which nobody signs, makes no order good.
    let leader = Leader { app: app(), epoch: epoch(1, "c1"), boot: Boot::default() };
    rig.send(Event::Received { document: Document::Leader(leader), retained: true });
    assert_eq!(rig.report().refusals[&app()].reason, untrusted);

    send(&mut rig, order((1, "c1", 5)), ours);
    assert_eq!((rig.refusal(), rig.report().refusals.len()), (None, 0));
    for (generation, key) in [(6, theirs), (7, theirs), (8, None)] {
        send(&mut rig, order((9, "c9", generation)), key);
        assert_eq!(rig.obeyed().assignment, order((1, "c1", 5)));
        let refusal = rig.obeyed().refusal.clone().unwrap();
        assert_eq!(refusal.reason, RefusalReason::Untrusted { key });
    }
    let notes = rig.notes.iter().filter(|note| matches!(note, Note::Untrusted { .. }));
    assert_eq!(notes.count(), 3, "one for each of whom it is from, in turn");
    send(&mut rig, order((1, "c1", 6)), ours);
    assert_eq!((rig.obeyed().assignment.clone(), rig.refusal()), (order((1, "c1", 6)), None));

    // Whoever makes up names fills nobody's memory, nor a report.
    let mut rig = Rig::connected(trusting(balancer()));
    for number in 0..3_000 {
        let app = AppName::new(format!("a{number}")).unwrap();
        send(&mut rig, Assignment { app, ..order((9, "c9", 1)) }, theirs);
    }
    let notes = rig.notes.iter().filter(|note| matches!(note, Note::Untrusted { .. }));
    assert_eq!((notes.count(), rig.report().refusals.len()), (1_024, 16));
}

#[test]
fn without_trusted_keys_anybodys_order_is_taken_and_noted_with_its_key() {
    let mut rig = Rig::connected(web());
    for (generation, key) in [(1, None), (2, Some(PublicKey([7; 32])))] {
        let document = Document::Assignment(Box::new(order((1, "c1", generation))), key);
        rig.send(Event::Received { document, retained: true });
        assert_eq!(rig.obeyed().assignment, order((1, "c1", generation)));
        let taken = |note: &Note| matches!(note, Note::Accepted { key: by, .. } if *by == key);
        assert!(rig.notes.iter().any(taken));
    }
}

#[test]
fn every_leader_document_is_answered_by_a_report() {
    for (setup, name, answers) in [
        (web(), "shop", true),
        (web(), "other", false),
        (balancer(), "other", true),
        (Setup { recipients: Some(BTreeSet::new()), ..setup() }, "other", true),
    ] {
        let mut rig = Rig::connected(setup);
        let before = rig.reports.len();
        let app = AppName::new(name).unwrap();
        let leader = Leader { app, epoch: epoch(1, "c1"), boot: Boot::default() };
        for _ in 0..2 {
            let document = Document::Leader(leader.clone());
            rig.send(Event::Received { document, retained: true });
        }
        assert_eq!(rig.reports.len() - before, if answers { 2 } else { 0 }, "{name}");
    }
}

#[test]
fn what_is_echoed_is_on_disk() {
    let mut rig = Rig::connected(web());
    rig.slow_disk = true;
    rig.assign(assignment(1));
    assert!(rig.report().assignments.is_empty(), "it is not echoed before it is on disk");
    rig.write();
    assert_eq!(rig.obeyed().assignment, assignment(1));
    assert_eq!(rig.obeyed().done, Some(stamp(1)));
    assert_eq!(rig.disk.as_ref().unwrap().assignments[&app()], assignment(1));
}

#[test]
fn a_full_disk_is_a_refusal_until_it_is_not() {
    let mut rig = Rig::connected(web());
    rig.assign(assignment(1));
    rig.disk_error = Some("no space left");
    rig.assign(assignment(2));
    assert_eq!(rig.obeyed().assignment, assignment(1));
    let refusal = rig.obeyed().refusal.clone().unwrap();
    assert_eq!(refusal.stamp, stamp(2));
    assert_eq!(refusal.reason, RefusalReason::Disk { error: "no space left".into() });
    rig.pass(5_000);
    rig.disk_error = None;
    rig.pass(1_000);
    assert_eq!(rig.obeyed().assignment, assignment(2));
    assert_eq!(rig.refusal(), None);
}

#[test]
fn another_nodes_assignment_is_none() {
    let mut rig = Rig::connected(web());
    rig.assign(Assignment { node: lb(), ..assignment(1) });
    assert!(rig.report().assignments.is_empty());
    assert!(rig.notes.contains(&Note::Misaddressed { node: lb() }));
}

#[test]
fn a_role_that_is_missing_is_a_refusal() {
    let mut rig = Rig::connected(setup());
    rig.assign(node::permitted(1, 1));
    assert!(matches!(rig.refusal(), Some(RefusalReason::NotConfigured { .. })));
    assert_eq!(rig.obeyed().done, None);
    rig.assign(super::balancer::ordered(2, &[("s1", crate::model::Order::Out)]));
    assert!(matches!(rig.refusal(), Some(RefusalReason::NotConfigured { .. })));
    assert_eq!(rig.obeyed().done, None);
}

use super::node;
