//! What a fleet is like, what is committed, and what may go wrong: one bounded product.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel::model::*;

pub use crate::fleet::{backend, cluster, node, revision};
use crate::mutant::Mutant;
use crate::seen::Sight;

/// How something may go wrong, anywhere and at any time, as often as the plot has faults to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A report is lost; the next heartbeat makes good for it.
    Lost,
    /// A document comes twice.
    Doubled,
    /// A document overtakes the one before it.
    Reordered,
    /// An agent is not heard for longer than it may be silent.
    Silent,
    /// An agent's connection ends with all that was under way to it, and is made anew.
    Reconnects,
    /// An agent dies, between any two of its acts, and with it what it deploys.
    AgentDies,
    /// The controller dies, between any two of its acts.
    ControllerDies,
    /// The controller dies, and its disk is lost.
    ControllerWiped,
    /// HAProxy is reloaded.
    Reload,
    /// Somebody sets a server to maintenance, or lifts it.
    Hand,
    /// A deploy command fails, half-way or not, or lies.
    UpgradeFails,
    /// A check is not OK.
    CheckFails,
    /// Other desired files are committed.
    Commit,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 13] = [
        Kind::Lost,
        Kind::Doubled,
        Kind::Reordered,
        Kind::Silent,
        Kind::Reconnects,
        Kind::AgentDies,
        Kind::ControllerDies,
        Kind::ControllerWiped,
        Kind::Reload,
        Kind::Hand,
        Kind::UpgradeFails,
        Kind::CheckFails,
        Kind::Commit,
    ];
}

/// What the files declare, cluster by cluster.
pub type Clusters = BTreeMap<ClusterName, DesiredCluster>;

/// One bounded product.
#[derive(Debug, Clone)]
pub struct Plot {
    pub name: &'static str,
    pub webs: Vec<(NodeName, ClusterName)>,
    pub balancers: Vec<NodeName>,
    pub state_file: bool,
    /// What the files say in turn: with the first the fleet has converged when it begins, the second is
    /// committed at the beginning, and any of the others may follow.
    pub commits: Vec<Clusters>,
    pub kinds: BTreeSet<Kind>,
    /// Faults of any kind, all together.
    pub faults: u8,
    /// How the order of what happens may vary.
    pub order: Order,
    /// What must come about somewhere.
    pub sights: Vec<Sight>,
    /// The rule that this controller, or its agents, break on purpose.
    pub mutant: Option<Mutant>,
}

/// How the order of what happens may vary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// In every way.
    Any,
    /// In every way that needs at most so many turns away from one fixed order: at a turn something else happens first,
    /// or what should have happened waits until nothing else is left.
    Turns(u8),
}

pub fn app() -> AppName {
    AppName::new("shop").expect("a name")
}

pub fn server(node: &NodeName) -> ServerName {
    ServerName::new(node.as_str()).expect("a name")
}

/// A cluster's settings: two nodes, a floor of half the servers, one upgrade at a time.
pub fn settings(name: &str, to: &str) -> DesiredCluster {
    let mut settings = crate::fleet::settings(name, to, 2);
    settings.rollout.batch = Share::Count(1);
    settings.rollout.upgrade_timeout_ms = 60_000;
    settings.settle.timeout_ms = 10_000;
    if let Some(balancing) = &mut settings.load_balancer {
        balancing.expect = Expect::Count(2);
        balancing.min_ready = Share::Percent(50);
    }
    settings
}

/// Both clusters, each at its revision.
pub fn at(alfa: &str, bravo: &str) -> Clusters {
    let entry = |name: &str, to: &str| (cluster(name), settings(name, to));
    BTreeMap::from([entry("alfa", alfa), entry("bravo", bravo)])
}

/// The same with something changed everywhere.
pub fn with(mut clusters: Clusters, change: impl Fn(&mut DesiredCluster)) -> Clusters {
    clusters.values_mut().for_each(change);
    clusters
}

/// Four nodes in two clusters behind two load balancers.
pub fn four(
    name: &'static str,
    commits: Vec<Clusters>,
    kinds: &[Kind],
    (faults, turns): (u8, u8),
) -> Plot {
    let web = |name: &str, of: &str| (node(name), cluster(of));
    Plot {
        name,
        webs: vec![
            web("web1", "alfa"),
            web("web2", "alfa"),
            web("web3", "bravo"),
            web("web4", "bravo"),
        ],
        balancers: vec![node("lb1"), node("lb2")],
        state_file: true,
        commits,
        kinds: kinds.iter().copied().collect(),
        faults,
        order: Order::Turns(turns),
        sights: Vec::new(),
        mutant: None,
    }
}

/// One node in each of two clusters behind one load balancer, in any order.
pub fn two(name: &'static str, commits: Vec<Clusters>, kinds: &[Kind], faults: u8) -> Plot {
    let smaller = |clusters| {
        with(clusters, |settings| {
            settings.expect = Expect::Count(1);
            if let Some(balancing) = &mut settings.load_balancer {
                balancing.expect = Expect::Count(1);
            }
        })
    };
    let mut plot = four(name, commits.into_iter().map(smaller).collect(), kinds, (faults, 0));
    plot.webs.retain(|(web, _)| *web == node("web1") || *web == node("web3"));
    plot.balancers.truncate(1);
    plot.order = Order::Any;
    plot
}
