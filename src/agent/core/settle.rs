//! The settling of one app: rounds of checks, and what they prove.
//!
//! Principle: only a result whose check was started under the present key, boot and set of checks counts,
//! and none of a check that ran beside an upgrade.

use std::collections::{BTreeMap, BTreeSet};

use super::Step;
use super::event::Effect;
use super::memory::Progress;
use super::note::Note;
use crate::model::{
    AppName, Attempt, AttemptOutcome, CheckName, CheckResult, CheckStatus, Mono, NodeWork,
    SettleKey, SettleReport, SettleState,
};

/// Rounds start no closer than this, whatever is asked: a slip of the pen must not load the node.
const INTERVAL_MS_MIN: u64 = 100;

/// The time that has counted is written to disk this often. A crash forgets at most as much of it,
/// which is little beside any sensible timeout, and a write costs the disk a flush.
const WRITE_EVERY_MS: u64 = 5_000;

/// The settling of one app.
#[derive(Debug, Clone, Default)]
pub(super) struct Settle {
    /// The last that was begun in this life.
    last: Option<Settling>,
    /// Checks that run, and for which settling.
    running: BTreeMap<CheckName, u64>,
}

#[derive(Debug, Clone)]
struct Settling {
    key: SettleKey,
    checks: BTreeSet<CheckName>,
    run: u64,
    state: SettleState,
    timeout_ms: u64,
    elapsed_ms: u64,
    /// Since when time counts that is not in `elapsed_ms` yet; none while it does not count.
    counts_since: Option<Mono>,
    ok_since: Option<Mono>,
    results: BTreeMap<CheckName, CheckResult>,
    /// When the next round starts; none once the checks were stopped.
    next_round: Option<Mono>,
    /// Checks of this round that wait for an earlier settling's run of the same check to end.
    held_up: BTreeSet<CheckName>,
}

impl Settle {
    /// What is reported.
    pub(super) fn report(&self, boot_started: u64, now: Mono) -> Option<SettleReport> {
        let settling = self.last.as_ref()?;
        Some(SettleReport {
            key: settling.key.clone(),
            boot_started,
            checks: settling.checks.clone(),
            state: settling.state,
            ok_for_ms: settling.ok_since.map_or(0, |since| now.since_ms(since)),
            results: settling.results.clone(),
        })
    }

    /// Does what `work` asks. `attempt` is the app's last.
    pub(super) fn advance(
        &mut self,
        step: &mut Step,
        app: &AppName,
        work: Option<&NodeWork>,
        attempt: Option<&Attempt>,
        runs: &mut u64,
    ) {
        let asked = work.and_then(|work| work.settle.as_ref().map(|key| (work, key)));
        let Some((work, key)) = asked else {
            self.stop(step, app);
            return;
        };
        let goes_on = self.last.as_ref().is_some_and(|settling| {
            settling.next_round.is_some() && settling.key == *key && settling.checks == work.checks
        });
        if !goes_on {
            self.stop(step, app);
            if !may_begin(step, app, work, key, attempt) {
                return;
            }
            *runs += 1;
            self.begin(step, app, work, key, *runs);
        }
        self.start_round(step, app, work);
        self.judge(step, app, work.settle_timeout_ms);
    }

    /// What was measured is void, and what runs will be: an upgrade is under way.
    pub(super) fn lapse(&mut self, step: &mut Step, app: &AppName) {
        self.stop(step, app);
        self.last = None;
    }

    /// Takes in the result of a check.
    pub(super) fn check_ended(
        &mut self,
        step: &mut Step,
        app: &AppName,
        run: u64,
        check: CheckName,
        result: CheckResult,
    ) {
        if self.running.get(&check) == Some(&run) {
            self.running.remove(&check);
        }
        let Some(settling) = &mut self.last else { return };
        if settling.next_round.is_none() {
            return;
        }
        if settling.held_up.remove(&check) {
            self.running.insert(check.clone(), settling.run);
            step.effects.push(run_check(app, settling.run, &check));
        } else if settling.run == run && settling.checks.contains(&check) {
            settling.results.insert(check, result);
        }
        let timeout_ms = settling.timeout_ms;
        self.judge(step, app, timeout_ms);
    }

    pub(super) fn next_wake(&self) -> Option<Mono> {
        let settling = self.last.as_ref()?;
        let round = settling.next_round?;
        let times_out = match (settling.state, settling.counts_since) {
            (SettleState::Checking, Some(since)) => {
                Some(since.plus_ms(settling.timeout_ms.saturating_sub(settling.elapsed_ms)))
            }
            (SettleState::Checking, None)
            | (SettleState::Settled { .. } | SettleState::TimedOut, _) => None,
        };
        Some(times_out.map_or(round, |times_out| times_out.min(round)))
    }

    fn begin(
        &mut self,
        step: &mut Step,
        app: &AppName,
        work: &NodeWork,
        key: &SettleKey,
        run: u64,
    ) {
        let known = step.disk.memory().settles.get(app).filter(|progress| progress.key == *key);
        let elapsed_ms = known.map_or(0, |progress| progress.elapsed_ms);
        self.last = Some(Settling {
            key: key.clone(),
            checks: work.checks.clone(),
            run,
            state: SettleState::Checking,
            timeout_ms: work.settle_timeout_ms,
            elapsed_ms,
            counts_since: Some(step.now.mono),
            ok_since: None,
            results: BTreeMap::new(),
            next_round: Some(step.now.mono),
            held_up: BTreeSet::new(),
        });
        self.write(step, app, false);
    }

    fn stop(&mut self, step: &mut Step, app: &AppName) {
        let Some(settling) = &mut self.last else { return };
        if settling.next_round.take().is_some() {
            settling.count(step.now.mono);
            settling.counts_since = None;
            settling.held_up.clear();
            self.write(step, app, false);
        }
    }

    fn start_round(&mut self, step: &mut Step, app: &AppName, work: &NodeWork) {
        let now = step.now.mono;
        let Some(settling) = &mut self.last else { return };
        let Some(due) = settling.next_round.filter(|due| *due <= now) else { return };
        let interval_ms = work.check_interval_ms.max(INTERVAL_MS_MIN);
        settling.count(now);
        let next = due.plus_ms(interval_ms);
        // Rounds that were missed are not made up for.
        settling.next_round = Some(if next > now { next } else { now.plus_ms(interval_ms) });
        for check in &settling.checks {
            if !step.setup.checks.contains(check) {
                settling.results.insert(check.clone(), not_configured(check));
                continue;
            }
            match self.running.get(check) {
                None => {
                    self.running.insert(check.clone(), settling.run);
                    step.effects.push(run_check(app, settling.run, check));
                }
                // Still at it from the last round.
                Some(run) if *run == settling.run => {}
                Some(_) => {
                    settling.held_up.insert(check.clone());
                }
            }
        }
        self.write(step, app, false);
    }

    /// Draws the conclusion from the last results and the time.
    fn judge(&mut self, step: &mut Step, app: &AppName, timeout_ms: u64) {
        let now = step.now.mono;
        let Some(settling) = &mut self.last else { return };
        settling.timeout_ms = timeout_ms;
        settling.count(now);
        let not_ok: Vec<CheckName> =
            settling.checks.iter().filter(|check| !settling.is_ok(check)).cloned().collect();
        let late = settling.elapsed_ms >= timeout_ms;
        let state = match (not_ok.is_empty(), late) {
            (true, late) => SettleState::Settled { late },
            (false, true) => SettleState::TimedOut,
            (false, false) => SettleState::Checking,
        };
        if not_ok.is_empty() {
            settling.ok_since.get_or_insert(now);
            settling.counts_since = None;
        } else {
            settling.ok_since = None;
            settling.counts_since = Some(now);
        }
        if settling.state != state {
            settling.state = state;
            step.log(Note::Settle { app: app.clone(), state, not_ok });
            // What has timed out must not do so again after a restart. The rest can wait: a write
            // now would only hold up the one that the next assignment needs.
            self.write(step, app, state == SettleState::TimedOut);
        }
    }

    /// Puts the time that has counted on disk, if it is worth it or `at_once`.
    fn write(&mut self, step: &mut Step, app: &AppName, at_once: bool) {
        let Some(settling) = &self.last else { return };
        let known = step.disk.memory().settles.get(app);
        let behind = known.is_none_or(|known| {
            known.key != settling.key
                || settling.elapsed_ms >= known.elapsed_ms + WRITE_EVERY_MS
                || at_once && settling.elapsed_ms != known.elapsed_ms
        });
        if behind {
            let progress = Progress { key: settling.key.clone(), elapsed_ms: settling.elapsed_ms };
            step.disk.change().settles.insert(app.clone(), progress);
        }
    }
}

impl Settling {
    fn is_ok(&self, check: &CheckName) -> bool {
        self.results.get(check).is_some_and(|result| result.status == CheckStatus::Ok)
    }

    fn count(&mut self, now: Mono) {
        if let Some(since) = &mut self.counts_since {
            self.elapsed_ms += now.since_ms(*since);
            *since = now;
        }
    }
}

/// Beside a permit, checks begin when the permitted attempt has succeeded. A settling that is on record has
/// begun already.
fn may_begin(
    step: &Step,
    app: &AppName,
    work: &NodeWork,
    key: &SettleKey,
    attempt: Option<&Attempt>,
) -> bool {
    let Some(permit) = &work.permit else { return true };
    let begun = step.disk.memory().settles.get(app).is_some_and(|known| known.key == *key);
    begun
        || attempt.is_some_and(|attempt| {
            attempt.outcome == AttemptOutcome::Succeeded
                && attempt.attempt == permit.attempt
                && super::node::is_of(attempt, permit)
        })
}

fn run_check(app: &AppName, run: u64, check: &CheckName) -> Effect {
    Effect::RunCheck { app: app.clone(), run, check: check.clone() }
}

fn not_configured(check: &CheckName) -> CheckResult {
    CheckResult {
        status: CheckStatus::Unknown,
        text: format!("the agent has no check {check}"),
        performance: String::new(),
        took_ms: 0,
    }
}
