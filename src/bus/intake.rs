//! From a topic and a payload to a document of the model; what is wrong with it is a value.

use super::topics::Topic;
use super::wire::{self, WireError, decode};
use crate::model::{
    Alive, AppName, Assignment, ClusterLedger, ClusterName, ControllerAlive, Leader, Mailbox,
    NodeName, Receipt, Report,
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
    /// What some controller asked of a node.
    Assignment(Box<Assignment>),
    /// What some controller remembers of a cluster.
    Ledger(AppName, ClusterName, Box<ClusterLedger>),
    /// What a notification server is to deliver.
    Mailbox(NodeName, Mailbox),
    /// What became of a message.
    Receipt(Receipt),
    /// A marker to oneself: whatever was retained has arrived before it. Carries the connection.
    Marker(u64),
    /// A retained document was deleted.
    Deleted(Topic),
}

/// Why a payload is not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// It is no document.
    #[error("a payload that cannot be read was published on {topic:?}")]
    Payload {
        /// Where.
        topic: Topic,
        /// What is wrong with it.
        #[source]
        error: WireError,
    },
    /// It speaks for somebody else than its topic.
    #[error("a document about {about} was published on {topic:?}")]
    Elsewhere {
        /// Where.
        topic: Topic,
        /// Whom it is about.
        about: String,
    },
}

/// Reads what was published on `topic`.
///
/// # Errors
/// [`IntakeError`]; nothing of the payload is used then.
pub fn read(topic: Topic, payload: &[u8]) -> Result<Document, IntakeError> {
    let read = match &topic {
        Topic::Leader(_) => one(payload, Document::Leader),
        Topic::Controller(_) => one(payload, Document::Controller),
        Topic::Alive(_) => one(payload, Document::Alive),
        Topic::Report(_) => one(payload, |report| Document::Report(Box::new(report))),
        Topic::Assignment(..) => one(payload, |a| Document::Assignment(Box::new(a))),
        Topic::Status(app, cluster) => {
            let (app, cluster) = (app.clone(), cluster.clone());
            one(payload, |ledger| Document::Ledger(app, cluster, Box::new(ledger)))
        }
        Topic::Mailbox(node) => {
            let node = node.clone();
            one(payload, |mailbox| Document::Mailbox(node, mailbox))
        }
        Topic::Receipt(_) => one(payload, Document::Receipt),
        Topic::Marker(_) | Topic::NodeMarker(_) => {
            let text = std::str::from_utf8(payload).unwrap_or_default();
            Ok(text.parse().ok().map(Document::Marker))
        }
    };
    let document = match read {
        Ok(Some(document)) => document,
        Ok(None) => return Ok(Document::Deleted(topic)),
        Err(error) => return Err(IntakeError::Payload { topic, error }),
    };
    match about(&document) {
        Some(about) if about != topic => {
            Err(IntakeError::Elsewhere { topic, about: format!("{about:?}") })
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
        Document::Assignment(a) => Topic::Assignment(a.node.clone(), a.app.clone()),
        Document::Receipt(receipt) => Topic::Receipt(receipt.key.clone()),
        Document::Ledger(..)
        | Document::Mailbox(..)
        | Document::Marker(_)
        | Document::Deleted(_) => return None,
    })
}
