//! Who commands: one controller per app, fenced by epochs.
//!
//! A lone controller claims the highest number that anything shows, plus one. It first makes sure
//! that no other one is alive: a retained document proves nothing, so one that says "alive" is
//! given the time of two signs of life to show that it means it.

use std::collections::BTreeMap;

use crate::model::{
    AppName, Boot, ControllerAlive, ControllerId, Epoch, EventKind, Leader, Mono, Now,
};

use super::records::Because;
use super::{Bus, Core, Effect, Publication, publish};

/// How often a leader shows that it lives, in milliseconds. Short, because it is what a restarted
/// controller waits for when a broker has kept a dead one's last word; cheap, because it is one small message.
const SIGN_OF_LIFE_MS: u64 = 2_000;

/// How long a foreign leader that is said to be alive may take to show it: two signs, and some delay.
const PROOF_MS: u64 = 5_000;

/// Other controllers, and what is known of epochs.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    /// Ourselves.
    id: ControllerId,
    /// The highest epoch that anything has shown, per app.
    highest: BTreeMap<AppName, Epoch>,
    /// The highest number that somebody else has claimed, per app. An agent keeps to the first
    /// controller of a number, so that even an equal one is in our way.
    rivals: BTreeMap<AppName, u64>,
    /// Foreign controllers that are said to be alive.
    foreign: BTreeMap<ControllerId, Foreign>,
    /// Who said last that it leads, per app.
    leaders: BTreeMap<AppName, Leader>,
    /// When the next sign of life is due.
    sign_at: Option<Mono>,
    /// When the wait for a foreign leader's proof of life ends.
    proof_at: Option<Mono>,
}

#[derive(Debug, Clone, Copy)]
struct Foreign {
    boot: Boot,
    /// Since when we wait for a live sign.
    since: Mono,
    heard_live: bool,
}

impl Peers {
    pub fn new(id: ControllerId) -> Self {
        Self {
            id,
            highest: BTreeMap::new(),
            rivals: BTreeMap::new(),
            foreign: BTreeMap::new(),
            leaders: BTreeMap::new(),
            sign_at: None,
            proof_at: None,
        }
    }

    /// What was heard on an earlier connection proves nothing of who is alive now.
    pub fn connected(&mut self) {
        self.foreign.clear();
    }

    pub fn saw_epoch(&mut self, app: &AppName, epoch: &Epoch) {
        if epoch.controller != self.id {
            let rival = self.rivals.entry(app.clone()).or_default();
            *rival = epoch.number.max(*rival);
        }
        match self.highest.get_mut(app) {
            Some(highest) if *highest >= *epoch => {}
            Some(highest) => *highest = epoch.clone(),
            None => drop(self.highest.insert(app.clone(), epoch.clone())),
        }
    }

    pub fn due(&self) -> Option<Mono> {
        super::earliest(self.sign_at, self.proof_at)
    }
}

impl Core {
    pub(super) fn heard_leader(
        &mut self,
        _now: Now,
        leader: Leader,
        retained: bool,
    ) -> Vec<Effect> {
        self.peers.saw_epoch(&leader.app, &leader.epoch);
        let ours = self.apps.get(&leader.app).and_then(|app| app.epoch.as_ref());
        let mine = leader.epoch.controller == self.setup.id;
        if let Some(ours) = ours
            && !mine
            && !retained
            && leader.epoch > *ours
        {
            let reason = format!(
                "controller {} leads {} with epoch {}, above our {}; run one controller only, or give each its own fleet",
                leader.epoch.controller, leader.app, leader.epoch.number, ours.number
            );
            return vec![Effect::Resign { reason }];
        }
        let newer =
            self.peers.leaders.get(&leader.app).is_none_or(|known| known.epoch <= leader.epoch);
        if newer {
            self.peers.leaders.insert(leader.app.clone(), leader);
        }
        Vec::new()
    }

    pub(super) fn heard_controller(
        &mut self,
        now: Now,
        alive: &ControllerAlive,
        retained: bool,
    ) -> Vec<Effect> {
        if alive.controller == self.setup.id {
            // Our own last will, published late, must not be the last word.
            let mine = Boot { started: self.setup.started, connection: u64::MAX };
            if let (false, Bus::Live(connection)) = (alive.alive, self.bus)
                && alive.boot <= mine
            {
                return vec![publish(Publication::Controller(self.alive(connection)))];
            }
            return Vec::new();
        }
        let known = self.peers.foreign.get(&alive.controller);
        if known.is_some_and(|known| known.boot > alive.boot) {
            return Vec::new();
        }
        if !alive.alive {
            self.peers.foreign.remove(&alive.controller);
            return Vec::new();
        }
        let heard_live = !retained || known.is_some_and(|k| k.heard_live && k.boot == alive.boot);
        let since = known.map_or(now.mono, |known| known.since);
        let foreign = Foreign { boot: alive.boot, since, heard_live };
        self.peers.foreign.insert(alive.controller.clone(), foreign);
        Vec::new()
    }

    /// The list is complete: agents are greeted by every app that is led already.
    pub(super) fn greet(&mut self, now: Now) -> Vec<Effect> {
        self.peers.sign_at = Some(now.mono.plus_ms(SIGN_OF_LIFE_MS));
        let Bus::Live(connection) = self.bus else { return Vec::new() };
        let boot = Boot { started: self.setup.started, connection };
        self.apps
            .iter()
            // Whoever has been overtaken while it was away must not speak over the new leader.
            .filter(|(name, _)| self.leads(name))
            .filter_map(|(name, app)| {
                let epoch = app.epoch.clone()?;
                Some(publish(Publication::Leader(Leader { app: name.clone(), epoch, boot })))
            })
            .collect()
    }

    /// Shows that it lives, and claims the apps that it should lead and may.
    pub(super) fn lead(&mut self, now: Now) -> Vec<Effect> {
        let Bus::Live(connection) = self.bus else { return Vec::new() };
        let mut effects = Vec::new();
        if self.peers.sign_at.is_some_and(|at| at <= now.mono) {
            effects.push(publish(Publication::Controller(self.alive(connection))));
            self.peers.sign_at = Some(now.mono.plus_ms(SIGN_OF_LIFE_MS));
        }
        self.peers.proof_at = None;
        if !self.desired_read {
            return effects;
        }
        let names: Vec<AppName> = self.apps.keys().cloned().collect();
        for name in names {
            if self.leads(&name) {
                continue;
            }
            match self.foreign_leader(now, &name) {
                Some(Standing::Alive(other)) => {
                    let reason = format!(
                        "controller {other} leads {name} already, and is alive; run one controller only, or give each its own fleet"
                    );
                    effects.push(Effect::Resign { reason });
                    return effects;
                }
                Some(Standing::Unproven(until)) => {
                    self.peers.proof_at = super::earliest(self.peers.proof_at, Some(until));
                }
                None => effects.extend(self.claim(now, &name, connection)),
            }
        }
        effects
    }

    /// It has claimed the app, and nothing higher has been seen since, nor anybody else's claim to
    /// the same number.
    pub(super) fn leads(&self, app: &AppName) -> bool {
        let ours = self.apps.get(app).and_then(|a| a.epoch.as_ref());
        ours.is_some_and(|ours| {
            self.peers.highest.get(app).is_none_or(|highest| highest <= ours)
                && self.peers.rivals.get(app).is_none_or(|rival| *rival < ours.number)
        })
    }

    fn foreign_leader(&self, now: Now, app: &AppName) -> Option<Standing> {
        let leader = self.peers.leaders.get(app)?;
        let foreign = self.peers.foreign.get(&leader.epoch.controller)?;
        let proof_until = foreign.since.plus_ms(PROOF_MS);
        if foreign.heard_live {
            Some(Standing::Alive(leader.epoch.controller.clone()))
        } else if now.mono < proof_until {
            Some(Standing::Unproven(proof_until))
        } else {
            None
        }
    }

    fn claim(&mut self, now: Now, name: &AppName, connection: u64) -> Vec<Effect> {
        let highest = self.peers.highest.get(name).map_or(0, |epoch| epoch.number);
        let Some(app) = self.apps.get_mut(name) else { return Vec::new() };
        let number = highest.max(app.epoch_number_kept()) + 1;
        let epoch = Epoch { number, controller: self.setup.id.clone() };
        app.epoch = Some(epoch.clone());
        app.ledgers.values().for_each(|ledger| self.post.inherit(now.mono, ledger));
        self.peers.saw_epoch(name, &epoch);
        let boot = Boot { started: self.setup.started, connection };
        let leader = Leader { app: name.clone(), epoch, boot };
        let because = Because {
            cause: format!("the highest epoch that was seen is {highest}"),
            before: (highest > 0).then(|| highest.to_string()),
            after: Some(number.to_string()),
            rollout: None,
        };
        let kind = EventKind::LeadershipClaimed { epoch: number };
        let log = self.tell(now, name, None, None, kind, because);
        vec![publish(Publication::Leader(leader)), log]
    }
}

enum Standing {
    Alive(ControllerId),
    Unproven(Mono),
}
