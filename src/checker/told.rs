//! Invariant 12: who was told what, and how often.
//!
//! Messages take several ways and overtake each other, so they are judged when all have come, in the order
//! in which they were written.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, Fact, Tale};
use crate::model::{Cause, ClusterName, MessageKey, NotifyOn, RecipientName};

/// What people were told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Told {
    tales: BTreeMap<(RecipientName, u64, MessageKey), (Tale, u32)>,
    /// Messages that may come twice.
    excused: BTreeSet<MessageKey>,
    /// Something was forgotten, so that an end may come without its beginning.
    forgetful: bool,
}

impl Told {
    pub(super) fn excuse(&mut self, key: MessageKey) {
        self.excused.insert(key);
    }

    /// What was told until now is not held against what comes: nobody can know it any more.
    pub(super) fn forget(&mut self) {
        self.tales.clear();
        self.forgetful = true;
    }

    /// Whom it is about, what happened, and what forbids it.
    pub(super) fn judge(&self) -> Vec<(String, String, String)> {
        let mut found = Vec::new();
        let mut last: BTreeMap<(&RecipientName, &ClusterName, Cause), &Tale> = BTreeMap::new();
        let mut completed: BTreeMap<(&RecipientName, &ClusterName), u64> = BTreeMap::new();
        for (tale, times) in self.tales.values() {
            let about = format!("{} of cluster {}", tale.cause.as_str(), tale.cluster);
            if *times > 1 && !self.excused.contains(&tale.key) {
                let happened = format!("message {} came {times} times", tale.key);
                found.push((about.clone(), happened, "its receipt was not lost".to_owned()));
            }
            let before = last.insert((&tale.recipient, &tale.cluster, tale.cause), tale);
            let told = |tale: &Tale| format!("message {} had told it already", tale.key);
            let again = match (tale.kind, before) {
                (NotifyOn::Completed, Some(before)) => {
                    (before.rollout == tale.rollout).then(|| told(before))
                }
                (NotifyOn::Failed, Some(before)) => {
                    // A failure of another rollout is another failure, and what came to its end
                    // with a rollout was told with that.
                    let ended = completed.get(&(&tale.recipient, &tale.cluster));
                    let same = before.kind == NotifyOn::Failed
                        && ended.is_none_or(|at| *at < before.sequence)
                        && (tale.cause != Cause::Failed || before.rollout == tale.rollout);
                    same.then(|| told(before))
                }
                (NotifyOn::Recovered, Some(before)) => {
                    (before.kind == NotifyOn::Recovered).then(|| told(before))
                }
                (NotifyOn::Recovered, None) => {
                    (!self.forgetful).then(|| "nobody was told that it began".to_owned())
                }
                (NotifyOn::Completed | NotifyOn::Failed, None) => None,
            };
            if tale.kind == NotifyOn::Completed {
                completed.insert((&tale.recipient, &tale.cluster), tale.sequence);
            }
            if let Some(forbidden_by) = again {
                found.push((about, format!("message {} was delivered", tale.key), forbidden_by));
            }
        }
        found
    }
}

impl Checker {
    pub(super) fn tell(&mut self, tale: Tale) {
        let key = (tale.recipient.clone(), tale.sequence, tale.key.clone());
        self.told.tales.entry(key).or_insert((tale, 0)).1 += 1;
    }
}

impl From<Tale> for Fact {
    fn from(tale: Tale) -> Self {
        Fact::Told(tale)
    }
}
