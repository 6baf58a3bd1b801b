//! Whatever a fleet of up to 50 nodes is like and whatever the files ask for: the order in which things are
//! heard does not matter, a converged fleet is left alone, and no sum goes wrong.
//!
//! What fails is kept in `tests/proptest-regressions/` and tried first from then on; commit it.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel::bus::intake::Document;
use evenkeel::controller::core::{Core, Effect, Input, Setup};
use evenkeel::model::*;
use evenkeel::plan::{Plan, World};
use fastrand::Rng;
use proptest::prelude::*;

use crate::fleet::{self, cluster, node};
use crate::random::Scene;

/// Nodes of the largest fleet, load balancers included.
const NODES_MAX: usize = 50;

/// A fleet, and what becomes of it.
#[derive(Debug, Clone)]
struct Recipe {
    balancers: usize,
    clusters: Vec<Part>,
    /// Rounds of trouble before the fleet is looked at.
    rounds: usize,
    /// Decides the trouble.
    seed: u64,
}

/// One cluster.
#[derive(Debug, Clone)]
struct Part {
    nodes: usize,
    /// What its nodes run, in turn.
    runs: Vec<Option<u8>>,
    settings: DesiredCluster,
    /// Which of the clusters before it it waits for, a bit each.
    after: u8,
    /// Which of its nodes are held, a bit each.
    hold: u16,
}

fn share(least: u32) -> impl Strategy<Value = Share> {
    prop_oneof![(least..=60).prop_map(Share::Count), (least..=100).prop_map(Share::Percent)]
}

/// Any settings that a file can have, but for names and membership.
fn settings() -> impl Strategy<Value = DesiredCluster> {
    let rollout = (share(1), 1..=3u32, any::<bool>(), any::<bool>(), 0..=3u32, 0..=3u32);
    let rarely = |most: u64| prop_oneof![4 => Just(0), 1 => 1..=most];
    let others = (share(0), 1..=4u8, any::<bool>(), rarely(9_000), rarely(6_000));
    let more = (0..=2usize, prop_oneof![4 => Just(""), 1 => Just("again")], 1_000..600_000u64);
    (rollout, others, more, prop::bool::weighted(0.1)).prop_map(
        |(rollout, others, more, paused)| {
            let (batch, tries, together, hold, max_failed, max_missing) = rollout;
            let (min_ready, target, by_count, soak_ms, drain_ms) = others;
            let (checks, retry, timeout_ms) = more;
            let mut settings = fleet::settings("", &target.to_string(), 1);
            settings.rollout = RolloutPolicy {
                take_out: if together { TakeOut::Cluster } else { TakeOut::Batch },
                batch,
                tries,
                upgrade_timeout_ms: timeout_ms,
                on_failure: if hold { OnFailure::Hold } else { OnFailure::Rollback },
                max_failed,
                max_missing,
            };
            let names = ["check_load", "check_disk"].iter().take(checks);
            settings.settle.checks = names.map(|name| CheckName::new(*name).unwrap()).collect();
            settings.settle.soak_ms = soak_ms;
            settings.settle.timeout_ms = timeout_ms;
            settings.retry = retry.to_owned();
            settings.paused = paused;
            if !by_count {
                settings.expect = Expect::Nodes(BTreeSet::new());
            }
            if let Some(balancing) = &mut settings.load_balancer {
                balancing.min_ready = min_ready;
                balancing.drain_ms = drain_ms;
            }
            settings
        },
    )
}

fn recipe(rounds: usize) -> impl Strategy<Value = Recipe> {
    let runs = prop::collection::vec(prop::option::weighted(0.9, 1..=3u8), 1..=4);
    let after = prop_oneof![2 => Just(0), 1 => any::<u8>()];
    let hold = prop_oneof![4 => Just(0), 1 => any::<u16>()];
    let part = (1..=16usize, runs, settings(), after, hold);
    let part = part.prop_map(|(nodes, runs, settings, after, hold)| Part {
        nodes,
        runs,
        settings,
        after,
        hold,
    });
    let clusters = prop::collection::vec(part, 1..=4);
    let fits = |recipe: &Recipe| recipe.size() <= NODES_MAX;
    (0..=3usize, clusters, 0..=rounds, any::<u64>())
        .prop_map(|(balancers, clusters, rounds, seed)| Recipe {
            balancers,
            clusters,
            rounds,
            seed,
        })
        .prop_filter("a fleet of at most 50 nodes", fits)
}

impl Recipe {
    fn size(&self) -> usize {
        self.balancers + self.clusters.iter().map(|part| part.nodes).sum::<usize>()
    }

    fn scene(&self) -> Scene {
        let mut scene = Scene::of(self.world(), Rng::with_seed(self.seed));
        for _ in 0..self.rounds {
            scene.troubled_round();
        }
        scene
    }

    fn world(&self) -> World {
        let mut world = fleet::world();
        let mut servers = BTreeMap::new();
        for (number, part) in self.clusters.iter().enumerate() {
            let of = format!("c{number}");
            let mut settings = part.settings.clone();
            settings.select = BTreeMap::from([("cluster".to_owned(), of.clone())]);
            let names: Vec<String> = (0..part.nodes).map(|n| format!("web-{of}-{n}")).collect();
            settings.expect = match settings.expect {
                Expect::Count(_) => Expect::Count(u32::try_from(part.nodes).unwrap()),
                Expect::Nodes(_) => Expect::Nodes(names.iter().map(|name| node(name)).collect()),
            };
            settings.after = (0..number)
                .filter(|before| part.after & (1 << before) != 0)
                .map(|before| cluster(&format!("c{before}")))
                .collect();
            let held = names.iter().enumerate().filter(|(at, _)| part.hold & (1 << at) != 0);
            settings.hold = held.map(|(_, name)| node(name)).collect();
            match &mut settings.load_balancer {
                Some(_) if self.balancers == 0 => settings.load_balancer = None,
                Some(balancing) => {
                    balancing.expect = Expect::Count(u32::try_from(self.balancers).unwrap());
                }
                None => {}
            }
            for (name, runs) in names.iter().zip(part.runs.iter().cycle()) {
                let runs = runs.map(|number| number.to_string());
                world.nodes.insert(node(name), fleet::web(name, &of, runs.as_deref()));
                servers.insert(ServerName::new(name).unwrap(), fleet::server(true));
            }
            world.desired.insert(cluster(&of), fleet::current(settings));
        }
        for number in 0..self.balancers {
            let name = format!("lb{number}");
            world.nodes.insert(node(&name), fleet::balancer(&name, servers.clone()));
        }
        world
    }
}

// -- the order of what is heard

/// All that a controller that starts now is told: by the broker, and by the files.
fn inputs(world: &World) -> Vec<Input> {
    let mut inputs = Vec::new();
    let mut hear = |document, retained| inputs.push(Input::Heard { document, retained });
    for observed in world.nodes.values() {
        let Some(report) = &observed.report else { continue };
        let (mut before, now) = (Report::clone(report), Report::clone(report));
        // What it said a while ago may come late.
        before.sequence -= 1;
        before.assignments.clear();
        hear(Document::Report(Box::new(before)), true);
        let (alive, live) = match observed.presence {
            Presence::Present | Presence::Duplicate => (true, true),
            Presence::Departed => (false, false),
            Presence::Unknown => (true, false),
        };
        let (node, boot) = (now.node.clone(), now.boot);
        hear(Document::Report(Box::new(now)), !live);
        hear(Document::Alive(Alive { node, boot, alive }), false);
    }
    for assigned in world.assigned.values() {
        hear(Document::Assignment(Box::new(assigned.assignment.clone()), None), true);
    }
    for (cluster, ledger) in &world.ledgers {
        let document = Document::Ledger(world.app.clone(), cluster.clone(), ledger.clone().into());
        hear(document, true);
    }
    let clusters = world.desired.iter().map(|(name, d)| (name.clone(), d.settings.clone()));
    let app = DesiredApp { name: world.app.clone(), clusters: clusters.collect(), commit: None };
    inputs.push(Input::Desired(BTreeMap::from([(world.app.clone(), Ok(app))])));
    inputs
}

/// What a controller that has been told `inputs` does and thinks.
fn told(inputs: Vec<Input>) -> (Vec<Effect>, Option<Mono>, String) {
    let id = ControllerId::new("me").unwrap();
    let now = Now { mono: Mono(1_000_000), wall: Wall(1) };
    let mut core = Core::new(Setup { id, started: 1, page: None, key: None }, Vec::new());
    core.step(now, Input::Connected { connection: 1 });
    for input in inputs {
        core.step(now, input);
    }
    core.step(now, Input::Heard { document: Document::Marker(1), retained: false });
    let mut effects = core.plan(now);
    effects.retain(|effect| match effect {
        Effect::Log(_) => false,
        Effect::Subscribe(_) | Effect::Publish(_) | Effect::Keep(_) | Effect::Resign { .. } => true,
    });
    (effects, core.due(), serde_json::to_string(&core.view(now)).unwrap())
}

// -- sums of our own

/// The least number that is a floor's share of `whole`.
fn floor_of(share: Share, whole: usize) -> usize {
    match share {
        Share::Count(count) => count as usize,
        Share::Percent(percent) => {
            (0..=whole).find(|n| n * 100 >= whole * percent as usize).unwrap_or(whole)
        }
    }
}

/// The greatest number that is within a batch's share of `whole`; without one, nothing would ever be done.
fn batch_of(share: Share, whole: usize) -> usize {
    match share {
        Share::Count(count) => count.max(1) as usize,
        Share::Percent(percent) => {
            (1..=whole).rev().find(|n| n * 100 <= whole * percent as usize).unwrap_or(1)
        }
    }
}

fn permit(assignment: &Assignment) -> Option<&Permit> {
    assignment.work.as_ref()?.permit.as_ref()
}

/// Ready servers that stay if everything is taken out that `plan` takes out, and nothing is put back.
fn check_floors(scene: &Scene, plan: &Plan) {
    let floors = scene.world.desired.values().filter_map(|d| d.settings.load_balancer.as_ref());
    let floors: Vec<Share> = floors.map(|balancing| balancing.min_ready).collect();
    for (lb, assignment) in &plan.assignments {
        let taken = scene.newly(lb, assignment, Order::Out);
        if taken.is_empty() {
            continue;
        }
        let servers = scene.servers(lb);
        let was_ready = |server: &&ServerName| servers[*server].seen.is_ready();
        let left = servers.keys().filter(was_ready);
        let left = left.filter(|server| {
            !taken.contains(server) && scene.asked(lb, server) != Some(Order::Out)
        });
        let left = left.count();
        let floor = floors.iter().map(|share| floor_of(*share, servers.len())).max().unwrap();
        let kept = left >= floor || !taken.iter().any(|server| was_ready(&server));
        let of = servers.len();
        keeps!(
            FloorKept,
            kept,
            "{lb}: {taken:?} of {of} go, {left} are left, the floor is {floor}"
        );
    }
}

/// Nodes that may upgrade, with everything that `plan` permits.
fn check_batch(scene: &Scene, plan: &Plan) {
    let webs = scene.names("web");
    let present = |name: &&NodeName| scene.world.nodes[*name].presence == Presence::Present;
    let whole = webs.iter().filter(present).count();
    let given =
        |name: &NodeName| scene.world.assigned.get(name).and_then(|a| permit(&a.assignment));
    let permitted = webs.iter().filter(|name| {
        let new = plan.assignments.get(*name).and_then(permit);
        new.is_some() && new != given(name)
    });
    let permitted: BTreeSet<&NodeName> = permitted.collect();
    let batches = permitted.iter().map(|name| {
        let settings = &scene.world.desired[&scene.cluster_of(name)].settings;
        batch_of(settings.rollout.batch, whole)
    });
    let Some(batch) = batches.max() else { return };
    let upgrading = webs.iter().filter(|name| permitted.contains(name) || scene.may_upgrade(name));
    let upgrading = upgrading.count();
    keeps!(
        BatchKept,
        upgrading <= batch,
        "{upgrading} of {whole} may upgrade, the batch is {batch}"
    );
}

proptest! {
    #![proptest_config(crate::cases(60))]

    #[test]
    fn the_order_of_inputs_does_not_matter(recipe in recipe(12), shuffle in any::<u64>()) {
        let scene = recipe.scene();
        let mut shuffled = inputs(&scene.world);
        let straight = told(shuffled.clone());
        Rng::with_seed(shuffle).shuffle(&mut shuffled);
        prop_assert_eq!(straight, told(shuffled));
    }

    #[test]
    fn a_converged_fleet_is_left_alone(recipe in recipe(0)) {
        let mut world = recipe.world();
        for desire in world.desired.values_mut() {
            desire.settings.paused = false;
            // Whoever is held has to be taken out.
            desire.settings.hold.clear();
        }
        let targets: BTreeMap<String, Revision> = world
            .desired
            .iter()
            .map(|(name, desire)| (name.to_string(), desire.settings.revision.clone()))
            .collect();
        for observed in world.nodes.values_mut() {
            let mut report = Report::clone(observed.report.as_ref().unwrap());
            let target = report.facts.get("cluster").map(|of| targets[of].clone());
            for (app, target) in report.apps.values_mut().zip(target) {
                app.revision = RevisionSeen::Running(target);
            }
            observed.report = Some(report.into());
        }
        let first = world.plan();
        keeps!(QuietAtGoal, first.assignments.is_empty(), "{:?}", first.assignments);
        world.apply(&first);
        let second = world.plan();
        keeps!(QuietAtGoal, second.assignments.is_empty(), "{:?}", second.assignments);
        keeps!(QuietAtGoal, second.ledgers.is_empty(), "{:?}", second.ledgers);
        keeps!(QuietAtGoal, second.events.is_empty(), "{:?}", second.events);
    }

    #[test]
    fn no_sum_goes_wrong(recipe in recipe(0)) {
        let mut scene = recipe.scene();
        for _ in 0..25 {
            let plan = scene.world.plan();
            check_floors(&scene, &plan);
            check_batch(&scene, &plan);
            scene.troubled_round();
        }
    }
}
