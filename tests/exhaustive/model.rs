//! What can happen next, in any state.

use std::sync::Arc;

use evenkeel::checker::{By, Invariant};
use evenkeel::model::*;
use evenkeel::plan::Phase;
use stateright::{Model, Property};

use crate::agents::End;
use crate::fleet::backend;
use crate::plot::{Kind, Order, Plot, server};
use crate::rest;
use crate::state::{Mail, State, controller};

/// Acts of one step after which somebody may die: more than any step has.
const ACTS_MAX: usize = 12;

/// How often time passes, nothing being under way, before that is left to the way to rest.
const WAITS: u8 = 1;

/// One thing that happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// What was sent first arrives.
    Arrives(NodeName, NodeName),
    /// HAProxy does what it was asked to do.
    HaproxyDoes(NodeName),
    /// The agent of a load balancer sees what has changed there.
    Looks(NodeName),
    UpgradeEnds(NodeName, End),
    CheckEnds(NodeName, bool),
    /// Checks are run again.
    ChecksAgain(NodeName),
    Starts(NodeName),
    ControllerStarts,
    TimePasses,
    /// It waits until nothing else is left.
    PutOff(Box<Action>),
    // What goes wrong.
    /// Whoever does the act within dies before the act of that number.
    Dies(Box<Action>, usize),
    Killed(NodeName),
    ControllerKilled {
        wiped: bool,
    },
    Lost(NodeName, NodeName),
    Doubled(NodeName, NodeName),
    Reordered(NodeName, NodeName),
    FallsSilent(NodeName),
    Reconnects(NodeName),
    Reload(NodeName),
    Hand(NodeName, NodeName, AdminBits),
    Commits(usize),
}

/// All that can happen to the fleet of a plot.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub plot: Arc<Plot>,
}

impl Fleet {
    /// The first commit has converged, and everybody is at rest.
    fn settled(&self) -> State {
        let mut state = State::new(Arc::clone(&self.plot));
        let webs = self.plot.webs.iter().map(|(name, _)| name.clone());
        for web in webs.collect::<Vec<_>>() {
            let revision = state.agents[&web].runs.clone();
            state.fact(evenkeel::checker::Fact::Runs { node: web, revision, by: By::Hand });
        }
        for lb in &self.plot.balancers {
            state.tell_servers(lb, By::Hand);
        }
        let names: Vec<NodeName> = state.agents.keys().cloned().collect();
        names.iter().for_each(|name| state.start_agent(name));
        state.start_controller();
        state.seal();
        for _ in 0..1_000 {
            match expected(&state).into_iter().next() {
                Some(action) => state = after(&state, &action).expect("it can happen"),
                None => {
                    state.waited = 0;
                    return state;
                }
            }
        }
        panic!("the fleet does not begin: {state:?}");
    }
}

/// What happens without anything going wrong, but for time; the first of it is what happens on the way to rest.
pub fn expected(state: &State) -> Vec<Action> {
    let mut actions = Vec::new();
    if state.control.core.is_none() {
        actions.push(Action::ControllerStarts);
    }
    for (name, agent) in &state.agents {
        if agent.core.is_none() {
            actions.push(Action::Starts(name.clone()));
            continue;
        }
        if agent.asked.is_some() {
            actions.push(Action::HaproxyDoes(name.clone()));
        } else if agent.haproxy.is_some() && agent.is_stale() {
            actions.push(Action::Looks(name.clone()));
        }
        if agent.job.is_some() {
            actions.push(Action::UpgradeEnds(name.clone(), End::Well));
        }
        if !agent.checks.is_empty() {
            actions.push(Action::CheckEnds(name.clone(), true));
        } else if agent.again {
            actions.push(Action::ChecksAgain(name.clone()));
        }
    }
    let arrivals = state.queues.keys().map(|(from, to)| Action::Arrives(from.clone(), to.clone()));
    actions.extend(arrivals);
    actions
}

/// What follows; nothing, if it cannot happen or changes nothing.
pub fn after(state: &State, action: &Action) -> Option<State> {
    let mut next = state.clone();
    if !happen(&mut next, action, None) {
        return None;
    }
    next.seal();
    (next.fingerprint() != state.fingerprint()).then_some(next)
}

fn happen(state: &mut State, action: &Action, dies_at: Option<usize>) -> bool {
    let arrives = |state: &mut State, to: &NodeName, mail: Mail| {
        if *to == controller() {
            state.controller_hears(mail, dies_at)
        } else {
            state.agent_hears(to, mail, dies_at)
        }
    };
    match action {
        Action::Arrives(from, to) => {
            let Some(mail) = state.take(from, to, 0) else { return false };
            return arrives(state, to, mail);
        }
        Action::HaproxyDoes(lb) => return state.haproxy_does(lb, dies_at),
        Action::UpgradeEnds(web, end) => return state.upgrade_ends(web, *end, dies_at),
        Action::CheckEnds(web, ok) => return state.check_ends(web, *ok, dies_at),
        Action::Looks(lb) => state.look(lb),
        Action::ChecksAgain(web) => state.check_again(web),
        Action::Starts(name) => state.start_agent(name),
        Action::ControllerStarts => state.start_controller(),
        Action::TimePasses => state.time_passes(),
        Action::PutOff(action) => {
            state.turns -= 1;
            state.put_off.push((**action).clone());
        }
        Action::Dies(action, at) => return happen(state, action, Some(*at)),
        Action::Killed(name) => state.kill_agent(name),
        Action::ControllerKilled { wiped } => state.kill_controller(*wiped),
        Action::Lost(from, to) => return state.take(from, to, 0).is_some(),
        Action::Doubled(from, to) => {
            let Some(mail) = state.take(from, to, 0) else { return false };
            arrives(state, to, mail.clone());
            arrives(state, to, mail);
        }
        Action::Reordered(from, to) => {
            let Some(mail) = state.take(from, to, 1) else { return false };
            return arrives(state, to, mail);
        }
        Action::FallsSilent(name) => state.falls_silent(name),
        Action::Reconnects(name) => state.reconnect(name),
        Action::Reload(lb) => {
            state.agent(lb).haproxy.as_mut().expect("a HAProxy").reload();
            state.tell_servers(lb, By::Reload);
        }
        Action::Hand(lb, web, bits) => {
            let haproxy = state.agent(lb).haproxy.as_mut().expect("a HAProxy");
            haproxy.servers.get_mut(&server(web)).expect("a server").admin = *bits;
            state.tell_servers(lb, By::Hand);
        }
        Action::Commits(at) => {
            state.committed = *at;
            if state.control.core.is_some() {
                state.read_files();
            }
        }
    }
    true
}

/// What can go wrong: with the first node of each cluster and the first load balancer, the others being like them.
fn wrong(state: &State) -> Vec<Action> {
    let plot = &state.plot;
    let webs = [&plot.webs[0].0, &plot.webs[plot.webs.len() / 2].0];
    let lb = &plot.balancers[0];
    let chosen = |name: &NodeName| webs.contains(&name) || name == lb || *name == controller();
    let runs = |name: &&NodeName| state.agents[*name].core.is_some();
    let mut actions = Vec::new();
    for kind in &plot.kinds {
        let queues = state.queues.iter().map(|((from, to), queue)| (from, to, queue.len()));
        let queues = queues.filter(|(from, to, _)| chosen(from) && chosen(to));
        match kind {
            Kind::Lost => {
                for ((from, to), queue) in &state.queues {
                    let is_report = matches!(queue[0].0, Mail::Report(_));
                    if chosen(from) && chosen(to) && is_report {
                        actions.push(Action::Lost(from.clone(), to.clone()));
                    }
                }
            }
            Kind::Doubled => {
                actions
                    .extend(queues.map(|(from, to, _)| Action::Doubled(from.clone(), to.clone())));
            }
            Kind::Reordered => {
                let longer = queues.filter(|(_, _, length)| *length > 1);
                actions.extend(
                    longer.map(|(from, to, _)| Action::Reordered(from.clone(), to.clone())),
                );
            }
            Kind::Silent if state.control.core.is_some() => {
                actions
                    .extend([webs[0], webs[1], lb].map(|name| Action::FallsSilent(name.clone())));
            }
            Kind::Reconnects => {
                let names = [webs[0], webs[1], lb].into_iter().filter(runs);
                actions.extend(names.map(|name| Action::Reconnects(name.clone())));
            }
            Kind::AgentDies => {
                let names = [webs[0], webs[1], lb].into_iter().filter(runs);
                actions.extend(names.map(|name| Action::Killed(name.clone())));
                actions.extend(dying(state, |to| chosen(to) && *to != controller()));
            }
            Kind::ControllerDies | Kind::ControllerWiped if state.control.core.is_some() => {
                let wiped = *kind == Kind::ControllerWiped;
                actions.push(Action::ControllerKilled { wiped });
                if !wiped {
                    actions.extend(dying(state, |to| *to == controller()));
                }
            }
            Kind::Reload => {
                // What a hand has set a moment ago is not told from ours, which an older state file brings back.
                let hidden = webs.into_iter().any(|web| {
                    let ours = state.checker.is_ours(lb, &backend(), &server(web));
                    !ours && state.agents[lb].would_look_dumped(web)
                });
                if !hidden {
                    actions.push(Action::Reload(lb.clone()));
                }
            }
            Kind::Hand => {
                // HAProxy cannot compare and set: what a hand sets while the agent's own order is on its way looks
                // like ours, and nobody can tell.
                for web in webs.into_iter().filter(|web| !state.agents[lb].is_setting(web)) {
                    let bits = state.agents[lb].bits(web);
                    let other = if bits == AdminBits(0) { 1 } else { 0 };
                    if !state.agents[lb].would_not_see(web, AdminBits(other)) {
                        actions.push(Action::Hand(lb.clone(), web.clone(), AdminBits(other)));
                    }
                }
            }
            Kind::UpgradeFails => {
                let running = webs.into_iter().filter(|web| state.agents[*web].job.is_some());
                for web in running {
                    let ends = [End::Fails, End::BreaksOff, End::Lies];
                    actions.extend(ends.map(|end| Action::UpgradeEnds(web.clone(), end)));
                }
            }
            Kind::CheckFails => {
                let checking = webs.into_iter().filter(|web| !state.agents[*web].checks.is_empty());
                actions.extend(checking.map(|web| Action::CheckEnds(web.clone(), false)));
            }
            Kind::Commit => {
                let others = (1..plot.commits.len()).filter(|at| *at != state.committed);
                actions.extend(others.map(Action::Commits));
            }
            Kind::Silent | Kind::ControllerDies | Kind::ControllerWiped => {}
        }
    }
    actions
}

/// Everything expected whose doer is one of `whose`, and dies over it.
fn dying(state: &State, whose: impl Fn(&NodeName) -> bool) -> Vec<Action> {
    let doer = |action: &Action| match action {
        Action::Arrives(_, name)
        | Action::HaproxyDoes(name)
        | Action::UpgradeEnds(name, _)
        | Action::CheckEnds(name, _) => whose(name),
        _ => false,
    };
    let acts = expected(state).into_iter().filter(doer);
    let all = acts
        .flat_map(|action| (0..ACTS_MAX).map(move |at| Action::Dies(Box::new(action.clone()), at)));
    all.collect()
}

impl Model for Fleet {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = self.settled();
        assert!(happen(&mut state, &Action::Commits(1), None), "the commit is read");
        state.seal();
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let mut next = expected(state);
        match self.plot.order {
            Order::Any => {}
            Order::Turns(_) => {
                // A stable order: what was put off comes last.
                next.sort_by_key(|action| state.put_off.iter().position(|off| off == action));
                let first = next.first().cloned();
                if state.turns == 0 {
                    next.truncate(1);
                } else if let Some(first) = first.filter(|_| next.len() > 1) {
                    next.push(Action::PutOff(Box::new(first)));
                }
            }
        }
        actions.extend(next);
        if actions.is_empty() && state.waited < WAITS {
            actions.push(Action::TimePasses);
        }
        if state.faults > 0 {
            actions.extend(wrong(state));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let is_expected = matches!(
            action,
            Action::Arrives(..)
                | Action::HaproxyDoes(_)
                | Action::Looks(_)
                | Action::UpgradeEnds(_, End::Well)
                | Action::CheckEnds(_, true)
                | Action::ChecksAgain(_)
                | Action::Starts(_)
                | Action::ControllerStarts
                | Action::TimePasses
        );
        let mut before = state.clone();
        before.faults -= u8::from(!is_expected && !matches!(action, Action::PutOff(_)));
        if let Order::Turns(_) = self.plot.order
            && is_expected
        {
            let first = expected(state);
            let first = first.iter().min_by_key(|a| state.put_off.iter().position(|off| off == *a));
            before.turns -= u8::from(first.is_some_and(|first| *first != action));
            before.put_off.retain(|off| *off != action);
        }
        after(&before, &action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! always {
            ($($name:ident)*) => {
                vec![$(Property::always(stringify!($name), |_: &Self, state: &State| {
                    let mut breaches = state.checker.breaches().iter();
                    breaches.all(|breach| breach.invariant != Invariant::$name)
                })),*]
            };
        }
        let mut all = always! {
            UpgradedOnlyWhileOut PutBackOnlySettled BatchKept FloorKept SilenceBlocks ForeignKept
            QuietAtGoal UntouchedWherePaused TriesBounded AfterGatesStart
        };
        // A message comes here as soon as it is written, so that it can be judged at once.
        all.push(Property::always("ToldOnce", |_, state: &State| {
            state.checker.end().iter().all(|breach| breach.invariant != Invariant::ToldOnce)
        }));
        all.push(Property::always("Converges", |_, state| rest::comes_to_rest(state)));
        all.extend(self.plot.sights.iter().map(|(name, is)| Property::sometimes(name, *is)));
        all
    }
}

/// Whether every cluster has converged, by what the controller shows.
pub fn has_converged(state: &State) -> bool {
    !state.control.phases.is_empty()
        && state.control.phases.values().all(|phase| *phase == Phase::Converged)
}
