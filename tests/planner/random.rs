//! Random fleets under random trouble: whatever happens, the rules hold, and when the trouble ends
//! the fleet converges.
//!
//! The checks share nothing with the planner and never read its reasons: they see what is
//! assigned, what was reported, and what is true. `SEED=17` plays one seed, `SEEDS=20000` more of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use evenkeel::model::*;
use evenkeel::plan::{Assigned, Phase, Plan, World};
use fastrand::Rng;

use crate::fleet::{self, backend, cluster, node, revision};

/// Seeds that are played where nobody asks for other ones: a few seconds.
const SEEDS: u64 = 400;

/// Rounds with trouble.
const TROUBLED: usize = 60;

/// Rounds after the trouble in which a fleet of twelve must have come to rest, with every failure
/// on the way.
const ROUNDS_MAX: usize = 150;

#[test]
fn rules_hold_under_random_trouble_and_it_ends() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let story = std::panic::catch_unwind(|| Scene::new(seed).play());
        assert!(story.is_ok(), "seed {seed}: SEED={seed} cargo test --test planner random");
    }
}

/// A fleet in trouble.
pub struct Scene {
    rng: Rng,
    pub world: World,
    /// Published to, but not obeying yet.
    behind: BTreeSet<NodeName>,
    loud: bool,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut world = fleet::world();
        let (alfa, bravo) = (rng.usize(1..=7), rng.usize(0..=5));
        let names: Vec<String> = (1..=alfa + bravo).map(|n| format!("web{n}")).collect();
        let lbs = rng.u32(1..=2);
        let mut policy = fleet::settings("alfa", "1", 0);
        let rollout = &mut policy.rollout;
        rollout.batch = Share::Count(rng.u32(1..=3));
        rollout.tries = rng.u32(1..=2);
        rollout.max_failed = rng.u32(0..=1);
        rollout.max_missing = rng.u32(0..=1);
        rollout.take_out = if rng.bool() { TakeOut::Cluster } else { TakeOut::Batch };
        rollout.on_failure = if rng.bool() { OnFailure::Hold } else { OnFailure::Rollback };
        policy.settle.soak_ms = if rng.bool() { 5_000 } else { 0 };
        if let Some(lb) = &mut policy.load_balancer {
            lb.expect = Expect::Count(lbs);
            lb.min_ready = Share::Percent(rng.u32(0..=60));
        }
        for (name, size) in [("alfa", alfa), ("bravo", bravo)].into_iter().filter(|c| c.1 > 0) {
            let mut settings = policy.clone();
            settings.select.insert("cluster".to_owned(), name.to_owned());
            settings.expect = Expect::Count(u32::try_from(size).unwrap());
            world.desired.insert(cluster(name), fleet::current(settings));
        }
        for (place, name) in names.iter().enumerate() {
            let of = if place < alfa { "alfa" } else { "bravo" };
            world.nodes.insert(node(name), fleet::web(name, of, Some("1")));
        }
        let servers: BTreeMap<ServerName, ServerReport> =
            names.iter().map(|n| (ServerName::new(n).unwrap(), fleet::server(true))).collect();
        for lb in 1..=lbs {
            let name = format!("lb{lb}");
            world.nodes.insert(node(&name), fleet::balancer(&name, servers.clone()));
        }
        Self::of(world, rng)
    }

    /// A fleet whose trouble is `rng`'s.
    pub fn of(world: World, rng: Rng) -> Self {
        let loud = std::env::var_os("SEED").is_some();
        Self { rng, world, behind: BTreeSet::new(), loud }
    }

    /// Something may go wrong, and some of what is planned is carried out.
    pub fn troubled_round(&mut self) {
        if self.rng.u8(..) < 100 {
            self.trouble();
        }
        self.round(true);
    }

    fn play(&mut self) {
        for _ in 0..TROUBLED {
            self.troubled_round();
        }
        self.end_trouble();
        for round in 0..ROUNDS_MAX {
            // Time passes, and ends whatever only takes time.
            self.world.nodes.values_mut().for_each(|node| node.report_age_ms += 10_000);
            if self.round(false) {
                self.converged(round);
                return;
            }
        }
        keeps!(Converges, false, "it does not come to rest: {:#?}", self.world.plan().nodes);
    }

    /// Plans, and carries out all of it, or, in troubled times, some of it; says whether there was
    /// nothing to do.
    fn round(&mut self, some: bool) -> bool {
        let plan = self.world.plan();
        self.check(&plan);
        if self.loud {
            for (name, state) in &plan.nodes {
                eprintln!("  {name}: {}", state.decision);
            }
        }
        // Ledgers are kept before anything is published.
        self.world.ledgers.extend(plan.ledgers.clone());
        let mut names: Vec<&NodeName> = plan.assignments.keys().collect();
        self.rng.shuffle(&mut names);
        for name in names {
            if some && self.rng.u8(..) < 60 {
                continue;
            }
            let assignment = plan.assignments[name].clone();
            self.world.assigned.insert(name.clone(), Assigned { assignment, age_ms: 0 });
            self.behind.insert(name.clone());
        }
        let quiet =
            plan.assignments.is_empty() && plan.ledgers.is_empty() && self.behind.is_empty();
        for name in self.behind.clone() {
            if !some || self.rng.u8(..) < 180 {
                self.obey(&name, some);
            }
        }
        quiet
    }

    /// The node's agent does what was last asked of it, as a real one would.
    fn obey(&mut self, name: &NodeName, some: bool) {
        if self.world.nodes[name].presence != Presence::Present {
            return;
        }
        self.behind.remove(name);
        let assignment = self.world.assigned[name].assignment.clone();
        let permit = assignment.work.as_ref().and_then(|work| work.permit.clone());
        let state =
            self.world.nodes[name].report.as_ref().and_then(|r| r.apps.get(&self.world.app));
        let attempt = state.and_then(|state| state.attempt.clone());
        let runs = attempt.as_ref().is_some_and(|a| a.outcome == AttemptOutcome::Running);
        let starts = permit.filter(|permit| !runs && !on_record(attempt.as_ref(), permit));
        if let Some(permit) = starts {
            if !permit.out.iter().all(|proof| self.proves(proof)) {
                return self.echo(name, assignment); // it refuses
            }
            self.check_start(name);
            if some && self.rng.bool() {
                let running = Attempt {
                    rollout: permit.rollout,
                    revision: permit.revision,
                    retry: permit.retry,
                    attempt: permit.attempt,
                    outcome: AttemptOutcome::Running,
                    started: Wall(0),
                    took_ms: 0,
                };
                self.app(name).attempt = Some(running);
                self.behind.insert(name.clone());
                return self.echo(name, assignment);
            }
        } else if runs && some && self.rng.bool() {
            self.behind.insert(name.clone());
            return self.echo(name, assignment);
        }
        self.world.obey(name);
    }

    fn echo(&mut self, name: &NodeName, assignment: Assignment) {
        let app = self.world.app.clone();
        let obeyed = Obeyed { assignment, done: None, refusal: None };
        self.report(name).assignments.insert(app, obeyed);
    }

    fn proves(&self, proof: &OutProof) -> bool {
        let lb = &self.world.nodes[&proof.lb];
        let report = lb.report.as_ref().unwrap();
        let done = report.assignments.get(&self.world.app).and_then(|o| o.done.clone());
        lb.presence == Presence::Present
            && done.is_some_and(|done| done >= proof.at)
            && self.servers(&proof.lb)[&proof.server].seen.admin.is_out()
    }

    fn trouble(&mut self) {
        let webs = self.names("web");
        let lbs = self.names("lb");
        let web = webs[self.rng.usize(..webs.len())].clone();
        let lb = lbs.get(self.rng.usize(..lbs.len().max(1))).cloned();
        let clusters: Vec<ClusterName> = self.world.desired.keys().cloned().collect();
        let of = clusters[self.rng.usize(..clusters.len())].clone();
        let kind = self.rng.u8(0..23);
        if self.loud {
            eprintln!("trouble {kind} at {web} {lb:?} {of}");
        }
        let number = self.rng.u8(1..=4).to_string();
        let desire = self.world.desired.get_mut(&of).unwrap();
        match kind {
            0 => self.presence(&web, Presence::Unknown),
            1 => self.presence(&web, Presence::Departed),
            2 => self.presence(&web, Presence::Duplicate),
            3 | 4 => self.presence(&web, Presence::Present),
            5..=7 | 13 => {
                let Some(lb) = lb else { return };
                match kind {
                    5 => self.presence(&lb, Presence::Unknown),
                    6 | 7 => self.presence(&lb, Presence::Present),
                    _ => self.by_hand(&lb, &web),
                }
            }
            8 => self.app(&web).revision = RevisionSeen::Running(revision(&number)),
            9 => drop(self.world.failing.insert(web)),
            10 => drop(self.world.failing.remove(&web)),
            11 => drop(self.world.unsettled.insert(web)),
            12 => {
                self.world.unsettled.remove(&web);
                if self.world.assigned.contains_key(&web) {
                    self.behind.insert(web);
                }
            }
            14 => desire.settings.revision = revision(&number),
            15 => desire.settings.retry = number,
            16 => desire.settings.paused = !desire.settings.paused,
            17 => {
                desire.standing = match desire.standing {
                    Standing::Vanished => Standing::Current,
                    Standing::Current | Standing::LastGood(_) => Standing::Vanished,
                }
            }
            18 => {
                self.world.epoch = fleet::epoch(self.world.epoch.number + 1);
                if self.rng.u8(..) < 60 {
                    self.world.ledgers.clear();
                }
            }
            19 => {
                let load = CheckName::new("check_load").unwrap();
                if !desire.settings.settle.checks.remove(&load) {
                    desire.settings.settle.checks.insert(load);
                }
            }
            20 => {
                let rollout = &mut desire.settings.rollout;
                rollout.batch = Share::Count(self.rng.u32(1..=3));
                rollout.tries = self.rng.u32(1..=2);
                rollout.max_failed = self.rng.u32(0..=1);
            }
            21 => {
                if let Some(balancing) = &mut desire.settings.load_balancer {
                    balancing.min_ready = Share::Percent(self.rng.u32(0..=60));
                    balancing.drain_ms = self.rng.u64(0..2) * 5_000;
                }
            }
            _ => {
                let hold = &mut desire.settings.hold;
                if !hold.remove(&web) {
                    hold.insert(web);
                }
            }
        }
    }

    /// Somebody sets a server to maintenance or drain, or lifts what somebody has set.
    fn by_hand(&mut self, lb: &NodeName, web: &NodeName) {
        let name = ServerName::new(web.as_str()).unwrap();
        let server = &self.servers(lb)[&name];
        if server.owned.is_some() {
            return;
        }
        let clear = server.seen.admin.is_clear();
        let bits = if !clear { 0 } else { [1, 8][self.rng.usize(0..2)] };
        let admin = AdminBits(bits);
        let server = self.servers_mut(lb).get_mut(&name).unwrap();
        server.seen.health = if admin.is_out() { Health::Down } else { Health::Up };
        server.seen.admin = admin;
    }

    fn end_trouble(&mut self) {
        self.world.failing.clear();
        self.world.unsettled.clear();
        let names: Vec<NodeName> = self.world.nodes.keys().cloned().collect();
        for name in &names {
            self.presence(name, Presence::Present);
            if self.world.assigned.contains_key(name) {
                self.behind.insert(name.clone());
            }
        }
        for lb in self.names("lb") {
            for server in self.servers_mut(&lb).values_mut() {
                match &mut server.owned {
                    Some(owned) => owned.before = AdminBits(0),
                    None => (server.seen.admin, server.seen.health) = (AdminBits(0), Health::Up),
                }
            }
        }
        for desire in self.world.desired.values_mut() {
            desire.standing = Standing::Current;
            desire.settings.paused = false;
            desire.settings.hold.clear();
            desire.settings.retry = "at last".to_owned();
        }
        if self.loud {
            eprintln!("the trouble ends");
        }
    }

    /// Everything is at its target and in service, or a floor that leaves no server to spare forbids it.
    fn converged(&self, round: usize) {
        let plan = self.world.plan();
        let tight = self.names("lb").iter().any(|lb| self.floor(lb) >= self.servers(lb).len());
        for (name, state) in &plan.clusters {
            let well = state.phase == Phase::Converged || tight;
            keeps!(Converges, well, "{name} rests in round {round}: {:#?}", plan.nodes);
        }
    }

    // -- the rules

    fn check(&self, plan: &Plan) {
        let members = self.world.nodes.len();
        let batch = self.world.desired.values().map(|d| d.settings.rollout.batch.batch_of(members));
        let batch = batch.max().unwrap_or(1);
        let mut permits = 0;
        for (name, assignment) in &plan.assignments {
            self.check_orders(name, assignment);
            if assignment.work.as_ref().is_some_and(|work| work.permit.is_some()) {
                permits += usize::from(self.check_permit(name, assignment));
            }
        }
        if permits > 0 {
            let upgrading = self.names("web").iter().filter(|n| self.may_upgrade(n)).count();
            keeps!(
                BatchKept,
                upgrading + permits <= batch,
                "{upgrading} upgrade, and {permits} more may"
            );
        }
        let expected_absent =
            |name: &NodeName| self.world.nodes[name].presence != Presence::Present;
        let takes =
            plan.assignments.iter().any(|(lb, a)| !self.newly(lb, a, Order::Out).is_empty());
        if permits > 0 || takes {
            let silent: Vec<NodeName> =
                self.names("lb").into_iter().filter(expected_absent).collect();
            keeps!(
                SilenceBlocks,
                silent.is_empty(),
                "something is changed, and {silent:?} are silent"
            );
        }
    }

    /// The floor, and what is put back.
    fn check_orders(&self, lb: &NodeName, assignment: &Assignment) {
        let servers = self.newly(lb, assignment, Order::Out);
        let seen = |server: &ServerName| self.servers(lb)[server].seen.clone();
        if servers.iter().any(|server| seen(server).is_ready()) {
            let work = &assignment.balance[&backend()];
            let ready = self.servers(lb).iter().filter(|(name, server)| {
                let asked = self.asked(lb, name) == Some(Order::Out);
                server.seen.is_ready() && !asked && work.servers.get(*name) != Some(&Order::Out)
            });
            let (ready, floor) = (ready.count(), self.floor(lb));
            keeps!(FloorKept, ready >= floor, "{lb}: {ready} are left ready, the floor is {floor}");
        }
        for server in &servers {
            let of = &self.world.nodes[&node(server.as_str())];
            keeps!(
                SilenceBlocks,
                of.presence == Presence::Present,
                "{server} is taken out, not there"
            );
            let desire = &self.world.desired[&self.cluster_of(&node(server.as_str()))];
            let stays = desire.standing == Standing::Current && !desire.settings.paused;
            keeps!(UntouchedWherePaused, stays, "{server} is taken out, paused or vanished");
        }
        for server in self.newly(lb, assignment, Order::In) {
            self.check_put_back(&node(server.as_str()));
        }
    }

    fn check_put_back(&self, name: &NodeName) {
        let observed = &self.world.nodes[name];
        keeps!(PutBackOnlySettled, observed.presence == Presence::Present, "{name} is not there");
        let report = observed.report.as_ref().unwrap();
        let state = &report.apps[&self.world.app];
        let of = self.cluster_of(name);
        let desire = &self.world.desired[&of];
        keeps!(UntouchedWherePaused, !desire.settings.paused, "{name} is put back, and paused");
        let ledger = self.world.ledgers.get(&of);
        let mut goals = vec![desire.settings.revision.clone()];
        goals.extend(ledger.and_then(|l| l.converged.as_ref()).map(|c| c.revision.clone()));
        let rollout = ledger.and_then(|l| l.rollout.as_ref());
        goals.extend(rollout.and_then(|rollout| rollout.from.get(name).cloned()));
        // Where it waits for another cluster, what an overtaken rollout has brought may stay.
        let waits = !desire.settings.after.is_empty();
        goals.extend(rollout.filter(|_| waits).map(|rollout| rollout.revision.clone()));
        let runs = state.revision.known().unwrap();
        keeps!(PutBackOnlySettled, goals.contains(runs), "{name} runs {runs}, none of {goals:?}");
        let work = self.world.assigned[name].assignment.work.as_ref().unwrap();
        let settle = state.settle.as_ref().unwrap();
        keeps!(PutBackOnlySettled, Some(&settle.key) == work.settle.as_ref(), "{name}: old checks");
        let settled = matches!(settle.state, SettleState::Settled { .. });
        let now = settle.boot_started == report.boot.started;
        keeps!(PutBackOnlySettled, settled && now, "{name} has not settled: {settle:?}");
        let checks = &desire.settings.settle.checks;
        keeps!(PutBackOnlySettled, settle.checks == *checks, "{name} had other checks: {settle:?}");
        keeps!(UpgradedOnlyWhileOut, !self.may_upgrade(name), "{name} may still upgrade");
    }

    /// Whether a permit is a new one; it must be proved by every load balancer.
    fn check_permit(&self, name: &NodeName, assignment: &Assignment) -> bool {
        let permit = |a: &Assignment| a.work.as_ref().and_then(|work| work.permit.clone());
        let old = self.world.assigned.get(name).and_then(|a| permit(&a.assignment));
        let Some(new) = permit(assignment).filter(|new| old.as_ref() != Some(new)) else {
            return false;
        };
        let present = self.world.nodes[name].presence == Presence::Present;
        keeps!(SilenceBlocks, present, "{name} is permitted, and not there");
        self.check_out(name);
        let proofs = new.out.len();
        let lbs = self.names("lb").len();
        keeps!(
            UpgradedOnlyWhileOut,
            proofs == lbs,
            "{name}: {proofs} of {lbs} prove that it is out"
        );
        let settings = &self.world.desired[&self.cluster_of(name)].settings;
        keeps!(UntouchedWherePaused, !settings.paused, "{name} is permitted, and paused");
        let allowed = new.attempt <= settings.rollout.tries && !settings.hold.contains(name);
        keeps!(TriesBounded, allowed, "{name}: attempt {} of {settings:?}", new.attempt);
        self.check_after(name, &new);
        true
    }

    /// A cluster that waits for others begins with nothing that it has not been at, before they are there.
    fn check_after(&self, name: &NodeName, permit: &Permit) {
        let of = self.cluster_of(name);
        let settings = &self.world.desired[&of].settings;
        let at = |of: &ClusterName| self.world.ledgers.get(of)?.converged.as_ref();
        let ledger = self.world.ledgers.get(&of);
        let begun = ledger.and_then(|l| l.rollout.as_ref()).is_some_and(|r| r.id == permit.rollout);
        let changes = permit.revision == settings.revision
            && at(&of).is_none_or(|converged| converged.revision != permit.revision);
        if !changes || begun {
            return;
        }
        let late = settings
            .after
            .iter()
            .find(|other| at(other).is_none_or(|converged| converged.revision != permit.revision));
        keeps!(AfterGatesStart, late.is_none(), "{name} begins before {late:?} has converged");
    }

    /// An upgrade starts only on a node that is out.
    fn check_start(&self, name: &NodeName) {
        self.check_out(name);
    }

    fn check_out(&self, name: &NodeName) {
        let server = ServerName::new(name.as_str()).unwrap();
        for lb in self.names("lb") {
            let seen = &self.servers(&lb)[&server].seen;
            keeps!(UpgradedOnlyWhileOut, seen.admin.is_out(), "{name} is in service at {lb}");
        }
    }

    /// A permit that it obeys, or will obey, allows an attempt that has not ended.
    pub fn may_upgrade(&self, name: &NodeName) -> bool {
        let report = self.world.nodes[name].report.as_ref().unwrap();
        let attempt = report.apps[&self.world.app].attempt.as_ref();
        let obeyed = report.assignments.get(&self.world.app).map(|o| &o.assignment);
        let assigned = self.world.assigned.get(name).map(|a| &a.assignment);
        let open = |assignment: Option<&Assignment>| {
            let permit = assignment.and_then(|a| a.work.as_ref()?.permit.as_ref());
            permit.is_some_and(|permit| !on_record(attempt, permit))
        };
        attempt.is_some_and(|a| a.outcome == AttemptOutcome::Running)
            || open(obeyed)
            || open(assigned)
    }

    // -- what is where

    pub fn names(&self, kind: &str) -> Vec<NodeName> {
        self.world.nodes.keys().filter(|n| n.as_str().starts_with(kind)).cloned().collect()
    }

    pub fn cluster_of(&self, name: &NodeName) -> ClusterName {
        cluster(&self.world.nodes[name].report.as_ref().unwrap().facts["cluster"])
    }

    fn floor(&self, lb: &NodeName) -> usize {
        let servers = self.servers(lb).len();
        let floors = self.world.desired.values().filter_map(|d| d.settings.load_balancer.as_ref());
        floors.map(|lb| lb.min_ready.floor_of(servers)).max().unwrap_or(0)
    }

    pub fn asked(&self, lb: &NodeName, server: &ServerName) -> Option<Order> {
        let assigned = self.world.assigned.get(lb)?;
        assigned.assignment.balance.get(&backend())?.servers.get(server).copied()
    }

    /// The servers that `assignment` orders so and the one before did not.
    pub fn newly(&self, lb: &NodeName, assignment: &Assignment, order: Order) -> Vec<ServerName> {
        let orders = assignment.balance.get(&backend()).map(|work| &work.servers);
        let new = |(server, o): &(&ServerName, &Order)| {
            **o == order && self.asked(lb, server) != Some(order)
        };
        orders.into_iter().flatten().filter(new).map(|(server, _)| server.clone()).collect()
    }

    pub fn servers(&self, lb: &NodeName) -> &BTreeMap<ServerName, ServerReport> {
        let balancer = self.world.nodes[lb].report.as_ref().unwrap().balancer.as_ref().unwrap();
        match &balancer.backends[&backend()] {
            BackendSeen::Servers(servers) => servers,
            BackendSeen::Unknown(error) => panic!("{error}"),
        }
    }

    fn servers_mut(&mut self, lb: &NodeName) -> &mut BTreeMap<ServerName, ServerReport> {
        let balancer = self.report(lb).balancer.as_mut().unwrap();
        match balancer.backends.get_mut(&backend()).unwrap() {
            BackendSeen::Servers(servers) => servers,
            BackendSeen::Unknown(error) => panic!("{error}"),
        }
    }

    fn presence(&mut self, name: &NodeName, presence: Presence) {
        self.world.nodes.get_mut(name).unwrap().presence = presence;
    }

    fn report(&mut self, name: &NodeName) -> &mut Report {
        Arc::make_mut(self.world.nodes.get_mut(name).unwrap().report.as_mut().unwrap())
    }

    fn app(&mut self, name: &NodeName) -> &mut AppReport {
        self.report(name).apps.values_mut().next().unwrap()
    }
}

fn on_record(attempt: Option<&Attempt>, permit: &Permit) -> bool {
    attempt.is_some_and(|a| {
        a.rollout == permit.rollout
            && a.revision == permit.revision
            && a.retry == permit.retry
            && a.attempt >= permit.attempt
    })
}
