//! Load balancers: more than one, silent ones, reloads, and other people's hands.

use std::collections::BTreeMap;

use crate::scene::{Broker, Plot};

on_both_brokers! {
    fn two_load_balancers(broker) {
        let mut scene = Plot { lbs: 2, ..Plot::new(broker) }.start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.begin();
        assert_eq!((scene.admin("lb1", "web2"), scene.admin("lb2", "web2")), (1, 1));
        scene.remove("web2", "gate");
        scene.converged("alfa", "2");
        scene.end_load();
    }

    fn one_of_two_load_balancers_is_silent(broker) {
        let mut scene = Plot { lbs: 2, ..Plot::new(broker) }.start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.agent("lb2").kill();
        scene.wait_for("its will is seen", |scene| scene.presence("lb2") == "departed");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.says("web1", "1 of 2 load balancers are heard; missing: lb2");
        for node in 1..=9 {
            assert!(!scene.was_out(&format!("web{node}")), "web{node}");
        }
        scene.start_agent("lb2");
        scene.converged("alfa", "2");
        scene.end_load();
    }

    fn a_load_balancer_falls_silent_in_the_middle(broker) {
        let mut scene = Plot { lbs: 2, ..Plot::new(broker) }.start();
        scene.converged("alfa", "1");
        scene.touch("web1", "gate");
        scene.touch("web2", "gate");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.says("web1", "the upgrade to 2");
        scene.says("web2", "the upgrade to 2");
        scene.agent("lb2").kill();
        scene.wait_for("its will is seen", |scene| scene.presence("lb2") == "departed");
        scene.remove("web1", "gate");
        scene.remove("web2", "gate");
        scene.says("web3", "missing: lb2");
        scene.wait_for("the running ones end", |s| s.running("web1") == "2" && s.running("web2") == "2");
        for node in ["web1", "web2", "web3", "web4", "web5"] {
            assert_eq!(scene.admin("lb1", node), 1, "{node}: what is out stays out");
        }
        assert!(scene.attempts("web3").is_empty(), "nothing is permitted");
        scene.start_agent("lb2");
        scene.converged("alfa", "2");
    }

    fn other_hands_are_respected(broker) {
        let server_options = BTreeMap::from([("web3", "disabled")]);
        let mut scene = Plot { server_options, ..Plot::new(broker) }.start();
        scene.converged("bravo", "1");
        scene.lb("lb1").command("set server app/web1 state maint");
        scene.lb("lb1").command("set server app/web2 state drain");
        scene.says("web1", "maintenance at load balancer lb1 that evenkeel did not set");
        scene.says("web2", "drain at load balancer lb1 that evenkeel did not set");
        scene.says("web3", "maintenance at load balancer lb1 that evenkeel did not set");
        scene.begin_load();
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.wait_for("everybody is upgraded and back", |scene| {
            let at_two = (1..=5).all(|n| scene.running(&format!("web{n}")) == "2");
            at_two && scene.admin("lb1", "web4") == 0 && scene.admin("lb1", "web5") == 0
        });
        scene.degraded("alfa", "2");
        assert_eq!(scene.admin("lb1", "web1"), 1, "maintenance is never lifted");
        assert_eq!(scene.admin("lb1", "web2"), 8, "drain is restored");
        assert_eq!(scene.admin("lb1", "web3"), 5, "disabled in the configuration stays so");
        for server in ["web1", "web2", "web3"] {
            scene.lb("lb1").command(&format!("set server app/{server} state ready"));
        }
        scene.converged("alfa", "2");
        scene.end_load();
    }

    fn a_reload_in_the_middle(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.begin();
        scene.lb("lb1").reload();
        // The state file carries the maintenance over.
        assert_eq!(scene.admin("lb1", "web2"), 1);
        scene.remove("web2", "gate");
        scene.converged("alfa", "2");
        scene.end_load();
        for node in 1..=5 {
            assert_eq!(scene.admin("lb1", &format!("web{node}")), 0, "web{node}");
        }
    }

    fn a_reload_without_a_state_file(broker) {
        let mut scene = Plot { state_file: false, ..Plot::new(broker) }.start();
        scene.converged("alfa", "1");
        scene.begin();
        scene.lb("lb1").reload();
        scene.wait_for("the maintenance is in force again", |s| s.admin("lb1", "web2") == 1);
        scene.remove("web2", "gate");
        scene.converged("alfa", "2");
        let unsafe_reload = scene.cluster("alfa").expect("a cluster").conditions;
        assert!(unsafe_reload.iter().any(|c| c.reason == "NoStateFile"), "{unsafe_reload:?}");
    }

    fn a_reload_with_the_controller_down(broker) {
        let mut scene = Plot { state_file: false, ..Plot::new(broker) }.start();
        scene.converged("alfa", "1");
        scene.begin();
        scene.kill_controller();
        scene.lb("lb1").reload();
        scene.wait_for("the maintenance is in force again", |s| s.admin("lb1", "web2") == 1);
        scene.remove("web2", "gate");
        scene.start_controller();
        scene.converged("alfa", "2");
    }
}
