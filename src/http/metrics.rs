//! The controller's metrics, made at scrape time from the state itself. Labels come from the desired
//! files and from closed enums; nodes have none unless that is asked for, so that a large fleet does
//! not multiply series. `docs/metrics.md` lists them; a test compares.

use std::collections::{BTreeMap, BTreeSet};

use super::exposition::Exposition;
use crate::controller::driver::Counters;
use crate::controller::view::{AppView, BalancerView, ClusterView, NodeView, ServerState, View};
use crate::history;
use crate::model::{
    AppName, Cause, ClusterName, ConditionStatus, ConditionType, Decision, NodeName, Presence,
    RevisionSeen, Standing, Wall,
};
use crate::plan::Phase;

/// Revisions of one cluster's nodes that are shown apart; the rest counts as `other`.
const REVISIONS_MAX: usize = 10;

const PRESENCES: [Presence; 4] =
    [Presence::Present, Presence::Departed, Presence::Unknown, Presence::Duplicate];

const CAUSES: [Cause; 7] = [
    Cause::Failed,
    Cause::Unreachable,
    Cause::Ambiguous,
    Cause::ForeignMaintenance,
    Cause::Stuck,
    Cause::DesiredInvalid,
    Cause::DesiredVanished,
];

/// All metrics, in the text format.
///
/// # Errors
/// The metrics library's; a fault of this file.
pub(super) fn encode(
    mut view: View,
    mut counters: Counters,
    node_metrics: bool,
) -> Result<Vec<u8>, prometheus::Error> {
    leave_out_gone(&mut view, &mut counters);
    let (view, counters) = (&view, &counters);
    let mut page = Exposition::default();
    clusters(&mut page, view);
    rollouts(&mut page, view, counters);
    decisions(&mut page, view);
    balancers(&mut page, view);
    if node_metrics {
        nodes(&mut page, view);
    }
    reconciling(&mut page, view, counters);
    history(&mut page, &counters.history);
    bus(&mut page, view, counters);
    page.text()
}

/// A cluster of which there is neither a file nor a node has gone. The controller still knows it, should its file
/// come back; its series would only pile up.
fn leave_out_gone(view: &mut View, counters: &mut Counters) {
    let peopled: BTreeSet<(AppName, ClusterName)> = view
        .nodes
        .values()
        .flat_map(|node| &node.apps)
        .filter_map(|(app, part)| Some((app.clone(), part.cluster.clone()?)))
        .collect();
    for (app, state) in &mut view.apps {
        state.clusters.retain(|cluster, state| {
            state.standing != Standing::Vanished
                || peopled.contains(&(app.clone(), cluster.clone()))
        });
    }
    counters.tally.clusters.retain(|app, clusters| {
        let shown = view.apps.get(app).map(|state| &state.clusters);
        clusters.retain(|cluster, _| shown.is_some_and(|shown| shown.contains_key(cluster)));
        !clusters.is_empty()
    });
}

fn one_if(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

#[allow(clippy::cast_precision_loss)] // 2^52 ms are longer than anything
fn seconds_since(now: Wall, since: Option<Wall>) -> f64 {
    since.map_or(0.0, |since| now.0.saturating_sub(since.0) as f64 / 1000.0)
}

fn each_cluster<'a>(
    view: &'a View,
) -> impl Iterator<Item = (&'a AppName, &'a ClusterName, &'a ClusterView)> {
    let of = |(app, state): (&'a AppName, &'a AppView)| {
        state.clusters.iter().map(move |(cluster, state)| (app, cluster, state))
    };
    view.apps.iter().flat_map(of)
}

fn clusters(page: &mut Exposition, view: &View) {
    let all = || each_cluster(view).map(|(app, name, state)| (app.as_str(), name.as_str(), state));
    page.gauges("evenkeel_cluster_phase", "1 for the phase that the cluster is in.", |family| {
        for (app, cluster, state) in all() {
            for (name, is) in [
                ("converged", Phase::Converged),
                ("progressing", Phase::Progressing),
                ("degraded", Phase::Degraded),
            ] {
                let labels = [("app", app), ("cluster", cluster), ("phase", name)];
                family.gauge(&labels, one_if(state.phase == is));
            }
        }
    });
    let name = "evenkeel_cluster_desired_revision_info";
    page.gauges(name, "1, with the revision that the files declare.", |family| {
        for (app, cluster, state) in all() {
            let revision = state.target.as_str();
            family.gauge(&[("app", app), ("cluster", cluster), ("revision", revision)], 1.0);
        }
    });
    let name = "evenkeel_cluster_converged_revision_info";
    page.gauges(name, "1, with the last revision on which the cluster has converged.", |family| {
        for (app, cluster, state) in all() {
            if let Some(revision) = &state.converged_on {
                let revision = revision.as_str();
                family.gauge(&[("app", app), ("cluster", cluster), ("revision", revision)], 1.0);
            }
        }
    });
    observed(page, view);
    let help = "Nodes of the cluster: expected, present, converged.";
    page.gauges("evenkeel_cluster_nodes", help, |family| {
        for (app, cluster, state) in all() {
            for (name, count) in [
                ("expected", state.expected),
                ("present", state.present),
                ("converged", state.converged),
            ] {
                family.count(&[("app", app), ("cluster", cluster), ("state", name)], count);
            }
        }
    });
    let help = "1 while there is something that a person should know.";
    page.gauges("evenkeel_cluster_cause", help, |family| {
        for (app, cluster, state) in all() {
            for cause in CAUSES {
                let labels = [("app", app), ("cluster", cluster), ("cause", cause.as_str())];
                family.gauge(&labels, one_if(state.causes.contains_key(&cause)));
            }
        }
    });
    let help = "1 for how far the files behind the cluster can be trusted.";
    page.gauges("evenkeel_cluster_desired_files", help, |family| {
        for (app, cluster, state) in all() {
            let (current, last_good, vanished) = match &state.standing {
                Standing::Current => (1.0, 0.0, 0.0),
                Standing::LastGood(_) => (0.0, 1.0, 0.0),
                Standing::Vanished => (0.0, 0.0, 1.0),
            };
            for (name, value) in
                [("current", current), ("last_good", last_good), ("vanished", vanished)]
            {
                family.gauge(&[("app", app), ("cluster", cluster), ("standing", name)], value);
            }
        }
    });
    let help = "Messages to people without a receipt.";
    page.gauges("evenkeel_cluster_messages_pending", help, |family| {
        for (app, cluster, state) in all() {
            family.count(&[("app", app), ("cluster", cluster)], state.messages_pending);
        }
    });
    let help = "1 while no notification server gets a message of the cluster delivered.";
    page.gauges("evenkeel_cluster_undelivered", help, |family| {
        for (app, cluster, state) in all() {
            let fails = state.conditions.iter().any(|condition| {
                condition.kind == ConditionType::Undelivered
                    && condition.status == ConditionStatus::True
            });
            family.gauge(&[("app", app), ("cluster", cluster)], one_if(fails));
        }
    });
}

/// What nodes run: a few revisions at a time, whatever their number.
fn observed(page: &mut Exposition, view: &View) {
    let mut counts: BTreeMap<(&AppName, &ClusterName), BTreeMap<&str, usize>> = BTreeMap::new();
    for (node, (app, state)) in
        view.nodes.values().flat_map(|node| node.apps.iter().map(move |part| (node, part)))
    {
        let Some(cluster) = &state.cluster else { continue };
        // What somebody ran who has gone is known no more.
        let seen = state.revision.as_ref().filter(|_| node.presence == Presence::Present);
        let revision =
            seen.and_then(RevisionSeen::known).map_or("unknown", |revision| revision.as_str());
        *counts.entry((app, cluster)).or_default().entry(revision).or_default() += 1;
    }
    let mut shown: Vec<([(&str, &str); 3], usize)> = Vec::new();
    for ((app, cluster), revisions) in counts {
        let mut revisions: Vec<(&str, usize)> = revisions.into_iter().collect();
        revisions.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        let rest = revisions.split_off(revisions.len().min(REVISIONS_MAX));
        let rest: usize = rest.into_iter().map(|(_, count)| count).sum();
        let other = (rest > 0).then_some(("other", rest));
        let (app, cluster) = (app.as_str(), cluster.as_str());
        shown.extend(revisions.into_iter().chain(other).map(|(revision, count)| {
            ([("app", app), ("cluster", cluster), ("revision", revision)], count)
        }));
    }
    let name = "evenkeel_cluster_observed_revision_info";
    page.gauges(name, "1, with each revision that nodes of the cluster run.", |family| {
        for (labels, _) in &shown {
            family.gauge(labels, 1.0);
        }
    });
    let name = "evenkeel_cluster_observed_nodes";
    page.gauges(name, "Nodes of the cluster by the revision that they run.", |family| {
        for (labels, count) in &shown {
            family.count(labels, *count);
        }
    });
}

fn rollouts(page: &mut Exposition, view: &View, counters: &Counters) {
    let tallies = || {
        counters.tally.clusters.iter().flat_map(|(app, clusters)| {
            clusters.iter().map(move |(name, tally)| (app, name, tally))
        })
    };
    let help = "Rollouts that have come to an end, by what came of them.";
    page.counters("evenkeel_rollouts_total", help, |family| {
        for (app, cluster, tally) in tallies() {
            for (outcome, count) in &tally.rollouts {
                let labels = [
                    ("app", app.as_str()),
                    ("cluster", cluster.as_str()),
                    ("outcome", outcome.as_str()),
                ];
                family.counter(&labels, *count);
            }
        }
    });
    let help = "How long completed rollouts took.";
    page.histograms("evenkeel_rollout_duration_seconds", help, |family| {
        for (app, cluster, tally) in tallies() {
            let labels = [("app", app.as_str()), ("cluster", cluster.as_str())];
            family.histogram(&labels, &tally.took);
        }
    });
    let help = "How long a node was in a phase of its way through a rollout.";
    page.histograms("evenkeel_rollout_phase_duration_seconds", help, |family| {
        for (app, cluster, tally) in tallies() {
            for (step, buckets) in &tally.steps {
                let labels = [
                    ("app", app.as_str()),
                    ("cluster", cluster.as_str()),
                    ("phase", step.as_str()),
                ];
                family.histogram(&labels, buckets);
            }
        }
    });
    let help = "How long the cluster has not been at its declared state; 0 if it is.";
    page.gauges("evenkeel_cluster_diverged_seconds", help, |family| {
        for (app, cluster, tally) in tallies() {
            let labels = [("app", app.as_str()), ("cluster", cluster.as_str())];
            family.gauge(&labels, seconds_since(view.at, tally.diverged));
        }
    });
    let help = "How long ago the rollout that is under way began; 0 if none is.";
    page.gauges("evenkeel_cluster_rollout_age_seconds", help, |family| {
        for (app, cluster, state) in each_cluster(view) {
            let labels = [("app", app.as_str()), ("cluster", cluster.as_str())];
            family.gauge(&labels, seconds_since(view.at, state.begun));
        }
    });
    quiet(page, view);
}

fn quiet(page: &mut Exposition, view: &View) {
    let mut last: BTreeMap<(&AppName, &ClusterName), Wall> = BTreeMap::new();
    for (app, state) in view.nodes.values().flat_map(|node| &node.apps) {
        if let (Some(cluster), Some(since)) = (&state.cluster, state.since) {
            let until = match &state.decision {
                // It ends by itself, one way or the other.
                Some(Decision::Wait { until_ms: Some(_), .. }) => view.at,
                Some(
                    Decision::Wait { until_ms: None, .. }
                    | Decision::Act(_)
                    | Decision::Blocked(_)
                    | Decision::Done(_),
                )
                | None => since,
            };
            let last = last.entry((app, cluster)).or_insert(until);
            *last = (*last).max(until);
        }
    }
    let help = "How long no decision about any node of the cluster has changed, and none has had an end in sight.";
    page.gauges("evenkeel_cluster_quiet_seconds", help, |family| {
        for ((app, cluster), since) in last {
            let labels = [("app", app.as_str()), ("cluster", cluster.as_str())];
            family.gauge(&labels, seconds_since(view.at, Some(since)));
        }
    });
}

fn decisions(page: &mut Exposition, view: &View) {
    let mut counts: BTreeMap<(&str, &str, &str, &str), usize> = BTreeMap::new();
    for (app, cluster, _) in each_cluster(view) {
        for decision in Decision::KINDS {
            counts.insert((app.as_str(), cluster.as_str(), decision, ""), 0);
        }
    }
    for (app, state) in view.nodes.values().flat_map(|node| &node.apps) {
        let (Some(cluster), Some(decision)) = (&state.cluster, &state.decision) else { continue };
        let (decision, reason) = decision.names();
        let (app, cluster) = (app.as_str(), cluster.as_str());
        *counts.entry((app, cluster, decision, "")).or_default() += 1;
        *counts.entry((app, cluster, decision, reason)).or_default() += 1;
    }
    let help = "Nodes by what is decided about them.";
    page.gauges("evenkeel_cluster_decisions", help, |family| {
        for ((app, cluster, decision, _), count) in counts.iter().filter(|(k, _)| k.3.is_empty()) {
            let labels = [("app", *app), ("cluster", *cluster), ("decision", *decision)];
            family.count(&labels, *count);
        }
    });
    let help = "Nodes by the reason of what is decided about them; only reasons that there are.";
    page.gauges("evenkeel_cluster_decision_reasons", help, |family| {
        for ((app, cluster, decision, reason), count) in
            counts.iter().filter(|(k, _)| !k.3.is_empty())
        {
            let labels = [
                ("app", *app),
                ("cluster", *cluster),
                ("decision", *decision),
                ("reason", *reason),
            ];
            family.count(&labels, *count);
        }
    });
    page.gauges("evenkeel_agents", "Agents by whether they are there.", |family| {
        for presence in PRESENCES {
            let count = view.nodes.values().filter(|node| node.presence == presence).count();
            family.count(&[("presence", &presence.to_string())], count);
        }
    });
}

fn balancers(page: &mut Exposition, view: &View) {
    let all = || {
        view.apps.iter().flat_map(|(app, state)| {
            state.balancers.iter().flat_map(move |(backend, lbs)| {
                lbs.iter()
                    .map(move |(lb, state)| (app.as_str(), backend.as_str(), lb.as_str(), state))
            })
        })
    };
    let help = "Servers of the backend at the load balancer, each in one state.";
    page.gauges("evenkeel_backend_servers", help, |family| {
        for (app, backend, lb, balancer) in all() {
            for state in ServerState::ALL {
                let labels =
                    [("app", app), ("backend", backend), ("lb", lb), ("state", state.as_str())];
                family.count(&labels, balancer.states.get(&state).copied().unwrap_or(0));
            }
        }
    });
    let help = "Ready servers of the backend that the load balancer must keep.";
    page.gauges("evenkeel_backend_floor_servers", help, |family| {
        for (app, backend, lb, balancer) in all() {
            family.count(&[("app", app), ("backend", backend), ("lb", lb)], balancer.floor);
        }
    });
    let help = "Whether the load balancer's agent is there, and can read the backend.";
    page.gauges("evenkeel_backend_up", help, |family| {
        for (app, backend, lb, balancer) in all() {
            let labels = [("app", app), ("backend", backend), ("lb", lb)];
            family.gauge(&labels, one_if(is_up(balancer)));
        }
    });
}

fn is_up(balancer: &BalancerView) -> bool {
    balancer.presence == Presence::Present && balancer.error.is_none()
}

/// Only on demand: a series per node, and more.
fn nodes(page: &mut Exposition, view: &View) {
    page.gauges("evenkeel_node_up", "Whether the node's agent is there.", |family| {
        for (name, node) in &view.nodes {
            let up = one_if(node.presence == Presence::Present);
            family.gauge(&[("node", name.as_str())], up);
        }
    });
    let help = "1, with what is decided about the node.";
    page.gauges("evenkeel_node_decision_info", help, |family| {
        for (name, app, state) in parts(&view.nodes) {
            let Some(decision) = &state.decision else { continue };
            let (decision, reason) = decision.names();
            let cluster = state.cluster.as_ref().map_or("", |cluster| cluster.as_str());
            let labels = [
                ("app", app.as_str()),
                ("cluster", cluster),
                ("node", name.as_str()),
                ("decision", decision),
                ("reason", reason),
            ];
            family.gauge(&labels, 1.0);
        }
    });
}

fn parts(
    nodes: &BTreeMap<NodeName, NodeView>,
) -> impl Iterator<Item = (&NodeName, &AppName, &crate::controller::view::NodeAppView)> {
    nodes.iter().flat_map(|(name, node)| node.apps.iter().map(move |(app, part)| (name, app, part)))
}

#[allow(clippy::cast_precision_loss)] // a queue is far below 2^52
fn reconciling(page: &mut Exposition, view: &View, counters: &Counters) {
    let version = env!("CARGO_PKG_VERSION");
    page.gauges("evenkeel_build_info", "1, with the version.", |family| {
        family.gauge(&[("version", version)], 1.0);
    });
    let help = "When the process started, in seconds since 1970.";
    page.gauge("process_start_time_seconds", help, counters.started.0 as f64 / 1000.0);
    let help = "How long the controller took to plan for all its apps.";
    page.histograms("evenkeel_reconcile_duration_seconds", help, |family| {
        family.histogram(&[], &counters.plans);
    });
    let help = "Events that wait for a plan.";
    page.gauge("evenkeel_reconcile_queue_depth", help, counters.queue as f64);
    let help = "Whether this controller leads the app.";
    page.gauges("evenkeel_app_leads", help, |family| {
        for (app, state) in &view.apps {
            family.gauge(&[("app", app.as_str())], one_if(state.epoch.is_some()));
        }
    });
    let help = "Whether desired files were ever read.";
    page.gauge("evenkeel_desired_read", help, one_if(view.desired_read));
    let help = "Faults in the desired files, when they were last read.";
    page.gauge("evenkeel_desired_faults", help, counters.desired_faults as f64);
    let help = "Messages to people, by what became of them.";
    page.counters("evenkeel_notifications_total", help, |family| {
        let messages = &counters.tally.messages;
        for (outcome, count) in [
            ("handed_out", messages.handed_out),
            ("delivered", messages.delivered),
            ("failed", messages.failed),
        ] {
            family.counter(&[("outcome", outcome)], count);
        }
    });
    page.counter("evenkeel_assignments_total", "Assignments published.", counters.assignments);
    let help = "Files written to the state directory.";
    page.counter("evenkeel_state_writes_total", help, counters.kept);
    let help = "Files that could not be written to the state directory.";
    page.counter("evenkeel_state_write_failures_total", help, counters.kept_not);
}

/// Where there is no audit trail, there are no series of one.
#[allow(clippy::cast_precision_loss)] // a bounded queue
fn history(page: &mut Exposition, counters: &history::Counters) {
    let places = || {
        let places = [("database", &counters.store), ("audit_log", &counters.audit)];
        places.into_iter().filter_map(|(name, counters)| Some((name, counters.as_ref()?)))
    };
    page.counters("evenkeel_history_entries_total", "Entries of the history.", |family| {
        for (place, counters) in places() {
            for (outcome, count) in [("written", counters.written), ("lost", counters.lost)] {
                family.counter(&[("place", place), ("outcome", outcome)], count);
            }
        }
    });
    let help = "Writes of the history that failed.";
    page.counters("evenkeel_history_write_failures_total", help, |family| {
        for (place, counters) in places() {
            family.counter(&[("place", place)], counters.failures);
        }
    });
    let help = "Entries of the history that wait to be written.";
    page.gauges("evenkeel_history_pending_entries", help, |family| {
        for (place, counters) in places() {
            family.gauge(&[("place", place)], counters.pending as f64);
        }
    });
    let help = "Whether the last write of the history failed.";
    page.gauges("evenkeel_history_failing", help, |family| {
        for (place, counters) in places() {
            family.gauge(&[("place", place)], one_if(counters.failing.is_some()));
        }
    });
}

#[allow(clippy::cast_precision_loss)] // a queue is far below 2^52
fn bus(page: &mut Exposition, view: &View, counters: &Counters) {
    let help = "Whether the bus is connected, and all that is retained was seen.";
    page.gauge("evenkeel_bus_connected", help, one_if(view.bus_live));
    let help = "Connections to the bus that were made.";
    page.counter("evenkeel_bus_connections_total", help, counters.connections);
    page.counters("evenkeel_documents_total", "Documents heard on the bus.", |family| {
        // Reports are there from the start, for whoever asks for their rate.
        let reports = counters.documents.get("report").copied().unwrap_or(0);
        family.counter(&[("kind", "report")], reports);
        for (kind, count) in counters.documents.iter().filter(|(kind, _)| **kind != "report") {
            family.counter(&[("kind", kind)], *count);
        }
    });
    let help = "Documents that could not be read.";
    page.counter("evenkeel_documents_refused_total", help, counters.documents_bad);
    let session = &counters.session;
    let help = "Messages on topics that are none of the fleet's.";
    page.counter("evenkeel_bus_foreign_total", help, session.foreign);
    let help = "Publishes by what became of them.";
    page.counters("evenkeel_bus_publishes_total", help, |family| {
        for (outcome, count) in [
            ("confirmed", session.confirmed),
            ("replaced", session.replaced),
            ("rejected", session.rejected),
            ("lost", session.lost),
            ("refused", session.refused),
        ] {
            family.counter(&[("outcome", outcome)], count);
        }
    });
    let help = "Publishes that wait to be sent or confirmed.";
    page.gauge("evenkeel_bus_unconfirmed_publishes", help, counters.unconfirmed as f64);
}
