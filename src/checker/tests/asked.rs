//! What must not be asked, by what whoever asks has heard.

use super::bench::*;
use super::wrong;
use crate::checker::{By, Fact, Invariant};
use crate::model::*;

#[test]
fn silence_blocks() {
    wrong(Invariant::SilenceBlocks, "somebody is missing", "1 expected nodes are silent", || {
        let mut bench = Bench::new();
        bench.declare("2", |_| {});
        bench.present("web3", false);
        bench.order(&["web1"], Order::Out);
        bench
    });
    wrong(
        Invariant::SilenceBlocks,
        "somebody is missing when it is permitted",
        "are silent",
        || {
            let mut bench = out();
            bench.present("web3", false);
            bench.permit("web1", 1);
            bench
        },
    );
    wrong(Invariant::SilenceBlocks, "a load balancer is silent", "lb2 is silent", || {
        let mut bench = Bench::new();
        bench.declare("2", |_| {});
        bench.present("lb2", false);
        bench.order(&["web1"], Order::Out);
        bench
    });
    wrong(
        Invariant::SilenceBlocks,
        "a load balancer is not known",
        "load balancers are known",
        || {
            let mut bench = Bench::new();
            bench.declare("2", |settings| {
                settings.load_balancer.as_mut().unwrap().expect = Expect::Count(3);
            });
            bench.order(&["web1"], Order::Out);
            bench
        },
    );
    wrong(
        Invariant::SilenceBlocks,
        "a load balancer cannot read",
        "cannot read its backend",
        || {
            let mut bench = Bench::new();
            bench.declare("2", |_| {});
            bench.hear_as("lb1", |report| {
                let unknown = BackendSeen::Unknown("refused".to_owned());
                report.balancer.as_mut().unwrap().backends.insert(backend(), unknown);
            });
            bench.order(&["web1"], Order::Out);
            bench
        },
    );
    wrong(
        Invariant::SilenceBlocks,
        "an observation is older than the last change",
        "not yet done",
        || {
            let mut bench = Bench::new();
            bench.declare("2", |_| {});
            bench.order(&["web1"], Order::Out);
            for lb in LBS {
                bench.set(lb, "web1", 1, By::Us);
            }
            bench.hear("lb1");
            bench.permit("web1", 1);
            bench
        },
    );
    wrong(
        Invariant::SilenceBlocks,
        "who is permitted is not heard",
        "the node is not heard",
        || {
            let mut bench = Bench::new();
            bench.declare("2", |settings| settings.rollout.max_missing = 1);
            bench.take_out("web1");
            bench.present("web1", false);
            bench.permit("web1", 1);
            bench
        },
    );
}

#[test]
fn quiet_at_goal() {
    wrong(
        Invariant::QuietAtGoal,
        "something is asked at the goal",
        "every node was at its target",
        || {
            let mut bench = Bench::new();
            bench.order(&["web1"], Order::In);
            bench
        },
    );
}

#[test]
fn untouched_where_paused() {
    wrong(
        Invariant::UntouchedWherePaused,
        "a paused cluster is taken out",
        "its cluster is paused",
        || {
            let mut bench = Bench::new();
            bench.declare("2", |settings| settings.paused = true);
            bench.order(&["web1"], Order::Out);
            bench
        },
    );
    wrong(
        Invariant::UntouchedWherePaused,
        "a paused cluster is upgraded",
        "its cluster is paused",
        || {
            let mut bench = out();
            bench.declare("2", |settings| settings.paused = true);
            bench.permit("web1", 1);
            bench
        },
    );
    wrong(
        Invariant::UntouchedWherePaused,
        "a paused cluster is put back",
        "its cluster is paused",
        || {
            let mut bench = upgraded();
            bench.settles("web1", true);
            bench.declare("2", |settings| settings.paused = true);
            bench.order(&["web1"], Order::In);
            bench
        },
    );
    wrong(
        Invariant::UntouchedWherePaused,
        "a paused cluster settles",
        "its cluster is paused",
        || {
            let mut bench = out();
            bench.declare("2", |settings| settings.paused = true);
            let asked = bench.work("web1", None);
            bench.asks(vec![asked]);
            bench
        },
    );
    wrong(
        Invariant::UntouchedWherePaused,
        "a cluster that has gone is taken out",
        "file has gone",
        || {
            let mut bench = Bench::new();
            let settings = Box::new(settings("alfa", "2", 3));
            let (cluster, standing) = (cluster("alfa"), Standing::Vanished);
            bench.see(Fact::Desired { cluster, settings, standing });
            bench.order(&["web1"], Order::Out);
            bench
        },
    );
}

#[test]
fn tries_bounded() {
    wrong(
        Invariant::TriesBounded,
        "more attempts are permitted than allowed",
        "2 attempts",
        || {
            let mut bench = out();
            bench.permit("web1", 3);
            bench
        },
    );
    wrong(
        Invariant::TriesBounded,
        "more attempts are made than allowed",
        "it is the 3. one",
        || {
            let mut bench = out();
            bench.permit("web1", 1);
            bench.fails("web1", 1);
            bench.fails("web1", 2);
            bench.fails("web1", 1);
            bench
        },
    );
    wrong(Invariant::TriesBounded, "a held node is upgraded", "it is held", || {
        let mut bench = out();
        bench.declare("2", |settings| {
            settings.hold.insert(node("web1"));
        });
        bench.permit("web1", 1);
        bench
    });
    wrong(
        Invariant::TriesBounded,
        "another is tried when one has failed",
        "had failed on web1",
        || {
            let mut bench = out();
            bench.permit("web1", 1);
            bench.fails("web1", 1);
            bench.permit("web1", 2);
            bench.fails("web1", 2);
            bench.take_out("web2");
            bench.permit("web2", 1);
            bench
        },
    );
}

#[test]
fn after_gates_start() {
    wrong(Invariant::AfterGatesStart, "who waits begins", "alfa has not converged", || {
        let mut bench = Bench::new();
        bench.declare("2", |_| {});
        bench.take_out("web4");
        bench.permit("web4", 1);
        bench
    });
}
