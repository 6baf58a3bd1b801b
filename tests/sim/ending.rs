//! How a simulation goes: a phase with faults, then one without, and what must be true at its end.

use std::collections::BTreeMap;

use evenkeel::checker::{Breach, Invariant};
use evenkeel::controller::view::View;
use evenkeel::model::*;
use evenkeel::plan::Phase;

use crate::mutant::Mutant;
use crate::plot::revision;
use crate::plugin::Plugin;
use crate::reason;
use crate::service::Bad;
use crate::world::World;

/// How long things go wrong, in milliseconds of the simulated clock.
const TROUBLED_MS: u64 = 600_000;

/// How long a fleet may take to come to rest afterwards: every timeout, one after the other, for every node of a
/// batch of one, with all tries.
const RESTS_MS: u64 = 4 * 3_600_000;

/// No assignment for this long is rest: longer than every patience but a deadline of files, which none is
/// drawn that long.
const QUIET_MS: u64 = 200_000;

/// What stays wrong for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stays {
    Nothing,
    /// Somebody's maintenance.
    Foreign(NodeName, NodeName),
    /// Its agent.
    Dead(NodeName),
    /// Every upgrade fails.
    Failing(NodeName),
    /// Its checks are never OK.
    Overloaded(NodeName),
    Paused(ClusterName),
    Held(NodeName),
}

/// What came of a simulation.
pub struct Outcome {
    pub digest: u64,
    pub text: String,
    pub breach: Option<Breach>,
}

/// Plays one seed.
pub fn play(seed: u64, mutant: Option<Mutant>, loud: bool, keep: bool) -> Outcome {
    let mut world = World::new(seed, mutant, loud);
    if keep {
        world.trace.keep();
    }
    world.run(30_000);
    world.begin_trouble();
    world.run(30_000 + TROUBLED_MS);
    let stays = if world.checker.breaches().is_empty() { rest(&mut world) } else { Stays::Nothing };
    let mut breach = world.checker.breaches().first().cloned();
    if breach.is_none() {
        breach = at_rest(&world, &stays);
    }
    let (digest, text) = (world.trace.digest(), world.trace.text().to_owned());
    let breach = breach.or_else(|| world.checker.end().first().cloned());
    Outcome { digest, text, breach }
}

/// Ends the trouble but for what stays, and waits until nothing moves.
fn rest(world: &mut World) -> Stays {
    world.end_trouble();
    let stays = draw(world);
    world.trace.line(world.now_ms, &format!("stays: {stays:?}"));
    commit_at_last(world, &stays);
    make_stay(world, &stays);
    let until_ms = world.now_ms + RESTS_MS;
    come_to_rest(world, until_ms);
    // What somebody had set before we took a server out is back by now; nobody wants that any more.
    let but = if let Stays::Foreign(_, web) = &stays { Some(web) } else { None };
    while world.lift_by_hand(but) && world.now_ms < until_ms {
        come_to_rest(world, until_ms);
    }
    stays
}

fn come_to_rest(world: &mut World, until_ms: u64) {
    let begin_ms = world.now_ms;
    while world.now_ms < until_ms && world.checker.breaches().is_empty() {
        world.run(world.now_ms + QUIET_MS / 4);
        if world.now_ms > world.moved_ms.max(begin_ms) + QUIET_MS {
            break;
        }
    }
}

fn draw(world: &mut World) -> Stays {
    let webs: Vec<NodeName> = world.plot.webs().cloned().collect();
    let lbs: Vec<NodeName> = world.plot.balancers().cloned().collect();
    let web = webs[world.rng.usize(..webs.len())].clone();
    match world.rng.u32(0..12) {
        0 if !lbs.is_empty() => {
            let lb = lbs[world.rng.usize(..lbs.len())].clone();
            // What we hold ourselves looks the same to us.
            if world.holds(&lb, &web) { Stays::Nothing } else { Stays::Foreign(lb, web) }
        }
        1 => Stays::Dead(web),
        2 if !lbs.is_empty() => Stays::Dead(lbs[world.rng.usize(..lbs.len())].clone()),
        3 => Stays::Failing(web),
        4 => Stays::Overloaded(web),
        5 => Stays::Paused(world.plot.cluster_of(&web).clone()),
        6 => Stays::Held(web),
        _ => Stays::Nothing,
    }
}

/// The files say a new revision everywhere, with nothing held or paused but what stays so.
fn commit_at_last(world: &mut World, stays: &Stays) {
    world.plot.revisions += 1;
    let last = revision(world.plot.revisions);
    let mut clusters = world.plot.desired.clusters.clone();
    for (name, settings) in &mut clusters {
        settings.revision = last.clone();
        settings.retry = "at last".to_owned();
        settings.paused = *stays == Stays::Paused(name.clone());
        if let Stays::Held(web) = stays
            && world.plot.cluster_of(web) == name
        {
            settings.hold.insert(web.clone());
        }
    }
    world.write_files(clusters);
}

fn make_stay(world: &mut World, stays: &Stays) {
    let but = if let Stays::Foreign(_, web) = stays { Some(web) } else { None };
    world.lift_by_hand(but);
    match stays {
        Stays::Nothing | Stays::Paused(_) | Stays::Held(_) => {}
        Stays::Foreign(lb, web) => {
            let lbs: Vec<NodeName> = world.plot.balancers().cloned().collect();
            for other in &lbs {
                world.set_by_hand(other, web, u8::from(other == lb));
            }
        }
        Stays::Dead(name) => world.kill_for_good(name),
        Stays::Failing(web) => {
            world.agents.get_mut(web).expect("an agent").service.bad = Some(Bad::Fails);
        }
        Stays::Overloaded(web) => {
            let plugin = Plugin::bad(&mut world.rng);
            world.agents.get_mut(web).expect("an agent").service.plugin = plugin;
        }
    }
}

/// What is not as it must be, at rest.
fn at_rest(world: &World, stays: &Stays) -> Option<Breach> {
    let breach = |about: &str, happened: String, forbidden_by: &str| {
        Some(Breach {
            invariant: Invariant::Converges,
            at_ms: world.now_ms,
            about: about.to_owned(),
            happened,
            forbidden_by: forbidden_by.to_owned(),
        })
    };
    let Some(view) = world.view() else {
        return breach("the controller", "it does not run".to_owned(), "no faults");
    };
    let Some(app) = view.apps.get(&world.plot.app) else {
        return breach("the controller", "it does not know the app".to_owned(), "its files");
    };
    let reasons: BTreeMap<String, String> = view
        .nodes
        .iter()
        .flat_map(|(name, node)| {
            node.apps.values().map(|app| (name.to_string(), app.reason.clone()))
        })
        .collect();
    if world.now_ms <= world.moved_ms + QUIET_MS {
        return breach("the fleet", format!("it does not come to rest: {reasons:#?}"), "no faults");
    }
    if let Some((lb, web)) = world.stranded.first() {
        let what = format!("its maintenance at {lb} is ours, and {lb} does not know that");
        return breach(web.as_str(), what, "nobody would ever put it back");
    }
    for (name, cluster) in &app.clusters {
        let members: Vec<&NodeName> =
            world.plot.webs().filter(|web| world.plot.cluster_of(web) == name).collect();
        let wanted = wanted(world, stays, name, &members);
        if !wanted.contains(&cluster.phase) {
            let what = format!("it is {:?} ({stays:?}): {reasons:#?}", cluster.phase);
            return breach(name.as_str(), what, &format!("it should be {wanted:?}"));
        }
        if let Some(untold) = untold(world, stays, name, &members, cluster.phase) {
            let what = format!("nobody was told that it {untold} ({stays:?}): {reasons:#?}");
            return breach(name.as_str(), what, "it is so");
        }
        if cluster.phase == Phase::Converged
            && let Some(late) = members.iter().find(|web| !world.is_there(stays, web))
        {
            let what = format!("it is Converged ({stays:?}): {reasons:#?}");
            return breach(name.as_str(), what, &format!("{late} is not there in truth"));
        }
    }
    for web in world.plot.webs() {
        let app = view.nodes.get(web).and_then(|node| node.apps.get(&world.plot.app));
        let decision = app.and_then(|app| app.decision.as_ref());
        if !decision.is_some_and(|decision| reason::is_true(world, stays, web, decision)) {
            let what = format!("it rests ({stays:?}) with {decision:?}");
            return breach(web.as_str(), what, "that is not so, or nothing to rest with");
        }
        let whole = in_truth(world, stays, web);
        if let Err(what) = whole {
            let reason = reasons.get(web.as_str()).cloned().unwrap_or_default();
            return breach(
                web.as_str(),
                format!("{what} ({stays:?}: {reason})"),
                "nothing keeps it so",
            );
        }
    }
    None
}

/// What somebody should know of a cluster by now, and nobody was told.
fn untold(
    world: &World,
    stays: &Stays,
    name: &ClusterName,
    members: &[&NodeName],
    phase: Phase,
) -> Option<&'static str> {
    let settings = &world.plot.last_good[name];
    let told = |cause| world.told.get(&(name.clone(), cause));
    let completed = told(Cause::Completed);
    let all_held = members.iter().all(|web| settings.hold.contains(*web));
    match phase {
        Phase::Converged if !all_held => {
            let is_told = completed.is_some_and(|(_, _, to)| *to == settings.revision);
            (!is_told).then_some("has converged")
        }
        Phase::Degraded if *stays != Stays::Paused(name.clone()) => {
            let after = completed.map_or(0, |(sequence, _, _)| *sequence);
            let lasts = |cause| {
                let news = told(cause);
                news.is_some_and(|(at, kind, _)| *kind == NotifyOn::Failed && *at > after)
            };
            use Cause::{Failed, ForeignMaintenance, Stuck, Unreachable};
            let is_told = [Failed, ForeignMaintenance, Stuck, Unreachable].into_iter().any(lasts);
            (!is_told).then_some("does not get on")
        }
        _ => None,
    }
}

/// The phases that the facts allow a cluster.
fn wanted(
    world: &World,
    stays: &Stays,
    name: &ClusterName,
    members: &[&NodeName],
) -> &'static [Phase] {
    let settings = &world.plot.last_good[name];
    let is_dead = |node: &NodeName| *stays == Stays::Dead(node.clone());
    let dead_lb = world.plot.balancers().any(is_dead);
    let dead_web = members.iter().any(|web| is_dead(web));
    let tolerates = settings.rollout.max_missing > 0 && members.len() > 1;
    let overloaded = matches!(stays, Stays::Overloaded(_)) && !world.plot.checks.is_empty();
    let bad = members.iter().any(|web| match stays {
        Stays::Foreign(_, of) | Stays::Failing(of) => of == *web,
        Stays::Overloaded(of) => of == *web && overloaded,
        Stays::Nothing | Stays::Dead(_) | Stays::Paused(_) | Stays::Held(_) => false,
    });
    let paused = *stays == Stays::Paused(name.clone());
    let (mut waits, mut may_wait) = (false, false);
    for other in &settings.after {
        let members: Vec<&NodeName> =
            world.plot.webs().filter(|web| world.plot.cluster_of(web) == other).collect();
        let phases = wanted(world, stays, other, &members);
        waits |= !phases.contains(&Phase::Converged);
        may_wait |= phases != [Phase::Converged];
    }
    let out = members.iter().any(|web| !world.is_in_service(web));
    let certain = dead_lb || (dead_web && !tolerates) || paused || bad;
    match (certain, is_tight(world, stays), waits, may_wait) {
        (true, _, _, false) => &[Phase::Degraded],
        (true, _, _, true) => &[Phase::Degraded, Phase::Progressing],
        // Who dies a while after the last commit may have been waited for no more.
        (false, true, true, _) if matches!(stays, Stays::Dead(_)) => {
            &[Phase::Degraded, Phase::Progressing, Phase::Converged]
        }
        (false, true, true, _) => &[Phase::Degraded, Phase::Progressing],
        // What was out of service already can be upgraded, whatever the floor is.
        (false, true, false, false) => &[Phase::Degraded, Phase::Converged],
        (false, true, false, true) => &[Phase::Degraded, Phase::Progressing, Phase::Converged],
        // Who dies a while after the last commit may have gone through with it before. What failed at the revision that is
        // kept to meanwhile stays out, and is tried anew with the one that waits.
        (false, false, true, _) => match (matches!(stays, Stays::Dead(_)), out) {
            (true, true) => &[Phase::Degraded, Phase::Progressing, Phase::Converged],
            (true, false) => &[Phase::Progressing, Phase::Converged],
            (false, true) => &[Phase::Degraded, Phase::Progressing],
            (false, false) => &[Phase::Progressing],
        },
        (false, false, false, true) => &[Phase::Progressing, Phase::Converged],
        (false, false, false, false) => &[Phase::Converged],
    }
}

/// With what stays out of service, the floor may forbid to take out any more.
fn is_tight(world: &World, stays: &Stays) -> bool {
    let servers = world.plot.webs().count();
    let out = match stays {
        Stays::Nothing => 0,
        Stays::Held(_) | Stays::Foreign(..) | Stays::Failing(_) | Stays::Overloaded(_) => 1,
        // What was out when it died stays out with it.
        Stays::Dead(name) => {
            let webs = world.plot.webs().filter(|web| world.plot.of_one_cluster(web, name));
            webs.filter(|web| !world.is_in_service(web)).count().max(1)
        }
        // What was out when it was paused stays out.
        Stays::Paused(cluster) => {
            world.plot.webs().filter(|web| world.plot.cluster_of(web) == cluster).count()
        }
    };
    // Where a cluster has never converged, as far as anybody remembers, there is nothing that what is out would come back
    // to until others have converged.
    let view = world.view();
    let converged = |cluster: &ClusterName| {
        let app = view.as_ref().and_then(|view| view.apps.get(&world.plot.app));
        app.and_then(|app| app.clusters.get(cluster)?.converged_on.as_ref()).is_some()
    };
    let waits = |web: &&NodeName| {
        let cluster = world.plot.cluster_of(web);
        let after = &world.plot.last_good[cluster].after;
        !after.is_empty() && !converged(cluster) && !world.is_in_service(web)
    };
    let out = out + world.plot.webs().filter(waits).count();
    let floors = world.plot.last_good.values().filter_map(|s| s.load_balancer.as_ref());
    world.plot.balancers().next().is_some()
        && floors.map(|lb| lb.min_ready.floor_of(servers)).max().unwrap_or(0) + out >= servers
}

/// A node is at the last revision and in service everywhere, where nothing speaks against it.
fn in_truth(world: &World, stays: &Stays, web: &NodeName) -> Result<(), String> {
    let quiet = match stays {
        Stays::Nothing => false,
        Stays::Foreign(_, of) | Stays::Held(of) => of == web,
        Stays::Dead(of) | Stays::Failing(of) | Stays::Overloaded(of) => of == web,
        Stays::Paused(cluster) => world.plot.cluster_of(web) == cluster,
    };
    if quiet {
        return Ok(());
    }
    let wanted = &world.plot.last_good[world.plot.cluster_of(web)].revision;
    let cluster = world.plot.cluster_of(web);
    let members: Vec<&NodeName> =
        world.plot.webs().filter(|web| world.plot.cluster_of(web) == cluster).collect();
    if self::wanted(world, stays, cluster, &members) != [Phase::Converged] {
        return Ok(());
    }
    let runs = world.agents[web].service.runs.as_ref();
    if runs != Some(wanted) {
        return Err(format!("it runs {runs:?} and not {wanted}"));
    }
    if world.is_in_service(web) { Ok(()) } else { Err("it is not in service".to_owned()) }
}

impl World {
    fn view(&self) -> Option<View> {
        let core = self.controller.core.as_ref()?;
        Some(core.view(Now { mono: Mono(self.now_ms), wall: self.wall() }))
    }

    /// At the last revision and in service everywhere, or not to be.
    fn is_there(&self, stays: &Stays, web: &NodeName) -> bool {
        let settings = &self.plot.last_good[self.plot.cluster_of(web)];
        let spared = settings.hold.contains(web) || *stays == Stays::Dead(web.clone());
        let runs = self.agents[web].service.runs.as_ref();
        spared || runs == Some(&settings.revision) && self.is_in_service(web)
    }

    pub fn is_in_service(&self, web: &NodeName) -> bool {
        self.plot.balancers().all(|lb| self.seen(lb, web).is_ready())
    }

    pub fn is_out(&self, web: &NodeName) -> bool {
        self.plot.balancers().all(|lb| self.seen(lb, web).admin.is_out())
    }

    /// Ready servers at a load balancer.
    pub fn ready(&self, lb: &NodeName) -> usize {
        self.plot.webs().filter(|web| self.seen(lb, web).is_ready()).count()
    }

    pub fn seen(&self, lb: &NodeName, web: &NodeName) -> ServerSeen {
        let server = ServerName::new(web.as_str()).expect("a name");
        self.agents[lb].haproxy.as_ref().expect("a HAProxy").seen(&server)
    }

    fn kill_for_good(&mut self, name: &NodeName) {
        self.run(self.now_ms + 5_000);
        self.kill_agent(name);
        self.gone.insert(name.clone());
    }
}
