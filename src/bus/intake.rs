//! From a topic and a payload to a document of the model; what is wrong with it is a value.

use super::topics::Topic;
use super::wire::{self, WireError, decode, decode_signed};
use crate::model::{
    Alive, AppName, Assignment, ClusterLedger, ClusterName, ControllerAlive, FleetName, Leader,
    Mailbox, NodeName, Receipt, Report, SignedBy,
};

/// A document that somebody published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Who leads an app.
    Leader(Leader),
    /// A controller is there, or has gone.
    Controller(ControllerAlive),
    /// An agent is there, or has gone.
    Alive(Alive),
    /// What an agent says of its node.
    Report(Box<Report>),
    /// What some controller asked of a node, and who has signed it.
    Assignment(Box<Assignment>, SignedBy),
    /// What some controller remembers of a cluster.
    Ledger(AppName, ClusterName, Box<ClusterLedger>),
    /// What a notification server is to deliver, and who has signed it.
    Mailbox(NodeName, Mailbox, SignedBy),
    /// What became of a message.
    Receipt(Receipt),
    /// A marker to oneself: whatever was retained has arrived before it. Carries the connection.
    Marker(u64),
    /// A retained document was deleted.
    Deleted(Topic),
}

impl Document {
    /// The stable name of its kind, for labels.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Leader(_) => "leader",
            Self::Controller(_) => "controller",
            Self::Alive(_) => "alive",
            Self::Report(_) => "report",
            Self::Assignment(..) => "assignment",
            Self::Ledger(..) => "ledger",
            Self::Mailbox(..) => "mailbox",
            Self::Receipt(_) => "receipt",
            Self::Marker(_) => "marker",
            Self::Deleted(_) => "deleted",
        }
    }
}

/// Why a payload is not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// It is no document.
    #[error("a payload that cannot be read was published on {topic}")]
    Payload {
        /// Where.
        topic: Topic,
        /// What is wrong with it.
        #[source]
        error: WireError,
    },
    /// It speaks for somebody else than its topic.
    #[error("a document that belongs on {about} was published on {topic}")]
    Elsewhere {
        /// Where.
        topic: Topic,
        /// Where it belongs.
        about: String,
    },
}

impl IntakeError {
    /// Where it was published.
    pub fn topic(&self) -> &Topic {
        match self {
            Self::Payload { topic, .. } | Self::Elsewhere { topic, .. } => topic,
        }
    }
}

/// Reads what was published on a topic of the fleet.
///
/// # Errors
/// [`IntakeError`]; nothing of the payload is used then.
pub fn read(fleet: &FleetName, topic: Topic, payload: &[u8]) -> Result<Document, IntakeError> {
    let read = match &topic {
        Topic::Leader(_) => one(payload, Document::Leader),
        Topic::Controller(_) => one(payload, Document::Controller),
        Topic::Alive(_) => one(payload, Document::Alive),
        Topic::Report(_) => one(payload, |report| Document::Report(Box::new(report))),
        Topic::Assignment(..) => decode_signed(payload, &topic.on(fleet))
            .map(|read| read.map(|(asked, key)| Document::Assignment(Box::new(asked), key))),
        Topic::Status(app, cluster) => {
            let (app, cluster) = (app.clone(), cluster.clone());
            one(payload, |ledger| Document::Ledger(app, cluster, Box::new(ledger)))
        }
        Topic::Mailbox(node) => {
            let node = node.clone();
            decode_signed(payload, &topic.on(fleet))
                .map(|read| read.map(|(mailbox, key)| Document::Mailbox(node, mailbox, key)))
        }
        Topic::Receipt(..) => one(payload, Document::Receipt),
        Topic::Marker(_) | Topic::NodeMarker(_) => {
            wire::decode_marker(payload).map(|marker| marker.map(Document::Marker))
        }
    };
    let document = match read {
        Ok(Some(document)) => document,
        Ok(None) => return Ok(Document::Deleted(topic)),
        Err(error) => return Err(IntakeError::Payload { topic, error }),
    };
    match about(&document) {
        Some(about) if about != topic => {
            Err(IntakeError::Elsewhere { topic, about: about.to_string() })
        }
        Some(_) | None => Ok(document),
    }
}

fn one<T: wire::Document>(
    payload: &[u8],
    wrap: impl FnOnce(T) -> Document,
) -> Result<Option<Document>, WireError> {
    Ok(decode(payload)?.map(wrap))
}

/// The topic that a document belongs on, where it says so itself.
fn about(document: &Document) -> Option<Topic> {
    Some(match document {
        Document::Leader(leader) => Topic::Leader(leader.app.clone()),
        Document::Controller(alive) => Topic::Controller(alive.controller.clone()),
        Document::Alive(alive) => Topic::Alive(alive.node.clone()),
        Document::Report(report) => Topic::Report(report.node.clone()),
        Document::Assignment(a, _) => Topic::Assignment(a.node.clone(), a.app.clone()),
        Document::Receipt(receipt) => Topic::Receipt(receipt.node.clone(), receipt.key.clone()),
        Document::Ledger(..)
        | Document::Mailbox(..)
        | Document::Marker(_)
        | Document::Deleted(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ControllerId;

    #[test]
    fn a_marker_is_a_number_and_nothing_else() {
        let fleet = FleetName::new("prod").unwrap();
        let read = |topic, payload: &[u8]| read(&fleet, topic, payload);
        let topic = || Topic::Marker(ControllerId::new("c1").unwrap());
        let largest = u64::MAX.to_string();
        assert_eq!(read(topic(), largest.as_bytes()).unwrap(), Document::Marker(u64::MAX));
        assert_eq!(read(topic(), b"").unwrap(), Document::Deleted(topic()));
        let long = "0".repeat(2 << 20);
        for bad in ["x", "-1", "1.0", " 1", "18446744073709551616", &long] {
            let error = read(topic(), bad.as_bytes()).unwrap_err();
            assert!(matches!(error, IntakeError::Payload { .. }), "{error}");
            assert_eq!(error.topic(), &topic());
        }
        assert!(read(topic(), b"\xff").is_err());
    }
}
