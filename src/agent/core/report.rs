//! When to say what: the report goes out when its content has changed, when somebody asks, and as a heartbeat.
//!
//! Some of its content changes all the time, and says nothing new by it; that is left out of the comparison.

use super::Setup;
use crate::model::{
    BackendSeen, Mono, Now, Obeyed, Order, Report, ServerReport, SettleReport, Wall,
};

/// Those who come are answered together, this long after the last report: when a broker comes back, a
/// thousand nodes do within seconds, and a load balancer's report is large.
const TOGETHER_MS: u64 = 1_000;

/// Keeps count of what was said.
#[derive(Debug, Clone)]
pub(super) struct Speaker {
    sequence: u64,
    /// What was last said on this connection, without what changes all the time.
    said: Option<Report>,
    /// Somebody asks for a report though nothing has changed.
    asked: bool,
    heartbeat_at: Mono,
    said_at: Option<Mono>,
    /// A report is due then, for somebody who has come.
    soon_at: Option<Mono>,
    jitter: fastrand::Rng,
}

impl Speaker {
    pub(super) fn new(seed: u64) -> Speaker {
        Speaker {
            sequence: 0,
            said: None,
            asked: false,
            heartbeat_at: Mono(0),
            said_at: None,
            soon_at: None,
            jitter: fastrand::Rng::with_seed(seed),
        }
    }

    /// A report is due, whatever its content.
    pub(super) fn ask(&mut self) {
        self.asked = true;
    }

    /// A report is due, at once or shortly, unless another one comes before.
    pub(super) fn ask_soon(&mut self, now: Mono) {
        let at = self.said_at.map_or(now, |said| said.plus_ms(TOGETHER_MS).max(now));
        self.soon_at.get_or_insert(at);
    }

    /// A report is due even if nothing has happened.
    pub(super) fn is_due(&self, now: Mono) -> bool {
        self.asked || now >= self.next_wake()
    }

    /// When a report is due.
    pub(super) fn next_wake(&self) -> Mono {
        self.soon_at.map_or(self.heartbeat_at, |soon| soon.min(self.heartbeat_at))
    }

    /// `report`, numbered and dated, if it is to be published.
    pub(super) fn say(&mut self, setup: &Setup, now: Now, mut report: Report) -> Option<Report> {
        let essence = essence(&report);
        let due = self.is_due(now.mono) || self.said.as_ref() != Some(&essence);
        if !due {
            return None;
        }
        self.said = Some(essence);
        self.asked = false;
        self.soon_at = None;
        self.said_at = Some(now.mono);
        // Within 10 % of the interval, so that a fleet that was started together drifts apart.
        let spread = setup.heartbeat_ms / 5;
        let interval_ms = setup.heartbeat_ms - spread / 2 + self.jitter.u64(0..=spread);
        self.heartbeat_at = now.mono.plus_ms(interval_ms);
        self.sequence += 1;
        report.sequence = self.sequence;
        report.at = now.wall;
        Some(report)
    }
}

/// The report without what changes all the time.
fn essence(report: &Report) -> Report {
    let mut essence = report.clone();
    essence.sequence = 0;
    essence.at = Wall(0);
    for app in essence.apps.values_mut() {
        if let Some(settle) = &mut app.settle {
            quiet_settle(settle);
        }
    }
    let Report { balancer, assignments, .. } = &mut essence;
    for (backend, seen) in balancer.iter_mut().flat_map(|balancer| &mut balancer.backends) {
        match seen {
            BackendSeen::Servers(servers) => {
                for (name, server) in servers {
                    let ordered_out = assignments.values().any(|obeyed: &Obeyed| {
                        let work = obeyed.assignment.balance.get(backend);
                        work.and_then(|work| work.servers.get(name)) == Some(&Order::Out)
                    });
                    quiet_server(server, ordered_out);
                }
            }
            BackendSeen::Unknown(_) => {}
        }
    }
    essence
}

/// Texts and times differ from run to run; verdicts are news.
fn quiet_settle(settle: &mut SettleReport) {
    settle.ok_for_ms = 0;
    for result in settle.results.values_mut() {
        result.text.clear();
        result.performance.clear();
        result.took_ms = 0;
    }
}

/// Sessions come and go; the last one of a server that is ordered out is news.
fn quiet_server(server: &mut ServerReport, ordered_out: bool) {
    server.steady_for_ms = 0;
    server.seen.sessions = if ordered_out { server.seen.sessions.min(1) } else { 0 };
}
