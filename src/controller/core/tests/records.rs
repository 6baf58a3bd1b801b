//! What is given out for the history: each act once, with what led to it.

use std::collections::BTreeSet;

use super::super::Publication;
use super::bench::{Bench, at, node};
use crate::model::*;

fn actions(records: &[Record]) -> Vec<(&Record, Asked)> {
    let mut actions = Vec::new();
    for record in records {
        match &record.what {
            What::Action { asked, .. } => actions.push((record, *asked)),
            What::Event(_) | What::Decision(_) => {}
        }
    }
    actions
}

/// Every assignment that is published differs from the one before by what is recorded of it, and nothing is recorded
/// that no assignment says.
#[test]
fn a_rollout_is_recorded_act_by_act() {
    let mut bench = Bench::up(at("1"));
    bench.settle();
    bench.recorded.clear();
    bench.sent.clear();
    bench.step(at("2"));
    bench.settle();
    assert_eq!(bench.revisions(), ["2", "2", "2"]);
    let records = std::mem::take(&mut bench.recorded);
    let asked = |wanted: Asked, about: &str| {
        let of = |(record, asked): &(&Record, Asked)| {
            *asked == wanted && record.node == Some(node(about))
        };
        actions(&records).into_iter().filter(of).count()
    };
    for name in ["web1", "web2", "web3"] {
        for wanted in [Asked::Probe, Asked::TakeOut, Asked::Permit, Asked::Withdraw, Asked::PutBack]
        {
            assert_eq!(asked(wanted, name), 1, "{wanted:?} of {name}: {records:#?}");
        }
    }
    let generations: BTreeSet<(NodeName, u64)> = records
        .iter()
        .filter_map(|record| match &record.what {
            What::Action { of, generation, .. } => Some((of.clone(), *generation)),
            What::Event(_) | What::Decision(_) => None,
        })
        .collect();
    let published = bench.sent.iter().filter_map(|publication| match publication {
        Publication::Assignment(assignment) => {
            Some((assignment.node.clone(), assignment.stamp.generation))
        }
        _ => None,
    });
    let unsaid: Vec<_> = published.filter(|one| !generations.contains(one)).collect();
    assert_eq!(unsaid, [], "assignments of which nothing is recorded");

    // All of it is one rollout's, from the first probe to the last node in service.
    let rollouts: BTreeSet<&RolloutId> =
        records.iter().filter_map(|record| record.rollout.as_ref()).collect();
    assert_eq!(rollouts.len(), 1, "{rollouts:?}");
    let events: Vec<&str> = records
        .iter()
        .filter_map(|record| match &record.what {
            What::Event(kind) => Some(kind.as_str()),
            What::Decision(_) | What::Action { .. } => None,
        })
        .collect();
    assert_eq!(events.iter().filter(|name| **name == "rollout_begun").count(), 1, "{events:?}");
    assert_eq!(events.iter().filter(|name| **name == "converged").count(), 1, "{events:?}");
    for record in &records {
        assert!(record.epoch.is_some(), "{record:?}");
        let causeless = record.cause.is_empty() && !matches!(record.what, What::Event(_));
        assert!(!causeless, "{record:?}");
        assert!(record.before != record.after || record.before.is_none(), "{record:?}");
    }
    let begun = records
        .iter()
        .find(|record| matches!(&record.what, What::Event(EventKind::RolloutBegun { .. })));
    let begun = begun.expect("a begin");
    assert_eq!((begun.before.as_deref(), begun.after.as_deref()), (Some("1"), Some("2")));
}

#[test]
fn a_fleet_at_rest_records_nothing() {
    let mut bench = Bench::up(at("1"));
    bench.settle();
    bench.recorded.clear();
    for _ in 0..5 {
        bench.wait(30);
        bench.all_report();
        bench.settle();
    }
    assert_eq!(bench.recorded, []);
}

/// What was not kept has not come about: the driver drops its records, and they come again when the disk is back.
#[test]
fn what_the_disk_does_not_take_is_recorded_when_it_does() {
    let mut bench = Bench::up(at("1"));
    bench.settle();
    bench.recorded.clear();
    bench.disk_full = true;
    bench.step(at("2"));
    bench.settle();
    let begun = |records: &[Record]| {
        let is =
            |record: &&Record| matches!(&record.what, What::Event(EventKind::RolloutBegun { .. }));
        records.iter().filter(is).count()
    };
    assert_eq!((begun(&bench.recorded), actions(&bench.recorded).len()), (0, 0));
    bench.disk_full = false;
    bench.wait(30);
    bench.settle();
    assert_eq!(begun(&bench.recorded), 1);
    assert_eq!(bench.revisions(), ["2", "2", "2"]);
}
