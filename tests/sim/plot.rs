//! The fleet of one simulation, and how its rollouts are to go: drawn from the seed.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel::model::*;
use fastrand::Rng;

/// Most seeds have a fleet that a person can follow; one in this many has a large one.
const LARGE_ONE_IN: u32 = 40;

/// One load balancer in this many has a server that is disabled in its configuration.
const DISABLED_ONE_IN: u32 = 12;

/// What a node is.
#[derive(Debug, Clone)]
pub enum Role {
    Web { cluster: ClusterName, runs: Option<Revision> },
    Balancer { state_file: bool, disabled: BTreeSet<ServerName> },
    Notify,
}

/// What there is at the beginning.
pub struct Plot {
    pub app: AppName,
    pub backend: BackendName,
    pub recipient: RecipientName,
    pub checks: BTreeSet<CheckName>,
    pub nodes: BTreeMap<NodeName, Role>,
    pub desired: DesiredApp,
    /// What the files last said without a fault.
    pub last_good: BTreeMap<ClusterName, DesiredCluster>,
    /// How often the controller is killed between two effects, in thousandths.
    pub doom: u32,
    pub revisions: u32,
}

impl Plot {
    pub fn new(rng: &mut Rng) -> Self {
        let name = |text: &str| AppName::new(text).expect("a name");
        let backend = BackendName::new("app").expect("a name");
        let recipient = RecipientName::new("oncall").expect("a name");
        let mut nodes = BTreeMap::new();
        let large = rng.u32(0..LARGE_ONE_IN) == 0;
        let sizes: Vec<usize> = if large {
            (0..rng.usize(1..=4)).map(|_| rng.usize(1..=48)).collect()
        } else {
            (0..rng.usize(1..=3)).map(|_| rng.usize(1..=4)).collect()
        };
        let lbs = if rng.u32(0..10) == 0 { 0 } else { rng.u32(1..=3) };
        let checks: BTreeSet<CheckName> = ["check_load", "check_disk"]
            .iter()
            .take(rng.usize(0..=2))
            .map(|check| CheckName::new(*check).expect("a name"))
            .collect();
        let policy = policy(rng, &backend, &recipient, lbs, &checks);
        let mut clusters = BTreeMap::new();
        let installed = (rng.u32(0..4) > 0).then(|| revision(1));
        for (at, size) in sizes.iter().enumerate() {
            let cluster = ClusterName::new(["alfa", "bravo", "coca", "delta"][at]).expect("a name");
            let first = clusters.keys().next().cloned();
            let mut settings: DesiredCluster = policy.clone();
            settings.select = BTreeMap::from([("cluster".to_owned(), cluster.to_string())]);
            let mut names = BTreeSet::new();
            for _ in 0..*size {
                let node = NodeName::new(format!("web{:02}", nodes.len() + 1)).expect("a name");
                let role = Role::Web { cluster: cluster.clone(), runs: installed.clone() };
                nodes.insert(node.clone(), role);
                names.insert(node);
            }
            settings.expect = if rng.bool() {
                Expect::Count(u32::try_from(*size).expect("small"))
            } else {
                Expect::Nodes(names)
            };
            if let Some(first) = first
                && rng.u32(0..3) == 0
            {
                settings.after = BTreeSet::from([first]);
            }
            clusters.insert(cluster, settings);
        }
        for number in 1..=lbs {
            let lb = NodeName::new(format!("lb{number}")).expect("a name");
            let state_file = rng.bool();
            let servers = nodes.iter().filter(|(_, role)| matches!(role, Role::Web { .. }));
            let servers: Vec<NodeName> = servers.map(|(name, _)| name.clone()).collect();
            // A server that its configuration disables is out until a hand sets it ready.
            let disabled = (rng.u32(0..DISABLED_ONE_IN) == 0).then(|| {
                ServerName::new(servers[rng.usize(..servers.len())].as_str()).expect("a name")
            });
            let disabled = disabled.into_iter().collect();
            nodes.insert(lb, Role::Balancer { state_file, disabled });
        }
        for number in 1..=2 {
            nodes.insert(NodeName::new(format!("notify{number}")).expect("a name"), Role::Notify);
        }
        let app = name("shop");
        let desired = DesiredApp { name: app.clone(), clusters: clusters.clone(), commit: None };
        let doom = if rng.bool() { 0 } else { rng.u32(1..30) };
        Self {
            app,
            backend,
            recipient,
            checks,
            nodes,
            desired,
            last_good: clusters,
            doom,
            revisions: 2,
        }
    }

    pub fn webs(&self) -> impl Iterator<Item = &NodeName> {
        self.of(|role| matches!(role, Role::Web { .. }))
    }

    pub fn balancers(&self) -> impl Iterator<Item = &NodeName> {
        self.of(|role| matches!(role, Role::Balancer { .. }))
    }

    pub fn notifiers(&self) -> impl Iterator<Item = &NodeName> {
        self.of(|role| matches!(role, Role::Notify))
    }

    fn of(&self, is: impl Fn(&Role) -> bool) -> impl Iterator<Item = &NodeName> {
        self.nodes.iter().filter(move |(_, role)| is(role)).map(|(name, _)| name)
    }

    /// Both are web servers, of the same cluster.
    pub fn of_one_cluster(&self, one: &NodeName, other: &NodeName) -> bool {
        let cluster = |node: &NodeName| match self.nodes.get(node) {
            Some(Role::Web { cluster, .. }) => Some(cluster),
            Some(Role::Balancer { .. } | Role::Notify) | None => None,
        };
        cluster(one).is_some() && cluster(one) == cluster(other)
    }

    pub fn cluster_of(&self, node: &NodeName) -> &ClusterName {
        match &self.nodes[node] {
            Role::Web { cluster, .. } => cluster,
            Role::Balancer { .. } | Role::Notify => panic!("{node} is no web server"),
        }
    }
}

pub fn revision(number: u32) -> Revision {
    Revision::new(number.to_string()).expect("a revision")
}

fn policy(
    rng: &mut Rng,
    backend: &BackendName,
    recipient: &RecipientName,
    lbs: u32,
    checks: &BTreeSet<CheckName>,
) -> DesiredCluster {
    let share = |rng: &mut Rng, count: u32, percent: u32| {
        if rng.bool() {
            Share::Count(rng.u32(1..=count))
        } else {
            Share::Percent(rng.u32(0..=percent))
        }
    };
    let load_balancer = (lbs > 0).then(|| LoadBalancer {
        backend: backend.clone(),
        expect: if rng.bool() {
            Expect::Count(lbs)
        } else {
            let name = |n| NodeName::new(format!("lb{n}")).expect("a name");
            Expect::Nodes((1..=lbs).map(name).collect())
        },
        server: ServerTemplate("{node}".to_owned()),
        drain_ms: if rng.u32(0..4) == 0 { rng.u64(1..6_000) } else { 0 },
        min_ready: if rng.u32(0..3) == 0 {
            Share::Count(0)
        } else {
            Share::Percent(rng.u32(0..=70))
        },
    });
    DesiredCluster {
        revision: revision(1),
        expect: Expect::Count(0),
        select: BTreeMap::new(),
        retry: String::new(),
        after: BTreeSet::new(),
        hold: BTreeSet::new(),
        paused: false,
        load_balancer,
        rollout: RolloutPolicy {
            take_out: if rng.bool() { TakeOut::Cluster } else { TakeOut::Batch },
            batch: share(rng, 4, 60),
            tries: rng.u32(1..=3),
            upgrade_timeout_ms: rng.u64(10_000..90_000),
            on_failure: if rng.bool() { OnFailure::Hold } else { OnFailure::Rollback },
            max_failed: rng.u32(0..=1),
            max_missing: rng.u32(0..=1),
        },
        settle: SettlePolicy {
            checks: checks.clone(),
            interval_ms: rng.u64(1_000..10_000),
            timeout_ms: rng.u64(20_000..100_000),
            soak_ms: if rng.bool() { rng.u64(0..20_000) } else { 0 },
        },
        notify: NotifyPolicy {
            recipients: BTreeSet::from([recipient.clone()]),
            on: BTreeSet::from([NotifyOn::Completed, NotifyOn::Failed, NotifyOn::Recovered]),
        },
    }
}
