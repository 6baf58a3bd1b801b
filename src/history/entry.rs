//! One line of the history as it is kept and shown: flat, and in words, so that older and newer
//! programs can read it.

use serde::{Deserialize, Serialize};

use crate::model::{Asked, NodeName, Record, Wall, What};

/// A text in an entry has at most so many characters; what comes from outside could be of any length.
pub const TEXT_MAX: usize = 1_000;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something has come about.
    Event,
    /// Something else is decided about a node than before.
    Decision,
    /// An agent is asked for something else than before.
    Action,
    /// Here entries are missing: they could not be kept.
    Gap,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Event, Self::Decision, Self::Action, Self::Gap];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Decision => "decision",
            Self::Action => "action",
            Self::Gap => "gap",
        }
    }

    /// The one with this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One entry: an object of the JSON API, and, without its number and with the time in words, a line of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Grows with every entry; none in the audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// When, in milliseconds since 1970, by the controller's clock.
    pub at: Wall,
    /// What it is.
    pub kind: Kind,
    /// Which, as a stable name: `converged`, `wait.batch`, `take_out`, ...
    pub name: String,
    /// In words.
    pub what: String,
    /// What it rests on, in words; empty where it speaks for itself.
    pub cause: String,
    /// Where; none in a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Whom it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The rollout that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// The number of the epoch in which it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The controller whose epoch that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// The commit behind the desired state in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What is from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The node whose agent is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// The generation of the assignment that asks; with the epoch, an agent's audit trail has it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

impl Entry {
    /// Says that `count` entries are missing here, and why.
    pub(super) fn gap(at: Wall, count: u64, why: &str) -> Self {
        Self {
            id: None,
            at,
            kind: Kind::Gap,
            name: "lost".to_owned(),
            what: format!("{count} entries could not be kept"),
            cause: cut(why),
            app: None,
            cluster: None,
            node: None,
            rollout: None,
            epoch: None,
            controller: None,
            commit: None,
            before: None,
            after: None,
            asked: None,
            generation: None,
        }
    }
}

impl From<Record> for Entry {
    fn from(record: Record) -> Self {
        let (mut asked_of, mut stamp) = (None, None);
        let (kind, name, what) = match &record.what {
            What::Event(event) => (Kind::Event, event.as_str().to_owned(), event.to_string()),
            What::Decision(decision) => {
                let (kind, reason) = decision.names();
                (Kind::Decision, format!("{kind}.{reason}"), decision.to_string())
            }
            What::Action { asked, of, generation, server } => {
                (asked_of, stamp) = (Some(of.to_string()), Some(*generation));
                let words = in_words(*asked, of, server.as_deref());
                (Kind::Action, asked.as_str().to_owned(), words)
            }
        };
        let (epoch, controller) = match record.epoch {
            Some(epoch) => (Some(epoch.number), Some(epoch.controller.to_string())),
            None => (None, None),
        };
        Self {
            id: None,
            at: record.at,
            kind,
            name,
            what: cut(&what),
            cause: cut(&record.cause),
            app: Some(record.app.to_string()),
            cluster: record.cluster.map(|name| name.to_string()),
            node: record.node.map(|name| name.to_string()),
            rollout: record.rollout.map(|id| id.to_string()),
            epoch,
            controller,
            commit: record.commit.as_deref().map(cut),
            before: record.before.as_deref().map(cut),
            after: record.after.as_deref().map(cut),
            asked: asked_of,
            generation: stamp,
        }
    }
}

/// What is asked of a node itself, or of a load balancer about a node's server.
fn in_words(asked: Asked, of: &NodeName, server: Option<&str>) -> String {
    let server = server.unwrap_or("it");
    match asked {
        Asked::Probe => "it is asked to answer".to_owned(),
        Asked::Target => "it is told its revision".to_owned(),
        Asked::Permit => "an upgrade is permitted".to_owned(),
        Asked::Withdraw => "the permit is withdrawn".to_owned(),
        Asked::Settle => "its checks are asked for".to_owned(),
        Asked::EndSettle => "its checks are not asked for any more".to_owned(),
        Asked::TakeOut => format!("{of} is asked to take out {server}"),
        Asked::PutBack => format!("{of} is asked to put back {server}"),
        Asked::LetGo => format!("{of} is asked nothing more about {server}"),
        Asked::Settings => "it is told other limits".to_owned(),
        Asked::Dismiss => "nothing more is asked of it".to_owned(),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AppName, EventKind};

    #[test]
    fn what_comes_from_outside_is_cut() {
        let record = Record {
            at: Wall(1),
            app: AppName::new("shop").unwrap(),
            cluster: None,
            node: Some(NodeName::new("web1").unwrap()),
            rollout: None,
            epoch: None,
            commit: None,
            what: What::Event(EventKind::NodeFailed { detail: "ä".repeat(5_000) }),
            cause: "ö".repeat(5_000),
            before: None,
            after: None,
        };
        let entry = Entry::from(record);
        assert_eq!((entry.kind, entry.name.as_str()), (Kind::Event, "node_failed"));
        assert_eq!(entry.what.chars().count(), TEXT_MAX + 1);
        assert_eq!(entry.cause, format!("{}…", "ö".repeat(TEXT_MAX)));
    }

    #[test]
    fn kinds_are_found_by_their_names() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("{:?}", kind.as_str()));
        }
        assert_eq!(Kind::of("eveny"), None);
    }
}
