//! The service of a web server, and the deploy commands that change what it runs.

use std::collections::VecDeque;

use evenkeel::agent::core::{Event, Memory};
use evenkeel::checker::{By, Fact};
use evenkeel::model::*;
use evenkeel::plan::ports::UpgradeError;

use crate::plugin::Plugin;
use crate::world::{Happening, World};

/// How deploy commands, or checks, go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// It ends with an error, and has changed nothing.
    Fails,
    /// It ends with an error half-way: the new revision runs.
    BreaksOff,
    /// It says that all is well, and has changed nothing.
    Lies,
    /// It does not end.
    Hangs,
}

/// What one node runs.
#[derive(Debug, Default)]
pub struct Service {
    pub runs: Option<Revision>,
    /// It does not say what it runs.
    pub silent: bool,
    /// It does not answer the load balancers.
    pub ill: bool,
    pub bad: Option<Bad>,
    /// How its checks end.
    pub plugin: Plugin,
    /// The deploy command that has the lock.
    job: Option<(u64, Job)>,
    /// Those that wait for it.
    waiting: VecDeque<(u64, Job)>,
    /// The life that waits until nothing of an earlier one runs.
    awaits: Option<(u64, AppName)>,
}

#[derive(Debug, Clone)]
struct Job {
    life: u64,
    app: AppName,
    revision: Revision,
    attempt: Attempt,
    timeout_ms: u64,
}

impl Service {
    /// What it says that it runs.
    pub fn says(&self) -> RevisionSeen {
        match &self.runs {
            Some(revision) if !self.silent => RevisionSeen::Running(revision.clone()),
            Some(_) | None => RevisionSeen::Unknown("connection refused".to_owned()),
        }
    }

    /// What a load balancer's check finds: where nothing is installed, nothing answers.
    pub fn is_up(&self) -> bool {
        self.runs.is_some() && !self.ill
    }

    /// A deploy command runs, or waits.
    pub fn is_busy(&self) -> bool {
        self.job.is_some() || !self.waiting.is_empty()
    }

    /// Kills what has the lock.
    pub fn kill(&mut self) -> Option<u64> {
        self.job.take().map(|(number, _)| number)
    }

    /// What waits for the lock dies with its agent.
    pub fn forget_waiting(&mut self) {
        self.waiting.clear();
    }
}

impl World {
    fn service(&mut self, name: &NodeName) -> &mut Service {
        &mut self.agents.get_mut(name).expect("an agent").service
    }

    /// An agent asks to be told when nothing of an earlier life runs any more.
    pub fn await_earlier(&mut self, name: &NodeName, life: u64, app: AppName) {
        let service = self.service(name);
        service.awaits = Some((life, app));
        if service.job.is_none() {
            self.earlier_ended(name);
        }
    }

    fn earlier_ended(&mut self, name: &NodeName) {
        if let Some((life, app)) = self.service(name).awaits.take() {
            let event = Box::new(Event::EarlierEnded { app });
            self.after(1, Happening::Answer { node: name.clone(), life, event });
        }
    }

    pub fn start_job(
        &mut self,
        name: &NodeName,
        life: u64,
        app: AppName,
        revision: Revision,
        timeout_ms: u64,
    ) {
        self.jobs += 1;
        let number = self.jobs;
        let memory: Memory = self.agents[name].disk.read().expect("its record is on disk");
        let attempt = memory.attempts.get(&app).expect("the attempt is on record").clone();
        assert_eq!(attempt.outcome, AttemptOutcome::Running, "the record says so");
        let job = Job { life, app, revision, attempt, timeout_ms };
        self.service(name).waiting.push_back((number, job));
        self.job_begins(name, number);
    }

    /// The deploy command gets its lock, or waits for it.
    pub fn job_begins(&mut self, name: &NodeName, number: u64) {
        let service = self.service(name);
        if service.job.is_some() {
            return; // whoever has the lock begins the next one
        }
        let Some(at) = service.waiting.iter().position(|(n, _)| *n == number) else { return };
        let Some((_, job)) = service.waiting.remove(at) else { return };
        service.job = Some((number, job.clone()));
        let hangs = service.bad == Some(Bad::Hangs);
        let ms = if hangs { job.timeout_ms } else { self.rng.u64(20..8_000) };
        let Attempt { rollout, revision, retry, attempt, .. } = job.attempt;
        let node = name.clone();
        self.fact(Fact::UpgradeStarted { node, rollout, revision, retry, attempt });
        self.after(ms.min(job.timeout_ms), Happening::JobEnds { node: name.clone(), job: number });
    }

    pub fn job_ends(&mut self, name: &NodeName, number: u64) {
        let service = self.service(name);
        let Some((_, job)) = service.job.take_if(|(n, _)| *n == number) else { return };
        let failed = |why| Err(UpgradeError { why, tail: String::new() });
        let (brings, result) = match service.bad {
            None => (true, Ok(())),
            Some(Bad::Fails) => (false, failed(AttemptFailure::Exit(1))),
            Some(Bad::BreaksOff) => (true, failed(AttemptFailure::Exit(2))),
            Some(Bad::Lies) => (false, failed(AttemptFailure::Lied(service.says()))),
            Some(Bad::Hangs) => (false, failed(AttemptFailure::TimedOut(job.timeout_ms))),
        };
        let seen = service.says();
        let node = name.clone();
        if brings {
            service.runs = Some(job.revision.clone());
            let revision = Some(job.revision.clone());
            self.fact(Fact::Runs { node: node.clone(), revision, by: By::Us });
            self.show_health(name);
        }
        self.fact(Fact::UpgradeEnded { node: node.clone() });
        // A service that does not answer cannot say what it runs.
        let unreadable = self.agents[name].service.silent;
        let result =
            if unreadable && result.is_ok() { failed(AttemptFailure::Lied(seen)) } else { result };
        let event = Box::new(Event::UpgradeEnded { app: job.app, result });
        self.after(1, Happening::Answer { node, life: job.life, event });
        self.earlier_ended(name);
        let next = self.service(name).waiting.front().map(|(number, _)| *number);
        if let Some(job) = next {
            self.after(0, Happening::JobBegins { node: name.clone(), job });
        }
    }

    pub fn check_ends(
        &mut self,
        name: &NodeName,
        life: u64,
        app: AppName,
        run: u64,
        (check, plugin): (CheckName, Plugin),
    ) {
        if self.agents[name].life != life || self.agents[name].core.is_none() {
            return;
        }
        let node = name.clone();
        self.fact(Fact::CheckEnded { node, check: check.clone(), ok: plugin.is_ok() });
        let result = plugin.result();
        self.answer(name, life, Event::CheckEnded { app, run, check, result });
    }

    /// Somebody brings another revision by hand.
    pub fn drift(&mut self, name: &NodeName, revision: Revision) {
        let service = self.service(name);
        service.runs = Some(revision.clone());
        let (node, revision) = (name.clone(), Some(revision));
        self.fact(Fact::Runs { node, revision, by: By::Hand });
        self.show_health(name);
    }
}
