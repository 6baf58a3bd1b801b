//! The story: the fleet is at its first revision, a commit for each cluster, and what came of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::api::{Api, Follower};
use super::fleet::{Fleet, FleetError};
use super::load;
use super::progress::{Marks, Progress};
use super::receiver::{Received, Receiver};
use super::site::{APP, FIRST_REVISION, cluster_file};
use super::summary::{Phases, Requests, Rollout, Summary};
use super::{DemoError, Options, Teller};
use crate::controller::view::{ClusterView, View};
use crate::model::{Cause, Event, EventKind, Wall};
use crate::plan::Phase;

/// A rollout takes a second; the checks alone may take 100 s where a machine is not well.
const CONVERGE_MAX: Duration = Duration::from_secs(240);

/// A message follows its convergence in milliseconds; a notification server that is stuck is
/// passed over after 20 s.
const MESSAGE_MAX: Duration = Duration::from_secs(60);

/// Between two looks at the controller. The times come from its events and from the bus, so that
/// this need not be short, and burdens nobody.
const LOOK: Duration = Duration::from_millis(50);

/// The parts that play in it.
pub(super) struct Story<'a> {
    pub(super) options: &'a Options,
    pub(super) teller: &'a Teller,
    pub(super) fleet: &'a Fleet,
    pub(super) api: &'a Api,
    pub(super) receiver: &'a Receiver,
    pub(super) follower: &'a Follower,
    pub(super) clusters: &'a [(String, Vec<String>)],
}

impl Story<'_> {
    /// Tells it to its end.
    pub(super) async fn tell(&self) -> Result<Vec<Rollout>, DemoError> {
        let nodes: usize = self.clusters.iter().map(|(_, nodes)| nodes.len()).sum();
        self.teller.line(&format!(
            "{nodes} web servers, a load balancer, 2 notification servers, a controller, {} requests/s",
            load::RATE
        ));
        for (cluster, _) in self.clusters {
            self.converged(cluster, FIRST_REVISION).await?;
        }
        self.teller.line(&format!("All run revision {FIRST_REVISION}."));
        let mut rollouts = Vec::new();
        for number in 0..=self.options.rounds {
            let revision = (number + 2).to_string();
            self.fleet.publish(&revision)?;
            for (cluster, nodes) in self.clusters {
                rollouts.push(self.roll_out(cluster, nodes, &revision).await?);
            }
        }
        Ok(rollouts)
    }

    async fn roll_out(
        &self,
        cluster: &str,
        nodes: &[String],
        revision: &str,
    ) -> Result<Rollout, DemoError> {
        let message = format!("{cluster} to revision {revision}");
        self.teller.line(&format!("\n{APP}/{cluster}.toml: revision = \"{revision}\""));
        self.follower.with(Progress::begin);
        let (began, wall) = (Instant::now(), wall());
        self.teller.count_from(Some(began));
        let file = format!("{APP}/{cluster}.toml");
        let repository = &self.fleet.repository;
        let text = cluster_file(revision, nodes.len());
        repository.write(&file, &text).map_err(FleetError::Git)?;
        // Git's few milliseconds are no part of what is measured: the file is there.
        tokio::task::block_in_place(|| repository.commit(&message)).map_err(FleetError::Git)?;
        self.converged(cluster, revision).await?;
        let events = self.api.events().await.map_err(|error| DemoError::Api(error.to_string()))?;
        let told = self.told(cluster, revision).await;
        let marks = self.follower.with(|progress| progress.marks().clone());
        let told = told.map_or(f64::NAN, |told| seconds(began, told));
        let phases = Phases { told, ..phases(&events, cluster, revision, wall, began, &marks) };
        Ok(Rollout {
            cluster: cluster.to_owned(),
            revision: revision.to_owned(),
            upgraded: marks.upgraded.len(),
            phases,
        })
    }

    /// Waits until the controller says that the cluster has converged.
    async fn converged(&self, cluster: &str, revision: &str) -> Result<(), DemoError> {
        let began = Instant::now();
        loop {
            let view = self.api.state().await;
            let seen = view.as_ref().ok().and_then(|view| cluster_of(view, cluster));
            if seen.is_some_and(|seen| has_converged(seen, revision)) {
                return Ok(());
            }
            let failed = seen.is_some_and(|seen| seen.causes.contains_key(&Cause::Failed));
            if failed || began.elapsed() > CONVERGE_MAX {
                let state = match &view {
                    Ok(view) => state_of(view),
                    Err(error) => error.to_string(),
                };
                let after = match failed {
                    true => "and will not".to_owned(),
                    false => format!("after {CONVERGE_MAX:?}"),
                };
                let (cluster, revision) = (cluster.to_owned(), revision.to_owned());
                return Err(DemoError::NotConverged { cluster, revision, after, state });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits for the message; one that does not come is found missing in the end.
    async fn told(&self, cluster: &str, revision: &str) -> Option<Instant> {
        let deadline = Instant::now() + MESSAGE_MAX;
        while Instant::now() < deadline {
            let told = |m: &Received| m.cluster == cluster && m.revision_to == revision;
            let pending = self.api.state().await.ok().and_then(|view| {
                cluster_of(&view, cluster).map(|cluster| cluster.messages_pending)
            });
            let received = self.receiver.received();
            if let (Some(message), Some(0)) = (received.iter().find(|m| told(m)), pending) {
                return Some(message.at);
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    /// What came of it, and what is not as it should be.
    pub(super) fn summary(&self, rollouts: Vec<Rollout>, counts: load::Counts) -> Summary {
        let mut problems = Vec::new();
        for rollout in &rollouts {
            let expected = self.nodes_of(&rollout.cluster);
            if rollout.upgraded != expected {
                problems.push(format!(
                    "{} of {expected} nodes of {} were seen to be upgraded to {}",
                    rollout.upgraded, rollout.cluster, rollout.revision
                ));
            }
        }
        for Rollout { cluster, revision, phases, .. } in &rollouts {
            for phase in phases.unseen() {
                problems.push(format!("{cluster} to {revision}: {phase:?} was not seen"));
            }
        }
        let received = self.receiver.received();
        for Rollout { cluster, revision, .. } in &rollouts {
            let completed = received.iter().filter(|m| {
                m.cluster == *cluster && m.revision_to == *revision && m.cause == "completed"
            });
            match completed.count() {
                1 => {}
                count => problems.push(format!("{count} messages that {cluster} is at {revision}")),
            }
        }
        if received.len() > rollouts.len() {
            let titles: Vec<&str> = received.iter().map(|m| m.title.as_str()).collect();
            problems.push(format!("more messages than expected: {}", titles.join("; ")));
        }
        if counts.failed > 0 {
            problems.push(format!("{} requests failed", counts.failed));
        }
        if counts.served.is_empty() {
            problems.push("no request was answered".to_owned());
        }
        Summary {
            version: env!("CARGO_PKG_VERSION"),
            nodes: self.clusters.iter().map(|(_, nodes)| nodes.len()).sum(),
            broker: format!("{:?}", self.options.broker).to_lowercase(),
            release_layout: self.options.release_layout,
            medians: Summary::medians(&rollouts),
            rollouts,
            requests: Requests {
                served: counts.served,
                unserved: counts.unserved,
                failed: counts.failed,
                longest: counts.longest.as_millis() as f64 / 1000.0,
            },
            messages: received.len(),
            problems,
        }
    }

    fn nodes_of(&self, cluster: &str) -> usize {
        let found = self.clusters.iter().find(|(name, _)| name == cluster);
        found.map_or(0, |(_, nodes)| nodes.len())
    }
}

/// To the millisecond: nothing here is known better.
fn seconds(began: Instant, at: Instant) -> f64 {
    at.saturating_duration_since(began).as_millis() as f64 / 1000.0
}

fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn cluster_of<'a>(view: &'a View, name: &str) -> Option<&'a ClusterView> {
    let app = view.apps.iter().find(|(app, _)| app.as_str() == APP)?.1;
    Some(app.clusters.iter().find(|(cluster, _)| cluster.as_str() == name)?.1)
}

fn has_converged(cluster: &ClusterView, revision: &str) -> bool {
    cluster.phase == Phase::Converged
        && cluster.target.as_str() == revision
        && cluster.converged_on.as_ref().is_some_and(|on| on.as_str() == revision)
}

/// A line for each node, with the reason of what is done about it.
fn state_of(view: &View) -> String {
    let mut lines = Vec::new();
    for (name, node) in &view.nodes {
        for app in node.apps.values() {
            lines.push(format!("{name:<8} {}", app.reason));
        }
    }
    lines.join("\n")
}

/// The controller's events tell when it began and when it was done, the reports what was between.
fn phases(
    events: &[Event],
    cluster: &str,
    revision: &str,
    wall: Wall,
    began: Instant,
    marks: &Marks,
) -> Phases {
    let of_now = || events.iter().filter(|event| event.at >= wall);
    let noticed = of_now().find(|event| event.kind == EventKind::DesiredChanged);
    let converged = of_now().find(|event| match &event.kind {
        EventKind::Converged { revision: on, .. } => {
            on.as_str() == revision && event.cluster.as_ref().is_some_and(|c| c.as_str() == cluster)
        }
        _ => false,
    });
    let at = |event: Option<&Event>| {
        event.map_or(f64::NAN, |event| (event.at.0 - wall.0) as f64 / 1000.0)
    };
    let last = |step: &BTreeMap<_, Instant>| {
        let last = step.values().max();
        last.map_or(f64::NAN, |last| seconds(began, *last))
    };
    Phases {
        noticed: at(noticed),
        out: last(&marks.out),
        upgraded: last(&marks.upgraded),
        settled: last(&marks.settled),
        back: last(&marks.back),
        converged: at(converged),
        told: f64::NAN,
    }
}
