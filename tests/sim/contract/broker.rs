//! The broker: retained lists, empty documents, and what is said when a client goes without a word.

use std::sync::Arc;

use evenkeel::bus::embedded;
use evenkeel::model::NodeName;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::raw::Raw;
use crate::broker::{Broker, Client, Message};
use crate::parts::mosquitto::Mosquitto;
use crate::parts::process::DEADLINE;

/// What happens; the observer hears of it.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Somebody else publishes, retained or not.
    Publish(&'static str, &'static str, bool),
    /// The observer subscribes.
    Subscribe(&'static str),
    /// A client with a will, retained, connects; an older connection of it ends without a word.
    Connect { will: &'static str },
    /// It ends without a word.
    Die,
    /// It connects and then its network is silent: nobody ends the connection.
    Silence { will: &'static str },
    /// The broker loses patience with that.
    Notice,
    /// Somebody who has not heard that it arrived publishes it again, as MQTT 5, 4.4 has it.
    Twice(&'static str, &'static str),
}

use Step::{Connect, Die, Notice, Publish as Say, Silence, Subscribe, Twice};

const STORY: &[Step] = &[
    Say("f/nodes/a/report", "1", true),
    Say("f/nodes/a/report", "2", true),
    Say("f/nodes/b/report", "1", true),
    Say("f/nodes/b/alive", "1", true),
    Say("f/marker", "1", false),
    Subscribe("f/nodes/+/report"),
    Say("f/nodes/a/report", "3", true),
    Say("f/nodes/b/report", "", true),
    Say("f/nodes/c/other", "1", true),
    Subscribe("f/nodes/+/report"),
    Subscribe("f/marker"),
    Say("f/marker", "2", false),
    Subscribe("f/wills/c"),
    Connect { will: "first" },
    Connect { will: "second" },
    Die,
    Say("f/wills/c", "there", true),
    Subscribe("f/wills/c"),
    // A will that comes late says what is not true any more, and is what is retained.
    Silence { will: "late" },
    Say("f/wills/c", "back", true),
    Notice,
    Subscribe("f/wills/c"),
    Twice("f/nodes/a/report", "4"),
    Subscribe("f/nodes/+/report"),
];

const WILL: &str = "f/wills/c";

fn heard(message: &Message) -> String {
    let text = String::from_utf8_lossy(&message.payload);
    format!("{} {text:?} {}", message.topic, if message.retained { "retained" } else { "live" })
}

fn node(name: &str) -> Client {
    Client::Node(NodeName::new(name).expect("a name"))
}

/// Per step, what the observer hears. What is delivered in one answer has no order of its own.
fn of_the_simulated() -> Vec<Vec<String>> {
    let mut broker = Broker::default();
    let (observer, other) = (node("observer"), node("other"));
    broker.connect(observer.clone(), (1, 1), None);
    let mut connections = 0;
    let mut story = Vec::new();
    for step in STORY {
        let mut messages = Vec::new();
        let mut publish = |broker: &mut Broker, topic: &str, payload: Arc<[u8]>, retain| {
            let (to, message) = broker.publish(topic, &payload, retain);
            messages.extend(to.iter().filter(|(c, _)| *c == observer).map(|_| message.clone()));
        };
        match *step {
            Say(topic, text, retain) => {
                publish(&mut broker, topic, text.as_bytes().into(), retain);
            }
            Subscribe(filter) => messages = broker.subscribe(&observer, (1, 1), filter),
            Connect { will } => {
                connections += 1;
                let will = Some((WILL.to_owned(), will.as_bytes().into()));
                if let Some((topic, said)) = broker.connect(other.clone(), (2, connections), will) {
                    publish(&mut broker, &topic, said, true);
                }
            }
            Silence { will } => {
                let will = Some((WILL.to_owned(), will.as_bytes().into()));
                broker.connect(node("silent"), (3, 1), will);
            }
            Notice => {
                if let Some((topic, said)) = broker.end(&node("silent"), (3, 1)) {
                    publish(&mut broker, &topic, said, true);
                }
            }
            Twice(topic, text) => {
                publish(&mut broker, topic, text.as_bytes().into(), true);
                publish(&mut broker, topic, text.as_bytes().into(), true);
            }
            Die => {
                if let Some((topic, said)) = broker.end(&other, (2, connections)) {
                    publish(&mut broker, &topic, said, true);
                }
            }
        }
        let mut lines: Vec<String> = messages.iter().map(heard).collect();
        lines.sort();
        story.push(lines);
    }
    story
}

/// A client of the real one; it ends without a word when it is dropped.
struct Real {
    client: AsyncClient,
    heard: mpsc::UnboundedReceiver<Publish>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Real {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Real {
    async fn connect(port: u16, name: &str, will: Option<&str>) -> Real {
        let mut options = MqttOptions::new(name, "127.0.0.1", port);
        options.set_clean_start(true);
        if let Some(will) = will {
            let will = LastWill::new(WILL, will.as_bytes().to_vec(), QoS::AtLeastOnce, true, None);
            options.set_last_will(will);
        }
        let (client, mut events) = AsyncClient::new(options, 100);
        let is_in = |event: &Event| matches!(event, Event::Incoming(Packet::ConnAck(_)));
        while !is_in(&timeout(DEADLINE, events.poll()).await.expect("in time").expect("it lets in"))
        {
        }
        let (tell, heard) = mpsc::unbounded_channel();
        let task = tokio::spawn(Self::run(events, tell));
        Real { client, heard, task }
    }

    async fn run(mut events: EventLoop, tell: mpsc::UnboundedSender<Publish>) {
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Packet::Publish(publish)) = event
                && tell.send(publish).is_err()
            {
                return;
            }
        }
    }

    async fn say(&self, topic: &str, text: &str, retain: bool) {
        let payload = text.as_bytes().to_vec();
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload).await.expect("a live client");
    }

    /// The next document, in the simulated one's words.
    async fn next(&mut self) -> Message {
        let publish = timeout(DEADLINE, self.heard.recv()).await.expect("in time").expect("alive");
        let topic = String::from_utf8(publish.topic.to_vec()).expect("UTF-8");
        Message { topic, payload: publish.payload.to_vec().into(), retained: publish.retain }
    }
}

async fn of_the_real(port: u16, expected: &[Vec<String>]) -> Vec<Vec<String>> {
    let mut observer = Real::connect(port, "observer", None).await;
    let other = Real::connect(port, "speaker", None).await;
    let end = "f/end";
    observer.client.subscribe(end, QoS::AtLeastOnce).await.expect("a live client");
    observer.say(end, "subscribed", false).await;
    observer.next().await;
    let mut willing: Option<Real> = None;
    let mut silent: Option<Raw> = None;
    let mut story = Vec::new();
    for (number, step) in STORY.iter().enumerate() {
        match *step {
            Say(topic, text, retain) => other.say(topic, text, retain).await,
            Subscribe(filter) => {
                observer.client.subscribe(filter, QoS::AtLeastOnce).await.expect("a live client");
            }
            Connect { will } => willing = Some(Real::connect(port, "willing", Some(will)).await),
            Die => drop(willing.take()),
            Silence { will } => {
                let keep_alive_s = 1;
                silent = Some(Raw::connect(port, "silent", keep_alive_s, Some((WILL, will))).await);
            }
            // What it says then is waited for below.
            Notice => {}
            Twice(topic, text) => {
                let mut raw = Raw::connect(port, "forgetful", 60, None).await;
                raw.publish(topic, text, false).await;
                raw.publish(topic, text, true).await;
            }
        }
        let mut lines = Vec::new();
        // The end of a connection is noticed in the broker's own time: what must come is waited for.
        while lines.len() < expected[number].len() {
            lines.push(heard(&observer.next().await));
        }
        // Whatever else there is comes before this does. What is subscribed to is asked for on the same way.
        let from = if matches!(step, Subscribe(_)) { &observer } else { &other };
        from.say(end, &number.to_string(), false).await;
        loop {
            let message = observer.next().await;
            if message.topic == end {
                break;
            }
            lines.push(heard(&message));
        }
        lines.sort();
        story.push(lines);
    }
    drop(silent);
    story
}

#[tokio::test]
async fn what_an_observer_hears() {
    let simulated = of_the_simulated();
    let heard: usize = simulated.iter().map(Vec::len).sum();
    assert!(heard >= 10, "{simulated:?}");
    let broker = Mosquitto::start();
    assert_eq!(simulated, of_the_real(broker.port(), &simulated).await);
}

#[tokio::test]
async fn what_an_observer_of_the_embedded_one_hears() {
    let simulated = of_the_simulated();
    let config = embedded::Config {
        listen: ([127, 0, 0, 1], 0).into(),
        certificate_file: None,
        key_file: None,
        password_file: None,
        acl_file: None,
        allow_anonymous: true,
    };
    let broker = embedded::Broker::start(&config).await.expect("a broker");
    assert_eq!(simulated, of_the_real(broker.address().port(), &simulated).await);
    broker.stop().await;
}
