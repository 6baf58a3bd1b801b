//! What waits to be sent, and what was sent and is not confirmed yet; pure bookkeeping, no IO.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::wire::PAYLOAD_BYTES_MAX;

/// Documents that may wait. Two for each of 10,000 nodes, with room to spare; more waiting means
/// that the broker does not take what we say.
const WAITING_MAX: usize = 32_768;

/// Bytes that may wait in all: 32,768 documents of 4 KiB, or 128 of the largest.
const WAITING_BYTES_MAX: usize = 128 * PAYLOAD_BYTES_MAX;

/// One thing to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Publish { topic: String, payload: Bytes, retain: bool },
    Subscribe { filters: Vec<String> },
}

/// Why nothing could be queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// There is no connection. The state is published whole at the next one.
    #[error("not connected to the broker")]
    NotConnected,
    /// The session is being closed, or has ended.
    #[error("the session with the broker is closed")]
    Closed,
    /// More waits than a healthy broker would ever leave waiting.
    #[error("{waiting} documents ({bytes} bytes) wait for the broker already")]
    Full {
        /// How many documents wait.
        waiting: usize,
        /// How many bytes they have.
        bytes: usize,
    },
    /// The broker, or every reader, would refuse it.
    #[error("a payload of {bytes} bytes on {topic} is over the limit of {limit}")]
    TooLarge {
        /// On which topic.
        topic: String,
        /// Its size.
        bytes: usize,
        /// The limit: ours, or less if the broker announced less.
        limit: usize,
    },
    /// MQTT forbids to publish there.
    #[error("{topic:?} is not a topic that can be published to")]
    Topic {
        /// The topic, cut to 160 characters.
        topic: String,
    },
}

/// What has happened so far, for metrics. All only grow, over all connections of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Publishes that the broker has confirmed.
    pub confirmed: u64,
    /// Retained publishes that a newer one replaced before they were sent.
    pub replaced: u64,
    /// Publishes refused at once: not connected, full, too large.
    pub rejected: u64,
    /// Publishes that a lost connection took with it, sent or not.
    pub lost: u64,
    /// Publishes and subscriptions that the broker refused.
    pub refused: u64,
    /// Messages received on topics that are none of ours.
    pub foreign: u64,
}

/// Where the session stands, as its users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Down,
    Up { payload_bytes_max: usize },
    Closing,
}

/// What waits and what is under way, for one session.
///
/// A newer payload for a retained topic replaces the one that still waits, and goes to the end of
/// the queue: so of any two documents, the final versions leave in the order in which they were
/// published. Whoever publishes B because A was published before relies on it.
#[derive(Debug)]
pub(super) struct Outbox {
    standing: Standing,
    waiting: BTreeMap<u64, Item>,
    waiting_bytes: usize,
    /// Where in `waiting` the retained document of a topic is.
    retained: BTreeMap<String, u64>,
    next: u64,
    /// Taken by the client library, which has not told their packet ids yet; in order.
    taken: VecDeque<Sent>,
    published: BTreeMap<u16, String>,
    subscribed: BTreeMap<u16, Vec<String>>,
    pub(super) counters: Counters,
}

#[derive(Debug)]
enum Sent {
    Publish(String),
    Subscribe(Vec<String>),
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            standing: Standing::Down,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            retained: BTreeMap::new(),
            next: 0,
            taken: VecDeque::new(),
            published: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    pub(super) fn publish(
        &mut self,
        topic: String,
        payload: Bytes,
        retain: bool,
    ) -> Result<(), PublishError> {
        let old = if retain { self.retained.get(&topic).copied() } else { None };
        if let Err(error) = self.room_for(&topic, payload.len(), old) {
            self.counters.rejected += 1;
            return Err(error);
        }
        if let Some(old) = old {
            self.remove(old);
            self.counters.replaced += 1;
        }
        if retain {
            self.retained.insert(topic.clone(), self.next);
        }
        self.push(Item::Publish { topic, payload, retain });
        Ok(())
    }

    fn room_for(&self, topic: &str, bytes: usize, old: Option<u64>) -> Result<(), PublishError> {
        let limit = match self.standing {
            Standing::Down => return Err(PublishError::NotConnected),
            Standing::Closing => return Err(PublishError::Closed),
            Standing::Up { payload_bytes_max } => payload_bytes_max,
        };
        // The wildcards and NUL: MQTT 5, 4.7.1 and 4.7.3. A broker would hang up on us.
        if topic.is_empty() || topic.len() > 1024 || topic.contains(['+', '#', '\0']) {
            return Err(PublishError::Topic { topic: topic.chars().take(160).collect() });
        }
        if bytes > limit {
            return Err(PublishError::TooLarge { topic: topic.to_owned(), bytes, limit });
        }
        match old.and_then(|place| self.waiting.get(&place)) {
            // What is replaced makes room for one at least.
            Some(old) => self.room(0, (topic.len() + bytes).saturating_sub(weight(old))),
            None => self.room(1, topic.len() + bytes),
        }
    }

    fn room(&self, items: usize, more: usize) -> Result<(), PublishError> {
        let (waiting, bytes) = (self.waiting.len(), self.waiting_bytes);
        if waiting + items > WAITING_MAX || bytes + more > WAITING_BYTES_MAX {
            return Err(PublishError::Full { waiting, bytes });
        }
        Ok(())
    }

    pub(super) fn subscribe(&mut self, filters: Vec<String>) -> Result<(), PublishError> {
        match self.standing {
            Standing::Down => return Err(PublishError::NotConnected),
            Standing::Closing => return Err(PublishError::Closed),
            Standing::Up { .. } => self.room(1, 0)?,
        }
        if !filters.is_empty() {
            self.push(Item::Subscribe { filters });
        }
        Ok(())
    }

    fn push(&mut self, item: Item) {
        self.waiting_bytes += weight(&item);
        self.waiting.insert(self.next, item);
        self.next += 1;
    }

    fn remove(&mut self, place: u64) -> Option<Item> {
        let item = self.waiting.remove(&place)?;
        self.waiting_bytes -= weight(&item);
        Some(item)
    }

    /// The next thing to send; from here on it counts as under way.
    pub(super) fn take(&mut self) -> Option<Item> {
        let place = *self.waiting.first_key_value()?.0;
        let item = self.remove(place)?;
        self.taken.push_back(match &item {
            Item::Publish { topic, retain, .. } => {
                if *retain {
                    self.retained.remove(topic);
                }
                Sent::Publish(topic.clone())
            }
            Item::Subscribe { filters } => Sent::Subscribe(filters.clone()),
        });
        Some(item)
    }

    /// The oldest taken item went out under this packet id. They go out in order, so that what the
    /// library says here can only be of the oldest.
    pub(super) fn sent(&mut self, id: u16) {
        match self.taken.pop_front() {
            Some(Sent::Publish(topic)) => drop(self.published.insert(id, topic)),
            Some(Sent::Subscribe(filters)) => drop(self.subscribed.insert(id, filters)),
            None => {}
        }
    }

    /// The broker has answered a publish; the topic, if it was ours.
    pub(super) fn publish_answered(&mut self, id: u16, refused: bool) -> Option<String> {
        let topic = self.published.remove(&id)?;
        match refused {
            true => self.counters.refused += 1,
            false => self.counters.confirmed += 1,
        }
        Some(topic)
    }

    /// The broker has answered a subscription; its filters, if it was ours.
    pub(super) fn subscribe_answered(&mut self, id: u16) -> Option<Vec<String>> {
        self.subscribed.remove(&id)
    }

    /// Nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.unconfirmed() == 0
    }

    /// How much waits or is under way.
    pub(super) fn unconfirmed(&self) -> usize {
        self.waiting.len() + self.taken.len() + self.published.len() + self.subscribed.len()
    }

    /// A connection stands. `packet_bytes_max` is the broker's limit, if it has one.
    pub(super) fn connected(&mut self, packet_bytes_max: Option<usize>) {
        // The topic and the header come on top of the payload.
        let broker = packet_bytes_max.map_or(PAYLOAD_BYTES_MAX, |max| max.saturating_sub(2048));
        let payload_bytes_max = broker.min(PAYLOAD_BYTES_MAX);
        match self.standing {
            Standing::Closing => {}
            Standing::Down | Standing::Up { .. } => {
                self.standing = Standing::Up { payload_bytes_max };
            }
        }
    }

    /// The connection is gone, and with it whatever was not confirmed.
    pub(super) fn disconnected(&mut self) {
        let published = |sent: &&Sent| matches!(sent, Sent::Publish(_));
        let waiting = |item: &&Item| matches!(item, Item::Publish { .. });
        let lost = self.published.len()
            + self.taken.iter().filter(published).count()
            + self.waiting.values().filter(waiting).count();
        self.counters.lost += lost as u64;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.retained.clear();
        self.taken.clear();
        self.published.clear();
        self.subscribed.clear();
        match self.standing {
            Standing::Closing => {}
            Standing::Down | Standing::Up { .. } => self.standing = Standing::Down,
        }
    }

    /// Takes nothing more.
    pub(super) fn close(&mut self) {
        self.standing = Standing::Closing;
    }
}

fn weight(item: &Item) -> usize {
    match item {
        Item::Publish { topic, payload, .. } => topic.len() + payload.len(),
        Item::Subscribe { filters } => filters.iter().map(String::len).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected() -> Outbox {
        let mut outbox = Outbox::new();
        outbox.connected(None);
        outbox
    }

    fn publish(outbox: &mut Outbox, topic: &str, payload: &'static str) {
        let payload = Bytes::from_static(payload.as_bytes());
        outbox.publish(topic.to_owned(), payload, true).expect("queued");
    }

    fn drain(outbox: &mut Outbox) -> Vec<String> {
        let mut taken = Vec::new();
        while let Some(item) = outbox.take() {
            match item {
                Item::Publish { topic, payload, .. } => {
                    taken.push(format!("{topic}={}", String::from_utf8_lossy(&payload)));
                }
                Item::Subscribe { filters } => taken.push(filters.join(",")),
            }
        }
        taken
    }

    #[test]
    fn final_versions_leave_in_the_order_of_their_publishing() {
        let mut outbox = connected();
        publish(&mut outbox, "a", "1");
        publish(&mut outbox, "b", "1");
        publish(&mut outbox, "a", "2");
        outbox.publish("m".into(), Bytes::from_static(b"1"), false).unwrap();
        outbox.publish("m".into(), Bytes::from_static(b"2"), false).unwrap();
        outbox.subscribe(vec!["f".into()]).unwrap();
        assert_eq!(drain(&mut outbox), ["b=1", "a=2", "m=1", "m=2", "f"]);
        assert_eq!(outbox.counters.replaced, 1);
        assert_eq!(outbox.waiting_bytes, 0);
        // What has left is not replaced, but followed.
        publish(&mut outbox, "a", "3");
        assert_eq!(drain(&mut outbox), ["a=3"]);
        assert_eq!(outbox.counters.replaced, 1);
    }

    #[test]
    fn it_is_idle_when_all_is_confirmed() {
        let mut outbox = connected();
        publish(&mut outbox, "a", "1");
        outbox.subscribe(vec!["f".into()]).unwrap();
        drain(&mut outbox);
        assert_eq!(outbox.unconfirmed(), 2);
        outbox.sent(1);
        outbox.sent(2);
        assert_eq!(outbox.publish_answered(2, false), None, "2 is the subscription");
        assert_eq!(outbox.publish_answered(1, false).as_deref(), Some("a"));
        assert_eq!(outbox.subscribe_answered(2), Some(vec!["f".to_owned()]));
        assert!(outbox.is_idle());
        assert_eq!(outbox.counters.confirmed, 1);
    }

    #[test]
    fn a_lost_connection_takes_everything_with_it() {
        let mut outbox = connected();
        for topic in ["a", "b", "c"] {
            publish(&mut outbox, topic, "1");
        }
        outbox.take();
        outbox.sent(1);
        outbox.take();
        outbox.disconnected();
        assert!(outbox.is_idle());
        assert_eq!(outbox.counters.lost, 3);
        let refused = outbox.publish("a".into(), Bytes::new(), true);
        assert_eq!(refused, Err(PublishError::NotConnected));
        outbox.connected(None);
        publish(&mut outbox, "a", "2");
        assert_eq!(drain(&mut outbox), ["a=2"]);
    }

    #[test]
    fn everything_has_a_bound() {
        let mut outbox = connected();
        for n in 0..WAITING_MAX {
            outbox.publish(n.to_string(), Bytes::new(), true).unwrap();
        }
        let full = outbox.publish("x".into(), Bytes::new(), true);
        assert!(matches!(full, Err(PublishError::Full { .. })), "{full:?}");
        publish(&mut outbox, "7", "the newer state still finds its place");

        let mut outbox = connected();
        let large = Bytes::from(vec![0; PAYLOAD_BYTES_MAX]);
        let fit =
            (0..200).take_while(|n| outbox.publish(n.to_string(), large.clone(), false).is_ok());
        assert_eq!(fit.count(), 127, "128 less their topics");

        let mut outbox = Outbox::new();
        outbox.connected(Some(4096));
        let large = outbox.publish("x".into(), Bytes::from(vec![0; 2049]), true);
        assert!(matches!(large, Err(PublishError::TooLarge { limit: 2048, .. })), "{large:?}");
        for topic in ["", "a/+", "#", "a\0"] {
            let refused = outbox.publish(topic.into(), Bytes::new(), true);
            assert!(matches!(refused, Err(PublishError::Topic { .. })), "{topic:?}");
        }
        assert_eq!(outbox.counters.rejected, 5);
        outbox.close();
        assert_eq!(outbox.publish("x".into(), Bytes::new(), true), Err(PublishError::Closed));
    }
}
