//! The language of the golden scripts.
//!
//! `fleet alfa=5 bravo=4 revision=1 lbs=1`, then `set CLUSTER key=value ...`, `run [N]`, `status`,
//! `why NODE`, `silent|departed|present|duplicate NODE`, `fails|heals NODE`, `unsettled|settles NODE`, `worsens NODE` (its checks fail from now on),
//! `drift NODE REVISION`, `unreadable NODE`, `maint|drain|ready|down|up LB SERVER`, `unready LB SERVER` (clear and not UP since now), `controller` (a new one takes over), `join NODE CLUSTER REVISION`,
//! `vanish|invalid|current CLUSTER`, `rename OLD NEW` (its file), `backend CLUSTER NEW`, `balancer NAME` (one more), `soaking NODE` (its checks are OK only since now), `age SECONDS`, `freeze NODE` / `thaw NODE` (present, but does not act).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use evenkeel::model::*;
use evenkeel::plan::{Ending, Plan, World};

use crate::fleet::{self, backend, cluster, node, revision};

/// Plays a script; returns it with the answers as they are now.
pub fn play(text: &str) -> String {
    let mut stage = Stage { world: fleet::world(), frozen: BTreeSet::new() };
    let mut out = String::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            let _ = writeln!(out, "{line}");
            stage.command(command, &mut out);
        } else if line.starts_with('#') || line.is_empty() {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

/// The first lines that differ.
pub fn difference(old: &str, new: &str) -> String {
    let at = old.lines().zip(new.lines()).position(|(a, b)| a != b).unwrap_or(0);
    let cut = |text: &str| text.lines().skip(at).take(6).collect::<Vec<_>>().join("\n    ");
    format!("line {}\n  was\n    {}\n  is\n    {}", at + 1, cut(old), cut(new))
}

struct Stage {
    world: World,
    frozen: BTreeSet<NodeName>,
}

fn lb_backend(world: &World, name: &str) -> BackendName {
    let settings = &world.desired[&cluster(name)].settings;
    settings.load_balancer.as_ref().expect("a load balancer").backend.clone()
}

fn pairs<'a>(words: &[&'a str]) -> BTreeMap<&'a str, &'a str> {
    words.iter().map(|word| word.split_once('=').expect("key=value")).collect()
}

fn percent(value: &str) -> Share {
    match value.strip_suffix('%') {
        Some(percent) => Share::Percent(percent.parse().expect("a percentage")),
        None => Share::Count(value.parse().expect("a count")),
    }
}

impl Stage {
    fn command(&mut self, command: &str, out: &mut String) {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["fleet", rest @ ..] => self.fleet(&pairs(rest)),
            ["set", name, rest @ ..] => self.set(&cluster(name), &pairs(rest)),
            ["run"] => self.run(200, out),
            ["run", rounds] => self.run(rounds.parse().expect("a count"), out),
            ["status"] => self.status(out),
            ["why", name] => {
                let plan = self.world.plan();
                let _ = writeln!(out, "{name}: {}", plan.nodes[&node(name)].decision);
            }
            ["silent", name] => self.presence(name, Presence::Unknown),
            ["departed", name] => self.presence(name, Presence::Departed),
            ["duplicate", name] => self.presence(name, Presence::Duplicate),
            ["present", name] => {
                self.presence(name, Presence::Present);
                self.world.obey(&node(name));
            }
            ["fails", name] => drop(self.world.failing.insert(node(name))),
            ["heals", name] => drop(self.world.failing.remove(&node(name))),
            ["unsettled", name] => drop(self.world.unsettled.insert(node(name))),
            ["settles", name] => {
                self.world.unsettled.remove(&node(name));
                self.world.obey(&node(name));
            }
            ["worsens", name] => {
                self.world.unsettled.insert(node(name));
                self.world.obey(&node(name));
            }
            ["freeze", name] => drop(self.frozen.insert(node(name))),
            ["thaw", name] => {
                self.frozen.remove(&node(name));
                self.world.obey(&node(name));
            }
            ["drift", name, to] => {
                let to = RevisionSeen::Running(revision(to));
                self.app(name).revision = to;
            }
            ["unreadable", name] => {
                self.app(name).revision = RevisionSeen::Unknown("nothing answers".to_owned());
            }
            ["maint" | "drain" | "ready" | "down" | "up" | "unready", lb, server] => {
                self.server(words[0], lb, server);
            }
            ["join", name, to, at] => {
                self.world.nodes.insert(node(name), fleet::web(name, to, Some(at)));
            }
            ["soaking", name] => {
                if let Some(settle) = &mut self.app(name).settle {
                    settle.ok_for_ms = 0;
                }
            }
            ["rename", old, new] => {
                let desire = self.world.desired[&cluster(old)].clone();
                self.world.desired.insert(cluster(new), desire);
                self.standing(old, Standing::Vanished);
            }
            ["backend", name, to] => {
                let desire = self.world.desired.get_mut(&cluster(name)).expect("a cluster");
                let lb = desire.settings.load_balancer.as_mut().expect("a load balancer");
                lb.backend = BackendName::new(*to).expect("a backend name");
                let servers = self.server_reports("lb1");
                let to = lb_backend(&self.world, name);
                let balancer = self.report("lb1").balancer.as_mut().expect("a load balancer");
                balancer.backends.insert(to, BackendSeen::Servers(servers));
            }
            ["balancer", name] => {
                let servers = self.server_reports("lb1");
                self.world.nodes.insert(node(name), fleet::balancer(name, servers));
            }
            ["controller"] => {
                // The new one knows what agents obey, and the ledgers that were published.
                self.world.epoch = fleet::epoch(self.world.epoch.number + 1);
            }
            ["amnesia"] => self.world.ledgers.clear(),
            ["vanish", name] => self.standing(name, Standing::Vanished),
            ["invalid", name] => self.standing(name, Standing::LastGood("a fault".to_owned())),
            ["current", name] => self.standing(name, Standing::Current),
            ["age", seconds] => {
                let ms = seconds.parse::<u64>().expect("seconds") * 1000;
                self.world.assigned.values_mut().for_each(|a| a.age_ms += ms);
                self.world.nodes.values_mut().for_each(|o| o.report_age_ms += ms);
            }
            _ => panic!("not a command: {command}"),
        }
    }

    fn fleet(&mut self, options: &BTreeMap<&str, &str>) {
        let at = options.get("revision").copied().unwrap_or("1");
        let lbs: usize = options.get("lbs").map_or(1, |n| n.parse().expect("a count"));
        let mut number = 0;
        for (name, size) in options.iter().filter(|(k, _)| **k != "revision" && **k != "lbs") {
            let size: u32 = size.parse().expect("a count");
            let mut settings = fleet::settings(name, if at == "none" { "1" } else { at }, size);
            if let Some(lb) = &mut settings.load_balancer {
                lb.expect = Expect::Count(u32::try_from(lbs).expect("few"));
            }
            self.world.desired.insert(cluster(name), fleet::current(settings));
            for _ in 0..size {
                number += 1;
                let web = format!("web{number}");
                let at = Some(at).filter(|at| *at != "none");
                self.world.nodes.insert(node(&web), fleet::web(&web, name, at));
            }
        }
        let servers: BTreeMap<ServerName, ServerReport> = (1..=number)
            .map(|n| {
                (ServerName::new(format!("web{n}")).expect("a name"), fleet::server(at != "none"))
            })
            .collect();
        for lb in 1..=lbs {
            let name = format!("lb{lb}");
            self.world.nodes.insert(node(&name), fleet::balancer(&name, servers.clone()));
        }
    }

    fn set(&mut self, name: &ClusterName, options: &BTreeMap<&str, &str>) {
        let desire = self.world.desired.get_mut(name).expect("a cluster");
        let settings = &mut desire.settings;
        for (key, value) in options {
            let count = || value.parse::<u32>().expect("a count");
            let balancer = settings.load_balancer.as_mut();
            match *key {
                "revision" => settings.revision = revision(value),
                "expect" => settings.expect = Expect::Count(count()),
                "retry" => settings.retry = (*value).to_owned(),
                "select" => {
                    settings.select = BTreeMap::from([("cluster".to_owned(), (*value).to_owned())]);
                }
                "paused" => settings.paused = *value == "true",
                "hold" => {
                    settings.hold = value.split(',').filter(|n| !n.is_empty()).map(node).collect();
                }
                "after" => {
                    settings.after =
                        value.split(',').filter(|n| !n.is_empty()).map(cluster).collect();
                }
                "take_out" if *value == "batch" => settings.rollout.take_out = TakeOut::Batch,
                "batch" => settings.rollout.batch = percent(value),
                "tries" => settings.rollout.tries = count(),
                "max_failed" => settings.rollout.max_failed = count(),
                "max_missing" => settings.rollout.max_missing = count(),
                "on_failure" if *value == "rollback" => {
                    settings.rollout.on_failure = OnFailure::Rollback;
                }
                "soak" => settings.settle.soak_ms = count().into(),
                "min_ready" => balancer.expect("a load balancer").min_ready = percent(value),
                "load_balancer" if *value == "none" => settings.load_balancer = None,
                _ => panic!("not a setting: {key}={value}"),
            }
        }
    }

    fn standing(&mut self, name: &str, standing: Standing) {
        self.world.desired.get_mut(&cluster(name)).expect("a cluster").standing = standing;
    }

    fn presence(&mut self, name: &str, presence: Presence) {
        self.world.nodes.get_mut(&node(name)).expect("a node").presence = presence;
    }

    /// The servers of a load balancer, as they are where nobody has touched them.
    fn server_reports(&mut self, lb: &str) -> BTreeMap<ServerName, ServerReport> {
        let balancer = self.report(lb).balancer.as_ref().expect("a load balancer");
        let Some(BackendSeen::Servers(servers)) = balancer.backends.get(&backend()) else {
            panic!("no servers");
        };
        servers.keys().map(|name| (name.clone(), fleet::server(true))).collect()
    }

    fn report(&mut self, name: &str) -> &mut Report {
        let observed = self.world.nodes.get_mut(&node(name)).expect("a node");
        Arc::make_mut(observed.report.as_mut().expect("a report"))
    }

    fn app(&mut self, name: &str) -> &mut AppReport {
        self.report(name).apps.values_mut().next().expect("the app's role")
    }

    fn server(&mut self, verb: &str, lb: &str, server: &str) {
        let balancer = self.report(lb).balancer.as_mut().expect("a load balancer");
        let Some(BackendSeen::Servers(servers)) = balancer.backends.get_mut(&backend()) else {
            panic!("no servers");
        };
        let name = ServerName::new(server).expect("a server name");
        let server = servers.get_mut(&name).expect("a server");
        let seen = &mut server.seen;
        match verb {
            "maint" => (seen.admin, seen.health) = (AdminBits(1), Health::Down),
            "drain" => seen.admin = AdminBits(8),
            "ready" => (seen.admin, seen.health) = (AdminBits(0), Health::Up),
            "down" => seen.health = Health::Down,
            "unready" => (seen.health, server.steady_for_ms) = (Health::Down, 0),
            _ => seen.health = Health::Up,
        }
    }

    /// Plans and carries out, and says what was done in each round; frozen nodes do nothing.
    fn run(&mut self, rounds: usize, out: &mut String) {
        for round in 1..=rounds {
            let plan = self.world.plan();
            let quiet = plan.assignments.is_empty() && plan.ledgers.is_empty();
            if quiet {
                self.ending(&plan, out);
                return;
            }
            self.check_floor(&plan);
            let frozen = self.frozen.clone();
            let asleep: Vec<(NodeName, Presence)> =
                frozen.iter().map(|name| (name.clone(), self.world.nodes[name].presence)).collect();
            for (name, _) in &asleep {
                self.presence(name.as_str(), Presence::Unknown);
            }
            self.world.apply(&plan);
            for (name, presence) in asleep {
                self.presence(name.as_str(), presence);
            }
            let _ = writeln!(out, "{round:>3}  {}", acts(&plan));
            for event in &plan.events {
                let node = event.node.as_ref().map(|n| format!(" {n}")).unwrap_or_default();
                let _ = writeln!(out, "     * {}{node} {}", event.cluster, event.kind);
            }
        }
        let plan = self.world.plan();
        if !(plan.assignments.is_empty() && plan.ledgers.is_empty()) {
            let _ = writeln!(out, "     ... goes on");
        } else {
            self.ending(&plan, out);
        }
    }

    /// A second opinion on the most dangerous rule: what the plan takes out leaves the floor.
    fn check_floor(&self, plan: &Plan) {
        for (name, assignment) in &plan.assignments {
            let Some(work) = assignment.balance.get(&backend()) else { continue };
            let report = self.world.nodes[name].report.as_ref().expect("a report");
            let balancer = report.balancer.as_ref().expect("a load balancer");
            let BackendSeen::Servers(servers) = &balancer.backends[&backend()] else { continue };
            let old =
                self.world.assigned.get(name).and_then(|a| a.assignment.balance.get(&backend()));
            let was_out =
                |s: &ServerName| old.is_some_and(|w| w.servers.get(s) == Some(&Order::Out));
            let takes = |s: &ServerName, r: &ServerReport| {
                work.servers.get(s) == Some(&Order::Out) && !was_out(s) && r.seen.is_ready()
            };
            if !servers.iter().any(|(s, r)| takes(s, r)) {
                continue;
            }
            let left = servers
                .iter()
                .filter(|(s, r)| {
                    r.seen.is_ready() && !was_out(s) && work.servers.get(*s) != Some(&Order::Out)
                })
                .count();
            let floor =
                self.world.desired.values().filter_map(|d| d.settings.load_balancer.as_ref());
            let floor = floor.map(|lb| lb.min_ready.floor_of(servers.len())).max().unwrap_or(0);
            assert!(left >= floor, "{name}: {left} ready servers left, the floor is {floor}");
        }
    }

    fn ending(&self, plan: &Plan, out: &mut String) {
        let mut probe = self.world.clone();
        let ending = probe.run(1, |_| ());
        assert_ne!(ending, Ending::Endless);
        for (name, state) in &plan.clusters {
            let blocked: Vec<String> = plan
                .nodes
                .iter()
                .filter(|(_, n)| n.cluster.as_ref() == Some(name))
                .filter_map(|(node, n)| match &n.decision {
                    Decision::Done(Done::InService { .. }) => None,
                    other => Some(format!("{node} {other}")),
                })
                .collect();
            let _ = writeln!(
                out,
                "  {name}: {:?}, {} of {} at {}{}{}",
                state.phase,
                state.converged,
                state.expected,
                state.target,
                if blocked.is_empty() { "" } else { "; " },
                blocked.join("; ")
            );
        }
    }

    fn status(&self, out: &mut String) {
        let plan = self.world.plan();
        for (name, state) in &plan.clusters {
            for condition in &state.conditions {
                if condition.kind == ConditionType::ReloadUnsafe {
                    continue;
                }
                let _ = writeln!(
                    out,
                    "  {name} {}={:?} {} {}",
                    condition.kind, condition.status, condition.reason, condition.message
                );
            }
            for (cause, text) in &state.causes {
                let _ = writeln!(
                    out,
                    "  {name} tells {}: {}",
                    cause.as_str(),
                    text.replace('\n', " | ")
                );
            }
        }
    }
}

/// The acts of a plan, alike ones together.
fn acts(plan: &Plan) -> String {
    let mut by_act: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, node) in &plan.nodes {
        if let Decision::Act(act) = &node.decision {
            let word = match act {
                Act::Probe => "probe".to_owned(),
                Act::TakeOut => "take out".to_owned(),
                Act::Upgrade { revision, attempt, .. } => {
                    format!("upgrade to {revision} #{attempt}")
                }
                Act::Withdraw => "withdraw".to_owned(),
                Act::Settle => "settle".to_owned(),
                Act::PutBack => "put back".to_owned(),
                Act::Release => "release".to_owned(),
            };
            by_act.entry(word).or_default().push(name.to_string());
        }
    }
    let lines: Vec<String> =
        by_act.into_iter().map(|(act, names)| format!("{act}: {}", names.join(" "))).collect();
    if lines.is_empty() { "-".to_owned() } else { lines.join("; ") }
}
