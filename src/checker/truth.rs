//! What was done, judged by what was true: invariants 1, 4 and 6, and, of what was done, 3 and 10.

use super::known::{Server, Spot, Tried};
use super::{By, Checker, Invariant};
use crate::model::{AdminBits, BackendName, NodeName, Order, ServerName, ServerSeen};

impl Checker {
    /// A server came to be as `seen`.
    pub(super) fn server(
        &mut self,
        lb: &NodeName,
        backend: &BackendName,
        name: &ServerName,
        seen: &ServerSeen,
        by: By,
    ) {
        let spot: Spot = (lb.clone(), backend.clone(), name.clone());
        let before = self.known.servers.get(&spot).cloned();
        let ours = self.ownership(&spot, before.as_ref(), seen, by);
        // Whose doing the administrative state is; health comes and goes by itself.
        let same = before.as_ref().filter(|before| before.seen.admin == seen.admin);
        let by_a_hand = by == By::Hand && seen.admin.is_forced_maintenance();
        let once_ours = before.as_ref().and_then(|before| before.once_ours);
        let once_ours = if by_a_hand { ours } else { ours.or(once_ours) };
        let by_whom = same.map_or(by, |before| before.by);
        // What is said to be done is in the state file, where that can be written, and outlasts a reload.
        let is_kept = by == By::Reload && !seen.admin.is_out() && self.keeps(lb);
        let by_whom = if is_kept { By::Us } else { by_whom };
        // What a reload has lost of theirs, we may set again in their place, unless it is asked out anew.
        let lost = |before: &Server| match by {
            By::Reload => {
                let was_theirs = before.ours.is_none() && before.seen.admin.is_forced_maintenance();
                was_theirs || before.for_them
            }
            By::Us => {
                let anew = self.known.taking_out.contains(&spot);
                before.for_them && seen.admin.is_out() && !anew
            }
            By::Itself => before.for_them,
            // Who sets it anew wants what they had wanted.
            By::Hand => before.for_them && seen.admin.is_forced_maintenance(),
        };
        let for_them = before.as_ref().is_some_and(lost);
        let now = Server { seen: seen.clone(), by: by_whom, ours, once_ours, for_them };
        self.known.servers.insert(spot.clone(), now);
        let node = self.known.node_of(backend, name);
        let was_out = before.as_ref().is_some_and(|b| b.seen.admin.is_out());
        let was_ready = before.as_ref().is_some_and(|b| b.seen.is_ready());
        // What is only said again, after a reload or a hand, is no new taking out.
        let asked = self.known.taking_out.contains(&spot);
        let ours_to_do = by == By::Us && asked;
        if ours_to_do && was_ready && !seen.is_ready() {
            self.floor(&spot);
        }
        // A hand may have been quicker.
        let taken = asked && !was_out && seen.admin.is_out();
        let Some(node) = node else { return };
        if taken {
            self.known.taking_out.remove(&spot);
            self.known.touch(&node);
        }
        if by == By::Us
            && was_out
            && !seen.admin.is_out()
            && self.known.upgrading.contains_key(&node)
        {
            let happened = format!("{name} was put back at {lb}");
            let forbidden_by = "an upgrade was running on it";
            self.breach(Invariant::UpgradedOnlyWhileOut, &node, happened, forbidden_by);
        }
    }

    /// A load balancer has said that it has done what it was asked last, and that a reload keeps it.
    fn keeps(&self, lb: &NodeName) -> bool {
        let report = self.known.heard.get(lb).and_then(|report| report.balancer.as_ref());
        report.is_some_and(|balancer| balancer.state_file) && self.has_done(lb)
    }

    /// Whether the maintenance is ours from now on, with what was there before; judges what we lift.
    fn ownership(
        &mut self,
        spot: &Spot,
        before: Option<&Server>,
        seen: &ServerSeen,
        by: By,
    ) -> Option<AdminBits> {
        let (lb, backend, name) = spot;
        let admin = before.map_or(AdminBits(0), |before| before.seen.admin);
        let forced = |bits: AdminBits| bits.is_forced_maintenance();
        let configured = |bits: AdminBits| bits.0 & AdminBits::CONFIGURED != 0;
        // What a hand or a reload has lifted is ours for as long as it is asked out.
        let asked_out = self.known.order(lb, backend, name) == Some(Order::Out);
        let lasts = forced(admin) || admin.is_drain() || asked_out;
        let ours = before.and_then(|before| before.ours).filter(|_| lasts);
        if admin == seen.admin {
            return ours;
        }
        match by {
            By::Us if !forced(admin) && forced(seen.admin) => return Some(ours.unwrap_or(admin)),
            // Sessions end first: a drain on the way to maintenance.
            By::Us if !forced(admin) && !admin.is_drain() && seen.admin.is_drain() => {
                return Some(ours.unwrap_or(admin));
            }
            By::Us => {}
            // A hand that changes what we keep out wants what it has set, but its maintenance looks
            // as ours does.
            By::Hand if forced(seen.admin) => return ours,
            // Where nothing is to be kept out any more, it is the last word.
            By::Hand => return ours.filter(|_| asked_out).map(|_| seen.admin),
            // A state file may be older than the end of our maintenance. What the configuration disables is nobody's.
            By::Reload if ours.is_none() && forced(seen.admin) && !configured(seen.admin) => {
                return before.and_then(|before| before.once_ours);
            }
            // A reload without the state file loses what somebody had set, and nobody may have seen that.
            By::Reload => return ours.map(|kept| if forced(kept) { kept } else { AdminBits(0) }),
            By::Itself => return ours,
        }
        let node = self.known.node_of(&spot.1, name).unwrap_or_else(|| lb.clone());
        let happened = format!("{name} was brought from {} to {} at {lb}", admin.0, seen.admin.0);
        match ours {
            None => {
                let forbidden_by = "we had not taken it out";
                self.breach(Invariant::ForeignKept, &node, happened, forbidden_by);
            }
            Some(kept) => {
                let lifted = forced(kept) && !forced(seen.admin);
                let lost = kept.is_drain() && !seen.admin.is_out() && !seen.admin.is_drain();
                if lifted || lost {
                    let forbidden_by = format!("its bits before that were {}", kept.0);
                    self.breach(Invariant::ForeignKept, &node, happened, forbidden_by);
                }
            }
        }
        None
    }

    /// A ready server was taken out: what is left is the floor, or more, but for what others took since the
    /// order was given.
    fn floor(&mut self, spot: &Spot) {
        let (lb, backend, name) = spot;
        let place = (backend.clone(), name.clone());
        let Some((floor, basis)) = self.known.asked.get(lb).and_then(|a| a.basis.get(&place))
        else {
            return; // repeated after a restart, a reload, or a hand: nothing new is taken
        };
        let lost_otherwise = |server: &&ServerName| {
            let spot = (lb.clone(), backend.clone(), (*server).clone());
            let asked_out = self.known.order(lb, backend, server) == Some(Order::Out);
            !asked_out && self.known.servers.get(&spot).is_some_and(|s| !s.seen.is_ready())
        };
        let lost = basis.iter().filter(lost_otherwise).count();
        let (floor, ready) = (*floor, self.known.ready(lb, backend));
        if ready + lost < floor {
            let node = self.known.node_of(backend, name).unwrap_or_else(|| lb.clone());
            let happened = format!("{name} was taken out, and {lb} has {ready} ready servers left");
            let forbidden_by = format!("the floor is {floor}, and others took {lost}");
            self.breach(Invariant::FloorKept, &node, happened, forbidden_by);
        }
    }

    pub(super) fn upgrade_started(&mut self, node: &NodeName, tried: Tried, attempt: u32) {
        let happened = format!("attempt {attempt} to bring {} started", tried.1);
        self.started_out(node, &happened);
        let clock = self.known.tick();
        self.known.services.entry(node.clone()).or_default().touched = clock;
        let made = self.known.tries(node, &tried);
        let tries = self.known.tries_allowed(node);
        if made > tries || attempt > tries {
            let forbidden_by = format!("it is the {made}. one, and {tries} are allowed");
            self.breach(Invariant::TriesBounded, node, &happened, forbidden_by);
        }
        if let Some(running) = self.known.upgrading.insert(node.clone(), tried) {
            let forbidden_by = format!("one to bring {} was running", running.1);
            self.breach(Invariant::BatchKept, node, &happened, forbidden_by);
        }
        let batch = self.known.batch_under_way();
        let running = self.known.upgrading.len();
        if running > batch {
            let forbidden_by = format!("{running} are running then, and the batch is {batch}");
            self.breach(Invariant::BatchKept, node, &happened, forbidden_by);
        }
    }

    /// Its server is out at every load balancer that has it, in truth, and is asked to be.
    fn started_out(&mut self, node: &NodeName, happened: &str) {
        let Some((_, backend, name)) = self.known.server_of(node) else { return };
        let mut found = Vec::new();
        for (spot @ (lb, of, server), truth) in &self.known.servers {
            if *of != backend || *server != name {
                continue;
            }
            let ours_to_answer_for = match truth.by {
                // Somebody else has lifted it a moment ago, and nobody can know it yet; if it was out at all.
                By::Hand | By::Reload => self.known.taking_out.contains(spot),
                By::Us | By::Itself => true,
            };
            if !truth.seen.admin.is_out() && ours_to_answer_for {
                found.push(format!("{lb} has it with the bits {}", truth.seen.admin.0));
            } else if self.known.order(lb, &backend, &name) != Some(Order::Out) {
                found.push(format!("it is not asked out at {lb} any more"));
            }
        }
        for forbidden_by in found {
            self.breach(Invariant::UpgradedOnlyWhileOut, node, happened, forbidden_by);
        }
    }
}
