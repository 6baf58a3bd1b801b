//! A good history breaks nothing; and each half of each rule is seen to break when just that is done wrong.
//!
//! That a fleet converges (`Converges`) is asked of states of rest, by those who can run on to one.

mod asked;
mod bench;

use bench::*;

use super::{Breach, By, Fact, Invariant};
use crate::model::*;

/// A rollout of all four, each by the rules.
#[test]
fn a_good_rollout_breaks_nothing() {
    let mut bench = Bench::new();
    bench.declare("2", |_| {});
    for name in ALL {
        bench.upgrade(name);
    }
    bench.tell("a.1", 1, Cause::Completed, NotifyOn::Completed);
    assert_eq!(bench.checker.end(), []);
}

/// What others take is not ours to answer for, nor what nobody could know.
#[test]
fn what_others_do_breaks_nothing() {
    let mut bench = out();
    bench.falls("web2");
    bench.set("lb1", "web3", 1, By::Hand);
    for lb in LBS {
        bench.hear(lb);
    }
    bench.permit("web1", 1);
    // Its state file cannot be written just now.
    bench.hear_as("lb1", |report| report.balancer.as_mut().unwrap().state_file = false);
    bench.set("lb1", "web1", 0, By::Reload);
    bench.starts("web1", 1);
    bench.set("lb1", "web1", 1, By::Us);
    assert_eq!(bench.checker.end(), []);
    assert!(bench.checker.is_ours(&node("lb1"), &backend(), &server("web1")));
    assert!(!bench.checker.is_ours(&node("lb1"), &backend(), &server("web3")));
}

/// This history breaks `rule`, and what it contradicts is said.
fn wrong(rule: Invariant, what: &str, contradicts: &str, history: impl FnOnce() -> Bench) {
    let found = history().checker.end();
    let is_it = |breach: &Breach| {
        breach.invariant == rule
            && format!("{}; but {}", breach.happened, breach.forbidden_by).contains(contradicts)
    };
    assert!(found.iter().any(is_it), "{what}: {found:#?}");
}

#[test]
fn upgraded_only_while_out() {
    wrong(
        Invariant::UpgradedOnlyWhileOut,
        "it is in at one load balancer",
        "lb2 has it with the bits 0",
        || {
            let mut bench = Bench::new();
            bench.declare("2", |_| {});
            bench.order(&["web1"], Order::Out);
            bench.set("lb1", "web1", 1, By::Us);
            // The other one says so, too, and it is not true.
            bench.hear("lb1");
            bench.hear_as("lb2", |report| {
                let Some(balancer) = &mut report.balancer else { return };
                let Some(BackendSeen::Servers(servers)) = balancer.backends.get_mut(&backend())
                else {
                    return;
                };
                servers.get_mut(&server("web1")).unwrap().seen.admin = AdminBits(1);
            });
            bench.permit("web1", 1);
            bench.starts("web1", 1);
            bench
        },
    );
    wrong(
        Invariant::UpgradedOnlyWhileOut,
        "it is not asked out any more",
        "not asked out at lb1",
        || {
            let mut bench = out();
            bench.permit("web1", 1);
            bench.order(&["web1"], Order::In);
            bench.starts("web1", 1);
            bench
        },
    );
    wrong(
        Invariant::UpgradedOnlyWhileOut,
        "it is put back in mid-upgrade",
        "an upgrade was running",
        || {
            let mut bench = out();
            bench.permit("web1", 1);
            bench.starts("web1", 1);
            bench.set("lb1", "web1", 0, By::Us);
            bench
        },
    );
    wrong(
        Invariant::UpgradedOnlyWhileOut,
        "a reload brings it in, though it was said to be kept",
        "lb1 has it with the bits 0",
        || {
            let mut bench = out();
            bench.permit("web1", 1);
            bench.set("lb1", "web1", 0, By::Reload);
            bench.starts("web1", 1);
            bench
        },
    );
}

#[test]
fn put_back_only_settled() {
    wrong(Invariant::PutBackOnlySettled, "its check was never OK", "has not been OK", || {
        let mut bench = upgraded();
        bench.settles("web1", false);
        bench.order(&["web1"], Order::In);
        bench
    });
    wrong(
        Invariant::PutBackOnlySettled,
        "its check began before the upgrade",
        "has not been OK",
        || {
            let mut bench = out();
            bench.see(Fact::CheckStarted { node: node("web1"), check: check() });
            bench.permit("web1", 1);
            bench.starts("web1", 1);
            bench.ends("web1", 1, AttemptOutcome::Succeeded);
            bench.see(Fact::CheckEnded { node: node("web1"), check: check(), ok: true });
            bench.says_settled("web1", SettleState::Settled { late: false });
            bench.order(&["web1"], Order::In);
            bench
        },
    );
    wrong(
        Invariant::PutBackOnlySettled,
        "its agent does not call it settled",
        "it is not settled",
        || {
            let mut bench = upgraded();
            bench.settles("web1", true);
            bench.says_settled("web1", SettleState::Checking);
            bench.order(&["web1"], Order::In);
            bench
        },
    );
    wrong(Invariant::PutBackOnlySettled, "it runs what nobody wants", "it runs 9", || {
        let mut bench = upgraded();
        bench.runs("web1", "9", By::Hand);
        bench.states.get_mut(&node("web1")).unwrap().revision =
            RevisionSeen::Running(revision("9"));
        bench.settles("web1", true);
        bench.order(&["web1"], Order::In);
        bench
    });
    wrong(
        Invariant::PutBackOnlySettled,
        "we have brought it to another than it says",
        "it runs 3",
        || {
            let mut bench = upgraded();
            bench.runs("web1", "3", By::Us);
            bench.settles("web1", true);
            bench.order(&["web1"], Order::In);
            bench
        },
    );
    wrong(
        Invariant::PutBackOnlySettled,
        "its revision cannot be read",
        "revision is not known",
        || {
            let mut bench = upgraded();
            bench.states.get_mut(&node("web1")).unwrap().revision =
                RevisionSeen::Unknown("down".into());
            bench.settles("web1", true);
            bench.order(&["web1"], Order::In);
            bench
        },
    );
    wrong(Invariant::PutBackOnlySettled, "it is put back unheard", "the node is not heard", || {
        let mut bench = upgraded();
        bench.settles("web1", true);
        bench.present("web1", false);
        bench.order(&["web1"], Order::In);
        bench
    });
    wrong(
        Invariant::PutBackOnlySettled,
        "an attempt may start on it",
        "an attempt may be under way",
        || {
            let mut bench = upgraded();
            bench.settles("web1", true);
            bench.permit("web1", 2);
            bench.order(&["web1"], Order::In);
            bench
        },
    );
}

#[test]
fn batch_kept() {
    wrong(Invariant::BatchKept, "two are permitted at once", "the batch is 1", || {
        let mut bench = out();
        bench.take_out("web2");
        let asked = ["web1", "web2"].map(|name| bench.work(name, Some(1)));
        bench.asks(asked.into());
        bench
    });
    wrong(Invariant::BatchKept, "another one may be upgrading", "1 may be upgrading", || {
        let mut bench = out();
        bench.take_out("web2");
        bench.permit("web1", 1);
        bench.permit("web2", 1);
        bench
    });
    wrong(
        Invariant::BatchKept,
        "one that is not heard may be upgrading",
        "1 may be upgrading",
        || {
            let mut bench = Bench::new();
            bench.declare("2", |settings| settings.rollout.max_missing = 1);
            bench.take_out("web1");
            bench.take_out("web2");
            bench.permit("web1", 1);
            bench.present("web1", false);
            bench.permit("web2", 1);
            bench
        },
    );
    wrong(Invariant::BatchKept, "two upgrade, though one was permitted", "2 are running", || {
        let mut bench = out();
        bench.take_out("web2");
        bench.permit("web1", 1);
        bench.starts("web1", 1);
        bench.starts("web2", 1);
        bench
    });
    wrong(Invariant::BatchKept, "one node has two upgrades", "was running", || {
        let mut bench = out();
        bench.permit("web1", 1);
        bench.starts("web1", 1);
        bench.starts("web1", 2);
        bench
    });
}

#[test]
fn floor_kept() {
    wrong(
        Invariant::FloorKept,
        "more are asked out than the floor allows",
        "the floor is 2",
        || {
            let mut bench = Bench::new();
            bench.declare("2", |_| {});
            bench.order(&["web1", "web2", "web3"], Order::Out);
            bench
        },
    );
    wrong(
        Invariant::FloorKept,
        "what is asked back in is counted before it is",
        "the floor is 2",
        || {
            let mut bench = out();
            bench.take_out("web2");
            bench.order(&["web3"], Order::Out);
            bench
        },
    );
    wrong(
        Invariant::FloorKept,
        "more are taken out than the floor allows",
        "was taken out",
        || {
            let mut bench = Bench::new();
            bench.declare("2", |_| {});
            bench.order(&["web1", "web2", "web3"], Order::Out);
            for name in ["web1", "web2", "web3"] {
                bench.set("lb1", name, 1, By::Us);
            }
            bench
        },
    );
}

#[test]
fn foreign_kept() {
    wrong(
        Invariant::ForeignKept,
        "somebody's maintenance is lifted",
        "we had not taken it out",
        || {
            let mut bench = Bench::new();
            bench.set("lb1", "web2", 1, By::Hand);
            bench.set("lb1", "web2", 0, By::Us);
            bench
        },
    );
    wrong(
        Invariant::ForeignKept,
        "theirs from before ours is lifted with it",
        "its bits before that were 8",
        || {
            let mut bench = Bench::new();
            bench.set("lb1", "web1", 8, By::Hand);
            bench.set("lb1", "web1", 1, By::Us);
            bench.set("lb1", "web1", 0, By::Us);
            bench
        },
    );
    wrong(
        Invariant::ForeignKept,
        "theirs that came over ours is lifted",
        "its bits before that were 8",
        || {
            let mut bench = out();
            bench.set("lb1", "web1", 8, By::Hand);
            bench.set("lb1", "web1", 1, By::Us);
            bench.bring_in("web1");
            bench
        },
    );
}

#[test]
fn told_once() {
    wrong(Invariant::ToldOnce, "a message comes twice", "its receipt was not lost", || {
        let mut bench = Bench::new();
        bench.tell("a.1", 1, Cause::Completed, NotifyOn::Completed);
        bench.tell("a.1", 1, Cause::Completed, NotifyOn::Completed);
        bench
    });
    wrong(Invariant::ToldOnce, "a cause is told again", "message a.1 had told it", || {
        let mut bench = Bench::new();
        bench.tell("a.1", 1, Cause::Failed, NotifyOn::Failed);
        bench.tell("a.2", 2, Cause::Failed, NotifyOn::Failed);
        bench
    });
    wrong(Invariant::ToldOnce, "an end is told without its beginning", "nobody was told", || {
        let mut bench = Bench::new();
        bench.tell("a.1", 1, Cause::Unreachable, NotifyOn::Recovered);
        bench
    });
    wrong(Invariant::ToldOnce, "an end is told again", "had told it already", || {
        let mut bench = Bench::new();
        bench.tell("a.1", 1, Cause::Unreachable, NotifyOn::Failed);
        bench.tell("a.2", 2, Cause::Unreachable, NotifyOn::Recovered);
        bench.tell("a.3", 3, Cause::Unreachable, NotifyOn::Recovered);
        bench
    });
}

#[test]
fn nobody_is_told_of_what_has_never_been_so() {
    for (cause, forbidden_by) in [
        (Cause::Failed, "nothing has ever failed"),
        (Cause::ForeignMaintenance, "nobody else has ever taken one out"),
        (Cause::DesiredInvalid, "the files have never had a fault"),
        (Cause::DesiredVanished, "the files have never gone"),
    ] {
        wrong(Invariant::QuietAtGoal, "a person is told", forbidden_by, || {
            let mut bench = Bench::new();
            bench.tell("a.1", 1, cause, NotifyOn::Failed);
            bench
        });
    }
    let mut bench = out();
    bench.permit("web1", 1);
    bench.starts("web1", 1);
    bench.ends(
        "web1",
        1,
        AttemptOutcome::Failed { why: AttemptFailure::Exit(1), tail: String::new() },
    );
    bench.tell("a.1", 1, Cause::Failed, NotifyOn::Failed);
    bench.set("lb1", "web2", 1, By::Hand);
    bench.tell("a.2", 2, Cause::ForeignMaintenance, NotifyOn::Failed);
    assert_eq!(bench.checker.breaches(), []);
}
