//! Rollouts, as they should go.

use std::collections::BTreeSet;

use crate::scene::{Broker, Plot};

on_both_brokers! {
    fn converge_from_nothing(broker) {
        let scene = Plot { installed: None, ..Plot::new(broker) }.start();
        scene.converged("alfa", "1");
        scene.converged("bravo", "1");
        for node in 1..=9 {
            let name = format!("web{node}");
            assert_eq!(scene.running(&name), "1", "{name}");
            assert_eq!(scene.admin("lb1", &name), 0, "{name}");
        }
        scene.told(&["shop/alfa is at 1", "shop/bravo is at 1"]);
    }

    fn bump_one_cluster(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.converged("bravo", "1");
        scene.begin_load();
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.converged("alfa", "2");
        scene.end_load();
        for node in 1..=9 {
            let name = format!("web{node}");
            assert_eq!(scene.running(&name), if node <= 5 { "2" } else { "1" }, "{name}");
            assert_eq!(scene.admin("lb1", &name), 0, "{name}");
            assert_eq!(scene.attempts(&name).len(), usize::from(node <= 5), "{name}");
        }
        scene.told(&["shop/alfa is at 2"]);
    }

    fn bump_both_one_after_the_other(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("bravo", "1");
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.touch("web5", "gate");
        // bravo's file first: without `after` it would begin at once.
        scene.write_cluster("bravo", "revision = \"2\"\nafter = [\"alfa\"]");
        scene.says("web6", "cluster alfa to converge on 2");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.says("web5", "the upgrade to 2");
        for node in 6..=9 {
            assert!(scene.attempts(&format!("web{node}")).is_empty(), "web{node} did not wait");
        }
        scene.remove("web5", "gate");
        scene.converged("alfa", "2");
        scene.converged("bravo", "2");
        scene.end_load();
        assert!(scene.seen_out.contains("web5"), "{:?}", scene.seen_out);
        scene.told(&["shop/alfa is at 2", "shop/bravo is at 2"]);
    }

    fn a_drifted_node_alone_is_repaired(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.converged("bravo", "1");
        scene.begin_load();
        scene.drift("web3", "0.9");
        scene.wait_for("web3 is repaired", |scene| scene.running("web3") == "1");
        scene.converged("alfa", "1");
        scene.end_load();
        for node in 1..=9 {
            let name = format!("web{node}");
            assert_eq!(scene.attempts(&name).len(), usize::from(node == 3), "{name}");
            assert_eq!(scene.was_out(&name), node == 3, "{name}");
        }
        scene.told(&[]);
    }

    fn a_node_joins_late(broker) {
        let mut scene = Plot { absent: vec!["web4"], ..Plot::new(broker) }.start();
        scene.converged("bravo", "1");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.says("web1", "1 expected nodes are not there");
        assert!(scene.attempts("web1").is_empty());
        scene.start_agent("web4");
        scene.converged("alfa", "2");
        assert_eq!(scene.running("web4"), "2");
    }

    fn one_cluster_of_nine_goes_in_waves(broker) {
        let plot = Plot { clusters: vec![("alfa", 9)], ..Plot::new(broker) };
        let mut scene = Plot { app: vec![("load_balancer", "min_ready = 4")], ..plot }.start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.touch("web5", "gate");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.says("web5", "the upgrade to 2");
        let out = |name: &String| scene.admin("lb1", name) != 0;
        let first: BTreeSet<String> = (1..=9).map(|n| format!("web{n}")).filter(out).collect();
        assert_eq!(first.len(), 5, "{first:?}");
        scene.says("web9", "its floor is 4");
        scene.remove("web5", "gate");
        scene.converged("alfa", "2");
        scene.end_load();
        scene.told(&["shop/alfa is at 2"]);
    }

    fn in_batches_one_by_one(broker) {
        let plot = Plot { app: vec![("rollout", "take_out = \"batch\"")], ..Plot::new(broker) };
        let mut scene = plot.start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.touch("web2", "gate");
        scene.write_cluster("alfa", "revision = \"2\"");
        // web2 is stuck in the middle of its upgrade, the others pass it by, one after the other.
        scene.wait_for("the others are done", |scene| {
            ["web1", "web3", "web4", "web5"].iter().all(|n| scene.running(n) == "2" && scene.admin("lb1", n) == 0)
        });
        assert_eq!(scene.admin("lb1", "web2"), 1);
        scene.remove("web2", "gate");
        scene.converged("alfa", "2");
        scene.end_load();
    }

    /// Nothing more is asked of anybody, whoever restarts, while actual equals goal.
    fn a_converged_fleet_is_left_alone(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.converged("bravo", "1");
        scene.kill_controller();
        scene.start_controller();
        scene.converged("alfa", "1");
        scene.converged("bravo", "1");
        let (_, metrics) = scene.get("/metrics").expect("metrics");
        assert!(metrics.contains("evenkeel_assignments_total 0"), "{metrics}");
        scene.told(&[]);
    }
}
