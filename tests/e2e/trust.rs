//! Whose orders agents take: those of the keys that they were told, if they were told any.

use std::fs;

use evenkeel::bus::intake::{self, Document};
use evenkeel::bus::wire::encode_signed;
use evenkeel::bus::{Filter, Signer, Topic};
use evenkeel::model::{
    AppName, Assignment, Cause, ClusterName, Mailbox, Message, MessageKey, NodeName, NotifyOn,
    Permit, Priority, RecipientName, Revision, RolloutId, SignedBy, Wall,
};
use serde_json::Value;

use crate::load::get;
use crate::scene::{Broker, Plot, Scene};

fn topic(node: &str) -> Topic {
    Topic::Assignment(NodeName::new(node).expect("a name"), AppName::new("shop").expect("a name"))
}

/// What a node is asked, as the broker shows it, and who has signed it.
fn asked(scene: &Scene, node: &str) -> Option<(Assignment, SignedBy)> {
    let retained = scene.retained(&[Filter::One(topic(node))]);
    let payload = retained.get(&topic(node))?;
    match intake::read(&Scene::fleet(), topic(node), payload).expect("a document") {
        Document::Assignment(assignment, key) => Some((*assignment, key)),
        other => panic!("{other:?}"),
    }
}

/// In the controller's name, with a higher number, and with nothing to be proved: bring revision 666.
fn forge(scene: &Scene, node: &str, signer: &Signer) -> Vec<u8> {
    let (mut order, _) = asked(scene, node).expect("an assignment");
    order.stamp.generation += 1_000;
    let work = order.work.as_mut().expect("work");
    work.permit = Some(Permit {
        rollout: RolloutId::new("forged").expect("a name"),
        revision: Revision::new("666").expect("a revision"),
        retry: String::new(),
        attempt: 1,
        out: Vec::new(),
    });
    encode_signed(&order, signer, &topic(node).on(&Scene::fleet())).expect("a document")
}

fn forge_message() -> Mailbox {
    let message = Message {
        key: MessageKey("shop.alfa.buzz".to_owned()),
        app: AppName::new("shop").expect("a name"),
        cluster: ClusterName::new("alfa").expect("a name"),
        rollout: None,
        cause: Cause::Failed,
        kind: NotifyOn::Failed,
        priority: Priority::High,
        title: "buzz".to_owned(),
        happened: String::new(),
        advice: String::new(),
        link: String::new(),
        revision_from: None,
        revision_to: Revision::new("666").expect("a revision"),
        commit: String::new(),
        recipients: [RecipientName::new("oncall").expect("a name")].into(),
        at: Wall(0),
    };
    Mailbox { messages: [(message.key.clone(), message)].into() }
}

/// The lines of an agent's audit trail.
fn audit(scene: &Scene, node: &str, what: &str) -> Vec<Value> {
    let lines = scene.lines(&format!("state/{node}/audit.log"));
    lines.into_iter().filter(|line| line["what"] == what).collect()
}

#[test]
fn orders_by_another_key_are_not_followed() {
    let clusters = vec![("alfa", 3)];
    let pinned = vec!["web1", "web3", "lb1", "notify1", "notify2"];
    let mut scene = Plot { clusters, pinned, ..Plot::new(Broker::Mosquitto) }.start();
    let metrics = scene.start_shown("web1");
    scene.write_cluster("alfa", "revision = \"2\"");
    scene.converged("alfa", "2");

    // Whoever was told no key takes what anybody may publish.
    let intruder = scene.key("intruder");
    let signer = Signer::read(&scene.key_file("intruder")).expect("a key");
    let orders = ["web1", "web2"].map(|node| (topic(node), forge(&scene, node, &signer)));
    let buzz = Topic::Mailbox(NodeName::new("notify1").expect("a name"));
    let mailbox = encode_signed(&forge_message(), &signer, &buzz.on(&Scene::fleet()));
    let orders: Vec<_> = orders.into_iter().chain([(buzz, mailbox.expect("a document"))]).collect();
    // There is nobody to take it back at once.
    scene.nothing_is_under_way();
    scene.kill_controller();
    let told = scene.titles();
    for (topic, order) in orders {
        scene.retain(&topic.to_string(), &order);
    }
    scene.wait_for("the other one follows it", |scene| scene.running("web2") == "666");
    scene.wait_for("it is not followed", |scene| {
        !audit(scene, "web1", "untrusted_order").is_empty()
    });
    let not_obeyed = &audit(&scene, "web1", "untrusted_order")[0];
    assert_eq!(not_obeyed["key"], *intruder, "{not_obeyed}");
    assert_eq!(not_obeyed["outcome"], "not obeyed");
    scene.logs("notify1", "mailbox by none of the trusted keys");
    assert_eq!(scene.titles(), told, "nobody is told what it says");
    assert_eq!(scene.logged("web1", "order by none of the trusted keys").len(), 1);
    let (_, page) = get(metrics, "/metrics").expect("metrics");
    assert!(page.contains("outcome=\"untrusted\"} 1\n"), "{page}");

    // What it has changed is repaired by a controller that comes, and the next revision comes to all, by the controller's word.
    scene.start_controller();
    scene.wait_for("it is repaired", |scene| scene.running("web2") == "2");
    scene.converged("alfa", "2");
    scene.write_cluster("alfa", "revision = \"3\"");
    scene.converged("alfa", "3");
    assert_eq!(scene.attempts("web1"), ["2", "3"]);
    let ours = scene.key("controller");
    for node in ["web1", "web2", "web3"] {
        let (_, key) = asked(&scene, node).expect("an assignment");
        assert_eq!(key.map(|key| key.to_string()).as_ref(), Some(&ours), "{node}");
    }
    let told = |node: &str| -> Vec<Value> {
        let lines = audit(&scene, node, "told");
        lines.into_iter().map(|mut line| line["key"].take()).collect()
    };
    assert!(told("web1").iter().all(|key| *key == *ours), "{:?}", told("web1"));
    assert!(told("lb1").iter().all(|key| *key == *ours), "{:?}", told("lb1"));
    assert_eq!(told("web2").iter().filter(|key| **key == *intruder).count(), 1);
    let delivers = |node: &&str| !scene.logged(node, "message delivered").is_empty();
    let messages: Vec<Value> = ["notify1", "notify2"]
        .into_iter()
        .filter(delivers)
        .flat_map(|node| audit(&scene, node, "message"))
        .map(|line| serde_json::json!([line["app"], line["epoch"], line["key"]]))
        .collect();
    assert!(!messages.is_empty());
    assert!(
        messages.iter().all(|line| *line == serde_json::json!(["shop", 1, ours])),
        "{messages:?}"
    );
    // Deeds have the key, too, and the one by whose word it was.
    let starts = audit(&scene, "web2", "upgrade_starts");
    let forged = starts.iter().find(|line| line["revision"] == "666").expect("a line");
    assert_eq!(forged["key"], *intruder);
}

#[test]
fn a_controller_whose_key_is_not_trusted_is_told_so() {
    let clusters = vec![("alfa", 2)];
    let mut scene = Plot { clusters, pinned: vec!["web2"], ..Plot::new(Broker::Embedded) }.start();
    scene.converged("alfa", "1");
    // Its key is lost, and it gets another one.
    scene.kill_controller();
    let old = scene.key("controller");
    fs::remove_file(scene.key_file("controller")).expect("remove a key");
    let new = scene.key("controller");
    assert_ne!(old, new);
    scene.start_controller();
    scene.write_cluster("alfa", "revision = \"2\"");
    scene.says("web2", &format!("the order is signed by {new}, which is none of its trusted_keys"));
    assert!(scene.attempts("web2").is_empty());

    // Both are trusted from now on.
    drop(scene.agents.remove("web2"));
    scene.trust("web2", &[&old, &new]);
    scene.start_agent("web2");
    scene.converged("alfa", "2");
    assert_eq!(scene.attempts("web2"), ["2"]);
}
