//! Rollouts, as they should go.

use crate::scene::{Broker, Plot};

fn both(run: impl Fn(Broker)) {
    run(Broker::Embedded);
    run(Broker::Mosquitto);
}

#[test]
fn one_cluster_moves_and_nothing_else() {
    both(|broker| {
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
        let messages = scene.receiver.wait_for(1);
        assert_eq!(messages.len(), 1, "{:?}", scene.messages());
    });
}
