//! Whose orders agents take: those of the keys that they were told, if they were told any.

use std::fs;

use evenkeel::bus::intake::{self, Document};
use evenkeel::bus::wire::encode_signed;
use evenkeel::bus::{Filter, Signer, Topic, session};
use evenkeel::model::{
    AppName, Assignment, Cause, ClusterName, FleetName, Mailbox, Message, MessageKey, NodeName,
    NotifyOn, Permit, Priority, PublicKey, RecipientName, Revision, RolloutId, Wall,
};
use serde_json::Value;

use crate::load::get;
use crate::scene::{Broker, Plot, Scene};

fn fleet() -> FleetName {
    FleetName::new("default").expect("a name")
}

fn topic(node: &str) -> Topic {
    Topic::Assignment(NodeName::new(node).expect("a name"), AppName::new("shop").expect("a name"))
}

/// What a node is asked, as the broker shows it, and who has signed it.
fn asked(scene: &Scene, node: &str) -> Option<(Assignment, Option<PublicKey>)> {
    let retained = scene.retained(&[Filter::One(topic(node))]);
    let payload = retained.get(&topic(node))?;
    match intake::read(&fleet(), topic(node), payload).expect("a document") {
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
    encode_signed(&order, signer, &topic(node).on(&fleet())).expect("a document")
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
    let file = scene.folder.join(format!("state/{node}/audit.log"));
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["what"] == what).collect()
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
    let mailbox = encode_signed(&forge_message(), &signer, &buzz.on(&fleet()));
    let orders: Vec<_> = orders.into_iter().chain([(buzz, mailbox.expect("a document"))]).collect();
    // There is nobody to take it back at once.
    scene.nothing_is_under_way();
    scene.kill_controller();
    let told = scene.titles();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (bus, mut events) = scene.on_the_bus("intruder");
        while !matches!(events.next().await, Some(session::Event::Connected { .. })) {}
        for (topic, order) in orders {
            bus.publish(&topic, order, true).expect("publish");
        }
        bus.close(crate::parts::process::DEADLINE).await.expect("an end");
    });
    scene.wait_for("the other one follows it", |scene| scene.running("web2") == "666");
    scene.wait_for("it is not followed", |scene| {
        !audit(scene, "web1", "untrusted_order").is_empty()
    });
    let not_obeyed = &audit(&scene, "web1", "untrusted_order")[0];
    assert_eq!(not_obeyed["key"], *intruder, "{not_obeyed}");
    assert_eq!(not_obeyed["outcome"], "not obeyed");
    scene.logs("notify1", "none of the trusted keys has signed was published on notify/notify1");
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
    let messages: Vec<Value> = ["notify1", "notify2"]
        .iter()
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
