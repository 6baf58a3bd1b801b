//! A state of everything: both kinds of cores, what they have on disk, what is true, what is under way, and
//! what the checker has made of the history.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use evenkeel::checker::{Checker, Fact};
use evenkeel::model::*;

use crate::agents::Agent;
use crate::control::Control;
use crate::model::Action;
use crate::plot::{Order, Plot, node};
use crate::print::{CHECKER, Print, together};

/// A part that most steps leave as it is: shared, and recognised by its print.
#[derive(Debug)]
pub struct Part<T> {
    value: Arc<T>,
    print: Option<Arc<Print>>,
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), print: self.print.clone() }
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Clone + Debug> Part<T> {
    pub fn new(value: T) -> Self {
        Self { value: Arc::new(value), print: None }
    }

    pub fn edit(&mut self) -> &mut T {
        self.print = None;
        Arc::make_mut(&mut self.value)
    }

    fn seal(&mut self, scope: &str, now_ms: u64) {
        if self.print.is_none() {
            self.print = Some(Arc::new(Print::of(scope, now_ms, &*self.value)));
        }
    }

    fn print(&self) -> &Print {
        self.print.as_ref().expect("a sealed part")
    }
}

/// What is under way from one to another.
#[derive(Debug, Clone)]
pub enum Mail {
    Assignment(Box<Assignment>),
    Leader(Leader),
    Report(Sealed),
    Alive(Alive),
}

/// What is under way from one to another, in order, with its prints.
type Queue = Vec<(Mail, Arc<Print>)>;

/// A report, which many share, with its print.
#[derive(Debug, Clone)]
pub struct Sealed {
    pub report: Arc<Report>,
    print: Arc<Print>,
}

impl Sealed {
    pub fn new(report: Report) -> Self {
        let print = Arc::new(Print::of(report.node.as_str(), 0, &report));
        Self { report: Arc::new(report), print }
    }
}

/// What the broker has retained.
#[derive(Clone, Default)]
pub struct Broker {
    pub assignments: BTreeMap<NodeName, Assignment>,
    pub leader: Option<Leader>,
    pub reports: BTreeMap<NodeName, Sealed>,
    pub alive: BTreeMap<NodeName, Alive>,
    pub ledgers: BTreeMap<ClusterName, ClusterLedger>,
}

impl Debug for Broker {
    /// Without the reports, which have prints of their own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (&self.assignments, &self.leader, &self.alive, &self.ledgers).fmt(f)
    }
}

/// Everything.
#[derive(Clone)]
pub struct State {
    pub plot: Arc<Plot>,
    pub control: Part<Control>,
    pub agents: BTreeMap<NodeName, Part<Agent>>,
    /// In order, from whom and to whom.
    pub queues: BTreeMap<(NodeName, NodeName), Queue>,
    pub broker: Part<Broker>,
    pub checker: Part<Checker>,
    pub faults: u8,
    /// Turns that are left, where the order is bounded.
    pub turns: u8,
    /// What waits until nothing else is left.
    pub put_off: Vec<Action>,
    /// Which of the plot's commits the files are at.
    pub committed: usize,
    /// Times in a row that time has passed and nothing was asked of anybody.
    pub waited: u8,
    print: u64,
}

/// The controller, as a sender or receiver.
pub fn controller() -> NodeName {
    node("controller")
}

impl State {
    /// Everything is off, at the first of the plot's commits.
    pub fn new(plot: Arc<Plot>) -> Self {
        Self {
            control: Part::new(Control::default()),
            agents: Agent::all(&plot),
            queues: BTreeMap::new(),
            broker: Part::new(Broker::default()),
            checker: Part::new(Checker::new(crate::plot::app())),
            faults: plot.faults,
            turns: match plot.order {
                Order::Any => 0,
                Order::Turns(turns) => turns,
            },
            put_off: Vec::new(),
            committed: 0,
            waited: 0,
            print: 0,
            plot,
        }
    }

    /// Takes the prints of what has changed.
    pub fn seal(&mut self) {
        let control_ms = self.control.clock_ms;
        self.control.seal("controller", control_ms);
        self.checker.seal(CHECKER, control_ms);
        self.broker.seal("broker", 0);
        for (name, agent) in &mut self.agents {
            let now_ms = agent.clock_ms;
            agent.seal(name.as_str(), now_ms);
        }
        let mut parts = vec![self.control.print(), self.checker.print(), self.broker.print()];
        parts.extend(self.agents.values().map(Part::print));
        parts.extend(self.broker.reports.values().map(|sealed| &*sealed.print));
        parts.extend(self.queues.values().flatten().map(|(_, print)| &**print));
        let together = together(parts.into_iter());
        let mut hasher = std::hash::DefaultHasher::new();
        let under_way: Vec<_> =
            self.queues.iter().map(|(whose, queue)| (whose, queue.len())).collect();
        (self.plot.name, together, under_way).hash(&mut hasher);
        (self.faults, self.turns, self.committed).hash(&mut hasher);
        format!("{:?}", self.put_off).hash(&mut hasher);
        self.print = hasher.finish();
    }

    /// What it is recognised by; how often time has passed counts only towards rest.
    pub fn fingerprint(&self) -> (u64, u8) {
        (self.print, self.waited)
    }

    pub fn agent(&mut self, name: &NodeName) -> &mut Agent {
        self.agents.get_mut(name).expect("an agent").edit()
    }

    /// Tells the checker.
    pub fn fact(&mut self, fact: Fact) {
        let at_ms = self.control.clock_ms;
        self.checker.edit().see(at_ms, fact);
    }

    pub fn send(&mut self, from: &NodeName, to: &NodeName, mail: Mail) {
        let print = match &mail {
            Mail::Report(sealed) => Arc::clone(&sealed.print),
            other => Arc::new(Print::of(to.as_str(), 0, other)),
        };
        self.queues.entry((from.clone(), to.clone())).or_default().push((mail, print));
    }

    /// Takes the `nth` document of a queue out.
    pub fn take(&mut self, from: &NodeName, to: &NodeName, nth: usize) -> Option<Mail> {
        let place = (from.clone(), to.clone());
        let queue = self.queues.get_mut(&place)?;
        if queue.len() <= nth {
            return None;
        }
        let (mail, _) = queue.remove(nth);
        if queue.is_empty() {
            self.queues.remove(&place);
        }
        Some(mail)
    }

    /// What was under way to somebody ends with its connection.
    pub fn cut(&mut self, to: &NodeName) {
        self.queues.retain(|(_, receiver), _| receiver != to);
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.fingerprint().hash(hasher);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint() == other.fingerprint()
    }
}

impl Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "state {:016x}", self.print)?;
        for (name, shown) in &self.control.shown {
            writeln!(f, "  {name}: {}", shown.decision)?;
        }
        for ((from, to), queue) in &self.queues {
            writeln!(f, "  {from} -> {to}: {} under way", queue.len())?;
        }
        for breach in self.checker.breaches() {
            writeln!(f, "  {breach}")?;
        }
        Ok(())
    }
}
