//! Conditions, by the Kubernetes API conventions: a type, a status, a reason for machines and a
//! message for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that can be said of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// What is said.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in one CamelCase word.
    pub reason: String,
    /// Why, in words.
    pub message: String,
}

/// What can be said of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionType {
    /// All expected nodes are at their target and in service.
    Converged,
    /// Something is being done, or waited for, that leads there.
    Progressing,
    /// Something needs a person.
    Degraded,
    /// The desired files are as they should be.
    DesiredValid,
    /// A reload of a load balancer could for a moment put back what is out.
    ReloadUnsafe,
    /// No notification server has got a message delivered.
    Undelivered,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// There is not enough information.
    Unknown,
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Converged => "Converged",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
            Self::DesiredValid => "DesiredValid",
            Self::ReloadUnsafe => "ReloadUnsafe",
            Self::Undelivered => "Undelivered",
        })
    }
}
