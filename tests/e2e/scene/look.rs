//! Looking at a fleet: what the controller says, what was told, and what is true.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use evenkeel::bus::intake::{self, Document};
use evenkeel::bus::{Filter, Topic, session};
use evenkeel::checker::Invariant;
use evenkeel::controller::view::{ClusterView, NodeAppView, View};
use evenkeel::model::{AppName, ClusterName, Event, NodeName};
use evenkeel::plan::Phase;
use serde_json::Value;

use super::Scene;
use crate::load::get;
use crate::parts::process::DEADLINE;

impl Scene {
    /// Whether a node is there, as the controller sees it.
    pub fn presence(&self, node: &str) -> String {
        let name = NodeName::new(node).expect("a name");
        let view = self.view();
        view.and_then(|v| Some(v.nodes.get(&name)?.presence.to_string())).unwrap_or_default()
    }

    /// Whether a node was ever asked out, by the controller's events.
    pub fn was_out(&self, node: &str) -> bool {
        self.events().iter().any(|event| {
            event.node.as_ref().is_some_and(|n| n.as_str() == node)
                && event.kind.to_string().contains("taking it out")
        })
    }

    /// Waits for messages with just these titles, in this order, and none besides.
    pub fn told(&self, titles: &[&str]) {
        self.wait_for(&format!("the messages {titles:?}"), |scene| {
            let pending = |c: &str| scene.cluster(c).map_or(0, |c| c.messages_pending);
            let clusters = &scene.plot.clusters;
            scene.titles().len() >= titles.len()
                && clusters.iter().all(|(name, _)| pending(name) == 0)
        });
        let mut got = self.titles();
        let mut wanted: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
        got.sort();
        wanted.sort();
        assert_eq!(got, wanted, "{} broke", Invariant::ToldOnce);
    }

    /// Waits until no server has a message any more, nor has said anything of one that nobody has heard: nothing more
    /// can be told.
    pub fn nothing_is_under_way(&self) {
        self.wait_for("empty mailboxes, and no receipts", |scene| {
            let retained = scene.retained(&[Filter::AllMailboxes, Filter::AllReceipts]);
            retained.iter().all(|(topic, payload)| {
                match intake::read(&Scene::fleet(), topic.clone(), payload).expect("a document") {
                    Document::Mailbox(_, mailbox, _) => mailbox.messages.is_empty(),
                    _ => false,
                }
            })
        });
    }

    /// What the broker has retained under these filters.
    pub fn retained(&self, filters: &[Filter]) -> BTreeMap<Topic, Vec<u8>> {
        let name = "watcher";
        let marker = Topic::NodeMarker(NodeName::new(name).expect("a name"));
        let filters = [filters, &[Filter::One(marker.clone())]].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (bus, mut events) = self.on_the_bus(name);
            let mut retained = BTreeMap::new();
            loop {
                match events.next().await.expect("the session lasts") {
                    session::Event::Connected { .. } => {
                        bus.subscribe(&filters).expect("a subscription");
                        // What is retained comes before what is said after it was asked for.
                        bus.publish(&marker, "1", false).expect("a marker");
                    }
                    session::Event::Message { topic, .. } if topic == marker => return retained,
                    session::Event::Message { topic, payload, .. } => {
                        retained.insert(topic, payload.to_vec());
                    }
                    _ => {}
                }
            }
        })
    }

    /// Every line of an audit trail, seen from the scene's folder.
    pub fn lines(&self, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join(file)).expect("an audit trail");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    pub fn titles(&self) -> Vec<String> {
        let title = |request: &crate::parts::receiver::Request| {
            request.json()["title"].as_str().expect("a title").to_owned()
        };
        self.receiver.requests().iter().map(title).collect()
    }

    /// What the node's web server runs, in truth.
    pub fn running(&self, node: &str) -> String {
        fs::read_to_string(self.folder.join(node).join("revision")).unwrap_or_default()
    }

    /// Upgrade attempts that were made on a node, by revision.
    pub fn attempts(&self, node: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join(node).join("attempts")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The broker's port.
    pub fn bus(&self) -> u16 {
        self.bus
    }

    /// The port of the controller's HTTP interface.
    pub fn http(&self) -> u16 {
        self.http
    }

    pub fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        get(SocketAddr::from(([127, 0, 0, 1], self.http)), path)
    }

    pub fn view(&self) -> Option<View> {
        let (status, body) = self.get("/api/v1/state").ok()?;
        (status == 200).then(|| serde_json::from_str(&body).expect("a view"))
    }

    pub fn cluster(&self, name: &str) -> Option<ClusterView> {
        let view = self.view()?;
        let app = view.apps.get(&AppName::new("shop").expect("a name"))?;
        app.clusters.get(&ClusterName::new(name).expect("a name")).cloned()
    }

    pub fn events(&self) -> Vec<Event> {
        let (_, body) = self.get("/api/v1/events").expect("events");
        serde_json::from_str(&body).expect("events")
    }

    /// A node's part in the app.
    pub fn part(&self, node: &str) -> Option<NodeAppView> {
        let name = NodeName::new(node).expect("a name");
        let app = AppName::new("shop").expect("a name");
        self.view()?.nodes.get(&name)?.apps.get(&app).cloned()
    }

    /// Why nothing, or what, is done about a node.
    pub fn reason(&self, node: &str) -> String {
        self.part(node).map(|part| part.reason).unwrap_or_default()
    }

    /// Waits until the cluster has converged on `revision`.
    pub fn converged(&self, cluster: &str, revision: &str) {
        self.wait_for(&format!("{cluster} converges on {revision}"), |scene| {
            scene.is_converged(cluster, revision)
        });
    }

    /// Whether the cluster has converged on `revision`.
    pub fn is_converged(&self, cluster: &str, revision: &str) -> bool {
        self.cluster(cluster).is_some_and(|state| {
            state.phase == Phase::Converged && state.target.as_str() == revision
        })
    }

    /// Waits until nothing more moves in the cluster, and something needs a person.
    pub fn degraded(&self, cluster: &str, revision: &str) {
        self.wait_for(&format!("{cluster} is degraded at {revision}"), |scene| {
            scene.cluster(cluster).is_some_and(|state| {
                state.phase == Phase::Degraded && state.target.as_str() == revision
            })
        });
    }

    /// Waits until a node's decision says `words`.
    pub fn says(&self, node: &str, words: &str) {
        self.wait_for(&format!("{node} says {words:?}"), |scene| {
            scene.reason(node).contains(words)
        });
    }

    /// Waits until the log of a process has these words.
    pub fn logs(&self, name: &str, words: &str) {
        let log = self.folder.join("log").join(name);
        let says = |_: &Scene| std::fs::read_to_string(&log).is_ok_and(|log| log.contains(words));
        self.wait_for(words, says);
    }

    /// Waits until `holds`; shows what was going on if that does not come.
    pub fn wait_for(&self, what: &str, holds: impl Fn(&Scene) -> bool) {
        let started = Instant::now();
        while !holds(self) {
            if started.elapsed() > DEADLINE {
                panic!("waited in vain for: {what}\n{}", self.story());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What was going on, for whoever reads a failed test.
    pub(super) fn story(&self) -> String {
        let mut story = String::new();
        if let Some(view) = self.view() {
            for (name, app) in &view.apps {
                for (cluster, state) in &app.clusters {
                    story.push_str(&format!("{name}/{cluster}: {state:?}\n"));
                }
            }
            for (name, node) in &view.nodes {
                for state in node.apps.values() {
                    story.push_str(&format!("{name} ({}): {}\n", node.presence, state.reason));
                }
            }
        }
        let log = fs::read_to_string(self.folder.join("log/controller")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        story.push_str(&lines[lines.len().saturating_sub(60)..].join("\n"));
        story
    }
}
