//! The apps of this node: permits and attempts, the revision that runs, and when to settle.
//!
//! An attempt must not fire late or twice. So its record is on disk before it starts, what the permit rests
//! on is checked before the record and once more after it, and a record that did not lead to a start
//! is taken back before anybody has seen it.
//!
//! An attempt that an earlier life has left behind is running for as long as its deploy command may be.

use std::collections::BTreeMap;

use super::event::Effect;
use super::heard::Heard;
use super::note::Note;
use super::settle::Settle;
use super::{Setup, Step};
use crate::model::{
    AppName, AppReport, Assignment, Attempt, AttemptFailure, AttemptOutcome, CheckName,
    CheckResult, Mono, NodeWork, Permit, RefusalReason, RevisionSeen,
};
use crate::plan::ports::UpgradeError;

/// The apps of this node.
#[derive(Debug, Clone)]
pub(super) struct Node {
    apps: BTreeMap<AppName, App>,
    upgrade: Option<Upgrade>,
    /// Numbers the readings and the settlings, so that late answers are told from present ones.
    reads: u64,
    runs: u64,
}

#[derive(Debug, Clone)]
struct App {
    revision: RevisionSeen,
    reading: Option<u64>,
    read_at: Mono,
    settle: Settle,
    refusal: Option<RefusalReason>,
    /// A deploy command of an earlier life may be running.
    awaits_earlier: bool,
}

/// The one upgrade of this node.
#[derive(Debug, Clone)]
enum Upgrade {
    /// Its record is on the way to the disk.
    Recorded {
        app: AppName,
        permit: Box<Permit>,
        /// What the record stands in for until then.
        before: Box<Option<Attempt>>,
    },
    /// It runs.
    Running { app: AppName, since: Mono },
}

impl Upgrade {
    fn app(&self) -> &AppName {
        match self {
            Self::Recorded { app, .. } | Self::Running { app, .. } => app,
        }
    }
}

/// Whether `attempt` was permitted by `permit`, or by one that differs in the number alone.
pub(super) fn is_of(attempt: &Attempt, permit: &Permit) -> bool {
    attempt.rollout == permit.rollout
        && attempt.revision == permit.revision
        && attempt.retry == permit.retry
}

/// No attempt is made twice: one of the same or a higher number stands for it.
fn stands_for(attempt: &Attempt, permit: &Permit) -> bool {
    is_of(attempt, permit) && attempt.attempt >= permit.attempt
}

impl Node {
    pub(super) fn new(setup: &Setup, now: Mono) -> Node {
        let app = || App {
            revision: RevisionSeen::Unknown("it has not been read yet".to_owned()),
            reading: None,
            read_at: now,
            settle: Settle::default(),
            refusal: None,
            awaits_earlier: false,
        };
        let apps = setup.apps.iter().map(|name| (name.clone(), app())).collect();
        Node { apps, upgrade: None, reads: 0, runs: 0 }
    }

    /// Whether an attempt runs.
    pub(super) fn is_upgrading(&self) -> bool {
        matches!(self.upgrade, Some(Upgrade::Running { .. }))
    }

    /// Whether the app is being changed, be it by a command of an earlier life.
    fn is_changing(&self, app: &AppName) -> bool {
        matches!(&self.upgrade, Some(Upgrade::Running { app: running, .. }) if running == app)
            || self.apps.get(app).is_some_and(|state| state.awaits_earlier)
    }

    /// Nothing of an earlier life runs for the app any more. What its attempt has done is not known.
    pub(super) fn earlier_ended(&mut self, step: &mut Step, app: &AppName) {
        let Some(state) = self.apps.get_mut(app) else { return };
        state.awaits_earlier = false;
        state.read_at = step.now.mono;
        if !is_running(step, app) {
            return;
        }
        let Some(attempt) = step.disk.change().attempts.get_mut(app) else { return };
        let why = AttemptFailure::Interrupted;
        attempt.outcome = AttemptOutcome::Failed { why, tail: String::new() };
        let (revision, attempt) = (attempt.revision.clone(), attempt.attempt);
        step.log(Note::Interrupted { app: app.clone(), revision, attempt });
    }

    pub(super) fn revision_read(
        &mut self,
        step: &Step,
        app: &AppName,
        read: u64,
        seen: RevisionSeen,
    ) {
        let Some(state) = self.apps.get_mut(app) else { return };
        // An answer to a question from before an upgrade says nothing about the present.
        if state.reading == Some(read) {
            state.reading = None;
            state.read_at = step.now.mono.plus_ms(step.setup.observe_ms);
            state.revision = seen;
        }
    }

    pub(super) fn check_ended(
        &mut self,
        step: &mut Step,
        app: &AppName,
        run: u64,
        check: CheckName,
        result: CheckResult,
    ) {
        if let Some(state) = self.apps.get_mut(app) {
            state.settle.check_ended(step, app, run, check, result);
        }
    }

    pub(super) fn upgrade_ended(
        &mut self,
        step: &mut Step,
        app: &AppName,
        result: Result<(), UpgradeError>,
    ) {
        let since = match &self.upgrade {
            Some(Upgrade::Running { app: running, since }) if running == app => *since,
            Some(Upgrade::Running { .. } | Upgrade::Recorded { .. }) | None => return,
        };
        self.upgrade = None;
        let (Some(state), Some(attempt)) =
            (self.apps.get_mut(app), step.disk.change().attempts.get_mut(app))
        else {
            return;
        };
        attempt.took_ms = step.now.mono.since_ms(since);
        state.read_at = step.now.mono;
        match result {
            Ok(()) => {
                // Success means that this was read back.
                state.revision = RevisionSeen::Running(attempt.revision.clone());
                state.read_at = step.now.mono.plus_ms(step.setup.observe_ms);
                attempt.outcome = AttemptOutcome::Succeeded;
            }
            Err(UpgradeError { why, tail }) => {
                // What it has left behind is only known when it has been read.
                state.revision = match &why {
                    AttemptFailure::Lied(seen) => seen.clone(),
                    _ => RevisionSeen::Unknown("not read yet since the attempt failed".to_owned()),
                };
                attempt.outcome = AttemptOutcome::Failed { why, tail };
            }
        }
        let attempt = attempt.clone();
        step.log(Note::UpgradeEnded { app: app.clone(), attempt });
    }

    /// Does what is due for every app.
    pub(super) fn advance(&mut self, step: &mut Step, heard: &Heard) {
        self.await_earlier(step);
        self.start_or_take_back(step, heard);
        let apps: Vec<AppName> = self.apps.keys().cloned().collect();
        for app in &apps {
            self.weigh_permit(step, heard, app);
            self.settle(step, app);
            self.read(step, app);
        }
    }

    /// Why the app's order is not followed.
    pub(super) fn refusal(&self, setup: &Setup, assignment: &Assignment) -> Option<RefusalReason> {
        let work = assignment.work.as_ref()?;
        let missing = |what: String| Some(RefusalReason::NotConfigured { what });
        let Some(state) = self.apps.get(&assignment.app) else {
            return missing(format!("role apps.{}", assignment.app));
        };
        let unknown = work.checks.iter().find(|check| !setup.checks.contains(*check));
        state
            .refusal
            .clone()
            .or_else(|| unknown.and_then(|check| missing(format!("check {check}"))))
    }

    /// Whether the node's part of the assignment has been acted on.
    pub(super) fn is_done(&self, step: &Step, assignment: &Assignment) -> bool {
        let Some(work) = &assignment.work else { return true };
        if !self.apps.contains_key(&assignment.app) {
            return false;
        }
        let Some(permit) = &work.permit else { return true };
        let attempt = step.disk.memory().attempts.get(&assignment.app);
        attempt.is_some_and(|attempt| {
            stands_for(attempt, permit) && attempt.outcome != AttemptOutcome::Running
        })
    }

    /// What is reported.
    pub(super) fn report(&self, step: &Step, started: u64) -> BTreeMap<AppName, AppReport> {
        let attempts = &step.disk.memory().attempts;
        let report = |(app, state): (&AppName, &App)| {
            let attempt = match &self.upgrade {
                // It has not started, and may never.
                Some(Upgrade::Recorded { app: recorded, before, .. }) if recorded == app => {
                    (**before).clone()
                }
                Some(Upgrade::Recorded { .. } | Upgrade::Running { .. }) | None => {
                    attempts.get(app).cloned()
                }
            };
            let settle = state.settle.report(started, step.now.mono);
            (app.clone(), AppReport { revision: state.revision.clone(), attempt, settle })
        };
        self.apps.iter().map(report).collect()
    }

    pub(super) fn next_wake(&self) -> Option<Mono> {
        let upgrading = self.upgrade.as_ref().map(Upgrade::app);
        self.apps
            .iter()
            .flat_map(|(app, state)| {
                let reads =
                    state.reading.is_none() && !state.awaits_earlier && upgrading != Some(app);
                [reads.then_some(state.read_at), state.settle.next_wake()]
            })
            .flatten()
            .min()
    }

    /// Waits for what an earlier life has left behind: an attempt that is on record as running and is not ours.
    fn await_earlier(&mut self, step: &mut Step) {
        let ours = self.upgrade.as_ref().map(Upgrade::app);
        for (app, state) in &mut self.apps {
            if !state.awaits_earlier && ours != Some(app) && is_running(step, app) {
                state.awaits_earlier = true;
                step.log(Note::AwaitsEarlier { app: app.clone() });
                step.effects.push(Effect::AwaitEarlier { app: app.clone() });
            }
        }
    }

    /// Starts the recorded attempt, once its record is on disk and if the permit still holds.
    fn start_or_take_back(&mut self, step: &mut Step, heard: &Heard) {
        let Some(Upgrade::Recorded { app, permit, before }) = &self.upgrade else { return };
        let (app, permit, before) = (app.clone(), (**permit).clone(), (**before).clone());
        let memory = step.disk.memory();
        let work = memory.assignments.get(&app).and_then(|assignment| assignment.work.as_ref());
        let holds = work.filter(|work| work.permit.as_ref() == Some(&permit));
        let timeout_ms = match holds {
            Some(work)
                if !step.stopping
                    && step.disk.failure().is_none()
                    && heard.proves(&app, &permit, step.now.mono).is_ok() =>
            {
                work.upgrade_timeout_ms
            }
            Some(_) | None => {
                self.upgrade = None;
                let attempts = &mut step.disk.change().attempts;
                match before {
                    Some(before) => attempts.insert(app, before),
                    None => attempts.remove(&app),
                };
                return;
            }
        };
        if step.disk.written().attempts.get(&app) != memory.attempts.get(&app) {
            return;
        }
        if let Some(state) = self.apps.get_mut(&app) {
            state.reading = None;
        }
        let revision = permit.revision.clone();
        step.log(Note::UpgradeStarts { app: app.clone(), revision, attempt: permit.attempt });
        let revision = permit.revision;
        step.effects.push(Effect::StartUpgrade { app: app.clone(), revision, timeout_ms });
        self.upgrade = Some(Upgrade::Running { app, since: step.now.mono });
    }

    /// Records the attempt that is permitted, or says why not.
    fn weigh_permit(&mut self, step: &mut Step, heard: &Heard, app: &AppName) {
        let refusal = match self.permitted(step, app) {
            None => None,
            Some(permit) => match self.may_start(step, heard, app, &permit) {
                Err(refusal) => Some(refusal),
                Ok(()) => {
                    let started = step.now.wall;
                    let attempts = &mut step.disk.change().attempts;
                    let record = record(&permit, started);
                    let before = attempts.insert(app.clone(), record);
                    let (permit, before) = (Box::new(permit), Box::new(before));
                    self.upgrade = Some(Upgrade::Recorded { app: app.clone(), permit, before });
                    None
                }
            },
        };
        if let Some(state) = self.apps.get_mut(app) {
            state.refusal = refusal;
        }
    }

    /// The permit that has not led to an attempt yet.
    fn permitted(&self, step: &Step, app: &AppName) -> Option<Permit> {
        if !step.restored || step.stopping {
            return None;
        }
        let memory = step.disk.memory();
        let permit = memory.assignments.get(app)?.work.as_ref()?.permit.as_ref()?;
        let stands = memory.attempts.get(app).is_some_and(|attempt| stands_for(attempt, permit));
        (!stands).then(|| permit.clone())
    }

    fn may_start(
        &self,
        step: &Step,
        heard: &Heard,
        app: &AppName,
        permit: &Permit,
    ) -> Result<(), RefusalReason> {
        if self.upgrade.is_some() || self.apps.values().any(|state| state.awaits_earlier) {
            return Err(RefusalReason::UpgradeRunning);
        }
        if let Some(error) = step.disk.failure() {
            return Err(RefusalReason::Disk { error: error.to_owned() });
        }
        heard.proves(app, permit, step.now.mono)
    }

    fn settle(&mut self, step: &mut Step, app: &AppName) {
        let changing = self.is_changing(app);
        let Some(state) = self.apps.get_mut(app) else { return };
        if changing {
            state.settle.lapse(step, app);
            return;
        }
        let written = step.disk.written();
        let work: Option<&NodeWork> =
            written.assignments.get(app).and_then(|assignment| assignment.work.as_ref());
        // A record that has not led to a start is none of a success, so it needs no exception here.
        let attempt = step.disk.memory().attempts.get(app).cloned();
        state.settle.advance(step, app, work, attempt.as_ref(), &mut self.runs);
    }

    fn read(&mut self, step: &mut Step, app: &AppName) {
        let upgrading = self.upgrade.as_ref().map(Upgrade::app) == Some(app);
        let Some(state) = self.apps.get_mut(app) else { return };
        if upgrading
            || state.awaits_earlier
            || state.reading.is_some()
            || step.now.mono < state.read_at
        {
            return;
        }
        self.reads += 1;
        state.reading = Some(self.reads);
        step.effects.push(Effect::ReadRevision { app: app.clone(), read: self.reads });
    }
}

/// The last attempt is on record as running.
fn is_running(step: &Step, app: &AppName) -> bool {
    let attempt = step.disk.memory().attempts.get(app);
    attempt.is_some_and(|attempt| attempt.outcome == AttemptOutcome::Running)
}

fn record(permit: &Permit, started: crate::model::Wall) -> Attempt {
    Attempt {
        rollout: permit.rollout.clone(),
        revision: permit.revision.clone(),
        retry: permit.retry.clone(),
        attempt: permit.attempt,
        outcome: AttemptOutcome::Running,
        started,
        took_ms: 0,
    }
}
