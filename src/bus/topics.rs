//! Topics under `evenkeel/<fleet>/`, as types: what is published where, and what can be subscribed.

use std::fmt;

use crate::model::{AppName, ClusterName, ControllerId, FleetName, MessageKey, NodeName};

/// The first level of every topic of ours.
const ROOT: &str = "evenkeel";

/// Where one document is published. All are retained but the markers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// `leader/<app>`: a [`Leader`](crate::model::Leader), from the controller.
    Leader(AppName),
    /// `controllers/<id>/alive`: a [`ControllerAlive`](crate::model::ControllerAlive), and the
    /// controller's Last Will.
    Controller(ControllerId),
    /// `nodes/<node>/alive`: an [`Alive`](crate::model::Alive), and the agent's Last Will.
    Alive(NodeName),
    /// `nodes/<node>/report`: a [`Report`](crate::model::Report), from the agent.
    Report(NodeName),
    /// `nodes/<node>/assignment/<app>`: an [`Assignment`](crate::model::Assignment).
    Assignment(NodeName, AppName),
    /// `status/<app>/<cluster>`: a [`ClusterLedger`](crate::model::ClusterLedger).
    Status(AppName, ClusterName),
    /// `notify/<node>`: a [`Mailbox`](crate::model::Mailbox), from the controller.
    Mailbox(NodeName),
    /// `receipts/<node>/<key>`: a [`Receipt`](crate::model::Receipt), from a notification server.
    Receipt(NodeName, MessageKey),
    /// `marker/<controller id>`: what a controller says to itself, not retained, to learn that
    /// everything retained before it has arrived.
    Marker(ControllerId),
    /// `nodes/<node>/marker`: what an agent says to itself for the same reason, not retained.
    NodeMarker(NodeName),
}

/// What can be subscribed to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    /// Every [`Topic::Leader`].
    AllLeaders,
    /// Every [`Topic::Controller`].
    AllControllers,
    /// Every [`Topic::Alive`].
    AllAlive,
    /// Every [`Topic::Report`].
    AllReports,
    /// Every [`Topic::Assignment`], of all nodes and apps.
    AllAssignments,
    /// Every [`Topic::Assignment`] of one node.
    NodeAssignments(NodeName),
    /// Every [`Topic::Status`].
    AllStatus,
    /// Every [`Topic::Mailbox`].
    AllMailboxes,
    /// Every [`Topic::Receipt`].
    AllReceipts,
    /// One topic alone.
    One(Topic),
}

/// Why a text is not one of our topics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{topic:?} is not a topic of the fleet {fleet}")]
pub struct TopicError {
    /// The text, cut to 160 characters.
    pub topic: String,
    /// The fleet whose topics were wanted.
    pub fleet: FleetName,
}

impl Topic {
    /// The topic as MQTT has it.
    pub fn on(&self, fleet: &FleetName) -> String {
        format!("{ROOT}/{fleet}/{self}")
    }

    /// Reads a topic as MQTT has it; every name in it is validated.
    ///
    /// # Errors
    /// [`TopicError`] if it is none of ours, or another fleet's.
    pub fn parse(fleet: &FleetName, topic: &str) -> Result<Topic, TopicError> {
        // Six levels are the most that any topic of ours has; a hostile one may have thousands.
        let levels: Vec<&str> = topic.splitn(7, '/').collect();
        let path = match levels.as_slice() {
            [ROOT, this, path @ ..] if *this == fleet.as_str() => path,
            _ => &[],
        };
        Self::from_levels(path).ok_or_else(|| TopicError {
            topic: topic.chars().take(160).collect(),
            fleet: fleet.clone(),
        })
    }

    fn from_levels(path: &[&str]) -> Option<Topic> {
        Some(match path {
            ["leader", app] => Self::Leader(AppName::new(app).ok()?),
            ["controllers", id, "alive"] => Self::Controller(ControllerId::new(id).ok()?),
            ["nodes", node, "alive"] => Self::Alive(NodeName::new(node).ok()?),
            ["nodes", node, "marker"] => Self::NodeMarker(NodeName::new(node).ok()?),
            ["nodes", node, "report"] => Self::Report(NodeName::new(node).ok()?),
            ["nodes", node, "assignment", app] => {
                Self::Assignment(NodeName::new(node).ok()?, AppName::new(app).ok()?)
            }
            ["status", app, cluster] => {
                Self::Status(AppName::new(app).ok()?, ClusterName::new(cluster).ok()?)
            }
            ["notify", node] => Self::Mailbox(NodeName::new(node).ok()?),
            ["receipts", node, key] => {
                let key = MessageKey::try_from((*key).to_owned()).ok()?;
                Self::Receipt(NodeName::new(node).ok()?, key)
            }
            ["marker", id] => Self::Marker(ControllerId::new(id).ok()?),
            _ => return None,
        })
    }
}

impl fmt::Display for Topic {
    /// Its levels below those of the fleet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader(app) => write!(f, "leader/{app}"),
            Self::Controller(id) => write!(f, "controllers/{id}/alive"),
            Self::Alive(node) => write!(f, "nodes/{node}/alive"),
            Self::Report(node) => write!(f, "nodes/{node}/report"),
            Self::Assignment(node, app) => write!(f, "nodes/{node}/assignment/{app}"),
            Self::Status(app, cluster) => write!(f, "status/{app}/{cluster}"),
            Self::Mailbox(node) => write!(f, "notify/{node}"),
            Self::Receipt(node, key) => write!(f, "receipts/{node}/{key}"),
            Self::Marker(id) => write!(f, "marker/{id}"),
            Self::NodeMarker(node) => write!(f, "nodes/{node}/marker"),
        }
    }
}

impl Filter {
    /// The filter as MQTT has it.
    pub fn on(&self, fleet: &FleetName) -> String {
        let path = match self {
            Self::AllLeaders => "leader/+",
            Self::AllControllers => "controllers/+/alive",
            Self::AllAlive => "nodes/+/alive",
            Self::AllReports => "nodes/+/report",
            Self::AllAssignments => "nodes/+/assignment/+",
            Self::NodeAssignments(node) => &format!("nodes/{node}/assignment/+"),
            Self::AllStatus => "status/+/+",
            Self::AllMailboxes => "notify/+",
            Self::AllReceipts => "receipts/+/+",
            Self::One(topic) => return topic.on(fleet),
        };
        format!("{ROOT}/{fleet}/{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet() -> FleetName {
        FleetName::new("prod").unwrap()
    }

    #[test]
    fn topics_survive_a_round_trip() {
        let node = || NodeName::new("web-1.example.org").unwrap();
        let app = || AppName::new("shop").unwrap();
        let id = || ControllerId::new("c1-2").unwrap();
        for (topic, text) in [
            (Topic::Leader(app()), "evenkeel/prod/leader/shop"),
            (Topic::Controller(id()), "evenkeel/prod/controllers/c1-2/alive"),
            (Topic::Alive(node()), "evenkeel/prod/nodes/web-1.example.org/alive"),
            (Topic::Report(node()), "evenkeel/prod/nodes/web-1.example.org/report"),
            (
                Topic::Assignment(node(), app()),
                "evenkeel/prod/nodes/web-1.example.org/assignment/shop",
            ),
            (
                Topic::Status(app(), ClusterName::new("alfa").unwrap()),
                "evenkeel/prod/status/shop/alfa",
            ),
            (Topic::Mailbox(node()), "evenkeel/prod/notify/web-1.example.org"),
            (
                Topic::Receipt(node(), MessageKey("shop.alfa.ab12.completed.3".into())),
                "evenkeel/prod/receipts/web-1.example.org/shop.alfa.ab12.completed.3",
            ),
            (Topic::Marker(id()), "evenkeel/prod/marker/c1-2"),
            (Topic::NodeMarker(node()), "evenkeel/prod/nodes/web-1.example.org/marker"),
        ] {
            assert_eq!(topic.on(&fleet()), text);
            assert_eq!(Topic::parse(&fleet(), text), Ok(topic), "{text}");
        }
    }

    #[test]
    fn hostile_topics_are_refused() {
        let long = format!("evenkeel/prod/receipts/a/{}", "k".repeat(513));
        let deep = "/".repeat(65_535);
        for text in [
            "",
            "/",
            "evenkeel",
            "evenkeel/prod",
            "evenkeel/prod/",
            "evenkeel/test/leader/shop",
            "evenkeel/prod/leader/",
            "evenkeel/prod/leader/../x",
            "evenkeel/prod/leader/a b",
            "evenkeel/prod/nodes/web1/report/x",
            "evenkeel/prod/nodes/web1/assignment",
            "evenkeel/prod/nodes//alive",
            "evenkeel/prod/nodes/+/alive",
            "evenkeel/prod/receipts/a",
            "evenkeel/prod/receipts/a/#",
            "evenkeel/prod/receipts/a/a\0b",
            "evenkeel/prod/receipts/a/ключ",
            "$SYS/broker/uptime",
            &long,
            &deep,
        ] {
            let error = Topic::parse(&fleet(), text).expect_err(text);
            assert!(error.topic.len() <= 640, "the error stays short");
        }
    }
}
