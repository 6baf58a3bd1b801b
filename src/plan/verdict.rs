//! What one node needs next, were it alone; the budgets of the app come after.
//!
//! A function of the present: read top to bottom, the first rule that applies wins. The rejected
//! alternative, a state per node that moves along arrows, would need an arrow for every way in
//! which a server can change under our hands.

use crate::model::{
    Act, AttemptOutcome, Blocked, Decision, Done, FailureCause, NodeName, OutProof, Permit,
    Presence, Revision, RevisionSeen, SettleState, Wait,
};

use super::gate::{Gate, OBEY_MS_MAX, pending};
use super::rollout::{
    Course, attempt_at, attempts_made, is_at_goal, is_vanished, not_ok, settling,
};
use super::traffic::{Servers, Traffic};
use super::view::{Fleet, Member, OVERDUE_GRACE_MS};

/// What one node needs next.
pub(super) struct Verdict {
    pub decision: Decision,
    /// What it asks of the budgets; the decision stands if it gets it.
    pub want: Option<Want>,
    /// It is out, or on its way out or in, by us.
    pub ours: bool,
}

/// What a node may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Want {
    Withdraw,
    Settle { attempt: u32 },
    Upgrade { attempt: u32, out: Vec<OutProof> },
    TakeOut,
    PutBack,
    Release,
}

impl Verdict {
    fn idle(decision: Decision) -> Self {
        Self { decision, want: None, ours: false }
    }

    fn blocked(blocked: Blocked) -> Self {
        Self::idle(Decision::Blocked(blocked))
    }

    fn done(done: Done) -> Self {
        Self::idle(Decision::Done(done))
    }

    fn wait(what: Wait, until_ms: Option<u64>) -> Self {
        Self::idle(Decision::Wait { what, until_ms })
    }

    fn act(act: Act, want: Want) -> Self {
        Self { decision: Decision::Act(act), want: Some(want), ours: false }
    }

    /// The same decision, and whatever permit it may still hold is withdrawn meanwhile.
    fn withdrawing(self, member: &Member<'_>) -> Self {
        let revokes = member.has_unstarted_permit();
        Self { want: if revokes { Some(Want::Withdraw) } else { self.want }, ..self }
    }
}

/// One node, in the light of its cluster.
pub(super) struct Case<'f, 'a> {
    pub fleet: &'f Fleet<'a>,
    pub course: &'f Course,
    pub gate: &'f Gate,
    pub member: &'f Member<'a>,
}

impl Case<'_, '_> {
    /// What the node needs next.
    pub fn verdict(&self) -> Verdict {
        let traffic = Traffic::of(self.fleet, &self.course.cluster, self.member);
        let ours = match &traffic {
            Traffic::Balanced(servers) => servers.any_ours(),
            Traffic::Unbalanced | Traffic::Unreadable(_) => false,
        };
        Verdict { ours, ..self.judge(&traffic) }
    }

    fn judge(&self, traffic: &Traffic<'_>) -> Verdict {
        let member = self.member;
        match member.observed.presence {
            Presence::Present => {}
            Presence::Departed => return Verdict::blocked(Blocked::Departed).withdrawing(member),
            Presence::Unknown => return Verdict::blocked(Blocked::Silent).withdrawing(member),
            Presence::Duplicate => return Verdict::blocked(Blocked::Duplicate).withdrawing(member),
        }
        if member.is_running() {
            return self.running();
        }
        let settings = &self.fleet.desire(&self.course.cluster).settings;
        let goal = self.course.goal(member);
        let held = settings.hold.contains(&member.name);
        let ended = member.permitted_attempt().is_some();
        if member.permit().is_some() && !(ended && settings.paused) {
            return self.permitted(traffic, goal.as_ref(), held);
        }
        let at_goal =
            goal.as_ref().is_some_and(|goal| is_at_goal(self.course, settings, member, goal));
        if settings.paused {
            return self.paused(traffic, goal.as_ref(), at_goal);
        }
        if held {
            return self.held(traffic);
        }
        let Some(goal) = goal else { return self.without_goal() };
        if at_goal { self.at_goal(traffic, &goal) } else { self.off_goal(traffic, &goal) }
    }

    /// An attempt runs; nothing ends it but itself.
    fn running(&self) -> Verdict {
        let Some(attempt) = &self.member.app.attempt else {
            return Verdict::blocked(Blocked::Overdue); // cannot be: running is an attempt's state
        };
        let limit_ms = self.member.work().map_or(0, |w| w.upgrade_timeout_ms) + OVERDUE_GRACE_MS;
        let age_ms = self.member.assigned.map_or(0, |a| a.age_ms);
        if age_ms > limit_ms {
            return Verdict::blocked(Blocked::Overdue);
        }
        let what = Wait::Upgrade { revision: attempt.revision.clone(), attempt: attempt.attempt };
        Verdict::wait(what, Some(limit_ms + 1 - age_ms))
    }

    /// It holds a permit: that stands, or is withdrawn.
    fn permitted(&self, traffic: &Traffic<'_>, goal: Option<&Revision>, held: bool) -> Verdict {
        let withdraw = Verdict::act(Act::Withdraw, Want::Withdraw);
        let (Some(permit), None) = (self.member.permit(), self.member.permitted_attempt()) else {
            return withdraw; // it has ended
        };
        let settings = &self.fleet.desire(&self.course.cluster).settings;
        let wanted = permit.rollout == self.course.id
            && Some(&permit.revision) == goal
            && permit.retry == settings.retry
            && permit.attempt <= settings.rollout.tries
            && !settings.paused
            && !held
            && self.gate.absent.is_none()
            && proves_all(permit, traffic);
        if !wanted {
            return withdraw;
        }
        let refusal = self.member.refusal(self.fleet.input);
        let age_ms = self.member.assigned.map_or(0, |a| a.age_ms);
        if age_ms > OBEY_MS_MAX {
            return Verdict::blocked(Blocked::NotStarted { refusal });
        }
        let what = Wait::Start { attempt: permit.attempt, refusal };
        Verdict::wait(what, Some(OBEY_MS_MAX + 1 - age_ms))
    }

    fn paused(&self, traffic: &Traffic<'_>, goal: Option<&Revision>, at_goal: bool) -> Verdict {
        match (traffic, goal) {
            (Traffic::Balanced(servers), Some(goal)) if at_goal && !servers.any_ours() => {
                in_service(servers, goal)
            }
            (Traffic::Unbalanced, Some(goal)) if at_goal => {
                Verdict::done(Done::InService { revision: goal.clone() })
            }
            _ => Verdict::blocked(Blocked::Paused),
        }
    }

    fn held(&self, traffic: &Traffic<'_>) -> Verdict {
        match traffic {
            Traffic::Unbalanced => Verdict::done(Done::Held),
            Traffic::Unreadable(blocked) => Verdict::blocked(blocked.clone()),
            Traffic::Balanced(servers) if servers.asked_out() => match servers.pending() {
                Some(lb) => Verdict::idle(pending(self.fleet, &self.course.cluster, lb)),
                None => Verdict::done(Done::Held),
            },
            Traffic::Balanced(_) => self.take_out(),
        }
    }

    fn without_goal(&self) -> Verdict {
        let target = &self.fleet.desire(&self.course.cluster).settings.revision;
        match &self.course.waits_after {
            Some(cluster) => Verdict::wait(
                Wait::After { cluster: cluster.clone(), revision: target.clone() },
                None,
            ),
            None => Verdict::blocked(self.rejected(target)),
        }
    }

    /// Nothing further is tried with `revision`.
    fn rejected(&self, revision: &Revision) -> Blocked {
        let settings = &self.fleet.desire(&self.course.cluster).settings;
        let attempt = attempt_at(self.course, &settings.retry, self.member, revision);
        let failed = attempt.and_then(|attempt| match &attempt.outcome {
            AttemptOutcome::Failed { why, .. } => Some((attempt.attempt, why.to_string())),
            AttemptOutcome::Running | AttemptOutcome::Succeeded => None,
        });
        Blocked::Rejected { revision: revision.clone(), failed }
    }

    /// It runs what it should: see it into service, and leave it alone there.
    fn at_goal(&self, traffic: &Traffic<'_>, goal: &Revision) -> Verdict {
        let settling_asked = self.member.work().is_some_and(|w| w.settle.is_some());
        match traffic {
            Traffic::Unreadable(blocked) => Verdict::blocked(blocked.clone()),
            Traffic::Unbalanced if settling_asked => self.settle(None, goal),
            Traffic::Unbalanced => {
                self.rest(Verdict::done(Done::InService { revision: goal.clone() }))
            }
            Traffic::Balanced(servers) => {
                if let Some(failure) = self.course.failure_at(self.member, goal) {
                    match failure.cause {
                        FailureCause::NotUp | FailureCause::SoakFailed => {
                            if !servers.asked_out() {
                                return self.take_out();
                            }
                            return self.failed(goal);
                        }
                        FailureCause::TriesSpent | FailureCause::NotSettled => {}
                    }
                }
                if servers.asked_out_somewhere() || (servers.any_ours() && !settling_asked) {
                    self.settle(Some(servers), goal)
                } else if servers.any_ours() {
                    // Asked back in everywhere, and not there yet.
                    let Some(lb) = servers.pending() else {
                        return self.settle(Some(servers), goal);
                    };
                    Verdict::idle(pending(self.fleet, &self.course.cluster, lb))
                } else if settling_asked {
                    self.soak(servers, goal)
                } else {
                    self.rest(in_service(servers, goal))
                }
            }
        }
    }

    /// Nothing is to be done for the node; what its cluster waits for is the better answer.
    fn rest(&self, verdict: Verdict) -> Verdict {
        let target = &self.fleet.desire(&self.course.cluster).settings.revision;
        match (&self.course.waits_after, &verdict.decision) {
            (Some(cluster), Decision::Done(_)) if self.course.aim != *target => Verdict::wait(
                Wait::After { cluster: cluster.clone(), revision: target.clone() },
                None,
            ),
            (Some(_) | None, _) => verdict,
        }
    }

    /// Out, and at its goal: checks first, then back.
    fn settle(&self, servers: Option<&Servers<'_>>, goal: &Revision) -> Verdict {
        if !self.settle_is_current() {
            // The checks must start after the take-out has been seen.
            if let Some(lb) = servers.and_then(Servers::pending) {
                return Verdict::idle(pending(self.fleet, &self.course.cluster, lb));
            }
            if let Err(decision) = &self.gate.returns {
                return Verdict::idle(decision.clone());
            }
            return Verdict::act(Act::Settle, Want::Settle { attempt: self.brought_by(goal) });
        }
        let Some(report) = settling(self.fleet, self.course, self.member) else {
            return self.unanswered(Wait::Checks { not_ok: Vec::new() });
        };
        match report.state {
            SettleState::Checking => Verdict::wait(Wait::Checks { not_ok: not_ok(report) }, None),
            SettleState::TimedOut => self.failed(goal),
            SettleState::Settled { .. } => match servers {
                None => Verdict::act(Act::Release, Want::Release),
                Some(_) => self.put_back(),
            },
        }
    }

    /// The checks that were asked for last are this rollout's.
    fn settle_is_current(&self) -> bool {
        let settings = &self.fleet.desire(&self.course.cluster).settings;
        let key = self.member.work().and_then(|w| w.settle.as_ref());
        key.is_some_and(|k| k.rollout == self.course.id && k.retry == settings.retry)
    }

    /// The attempt that brought `goal` in this rollout; 0 if none had to.
    fn brought_by(&self, goal: &Revision) -> u32 {
        let settings = &self.fleet.desire(&self.course.cluster).settings;
        attempt_at(self.course, &settings.retry, self.member, goal)
            .filter(|a| a.outcome == AttemptOutcome::Succeeded)
            .map_or(0, |a| a.attempt)
    }

    fn put_back(&self) -> Verdict {
        if let Err(decision) = &self.gate.returns {
            return Verdict::idle(decision.clone());
        }
        if !self.member.has_seen(self.fleet.input) {
            // Also what proves that an older permit cannot be followed any more.
            return self.unanswered(Wait::Withdrawal);
        }
        Verdict::act(Act::PutBack, Want::PutBack)
    }

    /// The node's agent is heard, but has not echoed what was last asked of it in this epoch.
    fn unanswered(&self, what: Wait) -> Verdict {
        if self.gate.to_probe.contains(&self.member.name) {
            return Verdict::idle(Decision::Act(Act::Probe));
        }
        let age_ms = self.member.assigned.map_or(0, |a| a.age_ms);
        if age_ms > OBEY_MS_MAX {
            let refusal = self.member.refusal(self.fleet.input);
            let from = vec![self.member.name.clone()];
            return Verdict::blocked(Blocked::Unanswered { from, refusal });
        }
        Verdict::wait(what, Some(OBEY_MS_MAX + 1 - age_ms))
    }

    /// Back, and watched for a while.
    fn soak(&self, servers: &Servers<'_>, goal: &Revision) -> Verdict {
        let settle = &self.fleet.desire(&self.course.cluster).settings.settle;
        let release = Verdict::act(Act::Release, Want::Release);
        if servers.foreign().is_some() {
            return release; // somebody else keeps it out; that is theirs to end
        }
        if let Some(lb) = servers.not_up() {
            let left_ms = servers.left_until_not_up_ms(settle.timeout_ms);
            return Verdict::wait(Wait::Up { lb: lb.clone() }, Some(left_ms));
        }
        if settle.soak_ms == 0 {
            return release;
        }
        if !self.settle_is_current() {
            // Superseded while it soaked, at the same revision: what was measured was for another
            // rollout, and would never count.
            return Verdict::act(Act::Settle, Want::Settle { attempt: self.brought_by(goal) });
        }
        let Some(report) = settling(self.fleet, self.course, self.member) else {
            return self.unanswered(Wait::Soak);
        };
        let ok_for_ms = report.ok_for_ms.saturating_add(self.member.observed.report_age_ms);
        let soaked_ms = ok_for_ms.min(servers.in_service_for_ms());
        match settle.soak_ms.checked_sub(soaked_ms) {
            Some(left_ms) if left_ms > 0 => Verdict::wait(Wait::Soak, Some(left_ms)),
            Some(_) | None => release,
        }
    }

    /// It does not run what it should.
    fn off_goal(&self, traffic: &Traffic<'_>, goal: &Revision) -> Verdict {
        let course = self.course;
        let settings = &self.fleet.desire(&course.cluster).settings;
        if course.failure_at(self.member, goal).is_some() {
            return self.failed(goal);
        }
        if let Some(rejected) = course.holds_back() {
            return Verdict::blocked(self.rejected(&rejected.revision));
        }
        let (ours, serving) = match traffic {
            Traffic::Unreadable(blocked) => return Verdict::blocked(blocked.clone()),
            Traffic::Unbalanced => (false, false),
            Traffic::Balanced(servers) => (servers.any_ours(), servers.any_in_service()),
        };
        if let RevisionSeen::Unknown(error) = &self.member.app.revision {
            let brought = attempt_at(course, &settings.retry, self.member, goal)
                .is_some_and(|a| a.outcome == AttemptOutcome::Succeeded);
            if serving || brought {
                // It may well be fine: not to know is no reason to touch it. What has never been
                // brought to the node, and serves nobody, is no such case: a first installation.
                return Verdict::blocked(Blocked::RevisionUnknown { error: error.clone() });
            }
        }
        if is_vanished(self.fleet, &course.cluster) && !ours {
            return Verdict::blocked(Blocked::Vanished);
        }
        let attempt = attempts_made(course, &settings.retry, self.member, goal) + 1;
        let act = Act::Upgrade { revision: goal.clone(), attempt, tries: settings.rollout.tries };
        let out = match traffic {
            Traffic::Unbalanced | Traffic::Unreadable(_) => Vec::new(),
            Traffic::Balanced(servers) => match servers.proofs_out() {
                Some(proofs) => proofs,
                None if servers.asked_out() => {
                    return match servers.pending() {
                        Some(lb) => Verdict::idle(pending(self.fleet, &course.cluster, lb)),
                        None => self.take_out(), // asked, said to be done, and yet not out
                    };
                }
                None => return self.take_out(),
            },
        };
        if let Err(decision) = &self.gate.changes {
            return Verdict::idle(decision.clone());
        }
        if !self.member.has_seen(self.fleet.input) {
            let from = vec![self.member.name.clone()];
            let refusal = self.member.refusal(self.fleet.input);
            return self.unanswered(Wait::Echo { from, refusal });
        }
        Verdict::act(act, Want::Upgrade { attempt, out })
    }

    fn take_out(&self) -> Verdict {
        if is_vanished(self.fleet, &self.course.cluster) {
            return Verdict::blocked(Blocked::Vanished);
        }
        match &self.gate.changes {
            Err(decision) => Verdict::idle(decision.clone()),
            Ok(()) => Verdict::act(Act::TakeOut, Want::TakeOut),
        }
    }

    fn failed(&self, goal: &Revision) -> Verdict {
        match self.course.failure_at(self.member, goal) {
            Some(failure) => Verdict::blocked(Blocked::Failed {
                cause: failure.cause,
                detail: failure.detail.clone(),
            }),
            // Seen to fail before its rollout has begun anew; it is booked when that begins.
            None => match &self.gate.changes {
                Err(decision) => Verdict::idle(decision.clone()),
                Ok(()) => Verdict::wait(Wait::Checks { not_ok: Vec::new() }, None),
            },
        }
    }
}

/// The permit rests on every load balancer that there is; one may have joined since.
fn proves_all(permit: &Permit, traffic: &Traffic<'_>) -> bool {
    match traffic {
        Traffic::Unbalanced | Traffic::Unreadable(_) => true,
        Traffic::Balanced(servers) => {
            servers.names().all(|lb| permit.out.iter().any(|proof| proof.lb == *lb))
        }
    }
}

/// At its goal, and not ours: in service, or kept out of it by something that is not ours to mend.
fn in_service(servers: &Servers<'_>, goal: &Revision) -> Verdict {
    if let Some((lb, admin)) = servers.foreign() {
        return Verdict::blocked(Blocked::ForeignMaintenance { lb: lb.clone(), admin });
    }
    match servers.not_up() {
        Some(lb) => Verdict::blocked(Blocked::NotUp { lb: lb.clone() }),
        None => Verdict::done(Done::InService { revision: goal.clone() }),
    }
}

/// Whether others of its cluster wait for this node, to be put back together with it.
pub(super) fn keeps_others_waiting(verdict: &Verdict) -> bool {
    let under_way = match &verdict.decision {
        // What it waits for may itself wait for those that could be put back.
        Decision::Wait { what: Wait::After { .. } | Wait::Floor { .. }, .. } => false,
        Decision::Act(_) | Decision::Wait { .. } => true,
        Decision::Blocked(_) | Decision::Done(_) => false,
    };
    let returning = verdict.want == Some(Want::PutBack);
    verdict.ours && under_way && !returning
}

/// Names, for the budgets.
pub(super) type Verdicts = std::collections::BTreeMap<NodeName, Verdict>;
