//! The task behind a session: one connection after the other, each with an event loop of its own.
//!
//! The client library is used for one connection only and then thrown away, because what it keeps
//! from one to the next (packet ids, unconfirmed packets) can wedge it for good.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, DisconnectReasonCode, Filter, LastWill, Packet, PubAck, PubAckReason, Publish, SubAck,
    SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, EventLoop, MqttOptions, StateError};
use rumqttc::{NetworkOptions, Outgoing, Transport};
use tokio::sync::{mpsc, watch};

use super::outage::Outage;
use super::outbox::Item;
use super::session::{Event, Operation, Options, Shared};
use super::topics::Topic;
use super::wire::PAYLOAD_BYTES_MAX;

/// TCP, TLS and CONNACK together, in seconds. A broker on the other side of the world needs one;
/// one under the load of a whole fleet's reconnecting, a few.
const CONNECT_S_MAX: u64 = 5;

/// The ceiling of the wait before the first new try, in milliseconds; it doubles with each further one.
/// The broker may only have been restarted, and is ready again within 20 ms.
const RETRY_MS_FIRST: u64 = 50;

/// The highest ceiling, in milliseconds: 1,000 agents then knock 400 times a second, together.
const RETRY_MS_MAX: u64 = 5000;

/// Publishes under way that the broker has not confirmed. The library allocates for each; 64 keep
/// a loopback busy, and a distant broker at thousands a second.
const INFLIGHT_MAX: u16 = 64;

/// The largest packet that we take, in bytes: the largest payload, and room for topic and properties.
/// The broker is told, and keeps larger ones from us.
const PACKET_BYTES_MAX: u32 = PAYLOAD_BYTES_MAX as u32 + 8192;

/// Requests between our outbox and the library: they can no longer be replaced, so they are few.
const REQUESTS_MAX: usize = 4;

/// How long to wait for the broker to hang up after our good-bye. If we hung up first, with
/// something of the broker's unread, TCP could take the good-bye back.
const GOODBYE: Duration = Duration::from_secs(1);

/// How a session has ended.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    /// Everything was confirmed, and the broker knows that we meant it.
    Closed,
    /// Otherwise; why, in words.
    Lost(String),
}

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) options: Options,
    pub(super) transport: Transport,
    pub(super) credentials: Option<(String, String)>,
}

impl Driver {
    /// Connects again and again until the session is closed.
    pub(super) async fn run(self, ended: watch::Sender<Option<Ending>>) {
        let _shut = Shut(self.shared.clone());
        let mut backoff = Backoff { failures: 0 };
        let mut outage = Outage::default();
        let mut connection = 0;
        let ending = loop {
            connection += 1;
            let mut connected = None;
            let ending = self.connect(connection, &mut connected).await;
            self.shared.outbox().disconnected();
            let reason = match ending {
                Ending::Closed => break Ending::Closed,
                Ending::Lost(reason) => reason,
            };
            let stood = has_stood(connected);
            if stood {
                outage.ended();
            }
            let is_news = outage.is_news(&reason, Instant::now());
            let retry = backoff.next(stood);
            let retry_ms = retry.as_millis() as u64;
            tracing::debug!(connection, reason, retry_ms, "no connection to the broker");
            let said = reason.clone();
            self.tell(Event::Disconnected { connection, reason: said, retry_ms, is_news }).await;
            tokio::select! {
                biased;
                () = self.closing() => break Ending::Lost(reason),
                () = tokio::time::sleep(retry) => {}
            }
        };
        ended.send_replace(Some(ending));
    }

    /// One connection, from the first packet to the last.
    async fn connect(&self, connection: u64, connected: &mut Option<Instant>) -> Ending {
        let (client, mut eventloop) = AsyncClient::new(self.mqtt_options(connection), REQUESTS_MAX);
        // The library bounds the time of this.
        let first = tokio::select! {
            biased;
            () = self.closing() => return Ending::Lost("it was closed before it connected".into()),
            first = eventloop.poll() => first,
        };
        let broker = match first {
            Ok(rumqttc::v5::Event::Incoming(Packet::ConnAck(broker))) => broker,
            Ok(other) => return Ending::Lost(format!("{other:?} came before CONNACK")),
            Err(error) => return Ending::Lost(words(&error)),
        };
        if let Some(lacks) = lacking(&broker) {
            return Ending::Lost(format!("the broker offers no {lacks}"));
        }
        *connected = Some(Instant::now());
        let packet_bytes_max = broker.properties.and_then(|its| its.max_packet_size);
        self.shared.outbox().connected(packet_bytes_max.map(|max| max as usize));
        self.tell(Event::Connected { connection }).await;
        // Two halves of one task. The polling half is never dropped before the connection is: what
        // it does is not safe to abandon half-way, and what sends may wait for it, not it for that.
        tokio::select! {
            biased;
            ending = self.send(&client) => ending,
            ending = self.receive(&mut eventloop) => ending,
        }
    }

    /// Hands what waits to the library, as fast as it takes it; says good-bye when asked to and all
    /// is confirmed.
    async fn send(&self, client: &AsyncClient) -> Ending {
        let mut said_goodbye = false;
        loop {
            let item = self.shared.outbox().take();
            let handed = match item {
                Some(Item::Publish { topic, payload, retain }) => {
                    client.publish_bytes(topic, QoS::AtLeastOnce, retain, payload).await
                }
                Some(Item::Subscribe { filters }) => {
                    let filter = |path| Filter::new(path, QoS::AtLeastOnce);
                    client.subscribe_many(filters.into_iter().map(filter)).await
                }
                None if self.is_closing() && !said_goodbye && self.shared.outbox().is_idle() => {
                    said_goodbye = true;
                    client.disconnect().await
                }
                None => {
                    self.shared.wake.notified().await;
                    Ok(())
                }
            };
            if handed.is_err() {
                return Ending::Lost("the client library takes no requests".into());
            }
        }
    }

    /// Polls the library until the connection ends, and tells the owner what comes.
    async fn receive(&self, eventloop: &mut EventLoop) -> Ending {
        let mut said_goodbye = false;
        loop {
            // A ping makes every poll return within the keep-alive, unless it hangs in a write to a
            // broker that does not read: that would be without end.
            let limit = if said_goodbye { GOODBYE } else { eventloop.options.keep_alive() * 2 };
            let event = match tokio::time::timeout(limit, eventloop.poll()).await {
                // The next poll after an error would connect again; this is why none follows.
                Ok(Err(_)) | Err(_) if said_goodbye => return Ending::Closed,
                Ok(Err(error)) => return Ending::Lost(words(&error)),
                Err(_) => return Ending::Lost(format!("the broker took nothing for {limit:?}")),
                Ok(Ok(event)) => event,
            };
            match event {
                rumqttc::v5::Event::Incoming(Packet::Publish(publish)) => {
                    self.message(publish).await;
                }
                rumqttc::v5::Event::Incoming(Packet::PubAck(answer)) => {
                    self.published(&answer).await;
                }
                rumqttc::v5::Event::Incoming(Packet::SubAck(answer)) => {
                    self.subscribed(&answer).await;
                }
                rumqttc::v5::Event::Incoming(_) => {}
                rumqttc::v5::Event::Outgoing(Outgoing::Publish(id) | Outgoing::Subscribe(id)) => {
                    self.shared.outbox().sent(id);
                }
                rumqttc::v5::Event::Outgoing(Outgoing::Disconnect) => said_goodbye = true,
                rumqttc::v5::Event::Outgoing(_) => {}
            }
        }
    }

    async fn message(&self, publish: Publish) {
        let parsed = str::from_utf8(&publish.topic)
            .ok()
            .and_then(|topic| Topic::parse(&self.shared.fleet, topic).ok());
        let Some(topic) = parsed else {
            self.shared.outbox().counters.foreign += 1;
            tracing::debug!(topic = ?publish.topic, "a message on a topic that is none of ours");
            return;
        };
        let (payload, retained) = (publish.payload, publish.retain);
        self.tell(Event::Message { topic, payload, retained }).await;
    }

    async fn published(&self, answer: &PubAck) {
        let refused =
            !matches!(answer.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
        let topic = self.shared.outbox().publish_answered(answer.pkid, refused);
        self.wake_goodbye();
        if let (Some(topic), true) = (topic, refused) {
            let operation = Operation::Publish(topic);
            self.tell(Event::Refused { operation, reason: format!("{:?}", answer.reason) }).await;
        }
    }

    async fn subscribed(&self, answer: &SubAck) {
        let filters = self.shared.outbox().subscribe_answered(answer.pkid).unwrap_or_default();
        self.wake_goodbye();
        // A broker that answers for fewer filters than were asked for has not granted the rest.
        let mut codes = answer.return_codes.iter();
        for filter in filters {
            let reason = match codes.next() {
                Some(SubscribeReasonCode::Success(_)) => continue,
                Some(code) => format!("{code:?}"),
                None => "no answer".to_owned(),
            };
            self.shared.outbox().counters.refused += 1;
            let operation = Operation::Subscribe(filter);
            self.tell(Event::Refused { operation, reason }).await;
        }
    }

    /// Waits for room in the owner's queue; once the session is closing, nobody listens any more.
    async fn tell(&self, event: Event) {
        tokio::select! {
            biased;
            () = self.closing() => {}
            _ = self.events.send(event) => {}
        }
    }

    /// Lets the sending half look whether it is time to say good-bye.
    fn wake_goodbye(&self) {
        if self.is_closing() {
            self.shared.wake.notify_one();
        }
    }

    fn is_closing(&self) -> bool {
        *self.shared.closing.borrow()
    }

    async fn closing(&self) {
        // The sender lives as long as we do, so that this cannot fail.
        let _ = self.shared.closing.subscribe().wait_for(|closing| *closing).await;
    }

    fn mqtt_options(&self, connection: u64) -> MqttOptions {
        let Options { config, fleet, client_id, will } = &self.options;
        let mut mqtt = MqttOptions::new(client_id, &config.url.host, config.url.port);
        // The library panics below 5.
        mqtt.set_keep_alive(Duration::from_secs(u64::from(config.keep_alive_s.max(5))));
        mqtt.set_clean_start(true).set_session_expiry_interval(Some(0));
        mqtt.set_connection_timeout(CONNECT_S_MAX);
        mqtt.set_max_packet_size(Some(PACKET_BYTES_MAX));
        mqtt.set_outgoing_inflight_upper_limit(INFLIGHT_MAX);
        mqtt.set_transport(self.transport.clone());
        // Nagle's algorithm and delayed acknowledgements together cost 40 ms a message.
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        mqtt.set_network_options(network);
        if let Some((user, password)) = &self.credentials {
            mqtt.set_credentials(user, password);
        }
        if let Some(will) = will {
            let (topic, payload) = (will.topic.on(fleet), (will.payload)(connection));
            mqtt.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, true, None));
        }
        mqtt
    }
}

/// Shuts the outbox when the task ends, however it ends.
struct Shut(Arc<Shared>);

impl Drop for Shut {
    fn drop(&mut self) {
        let mut outbox = self.0.outbox();
        outbox.close();
        outbox.disconnected();
    }
}

/// Whether there was a connection. One that stood only for a moment counts as a failure: the
/// broker, or a second client of our id, may throw us out each time.
fn has_stood(connected: Option<Instant>) -> bool {
    connected.is_some_and(|at| at.elapsed() >= Duration::from_millis(RETRY_MS_MAX))
}

/// Exponential backoff with full jitter: the wait is drawn evenly from zero to a ceiling that
/// doubles, so that a fleet does not come back in step.
struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after a connection; whether it has stood.
    fn next(&mut self, stood: bool) -> Duration {
        if stood {
            self.failures = 0;
        }
        let ceiling = (RETRY_MS_FIRST << self.failures.min(16)).min(RETRY_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(fastrand::u64(0..=ceiling))
    }
}

/// What we cannot do without and the broker does not offer (MQTT 5, 3.2.2.3).
fn lacking(broker: &ConnAck) -> Option<&'static str> {
    let its = broker.properties.as_ref()?;
    match its {
        _ if its.retain_available == Some(0) => Some("retained messages"),
        _ if its.max_qos == Some(0) => Some("QoS 1"),
        // The library takes it literally, and pings without a pause.
        _ if its.server_keep_alive == Some(0) => Some("keep-alive"),
        _ if its.wildcard_subscription_available == Some(0) => Some("wildcard subscriptions"),
        _ => None,
    }
}

/// The library's error for people.
fn words(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Timeout(_) => {
            format!("the broker did not answer within {CONNECT_S_MAX} s")
        }
        ConnectionError::ConnectionRefused(code) => {
            format!("the broker refused the connection: {code:?}")
        }
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let hint = match reason_code {
                DisconnectReasonCode::SessionTakenOver => "; another client uses our client id",
                _ => "",
            };
            let said = reason_string.as_deref().unwrap_or_default();
            format!("the broker hung up: {reason_code:?} {said}{hint}")
        }
        // Where a broker does say why, the library loses it if nothing but a code is said.
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            "the broker hung up; if it goes on like this, another client uses our client id".into()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_to_its_ceiling_and_not_beyond() {
        let mut backoff = Backoff { failures: 0 };
        assert!(backoff.next(false) <= Duration::from_millis(RETRY_MS_FIRST));
        let waits: Vec<_> = (0..1000).map(|_| backoff.next(false)).collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(RETRY_MS_MAX)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_millis(RETRY_MS_MAX / 2)));
        backoff.next(true);
        assert_eq!(backoff.failures, 1);
    }

    #[test]
    fn a_connection_that_stood_for_a_moment_counts_as_none() {
        let ago = |ms| Instant::now().checked_sub(Duration::from_millis(ms));
        assert!(!has_stood(None));
        assert!(!has_stood(ago(0)));
        assert!(has_stood(ago(RETRY_MS_MAX)));
    }
}
