//! What the agent must not forget, what of it is on disk, and how it is found again when the disk is lost.
//!
//! Two copies are kept: the memory as decided, and the memory as written. An act that must not happen
//! unrecorded looks at the written one, so that no act needs to know who waits for which write, and
//! one write carries whatever has come together.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::event::Effect;
use super::note::Note;
use crate::model::{
    AppName, Assignment, Attempt, BackendName, BackendSeen, Epoch, MessageKey, Mono, Owned,
    ReceiptOutcome, RecipientName, Report, ServerName, SettleKey,
};

/// A failed write is tried again after this time: a disk that was full is noticed soon after it is
/// not, and a broken one is not hammered.
const RETRY_MS: u64 = 1_000;

/// What survives a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The start of the last life, see [`crate::model::Boot`].
    pub started: u64,
    /// The highest epoch that is known, per app.
    pub epochs: BTreeMap<AppName, Epoch>,
    /// The assignments in force.
    pub assignments: BTreeMap<AppName, Assignment>,
    /// The last attempt of each app.
    pub attempts: BTreeMap<AppName, Attempt>,
    /// The last settling of each app.
    pub settles: BTreeMap<AppName, Progress>,
    /// The maintenances that are ours.
    pub owned: BTreeMap<BackendName, BTreeMap<ServerName, Holding>>,
    /// What became of the messages in the mailbox.
    pub delivered: BTreeMap<MessageKey, BTreeMap<RecipientName, ReceiptOutcome>>,
}

/// How far a settling has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Which settling.
    pub key: SettleKey,
    /// The time that has counted against its timeout, in milliseconds.
    pub elapsed_ms: u64,
}

/// A maintenance of ours, with what only this agent needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holding {
    /// What is reported.
    pub owned: Owned,
    /// The HAProxy process that last showed the server in maintenance, or that was there when
    /// ownership began. Tells a reload from a person's hand. Not known if it was recovered.
    pub process: Option<u32>,
    /// A drain that is seen is ours: the maintenance has not been reached yet.
    pub draining: bool,
    /// The maintenance that ends the drain may have been set. Until then one that is seen is not ours.
    #[serde(default)]
    pub closing: bool,
}

impl Memory {
    /// The holding of a server.
    pub fn holding(&self, backend: &BackendName, server: &ServerName) -> Option<&Holding> {
        self.owned.get(backend)?.get(server)
    }

    /// The servers that are held.
    pub(super) fn places(&self) -> impl Iterator<Item = (BackendName, ServerName)> {
        self.owned.iter().flat_map(|(backend, servers)| {
            servers.keys().map(move |server| (backend.clone(), server.clone()))
        })
    }

    /// Takes what the agent's own retained report, of an earlier life, knows better. The disk is behind it if
    /// it is of an earlier life than the report, or obeys an older assignment: then it was lost, or
    /// put back to an earlier state. `disk_started` is the life that the disk was last written by.
    pub(super) fn recover(&mut self, disk_started: u64, report: &Report) -> Option<Note> {
        let newer = |app: &AppName, assignment: &Assignment| {
            self.assignments.get(app).is_none_or(|ours| ours.stamp < assignment.stamp)
        };
        let behind = report.boot.started > disk_started
            || report.assignments.iter().any(|(app, obeyed)| newer(app, &obeyed.assignment));
        if !behind {
            return None;
        }
        for (app, obeyed) in &report.assignments {
            let assignment = &obeyed.assignment;
            if self.assignments.get(app).is_none_or(|ours| ours.stamp < assignment.stamp) {
                self.assignments.insert(app.clone(), assignment.clone());
            }
        }
        let obeyed = report.assignments.iter().map(|(app, o)| (app, &o.assignment.stamp.epoch));
        for (app, epoch) in obeyed.chain(&report.epochs) {
            if self.epochs.get(app).is_none_or(|known| known.number < epoch.number) {
                self.epochs.insert(app.clone(), epoch.clone());
            }
        }
        for (app, seen) in &report.apps {
            if let Some(attempt) = &seen.attempt {
                self.attempts.insert(app.clone(), attempt.clone());
            }
        }
        self.recover_ownership(report);
        let owned = self.owned.values().map(BTreeMap::len).sum();
        Some(Note::Recovered { assignments: report.assignments.len(), owned })
    }

    fn recover_ownership(&mut self, report: &Report) {
        for (backend, seen) in report.balancer.iter().flat_map(|balancer| &balancer.backends) {
            // What was not readable then says nothing about ownership.
            let BackendSeen::Servers(servers) = seen else { continue };
            let recovered: BTreeMap<ServerName, Holding> = servers
                .iter()
                .filter_map(|(server, report)| {
                    let owned = report.owned.clone()?;
                    // A drain with no maintenance yet was ours, unless it was there before.
                    let draining = !report.seen.admin.is_forced_maintenance();
                    Some((
                        server.clone(),
                        Holding { owned, process: None, draining, closing: draining },
                    ))
                })
                .collect();
            if recovered.is_empty() {
                self.owned.remove(backend);
            } else {
                self.owned.insert(backend.clone(), recovered);
            }
        }
    }
}

/// The memory as decided, the memory as written, and the one write that may be under way.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    memory: Memory,
    written: Arc<Memory>,
    changed: bool,
    writing: Option<(u64, Arc<Memory>)>,
    tokens: u64,
    failure: Option<(String, Mono)>,
}

impl Disk {
    pub(super) fn new(written: Memory) -> Disk {
        Disk {
            memory: written.clone(),
            written: Arc::new(written),
            changed: false,
            writing: None,
            tokens: 0,
            failure: None,
        }
    }

    /// As decided.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// As it would be found after a crash.
    pub(super) fn written(&self) -> Arc<Memory> {
        Arc::clone(&self.written)
    }

    /// As decided, to be changed; a write follows.
    pub(super) fn change(&mut self) -> &mut Memory {
        self.changed = true;
        &mut self.memory
    }

    /// Why the last write failed, if it did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|(error, _)| error.as_str())
    }

    /// Everything that was decided is written.
    pub(super) fn is_settled(&self) -> bool {
        !self.changed && self.writing.is_none()
    }

    pub(super) fn persisted(&mut self, token: u64) {
        if let Some((_, memory)) = self.writing.take_if(|(writing, _)| *writing == token) {
            self.written = memory;
            self.failure = None;
        }
    }

    pub(super) fn failed(&mut self, token: u64, error: String, now: Mono) -> Option<Note> {
        self.writing.take_if(|(writing, _)| *writing == token)?;
        self.changed = true;
        let news = self.failure.as_ref().is_none_or(|(known, _)| *known != error);
        self.failure = Some((error.clone(), now.plus_ms(RETRY_MS)));
        news.then_some(Note::DiskFailed { error })
    }

    /// The write that is due, if one is.
    pub(super) fn advance(&mut self, now: Mono) -> Option<Effect> {
        let waits = self.failure.as_ref().is_some_and(|(_, retry_at)| now < *retry_at);
        if !self.changed || self.writing.is_some() || waits {
            return None;
        }
        self.changed = false;
        self.tokens += 1;
        let memory = Arc::new(self.memory.clone());
        self.writing = Some((self.tokens, Arc::clone(&memory)));
        Some(Effect::Persist { token: self.tokens, memory })
    }

    pub(super) fn next_wake(&self) -> Option<Mono> {
        let (_, retry_at) = self.failure.as_ref()?;
        (self.changed && self.writing.is_none()).then_some(*retry_at)
    }
}
