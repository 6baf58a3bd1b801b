//! Documents on the bus, through the intake that controller and agents use, and on into their cores.

use evenkeel::bus::intake::{self, Document, IntakeError};
use evenkeel::bus::wire::{self, WireError};
use evenkeel::bus::{PAYLOAD_BYTES_MAX, Topic};
use evenkeel::model::{AppName, FleetName, NodeName};

use super::cores;

/// A payload on the topic of a node's report.
pub fn report(data: &[u8]) -> bool {
    payload(Topic::Report(node("web1")), data) | payload(Topic::Report(node("lb1")), data)
}

/// A payload on the topic of an assignment.
pub fn assignment(data: &[u8]) -> bool {
    payload(Topic::Assignment(node("web1"), AppName::new("shop").expect("a name")), data)
}

/// A topic in the first line, as it comes after the fleet's name, and a payload in the rest.
pub fn document(data: &[u8]) -> bool {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (topic, payload_bytes) = data.split_at(at);
    let fleet = fleet();
    let text = format!("evenkeel/{fleet}/{}", String::from_utf8_lossy(topic));
    let Ok(topic) = Topic::parse(&fleet, &text) else { return false };
    assert_eq!(topic.on(&fleet), text, "a topic has one form");
    payload(topic, payload_bytes.get(1..).unwrap_or_default())
}

fn fleet() -> FleetName {
    FleetName::new("prod").expect("a name")
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

fn payload(topic: Topic, payload: &[u8]) -> bool {
    match intake::read(&fleet(), topic.clone(), payload) {
        Ok(document) => {
            assert!(payload.len() <= PAYLOAD_BYTES_MAX, "{} bytes were parsed", payload.len());
            again(&topic, &document);
            cores::controller(&document);
            cores::agent(&document);
            true
        }
        Err(
            IntakeError::Payload { topic: told, .. } | IntakeError::Elsewhere { topic: told, .. },
        ) => {
            assert_eq!(told, topic);
            false
        }
    }
}

/// Written and read again, the document is the same, but for a signature.
fn again(topic: &Topic, document: &Document) {
    let written = match document {
        Document::Leader(leader) => wire::encode(leader),
        Document::Controller(alive) => wire::encode(alive),
        Document::Alive(alive) => wire::encode(alive),
        Document::Report(report) => wire::encode(report.as_ref()),
        Document::Assignment(assignment, _) => wire::encode(assignment.as_ref()),
        Document::Ledger(_, _, ledger) => wire::encode(ledger.as_ref()),
        Document::Mailbox(_, mailbox, _) => wire::encode(mailbox),
        Document::Receipt(receipt) => wire::encode(receipt),
        Document::Marker(connection) => Ok(connection.to_string().into_bytes()),
        Document::Deleted(_) => Ok(Vec::new()),
    };
    match written {
        Ok(bytes) => {
            let read = intake::read(&fleet(), topic.clone(), &bytes);
            let read = read.expect("what we write, we read");
            match document {
                Document::Assignment(assignment, _) => {
                    assert_eq!(read, Document::Assignment(assignment.clone(), None));
                }
                Document::Mailbox(node, mailbox, _) => {
                    assert_eq!(read, Document::Mailbox(node.clone(), mailbox.clone(), None));
                }
                _ => assert_eq!(&read, document),
            }
        }
        // What was left out, and numbers that were written shorter, make it longer.
        Err(WireError::TooLarge { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}
