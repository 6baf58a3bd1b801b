//! What an operator writes into the files besides a revision.

use crate::scene::{Broker, Plot};

on_both_brokers! {
    fn paused(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.touch("web1", "gate");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.says("web1", "the upgrade to 2");
        scene.write_cluster("alfa", "revision = \"2\"\npaused = true");
        scene.says("web3", "paused");
        scene.remove("web1", "gate");
        scene.wait_for("the running one ends", |scene| scene.running("web1") == "2");
        scene.says("web1", "paused");
        let before: Vec<u8> = (1..=5).map(|n| scene.admin("lb1", &format!("web{n}"))).collect();
        assert_eq!(before, [1, 1, 1, 1, 1], "what is out stays out");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.converged("alfa", "2");
        scene.end_load();
    }

    fn held(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.write_cluster("alfa", "hold = [\"web3\"]");
        scene.says("web3", "held out of service");
        assert_eq!(scene.admin("lb1", "web3"), 1);
        scene.write_cluster("alfa", "revision = \"2\"\nhold = [\"web3\"]");
        scene.converged("alfa", "2");
        assert_eq!(scene.running("web3"), "1", "a held node is not upgraded");
        assert_eq!(scene.admin("lb1", "web3"), 1);
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.wait_for("it is let go", |s| s.running("web3") == "2" && s.admin("lb1", "web3") == 0);
        scene.converged("alfa", "2");
        scene.end_load();
        scene.told(&["shop/alfa is at 2"]);
    }

    fn superseded(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.touch("web1", "gate");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.says("web1", "the upgrade to 2");
        scene.write_cluster("alfa", "revision = \"3\"");
        scene.remove("web1", "gate");
        scene.converged("alfa", "3");
        scene.end_load();
        assert_eq!(scene.attempts("web1"), ["2", "3"], "a running upgrade is not killed");
        scene.told(&["shop/alfa is at 3"]);
    }

    fn retried(broker) {
        let scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.touch("web2", "fail");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.degraded("alfa", "2");
        let spent = scene.attempts("web2").len();
        assert_eq!(spent, 2);
        scene.remove("web2", "fail");
        scene.write_cluster("alfa", "revision = \"2\"\nretry = \"again\"");
        scene.converged("alfa", "2");
        assert_eq!(scene.attempts("web2").len(), 3);
    }
}
