//! Settling.

use std::collections::BTreeSet;

use super::node::{failure, lb_report, out, permitted, work};
use super::rig::*;
use crate::agent::core::Event;
use crate::model::CheckStatus::{Critical, Ok as Fine, Unknown};
use crate::model::SettleState::{Checking, Settled, TimedOut};
use crate::model::*;

fn key(asked: u64) -> SettleKey {
    SettleKey { rollout: rollout(), retry: String::new(), attempt: 1, asked }
}

fn settling(generation: u64, asked: u64, checks: &[&str]) -> Assignment {
    let checks = checks.iter().map(|name| check(name)).collect();
    let work = NodeWork { checks, settle: Some(key(asked)), ..work() };
    Assignment { work: Some(work), ..assignment(generation) }
}

fn begun() -> Rig {
    let mut rig = Rig::connected(web());
    rig.assign(settling(1, 1, &["load"]));
    rig
}

const LATE: SettleState = Settled { late: true };
const IN_TIME: SettleState = Settled { late: false };

#[test]
fn the_last_result_of_every_check_counts() {
    let mut rig = Rig::connected(web());
    rig.assign(settling(1, 1, &["load", "disk"]));
    assert_eq!(rig.settle(), Some(Checking));
    assert_eq!(rig.checks.len(), 2, "the first round starts at once");
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(Checking));
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(IN_TIME));
    rig.pass(10_000);
    assert_eq!(rig.app().settle.as_ref().unwrap().ok_for_ms, 0, "as last published");
    rig.check_ends(Critical);
    assert_eq!(rig.settle(), Some(Checking));
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(Checking), "the other one is not OK");
}

#[test]
fn rounds_start_an_interval_apart_and_no_check_runs_twice_at_once() {
    let mut rig = Rig::connected(web());
    rig.assign(settling(1, 1, &["load", "disk"]));
    assert_eq!(rig.check_ends(Fine), check("disk"));
    rig.pass(9_999);
    assert_eq!(rig.checks.len(), 1);
    rig.pass(1);
    let names: Vec<CheckName> = rig.checks.iter().map(|(_, _, name)| name.clone()).collect();
    assert_eq!(names, [check("load"), check("disk")], "load still runs from the first round");
}

#[test]
fn no_checks_is_settled_at_once() {
    let mut rig = Rig::connected(web());
    rig.assign(settling(1, 1, &[]));
    assert_eq!(rig.settle(), Some(IN_TIME));
}

#[test]
fn a_check_that_is_not_configured_is_never_ok_and_said() {
    let mut rig = Rig::connected(web());
    rig.assign(settling(1, 1, &["load", "mail"]));
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(Checking));
    assert_eq!(rig.app().settle.as_ref().unwrap().results[&check("mail")].status, Unknown);
    assert_eq!(rig.refusal(), Some(&RefusalReason::NotConfigured { what: "check mail".into() }));
}

#[test]
fn after_the_timeout_it_goes_on_and_a_late_ok_counts() {
    let mut rig = begun();
    for _ in 0..9 {
        rig.check_ends(Critical);
        rig.pass(10_000);
    }
    assert_eq!(rig.settle(), Some(Checking));
    rig.pass(10_000);
    assert_eq!(rig.settle(), Some(TimedOut), "the time is up while a check hangs");
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(LATE));
    rig.pass(10_000);
    rig.check_ends(Critical);
    assert_eq!(rig.settle(), Some(TimedOut));
}

#[test]
fn time_counts_only_while_it_is_not_settled() {
    let mut rig = begun();
    rig.check_ends(Fine);
    for _ in 0..20 {
        rig.pass(10_000);
        rig.check_ends(Fine);
    }
    rig.pass(10_000);
    rig.check_ends(Critical);
    assert_eq!(rig.settle(), Some(Checking));
}

#[test]
fn the_time_that_has_counted_survives_restarts() {
    let mut rig = begun();
    for _ in 0..6 {
        rig.check_ends(Critical);
        rig.pass(10_000);
    }
    rig.restart();
    assert_eq!(rig.checks.len(), 1, "the same key begins again from the first check, offline too");
    rig.connect();
    assert_eq!(rig.settle(), Some(Checking));
    assert!(rig.app().settle.as_ref().unwrap().results.is_empty());
    for _ in 0..4 {
        rig.check_ends(Critical);
        rig.pass(10_000);
    }
    // At most 5 s of it may be forgotten.
    rig.check_ends(Critical);
    rig.pass(5_000);
    assert_eq!(rig.settle(), Some(TimedOut));
    assert_eq!(rig.app().settle.as_ref().unwrap().boot_started, rig.core.started());
}

#[test]
fn another_key_begins_anew() {
    let mut rig = begun();
    rig.check_ends(Fine);
    rig.assign(settling(2, 1, &["load"]));
    assert_eq!(rig.settle(), Some(IN_TIME), "the same key goes on");
    rig.pass(10_000);
    rig.assign(settling(3, 3, &["load"]));
    assert_eq!(rig.settle(), Some(Checking));
    assert_eq!(rig.app().settle.as_ref().unwrap().key, key(3));
    // The check that still runs was started under the old key: it proves nothing, and another run follows it.
    assert_eq!(rig.checks.len(), 1);
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(Checking));
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(IN_TIME));
}

#[test]
fn another_set_of_checks_begins_again() {
    let mut rig = begun();
    rig.check_ends(Fine);
    rig.assign(settling(2, 1, &["load", "disk"]));
    assert_eq!(rig.settle(), Some(Checking));
    rig.check_ends(Fine);
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(IN_TIME));
    let names = BTreeSet::from([check("load"), check("disk")]);
    assert_eq!(rig.app().settle.as_ref().unwrap().checks, names);
}

#[test]
fn without_settle_the_checks_stop_and_the_last_word_stays() {
    let mut rig = begun();
    rig.check_ends(Fine);
    rig.assign(Assignment { work: Some(work()), ..assignment(2) });
    rig.pass(60_000);
    assert!(rig.checks.is_empty());
    assert_eq!(rig.settle(), Some(IN_TIME));
}

/// A permit, and a settling beside it.
fn both(generation: u64, attempt: u32) -> Assignment {
    let mut assignment = permitted(generation, attempt);
    let work = assignment.work.as_mut().unwrap();
    work.checks = BTreeSet::from([check("load")]);
    work.settle = Some(key(9));
    assignment
}

#[test]
fn beside_a_permit_checks_begin_with_the_success_in_the_same_step() {
    let mut rig = out();
    rig.assign(both(2, 1));
    rig.pass(20_000);
    assert!(rig.checks.is_empty(), "not before");
    rig.slow_disk = true;
    rig.upgrade_ends(Ok(()));
    assert_eq!(rig.checks.len(), 1);
    assert_eq!(rig.settle(), Some(Checking));
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(IN_TIME));
}

#[test]
fn beside_a_permit_a_failed_attempt_begins_none() {
    let mut rig = out();
    rig.assign(both(2, 1));
    rig.upgrade_ends(Err(failure()));
    rig.pass(20_000);
    assert!(rig.checks.is_empty());
    assert_eq!(rig.settle(), None);
    rig.hear(Report { sequence: 2, ..lb_report(Order::Out, 3, 1) });
    rig.assign(both(3, 2));
    rig.upgrade_ends(Ok(()));
    assert_eq!(rig.checks.len(), 1);
}

#[test]
fn texts_of_checks_are_no_news_and_verdicts_are() {
    let mut rig = begun();
    rig.check_ends(Fine);
    let before = rig.reports.len();
    rig.pass(10_000);
    let (app, run, check) = rig.checks.pop_front().unwrap();
    let other = CheckResult { text: "load 0.2".into(), ..result(Fine) };
    rig.send(Event::CheckEnded { app, run, check, result: other });
    assert_eq!(rig.reports.len(), before);
    rig.pass(10_000);
    rig.check_ends(Critical);
    assert_eq!(rig.reports.len(), before + 1);
}

/// The node is at the revision that a newer assignment wants, while it is being brought another.
fn asked_beside_an_upgrade() -> Rig {
    let mut rig = out();
    rig.assign(permitted(2, 1));
    rig.assign(settling(3, 1, &["load"]));
    assert_eq!(rig.outcome(), Some(&AttemptOutcome::Running));
    rig
}

#[test]
fn no_check_runs_beside_an_upgrade() {
    let mut rig = asked_beside_an_upgrade();
    assert!(rig.checks.is_empty());
    rig.pass(100_000);
    assert_eq!(rig.settle(), None, "nor does its time count");
    rig.upgrade_ends(Err(failure()));
    assert_eq!(rig.settle(), Some(Checking));
    assert_eq!(rig.checks.len(), 1, "it starts with the end of the upgrade");
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(IN_TIME));
}

#[test]
fn a_check_from_before_an_upgrade_says_nothing_after_it() {
    let mut rig = out();
    let mut both = permitted(3, 1);
    let of_before = SettleKey { attempt: 0, ..key(1) };
    both.work.as_mut().unwrap().checks = std::collections::BTreeSet::from([check("load")]);
    both.work.as_mut().unwrap().settle = Some(of_before.clone());
    let mut asked = both.clone();
    asked.work.as_mut().unwrap().permit = None;
    asked.stamp = stamp(2);
    rig.assign(asked);
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(IN_TIME));
    rig.pass(10_000);
    assert_eq!(rig.checks.len(), 1, "the next round has begun");
    rig.assign(both);
    assert_eq!(rig.upgrades.len(), 1);
    assert_eq!(rig.settle(), None, "what was measured before is void");
    rig.upgrade_ends(Ok(()));
    assert_eq!(rig.settle(), Some(Checking));
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(Checking), "it was started before the upgrade");
    rig.check_ends(Fine);
    assert_eq!(rig.settle(), Some(IN_TIME));
}
