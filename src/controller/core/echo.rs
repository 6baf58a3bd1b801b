//! What the broker shows of ours: what it has lost, never got, or was given in somebody else's
//! version is published again.
//!
//! A publication can be lost without a word: with its connection, or because too many waited.
//! The core takes it as said; so what does not come back within a while is said again.

use std::collections::{BTreeMap, BTreeSet};

use crate::bus::topics::Topic;
use crate::model::{AppName, ClusterName, Mono, NodeName, Now};

use super::{Core, Effect, Publication, publish};

/// How long the broker may take to show us what we published, in milliseconds, before it is
/// published again: far above what a fleet of thousands takes, well below what people wait for.
const ECHO_MS: u64 = 10_000;

/// What the broker shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Echoes {
    /// Documents that it shows as we hold them.
    shown: BTreeSet<Topic>,
    /// Documents that it has not shown so since they were published, and when that was.
    awaited: BTreeMap<Topic, Mono>,
}

impl Echoes {
    /// A new connection: the broker will show what it has.
    pub fn connected(&mut self) {
        self.shown.clear();
        self.awaited.clear();
    }

    fn heard(&mut self, now: Mono, topic: Topic, as_ours: bool) {
        if as_ours {
            self.awaited.remove(&topic);
            self.shown.insert(topic);
        } else {
            self.shown.remove(&topic);
            self.awaited.entry(topic).or_insert(now);
        }
    }
}

impl Core {
    pub(super) fn shown_assignment(
        &mut self,
        now: Now,
        node: &NodeName,
        app: &AppName,
        same: bool,
    ) {
        self.echoes.heard(now.mono, Topic::Assignment(node.clone(), app.clone()), same);
    }

    pub(super) fn shown_ledger(
        &mut self,
        now: Now,
        app: &AppName,
        cluster: &ClusterName,
        same: bool,
    ) {
        self.echoes.heard(now.mono, Topic::Status(app.clone(), cluster.clone()), same);
    }

    pub(super) fn shown_mailbox(&mut self, now: Now, node: &NodeName, same: bool) {
        self.echoes.heard(now.mono, Topic::Mailbox(node.clone()), same);
    }

    /// Remembers what is about to be published, to see whether it comes back.
    pub(super) fn await_echoes(&mut self, now: Now, effects: &[Effect]) {
        for effect in effects {
            let Effect::Publish(publication) = effect else { continue };
            let topic = match &**publication {
                Publication::Assignment(a) => Topic::Assignment(a.node.clone(), a.app.clone()),
                Publication::Ledger(app, cluster, _) => Topic::Status(app.clone(), cluster.clone()),
                Publication::Mailbox(node, _) => Topic::Mailbox(node.clone()),
                Publication::Leader(_)
                | Publication::Controller(_)
                | Publication::Marker(..)
                | Publication::Receipted(..)
                | Publication::Nothing(_) => continue,
            };
            self.echoes.shown.remove(&topic);
            self.echoes.awaited.insert(topic, now.mono);
        }
    }

    /// Publishes again what has not come back in time; says when to look again.
    pub(super) fn repeat(&mut self, now: Now) -> (Vec<Effect>, Option<Mono>) {
        let late: Vec<Topic> = self
            .echoes
            .awaited
            .iter()
            .filter(|(_, at)| at.plus_ms(ECHO_MS) <= now.mono)
            .map(|(topic, _)| topic.clone())
            .collect();
        let mut effects = Vec::new();
        for topic in late {
            self.echoes.awaited.remove(&topic);
            effects.extend(self.document_of(&topic).map(publish));
        }
        self.await_echoes(now, &effects);
        let due = self.echoes.awaited.values().map(|at| at.plus_ms(ECHO_MS)).min();
        (effects, due)
    }

    /// Everything of ours that the broker does not show as we hold it.
    pub(super) fn not_shown(&self) -> Vec<Effect> {
        let assignments = self.apps.iter().flat_map(|(name, app)| {
            app.assigned.keys().map(|node| Topic::Assignment(node.clone(), name.clone()))
        });
        let ledgers = self.apps.iter().flat_map(|(name, app)| {
            app.ledgers.keys().map(|cluster| Topic::Status(name.clone(), cluster.clone()))
        });
        let mailboxes = self.post.mailboxes.keys().map(|node| Topic::Mailbox(node.clone()));
        assignments
            .chain(ledgers)
            .chain(mailboxes)
            .filter(|topic| !self.echoes.shown.contains(topic))
            .filter_map(|topic| self.document_of(&topic))
            .map(publish)
            .collect()
    }

    fn document_of(&self, topic: &Topic) -> Option<Publication> {
        match topic {
            Topic::Assignment(node, app) => {
                let asked =
                    self.apps.get(app)?.assigned.get(node).filter(|asked| !asked.foreign)?;
                Some(Publication::Assignment(asked.assignment.clone()))
            }
            Topic::Status(app, cluster) => {
                let ledger = self.apps.get(app)?.ledgers.get(cluster)?.clone();
                Some(Publication::Ledger(app.clone(), cluster.clone(), ledger))
            }
            Topic::Mailbox(node) => {
                let mailbox = self.post.ours(node)?.clone();
                Some(Publication::Mailbox(node.clone(), mailbox))
            }
            Topic::Leader(_)
            | Topic::Controller(_)
            | Topic::Alive(_)
            | Topic::Report(_)
            | Topic::Receipt(..)
            | Topic::Marker(_)
            | Topic::NodeMarker(_) => None,
        }
    }
}
