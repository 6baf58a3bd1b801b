//! Who commands, and which assignment is in force.
//!
//! Principle: a document that is refused, older, or missing changes nothing.

use std::collections::BTreeMap;

use super::Step;
use super::note::Note;
use crate::model::{AppName, Assignment, Epoch, Leader, Refusal, RefusalReason, SignedBy, Stamp};

/// Apps that may command one node. Far above any real node's, and a bound on what a broken
/// controller can make an agent remember.
const APPS_MAX: usize = 1_024;

/// Refusals that a report has room for where nothing is in force: a report must stay small, whoever makes up apps.
const TOLD_MAX: usize = 16;

/// Who commands.
#[derive(Debug, Clone, Default)]
pub(super) struct Command {
    /// Assignments that came before the agent had read its own retained documents.
    waiting: BTreeMap<AppName, (Assignment, SignedBy)>,
    /// The last order per app that came from somebody who does not command it, if nothing that counts has come since.
    refused: BTreeMap<AppName, Refusal>,
}

impl Command {
    /// Why the last order for `app` was refused, if it was.
    pub(super) fn refusal(&self, app: &AppName) -> Option<&Refusal> {
        self.refused.get(app)
    }

    /// Why the last orders for these apps were refused.
    pub(super) fn refusals(&self, of: impl Fn(&AppName) -> bool) -> BTreeMap<AppName, Refusal> {
        let refused = self.refused.iter().filter(|(app, _)| of(app)).take(TOLD_MAX);
        refused.map(|(app, refusal)| (app.clone(), refusal.clone())).collect()
    }

    /// Takes in a claim of leadership.
    pub(super) fn leader(&mut self, step: &mut Step, leader: &Leader) {
        // Which order was refused cannot be told here: a leader has not given one yet.
        let stamp = Stamp { epoch: leader.epoch.clone(), generation: 0 };
        self.admit(step, &leader.app, stamp, None);
    }

    /// Takes in an assignment; `true` if it is in force from now on.
    pub(super) fn assignment(
        &mut self,
        step: &mut Step,
        assignment: Assignment,
        key: SignedBy,
    ) -> bool {
        if assignment.node != step.setup.node {
            step.log(Note::Misaddressed { node: assignment.node });
            return false;
        }
        if !step.setup.trusts(key) {
            self.distrust(step, assignment.app, assignment.stamp, key);
            return false;
        }
        if !step.restored {
            let waits = self.waiting.len() < APPS_MAX;
            if waits {
                self.waiting.insert(assignment.app.clone(), (assignment, key));
            }
            return false;
        }
        let app = assignment.app.clone();
        if !self.admit(step, &app, assignment.stamp.clone(), key) {
            return false;
        }
        self.refused.remove(&app);
        let in_force = step.disk.memory().assignments.get(&app);
        if in_force.is_some_and(|ours| ours.stamp >= assignment.stamp) {
            return false;
        }
        let changes = assignment.changes_since(in_force);
        let stamp = assignment.stamp.clone();
        step.log(Note::Accepted { app: app.clone(), stamp, key, changes });
        step.disk.change().assignments.insert(app, assignment);
        true
    }

    /// Takes in what waited for the agent's own retained documents; `true` if any is in force from
    /// now on.
    pub(super) fn restored(&mut self, step: &mut Step) -> bool {
        let waiting = std::mem::take(&mut self.waiting);
        let mut accepted = false;
        for (assignment, key) in waiting.into_values() {
            accepted |= self.assignment(step, assignment, key);
        }
        accepted
    }

    /// Remembers an order that is by none of the trusted keys; says so, unless it was the last thing that was said of the app.
    fn distrust(&mut self, step: &mut Step, app: AppName, stamp: Stamp, key: SignedBy) {
        let reason = RefusalReason::Untrusted { key };
        let known = self.refused.get(&app);
        if known.is_none() && self.refused.len() >= APPS_MAX {
            return;
        }
        if known.is_none_or(|known| known.reason != reason) {
            step.log(Note::Untrusted { app: app.clone(), stamp: stamp.clone(), key });
        }
        self.refused.insert(app, Refusal { stamp, reason });
    }

    /// Whether what bears `stamp` may be heard. Remembers a higher epoch, and a refusal.
    fn admit(&mut self, step: &mut Step, app: &AppName, stamp: Stamp, key: SignedBy) -> bool {
        let epochs = &step.disk.memory().epochs;
        match weigh(epochs.get(app), &stamp.epoch) {
            Weight::Same => {
                self.commands(app);
                true
            }
            Weight::Higher => {
                if epochs.len() >= APPS_MAX && !epochs.contains_key(app) {
                    step.log(Note::TooManyApps { app: app.clone() });
                    return false;
                }
                self.commands(app);
                step.disk.change().epochs.insert(app.clone(), stamp.epoch);
                true
            }
            Weight::Stale { known } => {
                step.log(Note::StaleEpoch {
                    app: app.clone(),
                    offered: stamp.epoch.clone(),
                    known: known.clone(),
                    key,
                });
                let reason = RefusalReason::StaleEpoch { known };
                self.refused.insert(app.clone(), Refusal { stamp, reason });
                false
            }
        }
    }

    /// Who commands the app is heard: that somebody else wanted to is over. An order by an untrusted key is not made good
    /// by a claim, which nobody signs.
    fn commands(&mut self, app: &AppName) {
        let stale = |refusal: &Refusal| matches!(refusal.reason, RefusalReason::StaleEpoch { .. });
        if self.refused.get(app).is_some_and(stale) {
            self.refused.remove(app);
        }
    }
}

/// An epoch beside the highest that is known.
#[derive(Debug, PartialEq, Eq)]
enum Weight {
    /// The same number from the same controller.
    Same,
    /// A higher number.
    Higher,
    /// A lower number, or the same from another controller.
    Stale {
        /// The one that stays.
        known: Epoch,
    },
}

fn weigh(known: Option<&Epoch>, offered: &Epoch) -> Weight {
    match known {
        None => Weight::Higher,
        Some(known) if offered.number > known.number => Weight::Higher,
        Some(known) if offered == known => Weight::Same,
        Some(known) => Weight::Stale { known: known.clone() },
    }
}
