//! What goes wrong, by chance, and how it ends.

use evenkeel::bus::{Topic, encode};
use evenkeel::checker::By;
use evenkeel::model::*;
use evenkeel::plan::ports::SetServer;

use crate::broker::Client;
use crate::plot::revision;
use crate::plugin::Plugin;
use crate::service::Bad;
use crate::world::{Happening, World};

/// The longest that one trouble lasts, in milliseconds: beyond every patience of the design.
const LASTS_MS: u64 = 150_000;

/// Within this time of a hand, a command that was decided on before is not to blame.
const BLIND_MS: u64 = 50;

/// How often an agent looks what a hand has done.
const LOOK_MS: u64 = 1_000;

/// Something that went wrong and that ends.
#[derive(Debug, Clone)]
pub enum Trouble {
    Cut(Client),
    Frozen(NodeName),
    BrokerDown,
    Slow,
    HaproxyDown(NodeName),
    Unhealthy(NodeName),
    Silent(NodeName),
    Overloaded(NodeName),
    Bad(NodeName),
    FullDisk(Client),
    Mute(NodeName),
    Faulty,
}

/// What can begin.
const KINDS: u32 = 30;

impl World {
    /// Things go wrong from now on.
    pub fn begin_trouble(&mut self) {
        self.troubled = true;
        self.after(1, Happening::Trouble);
    }

    fn pick(&mut self, names: Vec<NodeName>) -> Option<NodeName> {
        if names.is_empty() { None } else { Some(names[self.rng.usize(..names.len())].clone()) }
    }

    fn web(&mut self) -> NodeName {
        let names = self.plot.webs().cloned().collect();
        self.pick(names).expect("a web server")
    }

    fn balancer(&mut self) -> Option<NodeName> {
        let names = self.plot.balancers().cloned().collect();
        self.pick(names)
    }

    fn anybody(&mut self) -> NodeName {
        let names = self.plot.nodes.keys().cloned().collect();
        self.pick(names).expect("a node")
    }

    fn client(&mut self) -> Client {
        if self.rng.u32(0..4) == 0 { Client::Controller } else { Client::Node(self.anybody()) }
    }

    /// The next thing goes wrong, and there will be another.
    pub fn trouble(&mut self) {
        if !self.troubled {
            return;
        }
        let next_ms =
            if self.rng.bool() { self.rng.u64(1..2_000) } else { self.rng.u64(1..40_000) };
        self.after(next_ms, Happening::Trouble);
        let kind = self.rng.u32(0..KINDS);
        self.begin_one(kind);
    }

    fn begin_one(&mut self, kind: u32) {
        let web = self.web();
        let lasts_ms =
            if self.rng.bool() { self.rng.u64(1..5_000) } else { self.rng.u64(1..LASTS_MS) };
        let trouble = match kind {
            0 | 1 => {
                let client = self.client();
                self.cut_network(&client);
                Trouble::Cut(client)
            }
            2 => {
                let name = self.anybody();
                self.freeze(&name);
                Trouble::Frozen(name)
            }
            3 => {
                self.kill_broker();
                Trouble::BrokerDown
            }
            4 => {
                self.network.slow_ms = self.rng.u64(1..2_000);
                Trouble::Slow
            }
            5 => {
                let Some(lb) = self.balancer() else { return };
                self.agents.get_mut(&lb).expect("an agent").haproxy.as_mut().expect("one").down =
                    true;
                Trouble::HaproxyDown(lb)
            }
            6 => {
                self.healthy(&web, false);
                Trouble::Unhealthy(web)
            }
            7 => {
                self.agents.get_mut(&web).expect("an agent").service.silent = true;
                Trouble::Silent(web)
            }
            8 | 9 => {
                self.agents.get_mut(&web).expect("an agent").service.plugin =
                    Plugin::bad(&mut self.rng);
                Trouble::Overloaded(web)
            }
            10..=12 => {
                let bad = [Bad::Fails, Bad::BreaksOff, Bad::Lies, Bad::Hangs][self.rng.usize(0..4)];
                self.agents.get_mut(&web).expect("an agent").service.bad = Some(bad);
                Trouble::Bad(web)
            }
            13 => {
                let client = self.client();
                self.fill_disk(&client, true);
                Trouble::FullDisk(client)
            }
            14 => {
                let names = self.plot.notifiers().cloned().collect();
                let Some(name) = self.pick(names) else { return };
                self.agents.get_mut(&name).expect("an agent").mute = true;
                Trouble::Mute(name)
            }
            15 => {
                if self.files.get(&self.plot.app).is_some_and(Result::is_ok) {
                    let fault = "shop/alfa.toml:1:1: a fault".to_owned();
                    self.files.insert(self.plot.app.clone(), Err(fault));
                    self.files_changed();
                }
                Trouble::Faulty
            }
            other => return self.strike(other, &web),
        };
        self.trace.line(self.now_ms, &format!("trouble: {trouble:?} for {lasts_ms} ms"));
        self.after(lasts_ms, Happening::Mend(trouble));
    }

    /// What is over at once.
    fn strike(&mut self, kind: u32, web: &NodeName) {
        let again_ms =
            if self.rng.bool() { self.rng.u64(1..2_000) } else { self.rng.u64(1..60_000) };
        match kind {
            16 | 17 => {
                let client = Client::Controller;
                self.kill_controller();
                // The same, the other way around.
                let only_copy = self.is_busy() && self.is_forgetful();
                if self.rng.u32(0..3) == 0 && !only_copy {
                    self.trace.line(self.now_ms, "its disk is lost");
                    self.controller_wiped();
                }
                self.after(again_ms, Happening::Start(client));
            }
            18..=20 => {
                let name = self.anybody();
                self.kill_agent(&name);
                match self.rng.u32(0..6) {
                    // What is on no disk, and was never told, is nobody's any more: not promised.
                    0 | 1 if self.is_untold(&name) => {}
                    0 => {
                        self.trace.line(self.now_ms, "its disk is lost");
                        self.agents.get_mut(&name).expect("an agent").disk.wipe();
                    }
                    1 => self.agents.get_mut(&name).expect("an agent").disk.tear(),
                    _ => {}
                }
                let agent = self.agents.get_mut(&name).expect("an agent");
                if agent.disk.is_lost() {
                    // Nothing tells it then that its clock is behind, if the broker has forgotten, too: not promised.
                    agent.wall_behind_ms = 0;
                } else if self.rng.u32(0..10) == 0 {
                    let back_ms = self.rng.u64(0..3_600_000);
                    self.agents.get_mut(&name).expect("an agent").wall_behind_ms = back_ms;
                }
                self.after(again_ms, Happening::Start(Client::Node(name)));
            }
            21 => {
                let Some(lb) = self.balancer() else { return };
                self.reload(&lb);
            }
            22 | 23 => self.by_hand(web),
            24 => {
                let number = self.rng.u32(1..=self.plot.revisions);
                self.trace.line(self.now_ms, &format!("{web} is brought to {number} by hand"));
                self.drift(web, revision(number));
            }
            _ => self.commit(web),
        }
    }

    /// A deploy command runs.
    fn is_busy(&self) -> bool {
        self.agents.values().any(|agent| agent.service.is_busy())
    }

    /// The broker does not have all that was asked.
    fn is_forgetful(&self) -> bool {
        self.published.iter().any(|(node, assignment)| {
            let topic = Topic::Assignment(node.clone(), assignment.app.clone());
            let payload = encode(assignment).expect("an assignment");
            let shown = self.broker.memory().get(&topic.on(&Self::fleet()));
            shown.is_none_or(|shown| **shown != *payload)
        })
    }

    /// A load balancer's agent whose last report the broker does not have.
    fn is_untold(&self, name: &NodeName) -> bool {
        let agent = &self.agents[name];
        let topic = Topic::Report(name.clone()).on(&Self::fleet());
        let heard = agent.link.is_some() && self.broker_up;
        agent.haproxy.is_some()
            && (!heard || self.broker.memory().get(&topic) != agent.told.as_ref())
    }

    /// What went wrong ends.
    pub fn mend(&mut self, trouble: Trouble) {
        self.trace.line(self.now_ms, &format!("over: {trouble:?}"));
        match trouble {
            Trouble::Cut(client) => self.heal_network(&client),
            Trouble::Frozen(name) => self.thaw(&name),
            Trouble::BrokerDown => self.broker_up = true,
            Trouble::Slow => self.network.slow_ms = 0,
            Trouble::HaproxyDown(lb) => {
                let haproxy = self.agents.get_mut(&lb).expect("an agent").haproxy.as_mut();
                if let Some(haproxy) = haproxy.filter(|haproxy| haproxy.down) {
                    haproxy.down = false;
                    self.reload(&lb);
                }
            }
            Trouble::Unhealthy(web) => self.healthy(&web, true),
            Trouble::Silent(web) => {
                self.agents.get_mut(&web).expect("an agent").service.silent = false
            }
            Trouble::Overloaded(web) => {
                self.agents.get_mut(&web).expect("an agent").service.plugin = Plugin::Fine;
            }
            Trouble::Bad(web) => self.agents.get_mut(&web).expect("an agent").service.bad = None,
            Trouble::FullDisk(client) => self.fill_disk(&client, false),
            Trouble::Mute(name) => self.agents.get_mut(&name).expect("an agent").mute = false,
            Trouble::Faulty => {
                if self.files.get(&self.plot.app).is_some_and(Result::is_err) {
                    let clusters = self.plot.last_good.clone();
                    self.write_files(clusters);
                }
            }
        }
    }

    fn fill_disk(&mut self, client: &Client, full: bool) {
        match client {
            Client::Controller => {
                self.controller.disk.full = full;
                self.controller.identity.full = full;
            }
            Client::Node(name) => self.agents.get_mut(name).expect("an agent").disk.full = full,
        }
    }

    /// The broker dies, and comes back with all of its memory, an old part of it, or none.
    fn kill_broker(&mut self) {
        let memory = self.broker.memory().clone();
        // An upgrade that its controller and the broker have forgotten, on a node that is not heard: not promised.
        let only_copy = self.is_busy() && !self.controller.remembers();
        let memory = match self.rng.u32(if only_copy { 0..1 } else { 0..3 }) {
            0 => memory,
            1 => {
                self.seen.insert("the broker has lost its memory");
                Default::default()
            }
            _ => {
                let mut kept = memory;
                kept.retain(|_, _| self.rng.bool());
                kept
            }
        };
        self.broker_up = false;
        self.receipts_lost(&Client::Controller, self.now_ms);
        for (client, link) in self.broker.restart(memory) {
            let ms = self.rng.u64(0..20);
            self.after(ms, Happening::Lost { client, link });
        }
    }

    pub fn reload(&mut self, lb: &NodeName) {
        let haproxy = self.agents.get_mut(lb).expect("an agent").haproxy.as_mut().expect("one");
        haproxy.reload();
        self.trace.line(self.now_ms, &format!("{lb} is reloaded"));
        self.tell_servers(lb, By::Reload);
    }

    /// Somebody sets a server to maintenance or drain, or ready.
    fn by_hand(&mut self, web: &NodeName) {
        let Some(lb) = self.balancer() else { return };
        if self.agents[&lb].haproxy.as_ref().is_some_and(|haproxy| haproxy.down) {
            return; // nor can they
        }
        let bits = [0, 1, 8][self.rng.usize(0..3)];
        self.set_by_hand(&lb, web, bits);
    }

    pub fn set_by_hand(&mut self, lb: &NodeName, web: &NodeName, bits: u8) {
        let agent = self.agents.get_mut(lb).expect("an agent");
        let name = ServerName::new(web.as_str()).expect("a name");
        let haproxy = agent.haproxy.as_mut().expect("a HAProxy");
        let server = haproxy.servers.get_mut(&name).expect("a server");
        let looks = agent.core.is_some() && agent.frozen.is_none();
        let again = agent.unseen.get(&name).is_some_and(|(before, at_ms)| {
            before.is_forced_maintenance() && (self.now_ms - at_ms < LOOK_MS || !looks)
        });
        if again && server.admin.is_drain() && bits & AdminBits::FORCED_MAINTENANCE != 0 {
            return; // it would look as if the first had never been lifted, which is not promised to be seen
        }
        // What the configuration says stays.
        let bits = AdminBits(server.admin.0 & AdminBits::CONFIGURED | bits);
        let before = server.admin;
        server.administer(bits);
        agent.unseen.entry(name).or_insert((before, self.now_ms));
        self.trace.line(self.now_ms, &format!("{web} at {lb} is set to {} by hand", bits.0));
        self.tell_servers(lb, By::Hand);
    }

    /// What a hand sets between an agent's look and its command, which is not promised to last, is as if it had not been.
    pub fn pass_over_unseen(&mut self, lb: &NodeName, commands: &[SetServer]) {
        let agent = self.agents.get_mut(lb).expect("an agent");
        let haproxy = agent.haproxy.as_mut().expect("a HAProxy");
        for SetServer { server, .. } in commands {
            let Some((before, at_ms)) = agent.unseen.remove(server) else { continue };
            if self.now_ms - at_ms < BLIND_MS {
                // What it has lifted is lifted either way.
                let configured = AdminBits(before.0 & AdminBits::CONFIGURED);
                let before = if before.is_out() { configured } else { before };
                haproxy.servers.get_mut(server).expect("a server").administer(before);
                self.trace.line(self.now_ms, &format!("{server} at {lb}: nobody saw that hand"));
            }
        }
        self.tell_servers(lb, By::Hand);
    }

    /// Somebody commits.
    fn commit(&mut self, web: &NodeName) {
        let mut clusters = self.plot.last_good.clone();
        let names: Vec<ClusterName> = clusters.keys().cloned().collect();
        let name = names[self.rng.usize(..names.len())].clone();
        let settings = clusters.get_mut(&name).expect("a cluster");
        match self.rng.u32(0..10) {
            0..=4 => {
                self.plot.revisions += 1;
                let back = self.rng.u32(0..4) == 0;
                let last = self.plot.revisions;
                let number = if back { self.rng.u32(1..=last) } else { last };
                let both = self.rng.bool();
                for (of, settings) in &mut clusters {
                    if both || *of == name {
                        settings.revision = revision(number);
                    }
                }
            }
            5 => settings.retry = self.rng.u32(0..9).to_string(),
            6 => settings.paused = !settings.paused,
            7 => {
                if !settings.hold.remove(web) {
                    settings.hold.insert(web.clone());
                }
            }
            8 => {
                let vanishes = self.rng.bool();
                if vanishes {
                    clusters.remove(&name);
                }
            }
            _ => {
                let batch = Share::Count(self.rng.u32(1..=3));
                let percent = Share::Percent(self.rng.u32(0..=70));
                let tries = self.rng.u32(1..=3);
                let (max_failed, max_missing) = (self.rng.u32(0..=1), self.rng.u32(0..=1));
                for settings in clusters.values_mut() {
                    settings.rollout.batch = batch;
                    settings.rollout.tries = tries;
                    settings.rollout.max_failed = max_failed;
                    settings.rollout.max_missing = max_missing;
                    if let Some(balancing) = &mut settings.load_balancer {
                        balancing.min_ready = percent;
                    }
                }
            }
        }
        self.trace.line(self.now_ms, &format!("commit in {name}"));
        self.write_files(clusters);
    }

    /// The files are as they should be, and say this.
    pub fn write_files(
        &mut self,
        clusters: std::collections::BTreeMap<ClusterName, DesiredCluster>,
    ) {
        self.plot.last_good.extend(clusters.clone());
        let app = self.plot.app.clone();
        let desired = DesiredApp { name: app.clone(), clusters, commit: None };
        self.files.insert(app, Ok(desired));
        self.files_changed();
    }

    pub fn files_changed(&mut self) {
        let ms = self.rng.u64(1..60);
        let life = self.controller.life;
        self.after(ms, Happening::Read { life });
    }

    /// Everything that can be mended is, at once.
    pub fn end_trouble(&mut self) {
        self.troubled = false;
        self.trace.line(self.now_ms, "the trouble ends");
        self.network.slow_ms = 0;
        self.broker_up = true;
        self.fill_disk(&Client::Controller, false);
        let cut: Vec<Client> = self.network.cut.keys().cloned().collect();
        for client in cut {
            self.heal_network(&client);
        }
        let names: Vec<NodeName> = self.agents.keys().cloned().collect();
        for name in &names {
            self.thaw(name);
            let agent = self.agents.get_mut(name).expect("an agent");
            agent.disk.full = false;
            agent.mute = false;
            agent.service.silent = false;
            agent.service.plugin = Plugin::Fine;
            agent.service.bad = None;
            if agent.haproxy.as_ref().is_some_and(|haproxy| haproxy.down) {
                self.mend(Trouble::HaproxyDown(name.clone()));
            }
            if matches!(self.plot.nodes[name], crate::plot::Role::Web { .. }) {
                self.healthy(name, true);
            }
            self.after(1, Happening::Start(Client::Node(name.clone())));
        }
        self.after(1, Happening::Start(Client::Controller));
    }

    /// Nobody's hand keeps a server out any more; what we keep out, we put back ourselves. Says whether there was any.
    pub fn lift_by_hand(&mut self, but: Option<&NodeName>) -> bool {
        let lbs: Vec<NodeName> = self.plot.balancers().cloned().collect();
        let webs: Vec<NodeName> = self.plot.webs().cloned().collect();
        let mut lifted = false;
        for lb in &lbs {
            for web in webs.iter().filter(|web| Some(*web) != but) {
                let server = ServerName::new(web.as_str()).expect("a name");
                let haproxy = self.agents[lb].haproxy.as_ref().expect("one");
                let is_clear = haproxy.servers[&server].admin.is_clear();
                if is_clear || self.holds(lb, web) {
                    continue;
                }
                // What its agent does not know for ours, nobody would ever put back.
                if self.checker.is_ours(lb, &self.plot.backend, &server)
                    && !self.disowned.contains(lb)
                {
                    self.stranded.insert((lb.clone(), web.clone()));
                    continue;
                }
                self.set_by_hand(lb, web, 0);
                lifted = true;
            }
        }
        lifted
    }

    /// A load balancer's agent knows a maintenance to be its own.
    pub fn holds(&self, lb: &NodeName, web: &NodeName) -> bool {
        let server = ServerName::new(web.as_str()).expect("a name");
        let memory = self.agents[lb].disk.read::<evenkeel::agent::core::Memory>();
        memory.is_some_and(|m| m.owned.values().any(|servers| servers.contains_key(&server)))
    }
}
