//! Permits and attempts.

use std::collections::{BTreeMap, BTreeSet};

use super::rig::*;
use crate::agent::core::Event;
use crate::agent::core::*;
use crate::model::*;
use crate::plan::ports::UpgradeError;

/// The load balancer's assignment that takes the node out.
const OUT_AT: u64 = 3;

pub fn work() -> NodeWork {
    NodeWork {
        cluster: ClusterName::new("alfa").unwrap(),
        target: revision("2"),
        load_balancers: BTreeSet::from([lb()]),
        checks: BTreeSet::new(),
        check_interval_ms: 10_000,
        settle_timeout_ms: 100_000,
        upgrade_timeout_ms: 600_000,
        settle: None,
        permit: None,
    }
}

pub fn permit(attempt: u32) -> Permit {
    let out = OutProof { lb: lb(), backend: backend(), server: server("s1"), at: stamp(OUT_AT) };
    Permit {
        rollout: rollout(),
        revision: revision("2"),
        retry: String::new(),
        attempt,
        out: vec![out],
    }
}

pub fn permitted(generation: u64, attempt: u32) -> Assignment {
    let work = NodeWork { permit: Some(permit(attempt)), ..work() };
    Assignment { work: Some(work), ..assignment(generation) }
}

pub fn unpermitted(generation: u64) -> Assignment {
    Assignment { work: Some(work()), ..assignment(generation) }
}

/// The load balancer's report: what it obeys, what of it is done, and the server's bits.
pub fn lb_report(order: Order, done: u64, admin: u8) -> Report {
    let balance = BalancerWork { drain_ms: 0, servers: BTreeMap::from([(server("s1"), order)]) };
    let obeyed = Obeyed {
        assignment: Assignment {
            node: lb(),
            balance: BTreeMap::from([(backend(), balance)]),
            ..assignment(done)
        },
        done: Some(stamp(done)),
        refusal: None,
    };
    let server = ServerReport { seen: seen(admin), owned: None, steady_for_ms: 0 };
    let servers = BTreeMap::from([(super::rig::server("s1"), server)]);
    let backends = BTreeMap::from([(backend(), BackendSeen::Servers(servers))]);
    Report {
        balancer: Some(BalancerReport { state_file: false, backends }),
        assignments: BTreeMap::from([(app(), obeyed)]),
        ..Report::first(lb(), Boot { started: 1, connection: 1 })
    }
}

/// A node that follows its load balancer and has heard it say that the node is out.
pub fn out() -> Rig {
    let mut rig = Rig::connected(web());
    rig.assign(unpermitted(1));
    rig.hear(lb_report(Order::Out, OUT_AT, 1));
    rig
}

pub fn failure() -> UpgradeError {
    UpgradeError { why: AttemptFailure::Exit(1), tail: "no".into() }
}

#[test]
fn a_permit_leads_to_one_attempt_with_its_record_in_the_same_write() {
    let mut rig = out();
    let before = rig.writes_seen;
    rig.slow_disk = true;
    rig.assign(permitted(2, 1));
    rig.send(Event::Tick);
    assert!(rig.upgrades.is_empty(), "it does not start before its record is on disk");
    assert_eq!(rig.outcome(), None, "nor is it reported");
    rig.write();
    assert_eq!(rig.upgrades, [(app(), revision("2"))]);
    assert_eq!(rig.outcome(), Some(&AttemptOutcome::Running));
    assert_eq!(rig.obeyed().assignment, permitted(2, 1));
    assert_eq!(rig.obeyed().done, Some(stamp(1)));
    assert_eq!(rig.writes_seen - before, 1);
    rig.pass_unseen(1_234);
    rig.upgrade_ends(Ok(()));
    assert_eq!(rig.outcome(), Some(&AttemptOutcome::Succeeded), "without waiting for the disk");
    assert_eq!(rig.app().attempt.as_ref().unwrap().took_ms, 1_234);
    assert_eq!(rig.app().revision, RevisionSeen::Running(revision("2")));
    assert_eq!(rig.obeyed().done, Some(stamp(2)));
    rig.write();
    assert_eq!(rig.disk.as_ref().unwrap().attempts[&app()].outcome, AttemptOutcome::Succeeded);
    rig.assign(permitted(2, 1));
    rig.assign(permitted(3, 1));
    rig.write();
    assert_eq!(rig.upgrades.len(), 1);
    assert_eq!(rig.obeyed().done, Some(stamp(3)));
}

#[test]
fn a_permit_needs_every_proof() {
    let not_heard = RefusalReason::BalancerNotHeard { lb: lb() };
    let not_out = RefusalReason::NotOut { lb: lb(), server: server("s1") };
    let event = |report: Report, retained: bool| {
        let document = Document::Report(Box::new(report));
        Event::Received { document, retained }
    };
    let out = || lb_report(Order::Out, OUT_AT, 1);
    let nobody = Report { assignments: BTreeMap::new(), ..out() };
    let blind = Report { balancer: None, ..out() };
    for (name, heard, refusal) in [
        ("nothing heard", None, Some(&not_heard)),
        ("retained", Some(event(out(), true)), Some(&not_heard)),
        ("ordered in", Some(event(lb_report(Order::In, OUT_AT, 1), false)), Some(&not_out)),
        ("not done yet", Some(event(lb_report(Order::Out, OUT_AT - 1, 1), false)), Some(&not_out)),
        ("seen ready", Some(event(lb_report(Order::Out, OUT_AT, 0), false)), Some(&not_out)),
        ("drained only", Some(event(lb_report(Order::Out, OUT_AT, 8), false)), Some(&not_out)),
        ("obeys nobody", Some(event(nobody, false)), Some(&not_out)),
        ("sees nothing", Some(event(blind, false)), Some(&not_out)),
        ("out", Some(event(out(), false)), None),
        ("out since later", Some(event(lb_report(Order::Out, OUT_AT + 9, 1), false)), None),
    ] {
        let mut rig = Rig::connected(web());
        rig.assign(unpermitted(1));
        if let Some(event) = heard {
            rig.send(event);
        }
        rig.assign(permitted(2, 1));
        assert_eq!(rig.refusal(), refusal, "{name}");
        assert_eq!(rig.upgrades.len(), usize::from(refusal.is_none()), "{name}");
        // It looks again at every new report.
        rig.hear(Report { sequence: 2, ..out() });
        assert_eq!(rig.upgrades.len(), 1, "{name}");
        assert_eq!(rig.refusal(), None, "{name}");
    }
}

#[test]
fn what_was_heard_too_long_ago_or_before_a_reconnect_proves_nothing() {
    let mut rig = out();
    rig.pass(90_001);
    rig.assign(permitted(2, 1));
    assert_eq!(rig.refusal(), Some(&RefusalReason::BalancerNotHeard { lb: lb() }));

    let mut rig = out();
    rig.send(Event::Disconnected);
    rig.connect();
    assert!(rig.interests.contains(&Interest::ReportOf(lb())), "it subscribes again");
    rig.assign(permitted(2, 1));
    assert_eq!(rig.refusal(), Some(&RefusalReason::BalancerNotHeard { lb: lb() }));
    assert!(rig.upgrades.is_empty());
}

#[test]
fn the_word_of_an_older_life_of_a_load_balancer_is_not_heard() {
    let mut rig = Rig::connected(web());
    rig.assign(unpermitted(1));
    let boot = Boot { started: 9, connection: 1 };
    rig.hear(Report { boot, ..lb_report(Order::Out, OUT_AT, 0) });
    rig.hear(lb_report(Order::Out, OUT_AT, 1));
    rig.assign(permitted(2, 1));
    assert!(matches!(rig.refusal(), Some(RefusalReason::NotOut { .. })));
}

#[test]
fn a_permit_is_checked_once_more_when_its_record_is_on_disk() {
    for (name, event) in [
        ("put back", {
            let report = Report { sequence: 2, ..lb_report(Order::In, OUT_AT + 1, 0) };
            Event::Received { document: Document::Report(Box::new(report)), retained: false }
        }),
        ("disconnected", Event::Disconnected),
        ("withdrawn", {
            let document = Document::Assignment(Box::new(unpermitted(3)), None);
            Event::Received { document, retained: false }
        }),
        ("stopping", Event::Stop),
    ] {
        let mut rig = out();
        rig.slow_disk = true;
        rig.assign(permitted(2, 1));
        rig.send(event);
        while rig.is_writing() {
            rig.write();
        }
        assert!(rig.upgrades.is_empty(), "{name}");
        assert_eq!(rig.outcome(), None, "{name}");
        assert!(rig.disk.as_ref().unwrap().attempts.is_empty(), "{name}: the record is taken back");
    }
}

#[test]
fn a_record_that_the_disk_refuses_starts_nothing() {
    let mut rig = out();
    rig.disk_error = Some("read-only");
    rig.assign(permitted(2, 1));
    assert!(rig.upgrades.is_empty());
    assert_eq!(rig.refusal(), Some(&RefusalReason::Disk { error: "read-only".into() }));
    rig.disk_error = None;
    rig.pass(1_000);
    assert_eq!(rig.upgrades.len(), 1);
    assert_eq!(rig.refusal(), None);
}

#[test]
fn a_withdrawn_permit_starts_nothing() {
    let mut rig = Rig::connected(web());
    rig.assign(permitted(2, 1));
    rig.assign(unpermitted(3));
    rig.hear(lb_report(Order::Out, OUT_AT, 1));
    assert!(rig.upgrades.is_empty());
    assert_eq!(rig.refusal(), None);
    assert_eq!(rig.obeyed().done, Some(stamp(3)));
}

#[test]
fn a_running_upgrade_is_not_superseded() {
    let mut rig = out();
    rig.assign(permitted(2, 1));
    rig.assign(unpermitted(3));
    assert_eq!(rig.outcome(), Some(&AttemptOutcome::Running));
    assert_eq!(rig.obeyed().assignment, unpermitted(3));
    let mut other = permitted(4, 1);
    other.work.as_mut().unwrap().permit.as_mut().unwrap().revision = revision("3");
    rig.assign(other);
    assert_eq!(rig.refusal(), Some(&RefusalReason::UpgradeRunning));
    rig.upgrade_ends(Err(failure()));
    assert_eq!(rig.upgrades, [(app(), revision("2")), (app(), revision("3"))]);
}

#[test]
fn attempts_are_counted_by_their_numbers() {
    let mut rig = out();
    // The attempts that are permitted, and how many have started after each.
    for (step, (attempt, started)) in [(2, 1), (1, 1), (2, 1), (3, 2), (2, 2)].iter().enumerate() {
        rig.assign(permitted(2 + step as u64, *attempt));
        assert_eq!(rig.upgrades.len(), *started, "step {step}");
        if *rig.outcome().unwrap() == AttemptOutcome::Running {
            rig.upgrade_ends(Err(failure()));
        }
        assert_eq!(rig.refusal(), None, "step {step}");
    }
    let mut retried = permitted(20, 1);
    retried.work.as_mut().unwrap().permit.as_mut().unwrap().retry = "disk was full".into();
    rig.assign(retried);
    assert_eq!(rig.upgrades.len(), 3, "another retry counts anew");
}

#[test]
fn an_interrupted_attempt_failed_and_is_not_run_again() {
    let mut rig = out();
    rig.assign(permitted(2, 1));
    rig.restart();
    rig.connect();
    rig.hear(lb_report(Order::Out, OUT_AT, 1));
    rig.assign(permitted(2, 1));
    let failed = AttemptOutcome::Failed { why: AttemptFailure::Interrupted, tail: String::new() };
    assert_eq!(rig.outcome(), Some(&failed));
    assert!(rig.upgrades.is_empty());
    rig.restart();
    rig.connect();
    assert_eq!(rig.outcome(), Some(&failed));
    rig.hear(lb_report(Order::Out, OUT_AT, 1));
    rig.assign(permitted(3, 2));
    assert_eq!(rig.upgrades.len(), 1);
}

#[test]
fn the_command_of_an_earlier_life_is_a_running_upgrade() {
    let blog = AppName::new("blog").unwrap();
    let mut rig = Rig::connected(Setup { apps: BTreeSet::from([app(), blog.clone()]), ..web() });
    rig.assign(unpermitted(1));
    rig.hear(lb_report(Order::Out, OUT_AT, 1));
    rig.assign(permitted(2, 1));
    rig.orphan = true;
    rig.restart();
    rig.connect();
    rig.hear(lb_report(Order::Out, OUT_AT, 1));
    assert_eq!(rig.outcome(), Some(&AttemptOutcome::Running), "it counts as upgrading");
    let mut next = permitted(3, 2);
    let work = next.work.as_mut().unwrap();
    work.checks = BTreeSet::from([check("load")]);
    let key = SettleKey { rollout: rollout(), retry: String::new(), attempt: 0, asked: 1 };
    work.settle = Some(key);
    rig.assign(next.clone());
    rig.assign(Assignment { app: blog.clone(), ..next.clone() });
    rig.pass(60_000);
    assert!(rig.upgrades.is_empty(), "no other attempt starts beside it");
    assert_eq!(rig.refusal(), Some(&RefusalReason::UpgradeRunning));
    let refusal = &rig.report().assignments[&blog].refusal;
    assert_eq!(refusal.as_ref().unwrap().reason, RefusalReason::UpgradeRunning);
    // The permit is withdrawn: even then nothing is measured.
    next.work.as_mut().unwrap().permit = None;
    rig.assign(Assignment { stamp: stamp(4), ..next.clone() });
    rig.pass(60_000);
    assert!(rig.checks.is_empty());
    assert_eq!(rig.settle(), None);
    rig.revision = RevisionSeen::Running(revision("2"));
    rig.orphan_ends();
    let failed = AttemptOutcome::Failed { why: AttemptFailure::Interrupted, tail: String::new() };
    assert_eq!(rig.outcome(), Some(&failed));
    assert_eq!(rig.app().revision, RevisionSeen::Running(revision("2")));
    assert_eq!(rig.checks.len(), 1, "what is measured now is of after it");
    rig.hear(lb_report(Order::Out, OUT_AT, 1));
    rig.assign(permitted(5, 2));
    assert_eq!(rig.upgrades.len(), 1);
}

#[test]
fn a_permit_on_disk_waits_for_the_retained_documents() {
    let mut rig = Rig::connected(web());
    rig.assign(permitted(2, 1));
    let mut report = rig.report().clone();
    rig.restart();
    // The attempt was made by a life that this disk, put back to an earlier state, knows nothing of.
    report.boot.started += 1;
    let attempt = Attempt {
        rollout: rollout(),
        revision: revision("2"),
        retry: String::new(),
        attempt: 1,
        outcome: AttemptOutcome::Running,
        started: Wall(0),
        took_ms: 0,
    };
    report.apps.get_mut(&app()).unwrap().attempt = Some(attempt);
    rig.connect_with(vec![Document::Report(Box::new(report))]);
    rig.hear(lb_report(Order::Out, OUT_AT, 1));
    assert!(rig.upgrades.is_empty());
    let failed = AttemptOutcome::Failed { why: AttemptFailure::Interrupted, tail: String::new() };
    assert_eq!(rig.outcome(), Some(&failed));
}

#[test]
fn the_revision_is_read_at_the_start_after_a_failure_and_now_and_then() {
    let mut rig = out();
    assert_eq!(rig.app().revision, RevisionSeen::Running(revision("1")));
    rig.revision = RevisionSeen::Running(revision("7"));
    rig.pass(10_000);
    assert_eq!(rig.app().revision, RevisionSeen::Running(revision("7")), "drift is seen");
    rig.assign(permitted(2, 1));
    rig.revision = RevisionSeen::Unknown("down".into());
    rig.pass(30_000);
    assert_eq!(
        rig.app().revision,
        RevisionSeen::Running(revision("7")),
        "nobody asks the service while it is being replaced"
    );
    rig.upgrade_ends(Err(failure()));
    assert_eq!(rig.app().revision, RevisionSeen::Unknown("down".into()));
    rig.assign(permitted(3, 2));
    let lied = AttemptFailure::Lied(RevisionSeen::Running(revision("1")));
    rig.revision = RevisionSeen::Running(revision("1"));
    rig.upgrade_ends(Err(UpgradeError { why: lied.clone(), tail: String::new() }));
    assert_eq!(rig.outcome(), Some(&AttemptOutcome::Failed { why: lied, tail: String::new() }));
    assert_eq!(rig.app().revision, RevisionSeen::Running(revision("1")));
}

/// A command that fails half-way may have brought the new revision, or none.
#[test]
fn what_a_failed_attempt_has_left_is_not_known_before_it_is_read() {
    let mut rig = out();
    rig.assign(permitted(2, 1));
    let before = rig.reports.len();
    rig.upgrade_ends(Err(failure()));
    let states = rig.reports[before..].iter().map(|report| &report.apps[&app()]);
    let failed = states.filter(|state| {
        let attempt = state.attempt.as_ref().unwrap();
        matches!(attempt.outcome, AttemptOutcome::Failed { .. })
    });
    let seen: Vec<bool> = failed.map(|state| state.revision.known().is_some()).collect();
    assert_eq!(seen, [false, true], "it is told that it failed, and then what runs");
}

#[test]
fn a_node_runs_one_upgrade_at_a_time() {
    let blog = AppName::new("blog").unwrap();
    let apps = BTreeSet::from([app(), blog.clone()]);
    let mut rig = Rig::connected(Setup { apps, ..web() });
    let unproven = |mut assignment: Assignment| {
        assignment.work.as_mut().unwrap().permit.as_mut().unwrap().out.clear();
        assignment
    };
    rig.slow_disk = true;
    rig.assign(unproven(permitted(1, 1)));
    rig.assign(Assignment { app: blog.clone(), ..unproven(permitted(1, 1)) });
    while rig.is_writing() {
        rig.write();
    }
    assert_eq!(rig.upgrades.len(), 1);
    let refusal = &rig.report().assignments[&blog].refusal;
    assert_eq!(refusal.as_ref().unwrap().reason, RefusalReason::UpgradeRunning);
    rig.upgrade_ends(Ok(()));
    while rig.is_writing() {
        rig.write();
    }
    assert_eq!(rig.upgrades.last(), Some(&(blog, revision("2"))));
}
