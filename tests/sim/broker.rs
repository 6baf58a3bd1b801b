//! A broker as a value: sessions, subscriptions, retained documents, wills. Whoever drives it carries its words,
//! and decides when they arrive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use evenkeel::model::NodeName;

/// A client, by who it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    Controller,
    Node(NodeName),
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.pad("controller"),
            Self::Node(name) => f.pad(name.as_str()),
        }
    }
}

/// One connection of one session of a client; no two are the same. Every life has a session of its own, with an id
/// of its own, so that what the last one leaves behind ends in its own time.
pub type Link = (u64, u64);

/// A published document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Arc<[u8]>,
    pub retained: bool,
}

/// What the broker is to say when a connection ends without a good-bye.
pub type Will = (String, Arc<[u8]>);

#[derive(Debug, Clone)]
struct Session {
    link: Link,
    filters: BTreeSet<String>,
    will: Option<Will>,
}

/// The broker.
#[derive(Debug, Clone, Default)]
pub struct Broker {
    retained: BTreeMap<String, Arc<[u8]>>,
    sessions: BTreeMap<(Client, u64), Session>,
}

impl Broker {
    /// Lets a client in. An older connection of the same session ends, with its will.
    pub fn connect(&mut self, client: Client, link: Link, will: Option<Will>) -> Option<Will> {
        let session = Session { link, filters: BTreeSet::new(), will };
        self.sessions.insert((client, link.0), session).and_then(|old| old.will)
    }

    /// Whether this connection lasts.
    pub fn knows(&self, client: &Client, link: Link) -> bool {
        self.sessions.get(&(client.clone(), link.0)).is_some_and(|session| session.link == link)
    }

    /// The connection has ended without a good-bye: its will is to be said.
    pub fn end(&mut self, client: &Client, link: Link) -> Option<Will> {
        if !self.knows(client, link) {
            return None;
        }
        self.sessions.remove(&(client.clone(), link.0))?.will
    }

    /// Subscribes; what is retained under the filter is to be delivered, as retained.
    pub fn subscribe(&mut self, client: &Client, link: Link, filter: &str) -> Vec<Message> {
        let Some(session) = self.sessions.get_mut(&(client.clone(), link.0)) else {
            return Vec::new();
        };
        session.filters.insert(filter.to_owned());
        let matching = self.retained.iter().filter(|(topic, _)| matches(filter, topic));
        matching
            .map(|(topic, payload)| Message {
                topic: topic.clone(),
                payload: Arc::clone(payload),
                retained: true,
            })
            .collect()
    }

    /// Takes a document; says to whom it is to be delivered, not as retained.
    pub fn publish(
        &mut self,
        topic: &str,
        payload: &Arc<[u8]>,
        retain: bool,
    ) -> (Vec<(Client, Link)>, Message) {
        if retain {
            if payload.is_empty() {
                self.retained.remove(topic);
            } else {
                self.retained.insert(topic.to_owned(), Arc::clone(payload));
            }
        }
        let subscribed = |session: &Session| session.filters.iter().any(|f| matches(f, topic));
        let to = self
            .sessions
            .iter()
            .filter(|(_, session)| subscribed(session))
            .map(|((client, _), session)| (client.clone(), session.link))
            .collect();
        let message =
            Message { topic: topic.to_owned(), payload: Arc::clone(payload), retained: false };
        (to, message)
    }

    /// The process has ended and begun again, with `memory` of what was retained. No will is said.
    pub fn restart(&mut self, memory: BTreeMap<String, Arc<[u8]>>) -> Vec<(Client, Link)> {
        self.retained = memory;
        let sessions = std::mem::take(&mut self.sessions);
        sessions.into_iter().map(|((client, _), session)| (client, session.link)).collect()
    }

    /// What is retained.
    pub fn memory(&self) -> &BTreeMap<String, Arc<[u8]>> {
        &self.retained
    }
}

/// MQTT 5, 4.7: `+` stands for one level. `#` is not used by us.
fn matches(filter: &str, topic: &str) -> bool {
    let (mut wanted, mut levels) = (filter.split('/'), topic.split('/'));
    loop {
        match (wanted.next(), levels.next()) {
            (None, None) => return true,
            (Some(w), Some(l)) if w == "+" || w == l => {}
            (Some(_) | None, Some(_) | None) => return false,
        }
    }
}
