//! How words travel between clients and the broker: in order, late, twice, or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel::agent::core::Event as AgentEvent;
use evenkeel::bus::intake::{self, Document};
use evenkeel::bus::{Topic, encode};
use evenkeel::controller::core::Input;
use evenkeel::model::*;

use crate::broker::{Client, Link, Message, Will};
use crate::world::{Happening, World};

/// What a client sends.
#[derive(Debug, Clone)]
pub enum Packet {
    Subscribe(String),
    Publish { topic: String, payload: Arc<[u8]>, retain: bool },
}

/// Who is cut off, and what waits for the cut to end.
#[derive(Debug, Default)]
pub struct Network {
    pub cut: BTreeMap<Client, u64>,
    waiting: BTreeMap<Client, Vec<Happening>>,
    /// When the last word of a client arrives, and the last one for it: order is kept.
    up: BTreeMap<Client, u64>,
    down: BTreeMap<Client, u64>,
    /// How long a word may take, in milliseconds.
    pub slow_ms: u64,
}

/// The keep-alive is 10 s: a broker waits for one and a half of it, a client for two.
const BROKER_NOTICES_MS: u64 = 15_000;
const CLIENT_NOTICES_MS: u64 = 20_000;

impl World {
    pub fn fleet() -> FleetName {
        FleetName::new("sim").expect("a name")
    }

    fn latency(&mut self) -> u64 {
        let slow = self.network.slow_ms;
        if slow > 0 { self.rng.u64(0..=slow) } else { self.rng.u64(0..=2) }
    }

    fn link_of(&self, client: &Client) -> Option<Link> {
        match client {
            Client::Controller => self.controller.link,
            Client::Node(name) => self.agents[name].link,
        }
    }

    fn life_of(&self, client: &Client) -> Option<u64> {
        match client {
            Client::Controller => self.controller.core.is_some().then_some(self.controller.life),
            Client::Node(name) => {
                let agent = &self.agents[name];
                agent.core.is_some().then_some(agent.session)
            }
        }
    }

    // -- connections

    pub fn try_connect(&mut self, client: Client, life: u64) {
        if self.life_of(&client) != Some(life) || self.link_of(&client).is_some() {
            return;
        }
        let frozen = matches!(&client, Client::Node(name) if self.agents[name].frozen.is_some());
        if !self.broker_up || self.network.cut.contains_key(&client) || frozen {
            let again_ms = self.rng.u64(500..5_000);
            return self.after(again_ms, Happening::Connect { client, life });
        }
        let (connection, will) = match &client {
            Client::Controller => self.controller.next_connection(),
            Client::Node(name) => {
                self.agents.get_mut(name).expect("an agent").next_connection(name)
            }
        };
        let link = (life, connection);
        match &client {
            Client::Controller => self.controller.link = Some(link),
            Client::Node(name) => self.agents.get_mut(name).expect("an agent").link = Some(link),
        }
        if let Some(old) = self.broker.connect(client.clone(), link, Some(will)) {
            let late_ms = self.late();
            self.after(late_ms, Happening::Will(old));
        }
        let at_ms = self.latency();
        self.after(at_ms, Happening::Connected { client, link });
    }

    /// A will comes at once as a rule, and late when the broker is busy.
    fn late(&mut self) -> u64 {
        if self.troubled && self.chance(200) { self.rng.u64(0..5_000) } else { 0 }
    }

    pub fn connected(&mut self, client: Client, link: Link) {
        if self.link_of(&client) != Some(link) {
            return;
        }
        match client {
            Client::Controller => {
                self.remember();
                self.controller.presence.reconnect();
                self.control(Input::Connected { connection: link.1 });
            }
            Client::Node(name) => {
                self.remember_agent(&name);
                self.tell(&name, AgentEvent::Connected { connection: link.1 });
            }
        }
    }

    /// The client's end of a connection has gone, and it knows.
    pub fn client_notices(&mut self, client: &Client, link: Link) {
        if self.link_of(client) != Some(link) {
            return;
        }
        self.receipts_lost(client, self.now_ms);
        match client {
            Client::Controller => {
                self.controller.link = None;
                self.control(Input::Disconnected);
            }
            Client::Node(name) => {
                self.agents.get_mut(name).expect("an agent").link = None;
                self.tell(name, AgentEvent::Disconnected);
            }
        }
        if let Some(life) = self.life_of(client) {
            let again_ms = self.rng.u64(100..2_000);
            self.after(again_ms, Happening::Connect { client: client.clone(), life });
        }
    }

    /// The broker's end of a connection has gone, and it knows.
    pub fn broker_notices(&mut self, client: &Client, link: Link) {
        if let Some(will) = self.broker.end(client, link) {
            let late_ms = self.late();
            self.after(late_ms, Happening::Will(will));
        }
    }

    pub fn say_will(&mut self, (topic, payload): Will) {
        if self.broker_up {
            self.trace.line(self.now_ms, &format!("will {topic}"));
            self.route(&topic, &payload, true);
        }
    }

    /// A process has died: its words that have not arrived are lost from some point on. Where its machine has died with
    /// it, nobody ends its connection, and the broker says its will when it has lost patience.
    pub fn cut_words(&mut self, client: &Client) {
        let (link, slow_ms) = (self.link_of(client), self.network.slow_ms);
        let Some(link) = link else { return };
        let machine = self.troubled && self.chance(250);
        let gone_ms = if machine || self.network.cut.contains_key(client) {
            BROKER_NOTICES_MS
        } else {
            self.rng.u64(0..=slow_ms.max(2))
        };
        self.after(gone_ms, Happening::Gone { client: client.clone(), link });
        self.receipts_lost(client, self.now_ms);
    }

    /// Nothing passes between a client and the broker any more.
    pub fn cut_network(&mut self, client: &Client) {
        if self.network.cut.contains_key(client) {
            return;
        }
        self.jobs += 1;
        let number = self.jobs;
        self.network.cut.insert(client.clone(), number);
        if let Some(link) = self.link_of(client) {
            let broker_ms = BROKER_NOTICES_MS - self.rng.u64(0..5_000);
            let client_ms = CLIENT_NOTICES_MS - self.rng.u64(0..9_000);
            let client = client.clone();
            self.after(
                broker_ms,
                Happening::Patience { client: client.clone(), link, number, broker: true },
            );
            self.after(client_ms, Happening::Patience { client, link, number, broker: false });
        }
    }

    /// A process is stopped where it stands: the broker hears nothing of it, and loses patience.
    pub fn freeze_words(&mut self, name: &NodeName, number: u64) {
        let client = Client::Node(name.clone());
        if let Some(link) = self.link_of(&client) {
            let broker_ms = BROKER_NOTICES_MS - self.rng.u64(0..5_000);
            self.after(broker_ms, Happening::Patience { client, link, number, broker: true });
        }
    }

    /// Patience has ended, if what tried it lasts.
    pub fn patience_ends(&mut self, client: &Client, link: Link, number: u64, broker: bool) {
        let frozen =
            matches!(client, Client::Node(name) if self.agents[name].frozen == Some(number));
        if self.network.cut.get(client) != Some(&number) && !frozen {
            return;
        }
        if broker {
            self.broker_notices(client, link);
        } else {
            self.client_notices(client, link);
        }
    }

    pub fn heal_network(&mut self, client: &Client) {
        if self.network.cut.remove(client).is_some() {
            for what in self.network.waiting.remove(client).unwrap_or_default() {
                self.after(0, what);
            }
        }
    }

    /// A cut that was shorter than anybody's patience ends no connection.
    fn is_cut(&mut self, client: &Client, what: &Happening) -> bool {
        let cut = self.network.cut.contains_key(client);
        if cut {
            self.network.waiting.entry(client.clone()).or_default().push(what.clone());
        }
        cut
    }

    // -- words

    pub fn send(&mut self, client: &Client, packet: Packet) {
        let Some(link) = self.link_of(client) else { return };
        let at_ms = self.now_ms + self.latency();
        let at_ms = at_ms.max(self.network.up.get(client).copied().unwrap_or(0));
        self.network.up.insert(client.clone(), at_ms);
        let twice = self.troubled && matches!(packet, Packet::Publish { .. }) && self.chance(10);
        for _ in 0..=usize::from(twice) {
            let (client, packet) = (client.clone(), packet.clone());
            self.after(at_ms - self.now_ms, Happening::ToBroker { client, link, packet });
        }
    }

    pub fn publish<T: evenkeel::bus::Document>(
        &mut self,
        client: &Client,
        topic: &Topic,
        document: &T,
    ) {
        let payload = encode(document).expect("a document that can be sent");
        self.put(client, topic, payload, true);
    }

    pub fn put(&mut self, client: &Client, topic: &Topic, payload: Vec<u8>, retain: bool) {
        let (topic, payload) = (topic.on(&Self::fleet()), payload.into());
        self.send(client, Packet::Publish { topic, payload, retain });
    }

    pub fn at_broker(&mut self, client: Client, link: Link, packet: Packet) {
        let what = Happening::ToBroker { client: client.clone(), link, packet: packet.clone() };
        if self.is_cut(&client, &what) {
            return;
        }
        if !self.broker_up || !self.broker.knows(&client, link) {
            // A broker that does not know a connection ends it.
            return self.after(1, Happening::Lost { client, link });
        }
        match packet {
            Packet::Publish { topic, payload, retain } => self.route(&topic, &payload, retain),
            Packet::Subscribe(filter) => {
                for message in self.broker.subscribe(&client, link, &filter) {
                    self.deliver(client.clone(), link, message);
                }
            }
        }
    }

    fn route(&mut self, topic: &str, payload: &Arc<[u8]>, retain: bool) {
        let (to, message) = self.broker.publish(topic, payload, retain);
        for (client, link) in to {
            let twice = self.troubled && self.chance(10);
            for _ in 0..=usize::from(twice) {
                self.deliver(client.clone(), link, message.clone());
            }
        }
    }

    fn deliver(&mut self, client: Client, link: Link, message: Message) {
        let at_ms = self.now_ms + self.latency();
        let at_ms = at_ms.max(self.network.down.get(&client).copied().unwrap_or(0));
        self.network.down.insert(client.clone(), at_ms);
        self.after(at_ms - self.now_ms, Happening::ToClient { client, link, message });
    }

    pub fn at_client(&mut self, client: Client, link: Link, message: Message) {
        let what = Happening::ToClient { client: client.clone(), link, message: message.clone() };
        if self.link_of(&client) != Some(link) || self.is_cut(&client, &what) {
            return;
        }
        let topic = Topic::parse(&Self::fleet(), &message.topic).expect("one of our topics");
        let document =
            intake::read(&Self::fleet(), topic, &message.payload).expect("one of our documents");
        if self.trace.is_loud() {
            let kind = if message.retained { "retained" } else { "live" };
            let text = format!(
                "{client} hears {} ({kind}, {} bytes)",
                message.topic,
                message.payload.len()
            );
            self.trace.line(self.now_ms, &text);
        }
        match client {
            Client::Controller => self.controller_hears(document, message.retained),
            Client::Node(name) => self.agent_hears(&name, document, message.retained),
        }
    }

    fn agent_hears(&mut self, name: &NodeName, document: Document, retained: bool) {
        use evenkeel::agent::core::Document as Ours;
        let document = match document {
            Document::Assignment(assignment, key) => Ours::Assignment(assignment, key),
            Document::Report(report) => Ours::Report(report),
            Document::Alive(alive) => Ours::Alive(alive),
            Document::Leader(leader) => Ours::Leader(leader),
            Document::Mailbox(_, mailbox, key) => Ours::Mailbox(Box::new(mailbox), key),
            Document::Marker(connection) => {
                return self.tell(name, AgentEvent::Marker { connection });
            }
            Document::Controller(_)
            | Document::Ledger(..)
            | Document::Receipt(_)
            | Document::Deleted(_) => return,
        };
        self.tell(name, AgentEvent::Received { document, retained });
    }
}
