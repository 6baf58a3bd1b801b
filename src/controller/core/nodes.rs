//! What is known of each node: what it last said, and whether it is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Alive, AppName, Boot, Mono, NodeName, Now, Presence, Report};
use crate::plan::Observed;

use super::records::of_presence;
use super::{Core, Effect, SILENT_MS};

/// One node, as heard.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// What it last said.
    pub report: Option<Arc<Report>>,
    /// When that arrived.
    report_at: Mono,
    /// When it was last heard live.
    heard_at: Option<Mono>,
    /// The life that is known to have ended.
    departed: Option<Boot>,
    /// Until when two live agents are taken to use the name.
    duplicate_until: Option<Mono>,
}

impl Node {
    /// Whether it is there.
    pub fn presence(&self, now: Mono) -> Presence {
        if self.duplicate_until.is_some_and(|until| now < until) {
            return Presence::Duplicate;
        }
        let Some(report) = &self.report else { return Presence::Unknown };
        if self.departed.is_some_and(|boot| boot >= report.boot) {
            return Presence::Departed;
        }
        match self.heard_at {
            Some(at) if now.since_ms(at) <= SILENT_MS => Presence::Present,
            Some(_) | None => Presence::Unknown,
        }
    }

    /// Nothing is heard of it until it speaks again.
    pub fn unheard(&mut self) {
        self.heard_at = None;
    }

    /// What the planner is told of it.
    pub fn observed(&self, now: Mono) -> Observed {
        Observed {
            presence: self.presence(now),
            report: self.report.clone(),
            report_age_ms: now.since_ms(self.report_at),
        }
    }

    /// When its presence changes though nothing is heard.
    pub fn silent_at(&self, now: Mono) -> Option<Mono> {
        let silent = self.heard_at.map(|at| at.plus_ms(SILENT_MS + 1));
        super::earliest(silent, self.duplicate_until).filter(|at| *at > now)
    }

    /// It has gone, or is not heard: a broker that has died with it has published no will.
    pub fn can_be_forgotten(&self, now: Mono) -> bool {
        match self.presence(now) {
            Presence::Departed | Presence::Unknown => true,
            Presence::Present | Presence::Duplicate => false,
        }
    }

    /// What it obeys of an app.
    fn obeyed(&self, app: &AppName) -> Option<&crate::model::Obeyed> {
        self.report.as_ref()?.assignments.get(app)
    }
}

impl Core {
    /// What the planner is told of all nodes.
    pub fn observed(&self, now: Mono) -> BTreeMap<NodeName, Observed> {
        self.nodes.iter().map(|(name, node)| (name.clone(), node.observed(now))).collect()
    }

    pub(super) fn heard_alive(&mut self, _now: Now, alive: &Alive) -> Vec<Effect> {
        let node = self.nodes.entry(alive.node.clone()).or_default();
        if !alive.alive {
            node.departed = node.departed.max(Some(alive.boot));
        } else if node.departed.is_some_and(|boot| boot <= alive.boot) {
            // The same boot, too: an agent that sees itself departed speaks up again.
            node.departed = None;
        }
        Vec::new()
    }

    pub(super) fn heard_report(&mut self, now: Now, report: Report, retained: bool) -> Vec<Effect> {
        let name = report.node.clone();
        let node = self.nodes.entry(name.clone()).or_default();
        let before = node.presence(now.mono);
        if let Some(known) = &node.report {
            let order = |r: &Report| (r.boot.started, r.sequence);
            if report.boot.started < known.boot.started && !retained {
                // A life that was followed by another one speaks: two agents use the name.
                node.duplicate_until = Some(now.mono.plus_ms(SILENT_MS));
            }
            if order(&report) < order(known) {
                return Vec::new();
            }
        }
        if !retained {
            node.heard_at = Some(now.mono);
        }
        node.report_at = now.mono;
        node.report = Some(Arc::new(report));
        self.adopt_obeyed(now, &name);
        let after = self.nodes[&name].presence(now.mono);
        if before == after {
            return Vec::new();
        }
        self.presence_events(now, &name, before, after)
    }

    /// Agents carry what was asked of them; whatever is newer than our own memory is taken over.
    fn adopt_obeyed(&mut self, now: Now, name: &NodeName) {
        let Some(report) = self.nodes.get(name).and_then(|node| node.report.clone()) else {
            return;
        };
        for (app, epoch) in &report.epochs {
            self.peers.saw_epoch(app, epoch);
        }
        for (app, obeyed) in &report.assignments {
            self.peers.saw_epoch(app, &obeyed.assignment.stamp.epoch);
            if let Some(refusal) = &obeyed.refusal
                && let crate::model::RefusalReason::StaleEpoch { known } = &refusal.reason
            {
                self.peers.saw_epoch(app, known);
            }
            let asked = self.apps.get(app).and_then(|a| a.assigned.get(name));
            let current = asked.is_some_and(|a| a.assignment.stamp >= obeyed.assignment.stamp);
            let foreign = asked.is_some_and(|a| a.foreign && a.assignment == obeyed.assignment);
            // A node speaks for itself alone. What it obeys is as good as if we had signed it.
            let own = obeyed.assignment.node == *name && obeyed.assignment.app == *app;
            if (foreign || !current) && own {
                self.adopt(now, &obeyed.assignment, true);
            }
            if foreign {
                self.shown_assignment(now, name, app, false);
            }
        }
    }

    fn presence_events(
        &mut self,
        now: Now,
        name: &NodeName,
        before: Presence,
        presence: Presence,
    ) -> Vec<Effect> {
        let node = &self.nodes[name];
        let concerns = |app: &&AppName| {
            node.obeyed(app).is_some()
                || node.report.as_ref().is_some_and(|r| r.apps.contains_key(*app))
        };
        let apps: Vec<AppName> = self.apps.keys().filter(concerns).cloned().collect();
        apps.iter()
            .map(|app| {
                let kind =
                    crate::model::EventKind::PresenceChanged { presence: presence.to_string() };
                let because = of_presence(before, presence);
                self.tell(now, app, None, Some(name.clone()), kind, because)
            })
            .collect()
    }
}
