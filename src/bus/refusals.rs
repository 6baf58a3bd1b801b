//! Documents that are not taken: each is counted, and each sender is told of once.
//!
//! A bad document may come a thousand times a second, or a thousand bad ones from one place: neither may
//! fill the log, nor the memory.

use std::collections::BTreeSet;

use super::intake::IntakeError;
use super::topics::Topic;
use crate::model::{ControllerId, NodeName};

/// Senders that are remembered. More than a fleet has; whoever makes up names fills this up, and
/// is only counted from then on.
const SENDERS_MAX: usize = 1_000;

/// Who may publish on a topic, as far as it says so itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Sender {
    /// The agent of this node.
    Node(NodeName),
    /// This controller, or, where none is named, whichever leads.
    Controller(Option<ControllerId>),
}

impl Sender {
    fn on(topic: &Topic) -> Sender {
        match topic {
            Topic::Alive(node)
            | Topic::Report(node)
            | Topic::NodeMarker(node)
            | Topic::Receipt(node, _) => Self::Node(node.clone()),
            Topic::Controller(id) | Topic::Marker(id) => Self::Controller(Some(id.clone())),
            Topic::Leader(_) | Topic::Assignment(..) | Topic::Status(..) | Topic::Mailbox(_) => {
                Self::Controller(None)
            }
        }
    }
}

/// What was refused since the start.
#[derive(Debug, Default)]
pub struct Refusals {
    count: u64,
    told: BTreeSet<Sender>,
}

impl Refusals {
    /// How many documents were refused.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Counts one, and logs it if it is its sender's first.
    pub fn refuse(&mut self, error: &IntakeError) {
        if self.is_first(error.topic()) {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(
                %error,
                cause,
                "a document is not taken; further ones of this sender are only counted"
            );
        }
    }

    fn is_first(&mut self, topic: &Topic) -> bool {
        self.count += 1;
        self.told.len() < SENDERS_MAX && self.told.insert(Sender::on(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AppName, MessageKey};

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    #[test]
    fn each_sender_is_told_of_once() {
        let mut refusals = Refusals::default();
        let app = || AppName::new("shop").unwrap();
        for (topic, first) in [
            (Topic::Report(node("web1")), true),
            (Topic::Report(node("web1")), false),
            (Topic::Alive(node("web1")), false),
            (Topic::Report(node("web2")), true),
            (Topic::Assignment(node("web1"), app()), true),
            (Topic::Leader(app()), false),
            (Topic::Controller(ControllerId::new("c1").unwrap()), true),
            (Topic::Receipt(node("push1"), MessageKey("a".into())), true),
            (Topic::Receipt(node("push1"), MessageKey("b".into())), false),
        ] {
            assert_eq!(refusals.is_first(&topic), first, "{topic:?}");
        }
        assert_eq!(refusals.count(), 9);
    }

    #[test]
    fn a_flood_of_senders_is_counted_and_not_kept() {
        let mut refusals = Refusals::default();
        let told = (0..3 * SENDERS_MAX)
            .filter(|n| refusals.is_first(&Topic::Report(node(&format!("n{n}")))))
            .count();
        assert_eq!((told, refusals.told.len()), (SENDERS_MAX, SENDERS_MAX));
        assert_eq!(refusals.count(), 3 * SENDERS_MAX as u64);
    }
}
