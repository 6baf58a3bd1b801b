//! The controller's log of a rollout, as JSON.

use serde_json::Value;

use crate::scene::{Broker, Plot};

#[test]
fn a_rollout_is_told_in_lines_with_fields() {
    let mut scene = Plot::new(Broker::Mosquitto).start();
    scene.converged("alfa", "1");
    scene.kill_controller();
    let mut command = scene.controller_command();
    command.args(["--log-format", "json"]);
    scene.controller = Some(scene.spawn("json", &mut command));
    scene.agent("web1").kill();
    let mut command = scene.agent_command("web1");
    let agent = scene.spawn("json-web1", command.args(["--log-format", "json"]));
    scene.agents.insert("web1".to_owned(), agent);
    scene.converged("alfa", "1");
    scene.write_cluster("alfa", "revision = \"2\"");
    scene.converged("alfa", "2");
    scene.told(&["shop/alfa is at 2"]);

    let parse = |line: &str| -> Value { serde_json::from_str(line).expect("an object a line") };
    let lines: Vec<Value> = scene.logged("json", "").iter().map(|line| parse(line)).collect();
    let of = |message: &str| -> Vec<&Value> {
        lines
            .iter()
            .filter(|line| line["message"] == message && line["cluster"] == "alfa")
            .collect()
    };
    let begun = of("rollout has begun");
    assert_eq!(begun.len(), 1, "{begun:#?}");
    let begun = begun[0];
    assert_eq!(
        (&begun["app"], &begun["revision"], &begun["level"]),
        (&"shop".into(), &"2".into(), &"INFO".into())
    );
    assert_eq!(begun["span"]["name"], "reconcile", "{begun:#?}");
    assert!(begun["span"]["number"].is_u64() && begun["timestamp"].is_string(), "{begun:#?}");
    let (rollout, epoch) = (&begun["rollout"], &begun["epoch"]);
    assert!(rollout.is_string() && epoch.is_u64(), "{begun:#?}");
    let converged = of("cluster has converged");
    let last = converged.last().expect("it converged");
    assert_eq!(
        (&last["rollout"], &last["epoch"], &last["revision"]),
        (rollout, epoch, &"2".into())
    );
    let decided = of("node is decided on");
    assert!(decided.iter().any(|line| line["node"] == "web1" && &line["rollout"] == rollout));
    let asked: Vec<&Value> =
        lines.iter().filter(|line| line["message"] == "agent is asked").collect();
    assert!(asked.iter().any(|line| line["node"] == "web1"), "{asked:#?}");
    for line in asked {
        assert!(line["of"].is_string() && line["generation"].is_u64(), "{line:#?}");
        assert_eq!(&line["epoch"], epoch, "{line:#?}");
    }
    assert!(lines.iter().all(|line| line["target"].is_string() && line["level"].is_string()));

    let lines = scene.logged("json-web1", "assignment accepted");
    assert!(!lines.is_empty());
    for line in lines.iter().map(|line| parse(line)) {
        assert_eq!((&line["app"], &line["span"]["node"]), (&"shop".into(), &"web1".into()));
        assert!(line["epoch"].is_u64() && line["generation"].is_u64(), "{line:#?}");
        assert!(line["controller"].is_string(), "{line:#?}");
    }
    let ended = scene.logged("json-web1", "upgrade succeeded");
    assert!(ended.iter().any(|line| &parse(line)["rollout"] == rollout), "{ended:#?}");
}
