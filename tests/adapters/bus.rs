//! The bus against real brokers: every case here runs on Mosquitto and on the embedded broker.

mod access;
mod hostile;

use std::collections::BTreeSet;

use bytes::Bytes;
use evenkeel::bus::session::{self, CloseError, Event, Events, Handle, PublishError, Will};
use evenkeel::bus::{Filter, PAYLOAD_BYTES_MAX, Topic, encode};
use evenkeel::model::{Alive, Boot, ControllerId, FleetName, MessageKey, NodeName};

use crate::parts::mosquitto::Mosquitto;
use crate::parts::process::{DEADLINE, free_port, program};

/// Declares each case as two tests.
macro_rules! on_both {
    ($($case:ident)*) => {
        mod mosquitto {$(
            #[tokio::test]
            async fn $case() {
                super::$case(super::Site::mosquitto()).await;
            }
        )*}
        #[cfg(feature = "embedded-broker")]
        mod embedded {$(
            #[tokio::test]
            async fn $case() {
                super::$case(super::Site::embedded().await).await;
            }
        )*}
    };
}

on_both! {
    the_list_is_complete_before_the_marker_comes_back
    live_is_told_from_retained_and_deletion_from_both
    the_will_speaks_for_the_dead_alone
    a_broker_that_comes_back_finds_everybody_again
    a_broker_may_start_after_its_clients
    the_largest_document_passes_and_a_larger_one_is_refused
    waiting_state_is_replaced_by_newer_state
    closing_sends_everything_first
    an_owner_that_does_not_listen_blocks_nobody
    two_clients_of_one_id_are_told
    topics_of_others_are_counted_and_passed_over
}

/// A broker that can go away and come back at the same address.
enum Site {
    Mosquitto(Mosquitto),
    #[cfg(feature = "embedded-broker")]
    Embedded(std::net::SocketAddr, Option<evenkeel::bus::embedded::Broker>),
}

impl Site {
    fn mosquitto() -> Site {
        Site::Mosquitto(Mosquitto::start())
    }

    #[cfg(feature = "embedded-broker")]
    async fn embedded() -> Site {
        let broker = embedded_on(([127, 0, 0, 1], 0).into()).await;
        Site::Embedded(broker.address(), Some(broker))
    }

    fn url(&self) -> String {
        match self {
            Site::Mosquitto(broker) => broker.url(),
            #[cfg(feature = "embedded-broker")]
            Site::Embedded(address, _) => format!("mqtt://{address}"),
        }
    }

    fn kill(&mut self) {
        match self {
            Site::Mosquitto(broker) => broker.kill(),
            #[cfg(feature = "embedded-broker")]
            Site::Embedded(_, broker) => *broker = None,
        }
    }

    async fn start_again(&mut self) {
        match self {
            Site::Mosquitto(broker) => broker.start_again(),
            #[cfg(feature = "embedded-broker")]
            Site::Embedded(address, broker) => *broker = Some(embedded_on(*address).await),
        }
    }
}

#[cfg(feature = "embedded-broker")]
async fn embedded_on(listen: std::net::SocketAddr) -> evenkeel::bus::embedded::Broker {
    use evenkeel::bus::embedded::{Broker, BrokerError, Config};
    let started = std::time::Instant::now();
    loop {
        match Broker::start(&Config { listen, ..Config::default() }).await {
            Ok(broker) => return broker,
            // The one before it was dropped, and ends when its task is next looked at.
            Err(BrokerError::Listen { .. }) if started.elapsed() < DEADLINE => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A session, and its owner's ears.
struct Client {
    handle: Handle,
    events: Events,
    marker: Topic,
}

fn fleet() -> FleetName {
    FleetName::new("prod").unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn report(name: &str) -> Topic {
    Topic::Report(node(name))
}

fn options(url: &str, client_id: &str) -> session::Options {
    session::Options {
        config: session::Config::new(url.parse().expect("a URL")),
        fleet: fleet(),
        client_id: client_id.to_owned(),
        will: None,
    }
}

impl Client {
    fn open_with(options: session::Options) -> Client {
        let marker = Topic::Marker(ControllerId::new(&options.client_id).expect("an id"));
        let (handle, events) = session::open(options).expect("a session");
        Client { handle, events, marker }
    }

    async fn open(site: &Site, client_id: &str) -> Client {
        let mut client = Client::open_with(options(&site.url(), client_id));
        client.connected().await;
        client
    }

    async fn next(&mut self) -> Event {
        tokio::time::timeout(DEADLINE, self.events.next())
            .await
            .expect("an event in time")
            .expect("the session goes on")
    }

    /// Passes over failed tries until the broker lets us in.
    async fn connected(&mut self) -> u64 {
        loop {
            match self.next().await {
                Event::Connected { connection } => return connection,
                Event::Disconnected { .. } => {}
                other => panic!("{other:?} before a connection"),
            }
        }
    }

    async fn disconnected(&mut self) -> String {
        match self.next().await {
            Event::Disconnected { reason, .. } => reason,
            other => panic!("{other:?} instead of Disconnected"),
        }
    }

    async fn message(&mut self) -> (Topic, Bytes, bool) {
        match self.next().await {
            Event::Message { topic, payload, retained } => (topic, payload, retained),
            other => panic!("{other:?} instead of a message"),
        }
    }

    fn publish(&self, topic: &Topic, payload: impl Into<Bytes>) {
        self.handle.publish(topic, payload, true).expect("queued");
    }

    /// Subscribes, and takes what comes until the marker does.
    async fn list(&mut self, filter: Filter) -> Vec<(Topic, Bytes, bool)> {
        self.handle.subscribe(&[filter, Filter::One(self.marker.clone())]).expect("queued");
        self.handle.publish(&self.marker, "now", false).expect("queued");
        let mut list = Vec::new();
        loop {
            let (topic, payload, retained) = self.message().await;
            if topic == self.marker {
                assert_eq!((payload.as_ref(), retained), (b"now".as_ref(), false));
                return list;
            }
            list.push((topic, payload, retained));
        }
    }

    async fn close(&self) {
        self.handle.close(DEADLINE).await.expect("closed");
    }
}

async fn the_list_is_complete_before_the_marker_comes_back(site: Site) {
    // More than Mosquitto queues for one client unless it is told to.
    const NODES: usize = 3_000;
    let topics: BTreeSet<Topic> = (0..NODES).map(|n| report(&format!("web{n}"))).collect();
    let publisher = Client::open(&site, "publisher").await;
    for topic in &topics {
        publisher.publish(topic, "{}");
    }
    publisher.close().await;
    assert_eq!(publisher.handle.counters().confirmed, NODES as u64);

    let list = Client::open(&site, "watcher").await.list(Filter::AllReports).await;
    assert!(list.iter().all(|(_, payload, retained)| payload == "{}" && *retained));
    assert_eq!(list.into_iter().map(|(topic, ..)| topic).collect::<BTreeSet<_>>(), topics);
}

async fn live_is_told_from_retained_and_deletion_from_both(site: Site) {
    let publisher = Client::open(&site, "publisher").await;
    let mut watcher = Client::open(&site, "watcher").await;
    assert_eq!(watcher.list(Filter::AllReports).await, []);
    publisher.publish(&report("web1"), "1");
    assert_eq!(watcher.message().await, (report("web1"), "1".into(), false));
    let mut late = Client::open(&site, "late").await;
    assert_eq!(late.list(Filter::AllReports).await, [(report("web1"), "1".into(), true)]);
    publisher.publish(&report("web1"), "");
    assert_eq!(watcher.message().await, (report("web1"), "".into(), false));
    let mut later = Client::open(&site, "later").await;
    assert_eq!(later.list(Filter::AllReports).await, []);
}

async fn the_will_speaks_for_the_dead_alone(mut site: Site) {
    let alive = Topic::Alive(node("web1"));
    let mortal = |url: &str, id: &str| {
        let mut options = options(url, id);
        let payload = Box::new(|connection| format!("gone {connection}").into_bytes());
        options.will = Some(Will { topic: Topic::Alive(node("web1")), payload });
        Client::open_with(options)
    };
    // The number in the will is that of the connection, not of the first one.
    let mut agent = mortal(&site.url(), "agent");
    assert_eq!(agent.connected().await, 1);
    site.kill();
    agent.disconnected().await;
    site.start_again().await;
    let connection = agent.connected().await;
    assert!(connection > 1);

    let mut watcher = Client::open(&site, "watcher").await;
    assert_eq!(watcher.list(Filter::AllAlive).await, []);
    drop(agent.events);
    let gone = format!("gone {connection}");
    assert_eq!(watcher.message().await, (alive.clone(), gone.clone().into(), false));
    let mut late = Client::open(&site, "late").await;
    assert_eq!(late.list(Filter::AllAlive).await, [(alive, gone.into(), true)]);

    let mut leaver = mortal(&site.url(), "leaver");
    leaver.connected().await;
    leaver.close().await;
    // By now the broker has dealt with the good-bye; a will would come before this.
    late.handle.publish(&late.marker, "after", false).unwrap();
    assert_eq!(late.message().await, (late.marker.clone(), "after".into(), false));
}

async fn a_broker_that_comes_back_finds_everybody_again(mut site: Site) {
    let mut client = Client::open(&site, "client").await;
    client.list(Filter::AllReports).await;
    for _ in 0..3 {
        site.kill();
        client.disconnected().await;
        // It must neither wait nor be kept for later.
        let refused = client.handle.publish(&report("web1"), "stale", true);
        assert_eq!(refused, Err(PublishError::NotConnected));
        assert_eq!(client.handle.subscribe(&[Filter::AllAlive]), Err(PublishError::NotConnected));
        site.start_again().await;
        client.connected().await;
        assert_eq!(client.list(Filter::AllReports).await, []);
        client.publish(&report("web1"), "fresh");
        assert_eq!(client.message().await, (report("web1"), "fresh".into(), false));
        client.publish(&report("web1"), "");
        assert_eq!(client.message().await, (report("web1"), "".into(), false));
    }
    client.close().await;
    assert!(client.events.next().await.is_none(), "a closed session does not come back");
}

async fn a_broker_may_start_after_its_clients(mut site: Site) {
    site.kill();
    let mut client = Client::open_with(options(&site.url(), "client"));
    assert!(client.disconnected().await.contains("refused"));
    client.disconnected().await;
    site.start_again().await;
    assert!(client.connected().await > 2);
    assert_eq!(client.list(Filter::AllReports).await, []);
}

async fn the_largest_document_passes_and_a_larger_one_is_refused(site: Site) {
    let publisher = Client::open(&site, "publisher").await;
    let mut watcher = Client::open(&site, "watcher").await;
    watcher.list(Filter::AllReports).await;
    for bytes in [900 * 1024, PAYLOAD_BYTES_MAX] {
        let large = Bytes::from(vec![b'x'; bytes]);
        publisher.publish(&report("lb1"), large.clone());
        assert!(watcher.message().await == (report("lb1"), large.clone(), false));
        let mut late = Client::open(&site, "late").await;
        assert!(late.list(Filter::AllReports).await == [(report("lb1"), large, true)]);
        late.close().await;
    }
    let larger = publisher.handle.publish(&report("lb1"), vec![b'x'; PAYLOAD_BYTES_MAX + 1], true);
    assert!(matches!(larger, Err(PublishError::TooLarge { .. })), "{larger:?}");
    assert_eq!(publisher.handle.counters().rejected, 1);
}

async fn waiting_state_is_replaced_by_newer_state(site: Site) {
    let mut watcher = Client::open(&site, "watcher").await;
    watcher.list(Filter::AllReports).await;
    let publisher = Client::open(&site, "publisher").await;
    // The session's task has no turn in between: this test runs on one thread and does not await.
    for n in 0..10_000 {
        publisher.publish(&report("web1"), n.to_string());
    }
    assert_eq!(publisher.handle.unconfirmed(), 1);
    assert_eq!(publisher.handle.counters().replaced, 9_999);
    assert_eq!(watcher.message().await, (report("web1"), "9999".into(), false));
    // Orders are no state: none is dropped for a later one.
    for n in 0..3 {
        publisher.handle.publish(&report("web2"), n.to_string(), false).unwrap();
    }
    for n in 0..3 {
        assert_eq!(watcher.message().await, (report("web2"), n.to_string().into(), false));
    }
}

async fn closing_sends_everything_first(site: Site) {
    let publisher = Client::open(&site, "publisher").await;
    for n in 0..2_000 {
        publisher.publish(&report(&format!("web{n}")), vec![b'x'; 2048]);
    }
    publisher.close().await;
    assert_eq!(publisher.handle.unconfirmed(), 0);
    assert_eq!(publisher.handle.counters().confirmed, 2_000);
    let late = publisher.handle.publish(&report("web1"), "late", true);
    assert_eq!(late, Err(PublishError::Closed));
    assert_eq!(publisher.handle.close(DEADLINE).await, Ok(()), "closing twice is no error");
    let list = Client::open(&site, "watcher").await.list(Filter::AllReports).await;
    assert_eq!(list.len(), 2_000);
}

async fn an_owner_that_does_not_listen_blocks_nobody(site: Site) {
    // More than the queue of events holds.
    const MESSAGES: usize = 3_000;
    let publisher = Client::open(&site, "publisher").await;
    let mut deaf = options(&site.url(), "deaf");
    // However slow this machine is, the broker shall not take it for dead.
    deaf.config.keep_alive_s = 600;
    let mut deaf = Client::open_with(deaf);
    deaf.connected().await;
    deaf.list(Filter::AllReports).await;
    for n in 0..MESSAGES {
        publisher.handle.publish(&report("web1"), n.to_string(), false).unwrap();
    }
    publisher.close().await;
    // It can still speak, and be heard once it listens.
    for n in 0..MESSAGES {
        deaf.handle.publish(&report("web2"), n.to_string(), true).unwrap();
    }
    for n in 0..MESSAGES {
        let (topic, payload, _) = deaf.message().await;
        assert_eq!((topic, payload), (report("web1"), n.to_string().into()));
    }
    let last = (MESSAGES - 1).to_string();
    assert_eq!(deaf.message().await, (report("web2"), last.into(), false));

    // And it can be closed while it does not listen.
    let filler = Client::open(&site, "filler").await;
    for n in 0..MESSAGES {
        filler.handle.publish(&report("web1"), n.to_string(), false).unwrap();
    }
    filler.close().await;
    deaf.publish(&report("web3"), "last words");
    deaf.close().await;
    let list = Client::open(&site, "watcher").await.list(Filter::One(report("web3"))).await;
    assert_eq!(list.len(), 1);
}

async fn two_clients_of_one_id_are_told(site: Site) {
    let mut first = Client::open(&site, "same").await;
    let second = Client::open(&site, "same").await;
    let reason = first.disconnected().await;
    assert!(reason.contains("another client uses our client id"), "{reason}");
    drop(second);
    first.connected().await;
}

async fn topics_of_others_are_counted_and_passed_over(site: Site) {
    let mut watcher = Client::open(&site, "watcher").await;
    watcher.list(Filter::AllReports).await;
    watcher.list(Filter::AllReceipts).await;
    let stranger = Client::open(&site, "stranger").await;
    // `+` takes any level, also what is no key of ours.
    let odd = Topic::Receipt(node("push1"), MessageKey("$x y".into()));
    stranger.handle.publish(&odd, "?", false).unwrap();
    stranger.publish(&report("web1"), "1");
    assert_eq!(watcher.message().await, (report("web1"), "1".into(), false));
    assert_eq!(watcher.handle.counters().foreign, 1);
}

#[tokio::test]
async fn closing_without_a_broker_says_so() {
    let client = Client::open_with(options(&format!("mqtt://127.0.0.1:{}", free_port()), "alone"));
    let closed = client.handle.close(DEADLINE).await;
    assert!(matches!(closed, Err(CloseError::Disconnected { .. })), "{closed:?}");
    drop(client.events);
    let (handle, events) = session::open(options("mqtt://127.0.0.1:1", "dropped")).unwrap();
    drop(events);
    assert_eq!(handle.close(DEADLINE).await, Err(CloseError::Ended));
}

#[tokio::test]
async fn a_persistent_mosquitto_has_the_list_after_a_restart() {
    let mut broker = Mosquitto::start_persistent();
    let mut client = Client::open_with(options(&broker.url(), "client"));
    client.connected().await;
    client.publish(&report("web1"), "kept");
    client.close().await;
    broker.stop();
    broker.start_again();
    let mut client = Client::open_with(options(&broker.url(), "client"));
    client.connected().await;
    assert_eq!(client.list(Filter::AllReports).await, [(report("web1"), "kept".into(), true)]);
}

#[tokio::test]
async fn a_person_can_read_along() {
    let broker = Mosquitto::start();
    let mut client = Client::open_with(options(&broker.url(), "client"));
    client.connected().await;
    let boot = Boot { started: 7, connection: 1 };
    let alive = Alive { node: node("web1"), boot, alive: true };
    client.publish(&Topic::Alive(node("web1")), encode(&alive).unwrap());
    client.close().await;
    let output = std::process::Command::new(program("mosquitto_sub", "mosquitto-clients"))
        .args(["-h", "127.0.0.1", "-p", &broker.port().to_string(), "-V", "5", "-v"])
        .args(["-t", "evenkeel/prod/#", "-C", "1", "-W", "30"])
        .output()
        .expect("run mosquitto_sub");
    let body = r#"{"node":"web1","boot":{"started":7,"connection":1},"alive":true}"#;
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!(
            "evenkeel/prod/nodes/web1/alive {{\"version\":1,\"kind\":\"alive\",\"body\":{body}}}\n"
        )
    );
}
