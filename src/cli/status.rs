//! `evenkeel status`: how far every cluster is, in a table, and as an exit code.

use std::time::Duration;

use clap::Args;

use super::client::{Client, Connection, duration};
use super::outcome::{Outcome, Problem};
use super::print::{self, Output, clean};
use super::select::Selection;
use super::table::Table;
use super::{wait, watch};
use crate::controller::live::{message, warnings};
use crate::controller::view::{AppView, ClusterView, View};
use crate::model::{AppName, Cause, ClusterName, Revision};
use crate::plan::Phase;

/// Shows how far the clusters are.
///
/// Exits 0 if all have converged, 2 if one is progressing, 1 if none is but one is degraded or out
/// of reach, or the controller is, and 4 if there is no answer.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// One app, or one cluster; without it, all of them.
    #[arg(value_name = "APP[/CLUSTER]")]
    pub(super) selection: Option<Selection>,
    #[command(flatten)]
    pub(super) connection: Connection,
    /// The form of the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Follow until no cluster is progressing.
    ///
    /// A commit that the controller has not read yet cannot be waited for by this alone: what ran
    /// before is converged still. Say with --revision what is to come.
    #[arg(long)]
    wait: bool,
    /// Follow for good, redrawn in place; on anything but a terminal, a line for each change.
    ///
    /// Ctrl-C ends it, with the exit code of what was seen last.
    #[arg(long, conflicts_with_all = ["wait", "output"])]
    watch: bool,
    /// With --wait: for how long; then the exit code is 2.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    #[arg(requires = "wait")]
    pub(super) timeout: Duration,
    /// With --wait: first wait until this is the target of every cluster that is asked for.
    #[arg(long, value_name = "REVISION", requires = "wait")]
    pub(super) revision: Option<Revision>,
}

/// Prints it.
///
/// # Errors
/// [`Problem`].
pub fn run(args: &StatusArgs) -> Result<Outcome, Problem> {
    let client = Client::new(&args.connection)?;
    if args.watch {
        return watch::follow(&client, args.selection.as_ref());
    }
    let (view, outcome) = if args.wait {
        wait::settled(&client, args)?
    } else {
        let view = fetch(&client, args.selection.as_ref())?;
        let outcome = overall(&view);
        (view, outcome)
    };
    match args.output {
        Output::Table => print::text(&render(&view, print::width()))?,
        Output::Json => print::json(&view)?,
    }
    Ok(outcome)
}

/// What the controller shows, cut down to the selection. Names are not judged before it can know them.
pub(super) fn fetch(client: &Client, selection: Option<&Selection>) -> Result<View, Problem> {
    let mut view: View = client.get("api/v1/state")?;
    if let Some(selection) = selection {
        match selection.narrow(&mut view.apps, |app| &mut app.clusters) {
            Ok(()) => {}
            Err(_) if unready(&view).is_some() => view.apps.clear(),
            Err(unknown) => return Err(unknown.into()),
        }
        view.nodes.retain(|_, node| {
            node.apps.get(&selection.app).is_some_and(|part| {
                selection.cluster.is_none() || selection.cluster == part.cluster
            })
        });
    }
    Ok(view)
}

/// Why the controller does not know the fleet, if so. It has just started, mostly.
pub(super) fn away(view: &View) -> Option<&'static str> {
    knows_nothing(view.bus_live, view.desired_read)
}

/// The same, from what it rests on.
pub(super) fn knows_nothing(bus_live: bool, desired_read: bool) -> Option<&'static str> {
    if !bus_live {
        return Some("the controller is not connected to the bus");
    }
    (!desired_read).then_some("the controller has found no desired files yet")
}

/// Why the controller does not know the state of what is asked for, if so.
pub(super) fn unready(view: &View) -> Option<String> {
    let unled = || {
        let (name, _) = view.apps.iter().find(|(_, app)| app.epoch.is_none())?;
        Some(not_leading(name))
    };
    away(view).map(str::to_owned).or_else(unled)
}

/// In words.
pub(super) fn not_leading(app: &AppName) -> String {
    format!("the controller does not lead {app} yet")
}

/// The exit code. What is not known yet counts as under way, never as converged.
pub(super) fn overall(view: &View) -> Outcome {
    if unready(view).is_some() {
        return Outcome::UnderWay;
    }
    let unreachable = |cluster: &ClusterView| cluster.causes.contains_key(&Cause::Unreachable);
    let of = |cluster: &ClusterView| of_cluster(cluster.phase, unreachable(cluster));
    let of_app = |app: &AppView| of_app(app.clusters.values().map(of));
    view.apps.values().map(of_app).max().unwrap_or(Outcome::Fine)
}

/// An app's, from those of its clusters; one without any is amiss.
pub(super) fn of_app(clusters: impl Iterator<Item = Outcome>) -> Outcome {
    clusters.max().unwrap_or(Outcome::Amiss)
}

/// A cluster's.
pub(super) fn of_cluster(phase: Phase, unreachable: bool) -> Outcome {
    match phase {
        Phase::Progressing => Outcome::UnderWay,
        Phase::Degraded => Outcome::Amiss,
        Phase::Converged if unreachable => Outcome::Amiss,
        Phase::Converged => Outcome::Fine,
    }
}

/// Every cluster.
pub(super) fn clusters(
    view: &View,
) -> impl Iterator<Item = (&AppName, &ClusterName, &ClusterView)> {
    view.apps
        .iter()
        .flat_map(|(app, state)| state.clusters.iter().map(move |(name, c)| (app, name, c)))
}

/// The word for a phase.
pub(super) fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Converged => "converged",
        Phase::Progressing => "progressing",
        Phase::Degraded => "degraded",
    }
}

fn render(view: &View, width: Option<usize>) -> String {
    let mut out = String::new();
    if let Some(why) = unready(view) {
        if view.apps.is_empty() {
            return why + "\n";
        }
        out.push_str(&format!("{why}; what follows may be incomplete\n\n"));
    }
    out.push_str(&cluster_table(view, width));
    let sections = [balancer_table(view, width), notes(view), commits(view)];
    for section in sections.into_iter().filter(|section| !section.is_empty()) {
        out.push('\n');
        out.push_str(&section);
    }
    out
}

fn cluster_table(view: &View, width: Option<usize>) -> String {
    let header = ["APP", "CLUSTER", "PHASE", "TARGET", "NODES", "ROLLOUT", "MESSAGE"];
    let mut table = Table::new(&header);
    for (app, state) in &view.apps {
        if state.clusters.is_empty() {
            let message = "no cluster is known: its files have gone, or were never without a fault";
            let mut cells = vec![String::new(); header.len()];
            (cells[0], cells[6]) = (app.to_string(), message.to_owned());
            table.row(cells);
        }
        for (name, cluster) in &state.clusters {
            table.row([
                app.to_string(),
                name.to_string(),
                word(cluster.phase).to_owned(),
                cluster.target.to_string(),
                format!("{}/{}", cluster.converged, cluster.expected),
                cluster.rollout.as_ref().map(ToString::to_string).unwrap_or_default(),
                message(&cluster.conditions).to_owned(),
            ]);
        }
    }
    if table.is_empty() { "no apps\n".to_owned() } else { table.render(width) }
}

fn balancer_table(view: &View, width: Option<usize>) -> String {
    let mut table = Table::new(&["APP", "BACKEND", "LOAD BALANCER", "READY", "FLOOR", "AGENT"]);
    for (app, state) in &view.apps {
        for (backend, balancers) in &state.balancers {
            for (name, balancer) in balancers {
                let agent = match &balancer.error {
                    Some(error) => format!("{}; {error}", balancer.presence),
                    None => balancer.presence.to_string(),
                };
                table.row([
                    app.to_string(),
                    backend.to_string(),
                    name.to_string(),
                    format!("{} of {}", balancer.ready, balancer.servers),
                    balancer.floor.to_string(),
                    agent,
                ]);
            }
        }
    }
    if table.is_empty() { String::new() } else { table.render(width) }
}

/// What somebody should know, cluster by cluster, in full.
fn notes(view: &View) -> String {
    let mut out = String::new();
    for (app, name, cluster) in clusters(view) {
        let mut note = |what: &str, text: &str| {
            for line in text.lines() {
                out.push_str(&format!("{app}/{name} {what}: {}\n", clean(line)));
            }
        };
        for (cause, text) in &cluster.causes {
            note(&cause.as_str().replace('_', " "), text);
        }
        for (what, text) in warnings(&cluster.conditions) {
            note(what, text);
        }
        if cluster.messages_pending > 0 {
            note("messages", &format!("{} not confirmed yet", cluster.messages_pending));
        }
    }
    out
}

fn commits(view: &View) -> String {
    let commits = view.apps.iter().filter_map(|(app, state)| {
        let commit = state.commit.as_ref()?;
        Some(format!("{app} is declared by {}\n", clean(&commit.to_string())))
    });
    commits.collect()
}
