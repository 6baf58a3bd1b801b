//! What an agent has done since its start, counted for metrics from the events and effects of its core.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::core::{Effect, Event, Note, Publication};
use crate::model::buckets::{Buckets, SLOW};
use crate::model::{AppName, CheckName, CheckStatus, Mono};
use crate::plan::ports::{DeliverError, ProcessId};

/// Counted by outcome, by its stable name.
pub type Outcomes = BTreeMap<&'static str, u64>;

/// All of it.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Upgrade attempts that have ended, by app: `succeeded`, `failed`, `interrupted`.
    pub attempts: BTreeMap<AppName, Outcomes>,
    /// How long attempts took, by app.
    pub attempt_took: BTreeMap<AppName, Buckets>,
    /// Runs of checks by result: `ok`, `warning`, `critical`, `unknown`.
    pub checks: BTreeMap<CheckName, Outcomes>,
    /// How long checks took.
    pub check_took: BTreeMap<CheckName, Buckets>,
    /// Commands to HAProxy: `done`, `refused`, `unanswered`.
    pub commands: Outcomes,
    /// New processes of HAProxy that were seen.
    pub reloads: u64,
    /// Messages by what became of the try to deliver them: `delivered`, `delayed`, `failed`.
    pub deliveries: Outcomes,
    /// Assignments: `accepted`, `refused`, `untrusted`.
    pub assignments: Outcomes,
    /// Reports published.
    pub reports: u64,
    /// Writes to the state directory that failed.
    pub state_write_failures: u64,
    /// The bus is connected.
    pub connected: bool,
    /// Connections to the bus that were made.
    pub connections: u64,
    /// Documents that could not be read, and mailboxes by none of the trusted keys.
    pub documents_refused: u64,
    process: Option<ProcessId>,
    running: BTreeMap<AppName, Mono>,
}

fn none_of<const N: usize>(outcomes: [&'static str; N]) -> Outcomes {
    outcomes.into_iter().map(|outcome| (outcome, 0)).collect()
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            attempts: BTreeMap::new(),
            attempt_took: BTreeMap::new(),
            checks: BTreeMap::new(),
            check_took: BTreeMap::new(),
            commands: none_of(["done", "refused", "unanswered"]),
            reloads: 0,
            deliveries: none_of(["delivered", "delayed", "failed"]),
            assignments: none_of(["accepted", "refused", "untrusted"]),
            reports: 0,
            state_write_failures: 0,
            connected: false,
            connections: 0,
            documents_refused: 0,
            process: None,
            running: BTreeMap::new(),
        }
    }
}

impl Counters {
    /// Counts what has happened.
    pub fn happened(&mut self, now: Mono, event: &Event) {
        match event {
            Event::Connected { .. } => {
                self.connected = true;
                self.connections += 1;
            }
            Event::Disconnected => self.connected = false,
            Event::UpgradeEnded { app, result } => {
                self.attempt(app, if result.is_ok() { "succeeded" } else { "failed" });
                if let Some(since) = self.running.remove(app) {
                    let took = self.attempt_took.entry(app.clone());
                    took.or_insert_with(|| Buckets::new(SLOW)).add_ms(now.since_ms(since));
                }
            }
            Event::CheckEnded { check, result, .. } => {
                let all = || none_of(["ok", "warning", "critical", "unknown"]);
                let outcomes = self.checks.entry(check.clone()).or_insert_with(all);
                add(outcomes, status(result.status));
                let took = self.check_took.entry(check.clone());
                took.or_insert_with(|| Buckets::new(SLOW)).add_ms(result.took_ms);
            }
            Event::BalancerRead(Ok(state)) => self.process_is(state.process),
            Event::ProcessSeen(Ok(process)) => self.process_is(*process),
            Event::BalancerSet(Ok(results)) => {
                for result in results {
                    add(&mut self.commands, if result.is_ok() { "done" } else { "refused" });
                }
            }
            Event::BalancerSet(Err(_)) => add(&mut self.commands, "unanswered"),
            Event::Delivered { result, .. } => {
                let outcome = match result {
                    Ok(()) => "delivered",
                    Err(DeliverError::Transient { .. }) => "delayed",
                    Err(DeliverError::Terminal { .. }) => "failed",
                    Err(DeliverError::Paced { .. }) => return,
                };
                add(&mut self.deliveries, outcome);
            }
            Event::PersistFailed { .. } => self.state_write_failures += 1,
            Event::Received { .. }
            | Event::Marker { .. }
            | Event::RevisionRead { .. }
            | Event::EarlierEnded { .. }
            | Event::BalancerRead(Err(_))
            | Event::ProcessSeen(Err(_))
            | Event::StateDumped(_)
            | Event::Persisted { .. }
            | Event::Tick
            | Event::Stop => {}
        }
    }

    /// Counts what is asked for.
    pub fn asked(&mut self, now: Mono, effect: &Effect) {
        match effect {
            Effect::StartUpgrade { app, .. } => drop(self.running.insert(app.clone(), now)),
            Effect::Log(Note::Interrupted { app, .. }) => self.attempt(app, "interrupted"),
            Effect::Log(Note::Accepted { .. }) => add(&mut self.assignments, "accepted"),
            Effect::Log(
                Note::Refused { refusal: Some(_), .. }
                | Note::StaleEpoch { .. }
                | Note::Misaddressed { .. }
                | Note::TooManyApps { .. },
            ) => add(&mut self.assignments, "refused"),
            Effect::Log(Note::Untrusted { .. }) => add(&mut self.assignments, "untrusted"),
            Effect::Log(Note::UntrustedMailbox { .. }) => self.documents_refused += 1,
            Effect::Publish(publication) => match **publication {
                Publication::Report(_) => self.reports += 1,
                Publication::Alive(_) | Publication::Receipt(_) => {}
            },
            _ => {}
        }
    }

    fn attempt(&mut self, app: &AppName, outcome: &'static str) {
        let all = || none_of(["succeeded", "failed", "interrupted"]);
        add(self.attempts.entry(app.clone()).or_insert_with(all), outcome);
    }

    fn process_is(&mut self, process: ProcessId) {
        if self.process.replace(process).is_some_and(|before| before != process) {
            self.reloads += 1;
        }
    }
}

fn add(outcomes: &mut Outcomes, outcome: &'static str) {
    *outcomes.entry(outcome).or_default() += 1;
}

fn status(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Ok => "ok",
        CheckStatus::Warning => "warning",
        CheckStatus::Critical => "critical",
        CheckStatus::Unknown => "unknown",
    }
}

/// The counters of a running agent, for whoever shows them.
#[derive(Debug, Clone, Default)]
pub struct Counted(Arc<Mutex<Counters>>);

impl Counted {
    /// As they are now.
    pub fn now(&self) -> Counters {
        self.lock().clone()
    }

    /// To count; never held over a wait.
    pub(super) fn lock(&self) -> MutexGuard<'_, Counters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
