//! Floor 1: the checker that distrusts the planner. It reads a fleet's history, fact by fact, and names
//! the invariant that broke.
//!
//! It shares no code with the planner, only the model's types, and never reads a reason. What was
//! asked is judged by what whoever asked had heard until then; what was done is judged by what was true. The rejected
//! alternative, to judge everything by reports, would believe an agent that is wrong.
//!
//! It is in the program, and not among the tests, so that whatever can tell a history (a simulation, a
//! model, a recording) can be judged by one and the same text.

mod asked;
mod converged;
mod fact;
mod known;
mod news;
#[cfg(test)]
mod tests;
mod told;
mod truth;

use std::fmt;

pub use fact::{By, Fact, Tale};

use crate::model::{AdminBits, AppName, BackendName, NodeName, ServerName};
use known::Known;
use news::News;
use told::Told;

/// What is promised; `docs/safety.md` has each in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// 1: a node is upgraded only while it is out at every load balancer of its app.
    UpgradedOnlyWhileOut,
    /// 2: a node is put back only at its goal revision, and settled since.
    PutBackOnlySettled,
    /// 3: at most `batch` nodes upgrade at once; permitted counts as upgrading.
    BatchKept,
    /// 4: no act of ours brings the ready servers of a backend below its floor.
    FloorKept,
    /// 5: nothing is taken out or permitted on silence, or on an old observation.
    SilenceBlocks,
    /// 6: what somebody else set is never lifted or lost.
    ForeignKept,
    /// 7: where actual equals goal, nothing is asked.
    QuietAtGoal,
    /// 8: what is paused, has vanished, or was never readable is not touched.
    UntouchedWherePaused,
    /// 9: when faults stop, it converges, or is blocked by what the facts demand.
    Converges,
    /// 10: tries are bounded, and so are failures.
    TriesBounded,
    /// 11: `after` gates the start of a revision change.
    AfterGatesStart,
    /// 12: one cause is told once, and so is its end.
    ToldOnce,
}

impl Invariant {
    /// All of them, in the order of their numbers.
    pub const ALL: [Invariant; 12] = [
        Self::UpgradedOnlyWhileOut,
        Self::PutBackOnlySettled,
        Self::BatchKept,
        Self::FloorKept,
        Self::SilenceBlocks,
        Self::ForeignKept,
        Self::QuietAtGoal,
        Self::UntouchedWherePaused,
        Self::Converges,
        Self::TriesBounded,
        Self::AfterGatesStart,
        Self::ToldOnce,
    ];
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::UpgradedOnlyWhileOut => "UpgradedOnlyWhileOut",
            Self::PutBackOnlySettled => "PutBackOnlySettled",
            Self::BatchKept => "BatchKept",
            Self::FloorKept => "FloorKept",
            Self::SilenceBlocks => "SilenceBlocks",
            Self::ForeignKept => "ForeignKept",
            Self::QuietAtGoal => "QuietAtGoal",
            Self::UntouchedWherePaused => "UntouchedWherePaused",
            Self::Converges => "Converges",
            Self::TriesBounded => "TriesBounded",
            Self::AfterGatesStart => "AfterGatesStart",
            Self::ToldOnce => "ToldOnce",
        })
    }
}

/// An invariant that broke, and the two facts that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Breach {
    /// Which.
    pub invariant: Invariant,
    /// When, in milliseconds of the history's clock.
    pub at_ms: u64,
    /// Whom it is about, in a node's or a cluster's name.
    pub about: String,
    /// What happened, or was asked.
    pub happened: String,
    /// What forbids it.
    pub forbidden_by: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invariant, at_ms, about, happened, forbidden_by } = self;
        write!(f, "{invariant} broke at {at_ms} ms, for {about}: {happened}; but {forbidden_by}")
    }
}

/// Reads the history of one app's fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checker {
    known: Known,
    news: News,
    told: Told,
    breaches: Vec<Breach>,
}

impl Checker {
    /// A checker that has read nothing.
    pub fn new(app: AppName) -> Self {
        Self {
            known: Known::new(app),
            news: News::default(),
            told: Told::default(),
            breaches: Vec::new(),
        }
    }

    /// Reads the next fact of the history; returns how many invariants it broke.
    pub fn see(&mut self, at_ms: u64, fact: Fact) -> usize {
        let before = self.breaches.len();
        self.known.now_ms = at_ms;
        self.news.read(&self.known.app, &fact);
        match fact {
            Fact::Desired { cluster, settings, standing } => {
                self.known.desire(cluster, *settings, standing);
            }
            Fact::Heard(report) => self.known.hear(report),
            Fact::Presence { node, present } => self.known.presence(node, present),
            Fact::Found(assignment) => self.known.find(&assignment),
            Fact::Forgotten { node } => self.known.forget(&node),
            Fact::Restarted => self.known.restart(),
            Fact::Planned(assignments) => self.planned(&assignments),
            Fact::Server { lb, backend, server, seen, by } => {
                self.server(&lb, &backend, &server, &seen, by);
            }
            Fact::Runs { node, revision, by } => self.known.runs(node, revision, by),
            Fact::UpgradeStarted { node, rollout, revision, retry, attempt } => {
                self.upgrade_started(&node, (rollout, revision, retry), attempt);
            }
            Fact::UpgradeEnded { node } => drop(self.known.upgrading.remove(&node)),
            Fact::CheckStarted { node, check } => self.known.check_started(node, check),
            Fact::CheckEnded { node, check, ok } => self.known.check_ended(node, check, ok),
            Fact::Told(tale) => {
                self.is_news(&tale);
                self.tell(tale);
            }
            Fact::ToldAgain { key } => self.told.excuse(key),
            Fact::FilesLost => self.known.lose_files(),
            Fact::MemoryLost => {
                self.known.forget_tries();
                self.told.forget();
            }
            Fact::TriesLost { node } => self.known.forget_tries_on(&node),
        }
        self.breaches.len() - before
    }

    /// Whether it is us alone who keep a server out, in truth, whatever anybody believes: nobody else did before us,
    /// nor may we do it in somebody's place.
    pub fn is_ours(&self, lb: &NodeName, backend: &BackendName, server: &ServerName) -> bool {
        let spot = (lb.clone(), backend.clone(), server.clone());
        self.known.servers.get(&spot).is_some_and(|server| {
            let adds = |before: AdminBits| {
                !before.is_out() && (server.seen.admin.is_out() || before.is_clear())
            };
            !server.for_them && server.ours.is_some_and(adds)
        })
    }

    /// Everything that broke until now.
    pub fn breaches(&self) -> &[Breach] {
        &self.breaches
    }

    /// Everything that broke, if the history ends here: with it what can only be judged when every message that
    /// was written has come.
    pub fn end(&self) -> Vec<Breach> {
        let at_ms = self.known.now_ms;
        let told = self.told.judge().into_iter().map(|(about, happened, forbidden_by)| Breach {
            invariant: Invariant::ToldOnce,
            at_ms,
            about,
            happened,
            forbidden_by,
        });
        self.breaches.iter().cloned().chain(told).collect()
    }

    fn breach(
        &mut self,
        invariant: Invariant,
        about: &impl fmt::Display,
        happened: impl fmt::Display,
        forbidden_by: impl fmt::Display,
    ) {
        self.breaches.push(Breach {
            invariant,
            at_ms: self.known.now_ms,
            about: about.to_string(),
            happened: happened.to_string(),
            forbidden_by: forbidden_by.to_string(),
        });
    }
}
