//! Messages to people: one key per cause, at least once, with a receipt.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::desired::NotifyOn;
use super::name::{AppName, ClusterName, NodeName, RecipientName, Revision, RolloutId};
use super::time::Wall;

/// Identifies one message for good: `<app>.<cluster>.<rollout>.<cause>.<ledger sequence>`. Safe in
/// a topic and in a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MessageKey(pub String);

/// It is made of five names and their separators; a longer one was not made by us.
const KEY_BYTES_MAX: usize = 512;

impl TryFrom<String> for MessageKey {
    type Error = String;

    /// Keys come with documents from outside: only what is safe as a topic level and a file name is one.
    fn try_from(text: String) -> Result<Self, String> {
        let safe = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        if !text.is_empty() && text.len() <= KEY_BYTES_MAX && text.chars().all(safe) {
            return Ok(Self(text));
        }
        let shown: String = text.chars().take(160).collect();
        Err(format!("{shown:?} is not the key of a message"))
    }
}

impl From<MessageKey> for String {
    fn from(key: MessageKey) -> String {
        key.0
    }
}

impl fmt::Display for MessageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A rollout has converged.
    Completed,
    /// Nodes failed in a rollout.
    Failed,
    /// Expected nodes or load balancers are not heard.
    Unreachable,
    /// Two live agents use one name, or two clusters claim one node.
    Ambiguous,
    /// Maintenance or drain that is not ours keeps nodes out of service.
    ForeignMaintenance,
    /// Something the planner waits for has passed its deadline.
    Stuck,
    /// The desired files are faulty.
    DesiredInvalid,
    /// The desired files have gone.
    DesiredVanished,
}

impl Cause {
    /// The stable name, for keys and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Unreachable => "unreachable",
            Self::Ambiguous => "ambiguous",
            Self::ForeignMaintenance => "foreign_maintenance",
            Self::Stuck => "stuck",
            Self::DesiredInvalid => "desired_invalid",
            Self::DesiredVanished => "desired_vanished",
        }
    }

    /// How long a cause must last before anybody is told, in milliseconds. What ends by itself in
    /// less is not worth a buzz: an agent's restart, a broker's, a file saved in two steps.
    pub fn patience_ms(self) -> u64 {
        match self {
            Self::Completed | Self::Failed => 0,
            Self::DesiredInvalid | Self::DesiredVanished => 5_000,
            Self::Ambiguous | Self::Stuck => 10_000,
            Self::Unreachable => 30_000,
            Self::ForeignMaintenance => 60_000,
        }
    }
}

/// How urgent a message is; each notification service maps it to its own scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Good news.
    Low,
    /// To be read today.
    Normal,
    /// To be read now.
    High,
}

/// One message to people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Identifies it.
    pub key: MessageKey,
    /// The app.
    pub app: AppName,
    /// The cluster.
    pub cluster: ClusterName,
    /// The rollout, if it is about one.
    pub rollout: Option<RolloutId>,
    /// What it is about.
    pub cause: Cause,
    /// Good or bad news, as `notify.on` names it.
    pub kind: NotifyOn,
    /// How urgent it is.
    pub priority: Priority,
    /// One line.
    pub title: String,
    /// What happened; a few lines.
    pub happened: String,
    /// What to do; empty where there is nothing to do.
    pub advice: String,
    /// The last converged revision.
    pub revision_from: Option<Revision>,
    /// The desired revision.
    pub revision_to: Revision,
    /// The first line of the commit's message; empty where there is none.
    pub commit: String,
    /// Where the controller's page shows the cluster; empty where nobody said how people reach it.
    pub link: String,
    /// Who is to be told.
    pub recipients: BTreeSet<RecipientName>,
    /// When it came about, for people.
    pub at: Wall,
}

impl Message {
    /// What happened, what to do, and which change it is about: what a phone shows beside the title.
    pub fn summary(&self) -> String {
        lines([&self.happened, &self.advice, &self.change()])
    }

    /// The summary and the link.
    pub fn text(&self) -> String {
        lines([&self.summary(), &self.link])
    }

    /// From which revision to which, and why.
    pub fn change(&self) -> String {
        let to = &self.revision_to;
        let change = match &self.revision_from {
            Some(from) if from != to => format!("{from} → {to}"),
            Some(_) | None => format!("revision {to}"),
        };
        if self.commit.is_empty() { change } else { format!("{change}: {}", self.commit) }
    }
}

fn lines<const N: usize>(of: [&str; N]) -> String {
    let lines: Vec<&str> = of.into_iter().filter(|line| !line.is_empty()).collect();
    lines.join("\n")
}

/// The document at `notify/<node>`: the messages that this notification server is to deliver now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mailbox {
    /// By key; one that vanishes needs no more effort.
    #[serde(deserialize_with = "by_their_keys")]
    pub messages: BTreeMap<MessageKey, Message>,
}

/// Messages, each under its own key: one under another's would be delivered over and over, since what became of it
/// would never be found.
pub(super) fn by_their_keys<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<MessageKey, Message>, D::Error> {
    let messages = BTreeMap::<MessageKey, Message>::deserialize(deserializer)?;
    match messages.iter().find(|(key, message)| **key != message.key) {
        Some((key, message)) => {
            Err(D::Error::custom(format!("the message {} is under the key {key}", message.key)))
        }
        None => Ok(messages),
    }
}

/// The document at `receipts/<node>/<key>`: what became of a message at one server. Retained until the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Which message.
    pub key: MessageKey,
    /// The notification server that speaks.
    pub node: NodeName,
    /// What became of it, per recipient.
    pub outcomes: BTreeMap<RecipientName, ReceiptOutcome>,
}

/// What became of a message for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptOutcome {
    /// The service has taken it.
    Delivered,
    /// It has failed a few times in ways that pass by; the last error, in words. Not tried again while it is in the
    /// mailbox.
    Delayed(String),
    /// The service refused it for good, or this server does not know the recipient; in words. Not
    /// tried again while it is in the mailbox.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_safe_in_a_topic_is_a_key() {
        let long = "k".repeat(KEY_BYTES_MAX);
        for good in ["shop.alfa.ab12.completed.3", "a+b_c-d", &long] {
            let key = MessageKey(good.to_owned());
            assert_eq!(serde_json::from_str(&format!("{good:?}")).ok(), Some(key.clone()));
            assert_eq!(serde_json::to_string(&key).unwrap(), format!("{good:?}"));
        }
        for bad in ["", "a/b", "#", "a b", "ä", &format!("{long}k")] {
            let error = serde_json::from_str::<MessageKey>(&format!("{bad:?}")).expect_err(bad);
            assert!(error.to_string().contains("is not the key of a message"), "{error}");
        }
    }
}
