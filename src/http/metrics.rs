//! Prometheus metrics, made at scrape time from the state itself. Labels come from the desired
//! files and from closed enums; nodes have none, so that a large fleet does not multiply series.

use std::collections::BTreeMap;

use prometheus::{Encoder, GaugeVec, IntCounter, IntGauge, Opts, Registry, TextEncoder};

use crate::controller::driver::Counters;
use crate::controller::view::View;
use crate::model::Decision;
use crate::plan::Phase;

/// The text format, version 0.0.4.
pub(super) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// All metrics, in the text format.
///
/// # Errors
/// The metrics library's, if two metrics collide; a fault of this file.
pub(super) fn encode(view: &View, counters: &Counters) -> Result<Vec<u8>, prometheus::Error> {
    let registry = Registry::new();
    fleet(&registry, view)?;
    controller(&registry, view, counters)?;
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, prometheus::Error> {
    let gauges = GaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

#[allow(clippy::cast_precision_loss)] // counts of servers are far below 2^52
fn fleet(registry: &Registry, view: &View) -> Result<(), prometheus::Error> {
    let phase = gauges(
        registry,
        "evenkeel_cluster_phase",
        "1 for the phase that the cluster is in.",
        &["app", "cluster", "phase"],
    )?;
    let revision = gauges(
        registry,
        "evenkeel_cluster_revision_info",
        "The desired revision, and the last one on which the cluster has converged.",
        &["app", "cluster", "desired", "converged"],
    )?;
    let nodes = gauges(
        registry,
        "evenkeel_cluster_nodes",
        "Nodes of the cluster: expected, present, converged.",
        &["app", "cluster", "state"],
    )?;
    let servers = gauges(
        registry,
        "evenkeel_backend_servers",
        "Servers of the backend at the load balancer: all, ready, and the floor of ready ones.",
        &["app", "lb", "backend", "state"],
    )?;
    let pending = gauges(
        registry,
        "evenkeel_messages_pending",
        "Messages to people without a receipt.",
        &["app", "cluster"],
    )?;
    for (app, state) in &view.apps {
        for (cluster, state) in &state.clusters {
            let (app, cluster) = (app.as_str(), cluster.as_str());
            for (name, is) in [
                ("converged", Phase::Converged),
                ("progressing", Phase::Progressing),
                ("degraded", Phase::Degraded),
            ] {
                let value = f64::from(u8::from(state.phase == is));
                phase.with_label_values(&[app, cluster, name]).set(value);
            }
            let converged = state.converged_on.as_ref().map_or("", |r| r.as_str());
            revision.with_label_values(&[app, cluster, state.target.as_str(), converged]).set(1.0);
            for (name, count) in [
                ("expected", state.expected),
                ("present", state.present),
                ("converged", state.converged),
            ] {
                nodes.with_label_values(&[app, cluster, name]).set(count as f64);
            }
            pending.with_label_values(&[app, cluster]).set(state.messages_pending as f64);
        }
        for (backend, lbs) in &state.balancers {
            for (lb, state) in lbs {
                for (name, count) in
                    [("all", state.servers), ("ready", state.ready), ("floor", state.floor)]
                {
                    servers
                        .with_label_values(&[app.as_str(), lb.as_str(), backend.as_str(), name])
                        .set(count as f64);
                }
            }
        }
    }
    decisions(registry, view)
}

#[allow(clippy::cast_precision_loss)] // counts of nodes are far below 2^52
fn decisions(registry: &Registry, view: &View) -> Result<(), prometheus::Error> {
    let gauge = gauges(
        registry,
        "evenkeel_nodes",
        "Nodes by what is decided about them.",
        &["app", "decision"],
    )?;
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (app, state) in view.nodes.values().flat_map(|node| &node.apps) {
        let decision = match &state.decision {
            Some(Decision::Act(_)) => "act",
            Some(Decision::Wait { .. }) => "wait",
            Some(Decision::Blocked(_)) => "blocked",
            Some(Decision::Done(_)) => "done",
            None => continue,
        };
        *counts.entry((app.as_str(), decision)).or_default() += 1;
    }
    for ((app, decision), count) in counts {
        gauge.with_label_values(&[app, decision]).set(count as f64);
    }
    Ok(())
}

fn controller(
    registry: &Registry,
    view: &View,
    counters: &Counters,
) -> Result<(), prometheus::Error> {
    let info = gauges(registry, "evenkeel_build_info", "1, with the version.", &["version"])?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
    for (name, help, value) in [
        ("evenkeel_bus_connected", "Whether the bus is connected and listed.", view.bus_live),
        ("evenkeel_desired_read", "Whether the desired state was read.", view.desired_read),
    ] {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(i64::from(value));
        registry.register(Box::new(gauge))?;
    }
    for (name, help, value) in [
        ("evenkeel_plans_total", "Plans made.", counters.plans),
        ("evenkeel_documents_total", "Documents heard on the bus.", counters.documents),
        (
            "evenkeel_documents_refused_total",
            "Documents that could not be read.",
            counters.documents_bad,
        ),
        (
            "evenkeel_bus_foreign_total",
            "Messages on topics that are none of the fleet's.",
            counters.session.foreign,
        ),
        ("evenkeel_assignments_total", "Assignments published.", counters.assignments),
        ("evenkeel_state_writes_total", "Files written to the state directory.", counters.kept),
        (
            "evenkeel_state_write_failures_total",
            "Files that could not be written to the state directory.",
            counters.kept_not,
        ),
        (
            "evenkeel_bus_confirmed_total",
            "Publishes that the broker has confirmed.",
            counters.session.confirmed,
        ),
        (
            "evenkeel_bus_lost_total",
            "Publishes that a lost connection took with it.",
            counters.session.lost,
        ),
    ] {
        let counter = IntCounter::new(name, help)?;
        counter.inc_by(value);
        registry.register(Box::new(counter))?;
    }
    let seconds = prometheus::Counter::new("evenkeel_plan_seconds_total", "Time spent planning.")?;
    seconds.inc_by(counters.plan_seconds);
    registry.register(Box::new(seconds))?;
    let longest =
        prometheus::Gauge::new("evenkeel_plan_seconds_max", "The longest plan since the start.")?;
    longest.set(counters.plan_seconds_max);
    registry.register(Box::new(longest))
}
