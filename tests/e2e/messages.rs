//! Messages on their way to people: who delivers them, and what nobody else gets to see.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::parts::receiver::{Answer, Request};
use crate::scene::{Broker, Plot, Scene};

/// The messages that a notification server has asked the service to take.
fn keys(scene: &Scene, server: &str) -> BTreeSet<String> {
    let requests = scene.receiver.requests();
    let of = requests.iter().filter(|request| request.path == server);
    of.map(|request| request.json()["key"].as_str().expect("a key").to_owned()).collect()
}

on_both_brokers! {
    /// The service takes nothing from the one, which dies with what it was handed.
    fn a_server_dies_with_a_message(broker) {
        let answers = |request: &Request| match request.path.as_str() {
            "/notify1" => Answer::Silence,
            _ => Answer::status(200, ""),
        };
        let plot = Plot { clusters: vec![("alfa", 2)], answers, ..Plot::new(broker) };
        let mut scene = plot.start();
        scene.converged("alfa", "1");
        for messages in 1..20 {
            let revision = format!("{}", messages + 1);
            scene.write_cluster("alfa", &format!("revision = {revision:?}"));
            scene.converged("alfa", &revision);
            scene.wait_for("the message is on its way", |scene| {
                keys(scene, "/notify1").len() + keys(scene, "/notify2").len() >= messages
            });
            if !keys(&scene, "/notify1").is_empty() {
                break;
            }
        }
        let lost = keys(&scene, "/notify1");
        assert_eq!(lost.len(), 1, "both have their share");
        assert!(lost.is_disjoint(&keys(&scene, "/notify2")));
        scene.agent("notify1").kill();
        scene.wait_for("the other delivers it", |scene| lost.is_subset(&keys(scene, "/notify2")));
        scene.wait_for("it is receipted", |scene| {
            scene.cluster("alfa").is_some_and(|cluster| cluster.messages_pending == 0)
        });
        let by_notify2 = scene.receiver.requests().iter().filter(|r| r.path == "/notify2").count();
        assert_eq!(by_notify2, keys(&scene, "/notify2").len(), "each once");
    }
}

/// Every file under a folder.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("read a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).expect("read a file")));
        }
    }
    found
}

/// The services answer with the token that they got, as some do. It is in no log, no state and no answer of the controller.
#[test]
fn a_token_is_shown_nowhere() {
    const TOKEN: &str = "tk_9fQ2vL7xW3";
    let answers = |request: &Request| {
        Answer::status(403, &format!("no right for {}", request.header("authorization")))
    };
    let plot = Plot {
        clusters: vec![("alfa", 2)],
        absent: vec!["notify1", "notify2"],
        audit_log: Some("log/audit"),
        answers,
        ..Plot::new(Broker::Mosquitto)
    };
    let mut scene = plot.start();
    for server in ["notify1", "notify2"] {
        let entry =
            format!("headers = {{ Authorization = \"Bearer {{token}}\" }}\ntoken = {TOKEN:?}\n");
        scene.amend(server, &entry);
        scene.start_agent(server);
    }
    scene.converged("alfa", "1");
    scene.write_cluster("alfa", "revision = \"2\"");
    scene.converged("alfa", "2");
    scene.wait_for("both are refused", |scene| {
        let conditions = scene.cluster("alfa").map(|cluster| cluster.conditions);
        let undelivered = conditions.into_iter().flatten().find(|c| c.reason == "Failing");
        undelivered.is_some_and(|condition| condition.message.contains("no right for"))
    });
    let sent = scene.receiver.requests();
    let bearer = format!("Bearer {TOKEN}");
    assert!(sent.iter().all(|request| request.header("authorization") == bearer), "{sent:?}");
    for path in
        ["/api/v1/state", "/api/v1/events", "/api/v1/history", "/api/v1/rollouts", "/metrics"]
    {
        let (status, text) = scene.get(path).expect("an answer");
        assert_eq!(status, 200, "{path}: {text}");
        assert!(!text.contains(TOKEN), "{path}: {text}");
    }
    scene.kill_controller();
    let mut searched = 0;
    for folder in ["log", "state"] {
        for (name, bytes) in files(&scene.folder.join(folder)) {
            let told = String::from_utf8_lossy(&bytes);
            assert!(!told.contains(TOKEN), "{name}: {told}");
            searched += 1;
        }
    }
    assert!(searched > 10, "{searched} files");
}
