//! The load balancer of this node: what was observed, what is ordered, and what to ask HAProxy next.
//!
//! One request at a time is under way. Observations and changes are numbered in one sequence, so that
//! "read after it was written" is a comparison.

use std::collections::{BTreeMap, BTreeSet};

use super::event::Effect;
use super::note::Note;
use super::observed::{Observed, Tracked};
use super::orders::{Need, Ordered, Place, Sent, collect, need};
use super::ownership::{disown, log_record};
use super::{BalancerSetup, Step};
use crate::model::{
    AppName, Assignment, BackendName, BackendSeen, BalancerReport, Mono, Order, RefusalReason,
    ServerName, ServerReport,
};
use crate::plan::ports::{BalancerError, BalancerState, ProcessId, SetServer, SetState};

/// HAProxy's connection stays silent over a reload, and a reload without a state file puts back what
/// was out; this bounds for how long.
const PROCESS_MS: u64 = 200;

/// Changes that nobody tells of, by hand or by health checks, are seen after this time.
const OBSERVE_MS: u64 = 1_000;

/// A write that failed, or was not kept, is tried again after this time.
const RETRY_MS: u64 = 1_000;

/// The load balancer of this node.
#[derive(Debug, Clone)]
pub(super) struct Balancer {
    setup: BalancerSetup,
    /// Numbers what happens; see the file's head.
    sequence: u64,
    /// An assignment was last accepted at this number.
    accepted: u64,
    /// A write last ended at this number.
    written: u64,
    asking: Option<Asking>,
    observed: Option<Observed>,
    error: Option<String>,
    read_at: Mono,
    poll_at: Mono,
    /// When the state file is to be written, if it is.
    dump_at: Option<Mono>,
    dump_failed: bool,
    /// What was set there, in this life or an earlier one, may not be in the state file yet: a reload could undo it.
    unkept: BTreeSet<Place>,
    attempts: BTreeMap<Place, Try>,
    /// Taken for ours in this life, with what has been sent since, up to maintenance.
    sent: BTreeMap<Place, Sent>,
    /// When the drains that have begun end.
    drains: BTreeMap<Place, Mono>,
    /// The next of them.
    drain_ends: Option<Mono>,
    refusals: BTreeMap<AppName, RefusalReason>,
    done: BTreeSet<AppName>,
    to_set: Vec<SetServer>,
    /// Something has changed that the orders are to be looked at again for.
    stirred: bool,
}

/// What HAProxy is being asked.
#[derive(Debug, Clone)]
enum Asking {
    Read { begun: u64 },
    Set(Vec<SetServer>),
    Process,
    Dump,
}

/// A write that has been sent for a server and is not known to have worked.
#[derive(Debug, Clone)]
struct Try {
    state: SetState,
    process: ProcessId,
    at: Mono,
    error: Option<String>,
}

impl Balancer {
    pub(super) fn new(setup: BalancerSetup, now: Mono) -> Balancer {
        Balancer {
            setup,
            sequence: 0,
            accepted: 0,
            written: 0,
            asking: None,
            observed: None,
            error: None,
            read_at: now,
            poll_at: now,
            dump_at: None,
            dump_failed: false,
            unkept: BTreeSet::new(),
            attempts: BTreeMap::new(),
            sent: BTreeMap::new(),
            drains: BTreeMap::new(),
            drain_ends: None,
            refusals: BTreeMap::new(),
            done: BTreeSet::new(),
            to_set: Vec::new(),
            stirred: true,
        }
    }

    /// Orders, records or their writing have changed.
    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    /// An assignment is in force from now on: orders are carried out on an observation begun after it.
    pub(super) fn accepted(&mut self, now: Mono) {
        self.sequence += 1;
        self.accepted = self.sequence;
        self.read_at = now;
        self.stirred = true;
    }

    pub(super) fn was_read(
        &mut self,
        step: &mut Step,
        answer: Result<BalancerState, BalancerError>,
    ) {
        let Some(Asking::Read { begun }) = self.asking.take() else { return };
        let now = step.now.mono;
        self.stirred = true;
        let interval_ms = if begun < self.accepted {
            // Orders that came meanwhile wait for a reading that was begun after them.
            0
        } else if self.drains.is_empty() {
            OBSERVE_MS
        } else {
            // The end of the last session is worth looking for more often.
            PROCESS_MS
        };
        self.read_at = now.plus_ms(interval_ms);
        self.poll_at = now.plus_ms(PROCESS_MS);
        match answer {
            Ok(state) => {
                if self.error.take().is_some() {
                    step.log(Note::BalancerBack);
                }
                self.observe(step, begun, state);
            }
            Err(error) => self.unread(step, error.to_string()),
        }
    }

    pub(super) fn was_set(
        &mut self,
        step: &Step,
        answer: Result<Vec<Result<(), String>>, BalancerError>,
    ) {
        let Some(Asking::Set(commands)) = self.asking.take() else { return };
        self.sequence += 1;
        self.written = self.sequence;
        self.read_at = step.now.mono;
        self.stirred = true;
        for (number, command) in commands.into_iter().enumerate() {
            let error = match &answer {
                Ok(answers) => match answers.get(number) {
                    Some(Ok(())) => None,
                    Some(Err(error)) => Some(error.clone()),
                    None => Some("it gave no answer".to_owned()),
                },
                Err(error) => Some(error.to_string()),
            };
            let place = (command.backend, command.server);
            if self.setup.state_file {
                self.unkept.insert(place.clone());
            }
            if let Some(attempt) = self.attempts.get_mut(&place) {
                if command.state == SetState::Ready && error.is_none() {
                    self.sent.insert(place, Sent::Restored { process: attempt.process });
                }
                attempt.error = error;
            }
        }
    }

    pub(super) fn process_seen(&mut self, step: &Step, answer: Result<ProcessId, BalancerError>) {
        let Some(Asking::Process) = self.asking.take() else { return };
        let now = step.now.mono;
        self.poll_at = now.plus_ms(PROCESS_MS);
        let same = match answer {
            Ok(process) => {
                let known = self.observed.as_ref().is_some_and(|o| o.process == process);
                known && self.error.is_none()
            }
            // Known to be gone; whether it is back is what the next poll tells.
            Err(_) => self.error.is_some(),
        };
        if !same {
            self.read_at = now;
        }
    }

    pub(super) fn was_dumped(&mut self, step: &mut Step, answer: Result<(), BalancerError>) {
        let Some(Asking::Dump) = self.asking.take() else { return };
        let failed_before = std::mem::replace(&mut self.dump_failed, answer.is_err());
        self.stirred = true;
        if !self.unkept.is_empty() {
            // A reload may have been quicker.
            self.read_at = step.now.mono;
        }
        if let Err(error) = answer {
            self.dump_at = Some(step.now.mono.plus_ms(RETRY_MS));
            if !failed_before {
                step.log(Note::DumpFailed { error: error.to_string() });
            }
        }
    }

    /// Decides what to record and what to set, and asks HAProxy the next thing.
    pub(super) fn advance(&mut self, step: &mut Step) {
        let now = step.now.mono;
        if std::mem::take(&mut self.stirred) || self.drain_ends.is_some_and(|at| now >= at) {
            self.record(step);
            self.carry_out(step);
            self.drain_ends = self.drains.values().copied().filter(|at| *at > now).min();
        }
        self.ask(step);
    }

    pub(super) fn refusal(&self, assignment: &Assignment) -> Option<RefusalReason> {
        self.refusals.get(&assignment.app).cloned()
    }

    pub(super) fn is_done(&self, app: &AppName) -> bool {
        self.done.contains(app)
    }

    /// What is reported. Ownership that is not on disk yet is none yet.
    pub(super) fn report(&self, step: &Step) -> BalancerReport {
        let written = step.disk.written();
        let server = |backend: &BackendName, name: &ServerName, tracked: &Tracked, at: Mono| {
            let owned = step
                .disk
                .memory()
                .holding(backend, name)
                .filter(|ours| {
                    written.holding(backend, name).is_some_and(|w| w.owned == ours.owned)
                })
                .map(|ours| ours.owned.clone());
            let steady_for_ms = tracked.steady_for_ms(at);
            ServerReport { seen: tracked.seen.clone(), owned, steady_for_ms }
        };
        let mut backends: BTreeMap<BackendName, BackendSeen> = BTreeMap::new();
        for (name, servers) in self.observed.iter().flat_map(|observed| &observed.backends) {
            let at = self.observed.as_ref().map_or(Mono(0), |observed| observed.at);
            let seen = match &self.error {
                Some(error) => BackendSeen::Unknown(error.clone()),
                None => BackendSeen::Servers(
                    servers.iter().map(|(s, t)| (s.clone(), server(name, s, t, at))).collect(),
                ),
            };
            backends.insert(name.clone(), seen);
        }
        for name in &self.setup.backends {
            backends.entry(name.clone()).or_insert_with(|| {
                let missing = "HAProxy has no such backend".to_owned();
                BackendSeen::Unknown(self.error.clone().unwrap_or(missing))
            });
        }
        BalancerReport { state_file: self.setup.state_file && !self.dump_failed, backends }
    }

    pub(super) fn next_wake(&self) -> Option<Mono> {
        if self.asking.is_some() {
            return None;
        }
        // What failed is tried again after a later reading, and needs no time of its own.
        [Some(self.read_at), Some(self.poll_at), self.dump_at, self.drain_ends]
            .into_iter()
            .flatten()
            .min()
    }

    fn observe(&mut self, step: &mut Step, begun: u64, state: BalancerState) {
        let at = step.now.mono;
        let before = self.observed.take();
        let process_changed = before.as_ref().is_none_or(|b| b.process != state.process);
        if process_changed {
            step.log(Note::ProcessChanged { process: state.process.0 });
        }
        let observed = Observed::new(state, begun, at, before.as_ref());
        if self.setup.state_file && observed.is_dumped_otherwise(before.as_ref()) {
            self.dump_at = Some(at);
        }
        if self.setup.state_file && before.is_none() {
            self.unkept.extend(step.disk.memory().places());
        }
        if self.dump_at.is_none() {
            // What was set has changed nothing, or is in the file, and the process is the one that it was read from.
            self.unkept.clear();
        }
        self.observed = Some(observed);
    }

    fn unread(&mut self, step: &mut Step, error: String) {
        if self.error.is_none() {
            step.log(Note::BalancerFailed { error: error.clone() });
        }
        self.error = Some(error);
        if let Some(observed) = &mut self.observed {
            observed.forget_times();
        }
    }

    /// The last observation, unless something was written, or is being written, since.
    fn fresh(&self) -> Option<&Observed> {
        let writing = matches!(self.asking, Some(Asking::Set(_)));
        let readable = self.error.is_none() && !writing;
        self.observed.as_ref().filter(|observed| readable && observed.begun > self.written)
    }

    /// Brings the records of ownership up to what is ordered and seen, so that they are written
    /// together with the assignment that orders it.
    fn record(&mut self, step: &mut Step) {
        let Some(observed) = self.fresh() else { return };
        let mut taken = BTreeSet::new();
        let mut restored = BTreeMap::new();
        for (place, ordered) in collect(step.disk.memory()) {
            // A change of the record can lead to another: an order in the first, its state in the second.
            for _ in 0..2 {
                let holding = step.disk.memory().holding(&place.0, &place.1);
                let (sent, process) = (self.sent(&place), observed.process);
                match need(&ordered, holding, observed.server(&place), process, sent) {
                    Need::Record(new) => {
                        let before = holding.map(|holding| holding.owned.before);
                        if before.is_none() {
                            taken.insert(place.clone());
                        }
                        log_record(step, &ordered.app, &place, before, &new);
                        let backend = step.disk.change().owned.entry(place.0.clone()).or_default();
                        backend.insert(place.1.clone(), new);
                    }
                    // A reload may bring the maintenance back, and it would be nobody's. Until then a hand's is one
                    // that comes in a process in which ours was gone.
                    Need::Disown if self.is_unsafe(&place) => {
                        if matches!(sent, Sent::Maintenance | Sent::Restored { .. }) {
                            restored.insert(place.clone(), Sent::Restored { process });
                        }
                        break;
                    }
                    Need::Disown | Need::Leave => {
                        disown(step, &ordered.app, &place);
                    }
                    Need::Drain { .. } if self.is_drained(step.now.mono, &place) => {
                        let owned = step.disk.change().owned.get_mut(&place.0);
                        if let Some(holding) = owned.and_then(|owned| owned.get_mut(&place.1)) {
                            holding.closing = true;
                        }
                    }
                    Need::Nothing | Need::Set(_) | Need::Drain { .. } => break,
                }
            }
        }
        self.sent.extend(restored);
        self.sent.extend(taken.into_iter().map(|place| (place, Sent::Nothing)));
        let memory = step.disk.memory();
        self.sent.retain(|place, _| memory.holding(&place.0, &place.1).is_some());
    }

    /// A reload now could undo what was set there, though there is a state file that can be written.
    fn is_unsafe(&self, place: &Place) -> bool {
        !self.dump_failed && self.unkept.contains(place)
    }

    fn sent(&self, place: &Place) -> Sent {
        self.sent.get(place).copied().unwrap_or(Sent::Maintenance)
    }

    /// Its drain has lasted for as long as it may.
    fn is_drained(&self, now: Mono, place: &Place) -> bool {
        self.drains.get(place).is_some_and(|ends| now >= *ends)
    }

    /// Finds out what is to be set, what is refused, and what is done.
    fn carry_out(&mut self, step: &mut Step) {
        // What has not been sent has not been tried.
        for unsent in self.to_set.drain(..) {
            self.attempts.remove(&(unsent.backend, unsent.server));
        }
        self.done.clear();
        let written = step.disk.written();
        let orders = collect(&written);
        self.attempts.retain(|place, _| orders.contains_key(place));
        self.drains.retain(|place, _| orders.contains_key(place));
        if let Some(error) = &self.error {
            let asked = orders.values().map(|ordered| ordered.app.clone());
            let reason = RefusalReason::Balancer { error: error.clone() };
            self.refusals = asked.map(|app| (app, reason.clone())).collect();
        }
        let accepted = self.accepted;
        let Some(observed) = self.fresh().filter(|observed| observed.begun > accepted) else {
            return;
        };
        let process = observed.process;
        let mut refusals: BTreeMap<AppName, RefusalReason> = BTreeMap::new();
        let mut open: BTreeSet<AppName> = BTreeSet::new();
        let newest = collect(step.disk.memory());
        let views: Vec<(Place, Ordered, View)> = orders
            .into_iter()
            .map(|(place, ordered)| {
                let view = match newest.get(&place).map(|newest| newest.order) {
                    // Nothing is put back for as long as it takes to write that it is not to be.
                    Some(Order::Out) if ordered.order == Order::In => View::Unrecorded,
                    Some(Order::Out | Order::In) | None => {
                        let sent = self.sent(&place);
                        view(step, &written, observed, &place, &ordered, sent)
                    }
                };
                (place, ordered, view)
            })
            .collect();
        for (place, ordered, view) in views {
            let app = ordered.app.clone();
            if self.is_unsafe(&place) {
                open.insert(app.clone());
            }
            if let Some(reason) = self.place(step.now.mono, process, &place, &ordered, view) {
                open.insert(app.clone());
                if let Some(reason) = reason {
                    refusals.entry(app).or_insert(reason);
                }
            }
        }
        let apps = written.assignments.keys().filter(|app| !open.contains(*app));
        self.done = apps.cloned().collect();
        self.refusals = refusals;
    }

    /// Carries out the order for one server. Some if it is not as ordered, with the reason if it is
    /// more than a matter of a moment.
    fn place(
        &mut self,
        now: Mono,
        process: ProcessId,
        place: &Place,
        ordered: &Ordered,
        view: View,
    ) -> Option<Option<RefusalReason>> {
        let state = match view {
            View::AsOrdered => {
                self.attempts.remove(place);
                self.drains.remove(place);
                return None;
            }
            View::Unrecorded => return Some(None),
            View::Missing(what) => return Some(Some(RefusalReason::NotConfigured { what })),
            View::Set(state) => state,
            View::Drain { set } => {
                let ends = *self
                    .drains
                    .entry(place.clone())
                    .or_insert_with(|| now.plus_ms(ordered.drain_ms));
                if now < ends && set {
                    SetState::Drain
                } else {
                    // Its end goes on record before the maintenance is set.
                    self.attempts.remove(place);
                    return Some(None);
                }
            }
        };
        Some(self.set(now, process, place, state))
    }

    /// Sets a state, unless the last try is too young; then says what became of it.
    fn set(
        &mut self,
        now: Mono,
        process: ProcessId,
        place: &Place,
        state: SetState,
    ) -> Option<RefusalReason> {
        let last = self
            .attempts
            .get(place)
            .filter(|attempt| attempt.state == state && attempt.process == process);
        let reason = last.map(|attempt| RefusalReason::Balancer {
            error: attempt.error.clone().unwrap_or_else(|| {
                format!("it did not keep {} {}/{}", word(state), place.0, place.1)
            }),
        });
        if last.is_none_or(|attempt| now >= attempt.at.plus_ms(RETRY_MS)) {
            self.attempts.insert(place.clone(), Try { state, process, at: now, error: None });
            let (backend, server) = place.clone();
            self.to_set.push(SetServer { backend, server, state });
        }
        reason
    }

    fn ask(&mut self, step: &mut Step) {
        if self.asking.is_some() {
            return;
        }
        let now = step.now.mono;
        let (asking, effect) = if !self.to_set.is_empty() {
            let commands = std::mem::take(&mut self.to_set);
            for SetServer { backend, server, state } in &commands {
                let place = (backend.clone(), server.clone());
                match (state, self.sent.get_mut(&place)) {
                    (SetState::Maint, Some(_)) => drop(self.sent.remove(&place)),
                    (SetState::Drain, Some(sent)) => *sent = Sent::Drain,
                    (SetState::Ready, _) | (_, None) => {}
                }
            }
            (Asking::Set(commands.clone()), Effect::SetBalancer(commands))
        } else if now >= self.read_at {
            self.sequence += 1;
            (Asking::Read { begun: self.sequence }, Effect::ReadBalancer)
        } else if self.dump_at.is_some_and(|at| now >= at) {
            self.dump_at = None;
            (Asking::Dump, Effect::DumpState)
        } else if now >= self.poll_at {
            (Asking::Process, Effect::AskProcess)
        } else {
            return;
        };
        self.asking = Some(asking);
        step.effects.push(effect);
    }
}

/// A server beside the order for it that is on disk.
enum View {
    /// It is as ordered.
    AsOrdered,
    /// What must be on disk first is not yet.
    Unrecorded,
    /// HAProxy does not have it.
    Missing(String),
    /// This is to be set.
    Set(SetState),
    /// Its sessions are to end.
    Drain { set: bool },
}

fn view(
    step: &Step,
    written: &super::memory::Memory,
    observed: &Observed,
    place: &Place,
    ordered: &Ordered,
    sent: Sent,
) -> View {
    let holding = step.disk.memory().holding(&place.0, &place.1);
    let seen = observed.server(place);
    if ordered.order == Order::Out && seen.is_none() {
        let backend = &place.0;
        return View::Missing(if observed.backends.contains_key(backend) {
            format!("server {} in backend {backend}", place.1)
        } else {
            format!("backend {backend}")
        });
    }
    let matters = |holding: &super::memory::Holding| (holding.owned.clone(), holding.closing);
    let on_disk = written.holding(&place.0, &place.1).map(matters) == holding.map(matters);
    match need(ordered, holding, seen, observed.process, sent) {
        // Nothing is ours any more; that it is on disk still does no harm.
        Need::Nothing if ordered.order == Order::In || on_disk => View::AsOrdered,
        Need::Set(state) if ordered.order == Order::In || on_disk => View::Set(state),
        Need::Drain { set } if on_disk => View::Drain { set },
        Need::Nothing
        | Need::Set(_)
        | Need::Drain { .. }
        | Need::Record(_)
        | Need::Disown
        | Need::Leave => View::Unrecorded,
    }
}

fn word(state: SetState) -> &'static str {
    match state {
        SetState::Ready => "ready of",
        SetState::Drain => "drain of",
        SetState::Maint => "maintenance of",
    }
}
