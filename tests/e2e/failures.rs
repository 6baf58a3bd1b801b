//! What goes wrong, and what must follow.

use rustix::process::Signal;

use crate::load::get;
use crate::parts::process::eventually;
use crate::scene::{Broker, Plot};

on_both_brokers! {
    fn the_desired_file_is_broken_and_mended(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.write_desired("alfa", "revision = \nexpect = 5\n");
        scene.wait_for("the fault is shown", |scene| {
            scene.cluster("alfa").is_some_and(|c| {
                c.conditions.iter().any(|c| c.reason == "Invalid" && c.message.contains("alfa.toml:1:"))
            })
        });
        // The last good state stays in force: a drifted node is still repaired.
        scene.drift("web2", "0.9");
        scene.wait_for("web2 is repaired", |scene| scene.running("web2") == "1");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.converged("alfa", "2");
        scene.end_load();
    }

    fn the_desired_files_vanish(broker) {
        let scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        std::fs::remove_dir_all(scene.folder.join("desired/shop")).expect("remove");
        scene.wait_for("it is seen", |scene| {
            scene.cluster("alfa").is_some_and(|c| c.conditions.iter().any(|c| c.reason == "Vanished"))
        });
        scene.drift("web2", "0.9");
        scene.says("web2", "desired file has gone");
        assert_eq!(scene.admin("lb1", "web2"), 0);
        assert!(scene.attempts("web2").is_empty());
    }

    fn an_upgrade_fails_once_and_then_works(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.touch("web3", "fail_once");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.converged("alfa", "2");
        scene.end_load();
        assert_eq!(scene.attempts("web3"), ["2", "2"]);
        scene.told(&["shop/alfa is at 2"]);
    }

    fn an_upgrade_lies_about_its_revision(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.touch("web3", "lie");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.degraded("alfa", "2");
        scene.says("web3", "but the service runs 1");
        assert_eq!(scene.admin("lb1", "web3"), 1, "a node that lies stays out");
        assert_eq!(scene.attempts("web3").len(), 2);
        scene.end_load();
        scene.told(&["shop/alfa: nodes failed"]);
    }

    /// What an upgrade that fails in batch 2 leaves behind elsewhere: mixed revisions in
    /// maintenance. Here: the failed one is out, everybody else in service, and somebody is told.
    fn an_upgrade_fails_in_the_second_batch(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.touch("web3", "fail");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.degraded("alfa", "2");
        for node in [1, 2, 4, 5, 6, 7, 8, 9] {
            let name = format!("web{node}");
            assert_eq!(scene.admin("lb1", &name), 0, "{name}");
        }
        assert_eq!(scene.admin("lb1", "web3"), 1);
        scene.told(&["shop/alfa: nodes failed"]);
        let wrote = scene.part("web3").and_then(|part| part.last_output);
        assert_eq!(wrote.as_deref().map(str::trim), Some("no space left"));
        // A retry grants fresh attempts.
        scene.remove("web3", "fail");
        scene.write_cluster("alfa", "revision = \"2\"\nretry = \"disk was full\"");
        scene.converged("alfa", "2");
        scene.end_load();
        scene.told(&["shop/alfa: nodes failed", "shop/alfa is at 2"]);
    }

    fn a_failed_revision_is_rolled_back(broker) {
        let plot = Plot { app: vec![("rollout", "on_failure = \"rollback\"")], ..Plot::new(broker) };
        let mut scene = plot.start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.touch("web5", "lie");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.degraded("alfa", "2");
        for node in 1..=5 {
            let name = format!("web{node}");
            assert_eq!((scene.running(&name).as_str(), scene.admin("lb1", &name)), ("1", 0), "{name}");
        }
        scene.end_load();
        scene.told(&["shop/alfa: nodes failed"]);
    }

    fn load_settles_late(broker) {
        let plot = Plot { app: vec![("settle", "checks = [\"check_busy\"]"), ("settle", "timeout = \"1s\"")], ..Plot::new(broker) };
        let mut scene = plot.start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.touch("web4", "busy");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.degraded("alfa", "2");
        scene.says("web4", "its checks were not OK in time");
        assert_eq!(scene.admin("lb1", "web4"), 1, "an unsettled node stays out");
        assert_eq!(scene.admin("lb1", "web1"), 0, "the others do not wait for it");
        scene.remove("web4", "busy");
        scene.converged("alfa", "2");
        scene.end_load();
        scene.told(&["shop/alfa: nodes failed", "shop/alfa is at 2"]);
    }

    fn load_settles_within_the_time(broker) {
        let plot = Plot { app: vec![("settle", "checks = [\"check_busy\"]")], ..Plot::new(broker) };
        let mut scene = plot.start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.touch("web4", "busy");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.says("web4", "check_busy (CRITICAL");
        scene.says("web1", "others of its cluster");
        scene.remove("web4", "busy");
        scene.converged("alfa", "2");
        scene.end_load();
        scene.told(&["shop/alfa is at 2"]);
    }

    fn a_notification_server_is_dead(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.agent("notify1").kill();
        scene.wait_for("its will is seen", |scene| scene.presence("notify1") == "departed");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.converged("alfa", "2");
        scene.told(&["shop/alfa is at 2"]);
    }

    /// A client that is killed after the first batch leaves half a cluster in maintenance
    /// elsewhere. Here the fleet stays as it is, and the next controller carries on.
    fn the_controller_is_killed_in_the_middle(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.touch("web4", "gate");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.says("web4", "the upgrade to 2");
        scene.kill_controller();
        assert_eq!(scene.admin("lb1", "web4"), 1);
        scene.remove("web4", "gate");
        scene.wait_for("the upgrade ends by itself", |scene| scene.running("web4") == "2");
        scene.start_controller();
        scene.converged("alfa", "2");
        scene.end_load();
        for node in 1..=5 {
            let name = format!("web{node}");
            assert_eq!(scene.attempts(&name), ["2"], "{name} was upgraded once");
            assert_eq!(scene.admin("lb1", &name), 0, "{name}");
        }
        scene.told(&["shop/alfa is at 2"]);
    }

    fn the_controller_loses_its_disk(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.touch("web4", "gate");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.says("web4", "the upgrade to 2");
        scene.kill_controller();
        std::fs::remove_dir_all(scene.folder.join("state/controller")).expect("wipe");
        scene.remove("web4", "gate");
        scene.start_controller();
        scene.converged("alfa", "2");
        for node in 1..=9 {
            assert_eq!(scene.admin("lb1", &format!("web{node}")), 0, "web{node}");
        }
    }

    /// A node that is down at the start is silently skipped elsewhere, and the message of success
    /// sent. Here nothing is touched, and the reason is shown.
    fn a_node_is_down_at_the_start(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.agent("web2").kill();
        scene.wait_for("its will is seen", |scene| scene.presence("web2") == "departed");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.says("web1", "1 expected nodes are not there");
        scene.degraded("alfa", "2");
        for node in 1..=9 {
            let name = format!("web{node}");
            assert!(scene.attempts(&name).is_empty() && !scene.was_out(&name), "{name}");
        }
        scene.told(&[]);
        scene.start_agent("web2");
        scene.converged("alfa", "2");
        scene.told(&["shop/alfa is at 2"]);
    }

    /// A hung node, woken later, runs the queued upgrade elsewhere. Here its permit has gone.
    fn a_hung_node_is_woken_later(broker) {
        let plot = Plot { app: vec![("rollout", "max_missing = 1")], ..Plot::new(broker) };
        let mut scene = plot.start();
        scene.converged("alfa", "1");
        scene.touch("web1", "gate");
        scene.touch("web2", "gate");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.says("web1", "the upgrade to 2");
        // web5 waits for its turn, out of service; it hangs before that comes.
        scene.agent("web5").signal(Signal::STOP);
        scene.remove("web1", "gate");
        scene.remove("web2", "gate");
        scene.wait_for("it is missed", |scene| scene.presence("web5") == "departed");
        scene.converged("alfa", "2");
        assert!(scene.attempts("web5").is_empty());
        scene.write_cluster("alfa", "revision = \"3\"");
        scene.converged("alfa", "3");
        scene.agent("web5").signal(Signal::CONT);
        scene.wait_for("it is brought up to date", |scene| scene.running("web5") == "3");
        assert_eq!(scene.attempts("web5"), ["3"], "the old permit was not followed");
        scene.converged("alfa", "3");
    }

    fn an_agent_is_killed_in_mid_upgrade(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        scene.begin_load();
        scene.begin();
        scene.agent("web2").kill();
        scene.wait_for("its will is seen", |scene| scene.presence("web2") == "departed");
        scene.start_agent("web2");
        scene.remove("web2", "gate");
        scene.converged("alfa", "2");
        scene.end_load();
        assert_eq!(scene.attempts("web2"), ["2", "2"], "the attempt counts, and is run again");
    }

    /// Two controllers by mistake: the second sees that the first is alive, says so, and ends.
    fn a_second_controller_ends(broker) {
        let mut scene = Plot::new(broker).start();
        scene.converged("alfa", "1");
        let (ended, said) = scene.second_controller();
        assert!(!ended.success());
        assert!(said.contains("leads shop already, and is alive"), "{said}");
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.converged("alfa", "2");
    }

    /// A bad document is counted, logged once per sender, and ignored; one that is too large, before it is parsed.
    /// To the controller and to an agent of each role: broken, too large, too deep, too new, and not UTF-8. Each is counted,
    /// each sender logged once, and everybody else goes on.
    fn strangers_speak_on_the_bus(broker) {
        const TIMES: usize = 5;
        const REFUSED: &str = "a document is not taken";
        let agents = ["web1", "lb1", "notify1"];
        let mut scene = Plot { absent: agents.to_vec(), ..Plot::new(broker) }.start();
        let shown = agents.map(|name| scene.start_shown(name));
        scene.converged("alfa", "1");
        let report = |body: &[u8]| [b"{\"version\":1,\"kind\":\"report\",\"body\":".as_slice(), body].concat();
        let (large, deep) = (report(&[b'['; 1 << 20]), report(&[b'['; 100_000]));
        for _ in 0..TIMES {
            scene.publish("nodes/stranger/report", &report(b"[[[["));
            scene.publish("nodes/stranger/report", &deep);
            scene.publish("nodes/stranger/report", b"{\"version\":99,\"kind\":\"report\",\"body\":{}}");
            scene.publish("nodes/stranger/alive", b"\xff\xfe\0");
            scene.publish("nodes/giant/report", &large);
            // Both the controller and the agent hear these.
            scene.publish("nodes/web1/assignment/shop", b"{}");
            scene.publish("nodes/lb1/assignment/shop", &large);
            scene.publish("notify/notify1", b"{}");
        }
        scene.publish("nodes/stranger/nonsense", b"{}");
        let counted = format!("evenkeel_documents_refused_total {}\n", 8 * TIMES);
        scene.wait_for("they are counted", |scene| {
            scene.get("/metrics").is_ok_and(|(_, metrics)| metrics.contains(&counted))
        });
        for (name, address) in agents.iter().zip(shown) {
            let refused = || {
                let (_, metrics) = get(address, "/metrics").ok()?;
                let count = metrics.lines().find_map(|line| line.strip_prefix("evenkeel_agent_documents_refused_total "))?;
                count.parse().ok().filter(|count: &usize| *count >= TIMES)
            };
            eventually(&format!("{name} counts them, too"), refused);
        }
        scene.write_cluster("alfa", "revision = \"2\"");
        scene.converged("alfa", "2");
        scene.told(&["shop/alfa is at 2"]);
        let said = scene.logged("controller", REFUSED);
        assert_eq!(said.len(), 3, "{said:#?}");
        for (line, word) in said.iter().zip(["stranger", "giant", "web1"]) {
            assert!(line.contains(word), "{said:#?}");
        }
        assert!(said[1].contains("is over the limit of 1048576"), "{said:#?}");
        for name in agents {
            let said = scene.logged(name, REFUSED);
            let own = said.iter().filter(|line| line.contains(&format!("/{name}"))).count();
            assert_eq!(own, 1, "{name}: {said:#?}");
        }
        assert_eq!(scene.presence("stranger"), "", "nobody has come of it");
    }
}
