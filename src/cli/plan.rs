//! `evenkeel plan`: the planner run forward over the fleet as it is, without touching anything.
//!
//! The same planner decides that decides in the controller; only the world it acts on is the nominal
//! one. Nothing here guesses at what it would do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::client::{Client, Connection};
use super::outcome::{Outcome, Problem};
use super::print::{self, Output, clean};
use super::select::{Unknown, known_app};
use super::status::{away, word};
use crate::controller::live::message;
use crate::controller::view::{View, WorldView};
use crate::desired::{Snapshot, Style, load_styled};
use crate::model::{
    Act, AppName, ClusterName, Decision, DesiredApp, Done, Fault, NodeName, Revision, Standing,
};
use crate::plan::{Desire, Ending, Phase, Plan, Step, World};

/// A rollout takes a handful of rounds per batch: this is enough for thousands of batches, and a
/// planner that needs more has gone in a circle.
const ROUNDS_MAX: usize = 10_000;

/// What every answer begins with.
const ASSUMPTION: &str = "This assumes that every act and every check succeeds, and that whoever is \
silent stays silent\nand maintenance set by others stays set. Nothing is touched.\n";

/// Shows, step by step, what would be done from here, and how it would end.
///
/// Exits 0 if nothing is to be done, 2 if something is and it would end converged, 3 if it would end
/// blocked, 1 if the controller is out of reach, and 4 if there is no answer.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// One app; without it, all of them.
    app: Option<AppName>,
    /// Plan for the files in this directory instead of those that the controller has read.
    #[arg(long, value_name = "DIR")]
    desired: Option<PathBuf>,
    /// Suppose that every upgrade of this node fails; can be repeated.
    #[arg(long = "fail", value_name = "NODE")]
    failing: Vec<NodeName>,
    #[command(flatten)]
    connection: Connection,
    /// The form of the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// How one app would go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// The app.
    pub app: AppName,
    /// Clusters in which something is under way already.
    pub under_way: BTreeSet<ClusterName>,
    /// What would be done, round by round.
    pub rounds: Vec<Round>,
    /// Whether every cluster would be converged in the end.
    pub converged: bool,
    /// The clusters, in the end.
    pub clusters: BTreeMap<ClusterName, End>,
    /// Why nodes would not be in service, in the end.
    pub blocked: BTreeMap<NodeName, String>,
}

/// One round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Its number, from 1.
    pub round: usize,
    /// What is asked, and of whom.
    pub acts: Vec<Asked>,
    /// What comes about.
    pub events: Vec<String>,
}

/// An act, and the nodes that are asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The act.
    pub act: String,
    /// The nodes.
    pub nodes: Vec<NodeName>,
}

/// A cluster in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// In one word.
    pub phase: Phase,
    /// The declared revision.
    pub target: Revision,
    /// Nodes in service there.
    pub converged: usize,
    /// Nodes that must be.
    pub expected: usize,
    /// What matters most of its state, in words.
    pub message: String,
}

/// Prints it.
///
/// # Errors
/// [`Problem`].
pub fn run(args: &PlanArgs) -> Result<Outcome, Problem> {
    let client = Client::new(&args.connection)?;
    let snapshot = args.desired.as_deref().map(|dir| read(dir, args.app.as_ref())).transpose()?;
    let view: View = client.get("api/v1/state")?;
    if let Some(why) = away(&view) {
        return Err(Problem::NotReady { why: why.to_owned() });
    }
    if let Some(unknown) = args.failing.iter().find(|name| !view.nodes.contains_key(*name)) {
        return Err(Unknown::node(unknown, view.nodes.keys()).into());
    }
    let mut forecasts = Vec::new();
    for app in apps(&view, snapshot.as_ref(), args.app.as_ref())? {
        let mut world = world(&client, &view, &app)?;
        if let Some(snapshot) = &snapshot {
            let declared = snapshot.apps.get(&app).and_then(|app| app.as_ref().ok());
            declare(&mut world, declared);
        }
        world.failing = args.failing.iter().cloned().collect();
        forecasts.push(forecast(world)?);
    }
    match args.output {
        Output::Table => print::text(&render(&forecasts))?,
        Output::Json => print::json(&forecasts)?,
    }
    Ok(forecasts.iter().map(outcome).max().unwrap_or(Outcome::Fine))
}

fn outcome(forecast: &Forecast) -> Outcome {
    if !forecast.converged {
        Outcome::WouldBlock
    } else if forecast.rounds.is_empty() && forecast.under_way.is_empty() {
        Outcome::Fine
    } else {
        Outcome::UnderWay
    }
}

/// The directory, if what concerns `app` is without a fault.
fn read(dir: &Path, app: Option<&AppName>) -> Result<Snapshot, Problem> {
    let colour = stderr().is_terminal() && !print::plain();
    let snapshot = load_styled(dir, if colour { Style::Colour } else { Style::Plain });
    let concerned = |name: &AppName| app.is_none_or(|app| app == name);
    let of_apps = snapshot
        .apps
        .iter()
        .filter(|(name, _)| concerned(name))
        .filter_map(|(_, app)| app.as_ref().err())
        .flatten();
    let faults: Vec<&Fault> = snapshot.faults.iter().chain(of_apps).collect();
    if faults.is_empty() {
        return Ok(snapshot);
    }
    let rendered: Vec<&str> = faults.iter().map(|fault| fault.rendered.as_str()).collect();
    Err(Problem::Desired { dir: dir.to_owned(), faults: rendered.join("\n\n") })
}

/// The apps to plan for.
fn apps(
    view: &View,
    snapshot: Option<&Snapshot>,
    app: Option<&AppName>,
) -> Result<BTreeSet<AppName>, Problem> {
    let declared = snapshot.into_iter().flat_map(|snapshot| snapshot.apps.keys());
    let mut all: BTreeSet<AppName> = view.apps.keys().chain(declared).cloned().collect();
    if let Some(app) = app {
        if !all.contains(app) {
            known_app(view, app)?;
        }
        all.retain(|name| name == app);
    }
    Ok(all)
}

/// The world of an app. One that the controller does not know yet begins with the nodes alone.
fn world(client: &Client, view: &View, app: &AppName) -> Result<WorldView, Problem> {
    let fetch = |app: &AppName| -> Result<WorldView, Problem> {
        client.get(&format!("api/v1/apps/{app}/world")).map_err(|error| {
            if error.is_not_found() {
                return Problem::NotReady {
                    why: format!("the controller does not lead {app} yet"),
                };
            }
            error.into()
        })
    };
    if view.apps.contains_key(app) {
        return fetch(app);
    }
    let Some(other) = view.apps.keys().next() else {
        let why = "the controller has no app yet, and so shows no nodes to plan with".to_owned();
        return Err(Problem::NotReady { why });
    };
    let other = fetch(other)?;
    Ok(World {
        app: app.clone(),
        desired: BTreeMap::new(),
        assigned: BTreeMap::new(),
        ledgers: BTreeMap::new(),
        ..other
    })
}

/// Puts what the files declare into the world, as the controller would on reading them.
fn declare(world: &mut World, declared: Option<&DesiredApp>) {
    for desire in world.desired.values_mut() {
        desire.standing = Standing::Vanished;
    }
    for (name, settings) in declared.into_iter().flat_map(|app| &app.clusters) {
        let desire = Desire { settings: settings.clone(), standing: Standing::Current };
        world.desired.insert(name.clone(), desire);
    }
}

fn forecast(mut world: World) -> Result<Forecast, Problem> {
    let now = world.plan();
    let progressing = |(name, cluster): (&ClusterName, &crate::plan::ClusterPlan)| {
        (cluster.phase == Phase::Progressing).then(|| name.clone())
    };
    // What a plan that changes something asks for is in its round; this is what was asked before.
    let quiet = now.assignments.is_empty() && now.ledgers.is_empty();
    let under_way = now.clusters.iter().filter_map(progressing).filter(|_| quiet).collect();
    world.catch_up();
    let mut rounds = Vec::new();
    let ending = world.run(ROUNDS_MAX, |step| rounds.push(round(step)));
    let converged = match ending {
        Ending::Converged => true,
        Ending::Blocked => false,
        Ending::Endless => {
            return Err(Problem::Endless { app: world.app.to_string(), rounds: ROUNDS_MAX });
        }
    };
    let last = world.plan();
    Ok(Forecast {
        app: world.app,
        under_way,
        rounds,
        converged,
        blocked: if converged { BTreeMap::new() } else { blocked(&last) },
        clusters: last
            .clusters
            .into_iter()
            .map(|(name, cluster)| {
                let end = End {
                    phase: cluster.phase,
                    target: cluster.target,
                    converged: cluster.converged,
                    expected: cluster.expected,
                    message: message(&cluster.conditions).to_owned(),
                };
                (name, end)
            })
            .collect(),
    })
}

/// What keeps the nodes of clusters that have not converged out of service, and what keeps nodes
/// out of clusters.
fn blocked(plan: &Plan) -> BTreeMap<NodeName, String> {
    let concerned = |cluster: Option<&ClusterName>| {
        cluster
            .and_then(|name| plan.clusters.get(name))
            .is_none_or(|cluster| cluster.phase != Phase::Converged)
    };
    plan.nodes
        .iter()
        .filter(|(_, node)| concerned(node.cluster.as_ref()))
        .filter_map(|(name, node)| match &node.decision {
            Decision::Done(Done::InService { .. } | Done::Serves | Done::Unclaimed) => None,
            Decision::Done(Done::Held)
            | Decision::Act(_)
            | Decision::Wait { .. }
            | Decision::Blocked(_) => Some((name.clone(), node.decision.to_string())),
        })
        .collect()
}

fn round(step: &Step) -> Round {
    let mut acts: BTreeMap<(u8, String), Vec<NodeName>> = BTreeMap::new();
    for (name, act) in step.acts() {
        acts.entry(named(act)).or_default().push(name.clone());
    }
    let events = step.plan.events.iter().map(|event| {
        let node = event.node.as_ref().map(|node| format!(" {node}")).unwrap_or_default();
        format!("{}{node}: {}", event.cluster, event.kind)
    });
    Round {
        round: step.round,
        acts: acts.into_iter().map(|((_, act), nodes)| Asked { act, nodes }).collect(),
        events: events.collect(),
    }
}

/// An act's name, after its place in the order of work.
fn named(act: &Act) -> (u8, String) {
    let (place, name) = match act {
        Act::Release => (0, "end the soak"),
        Act::PutBack => (1, "put back"),
        Act::Withdraw => (2, "withdraw the permit"),
        Act::Settle => (3, "check"),
        Act::Upgrade { revision, attempt, tries } => {
            return (4, format!("upgrade to {revision} (attempt {attempt} of {tries})"));
        }
        Act::TakeOut => (5, "take out"),
        Act::Probe => (6, "ask to answer"),
    };
    (place, name.to_owned())
}

fn render(forecasts: &[Forecast]) -> String {
    if forecasts.is_empty() {
        return "no apps\n".to_owned();
    }
    let mut out = ASSUMPTION.to_owned();
    for forecast in forecasts {
        out.push('\n');
        render_one(&mut out, forecast);
    }
    out
}

fn render_one(out: &mut String, forecast: &Forecast) {
    let app = &forecast.app;
    if outcome(forecast) == Outcome::Fine {
        out.push_str(&format!("{app}: nothing to do\n"));
    } else if forecast.rounds.is_empty() && forecast.under_way.is_empty() {
        out.push_str(&format!("{app}: nothing can be done\n"));
    } else {
        out.push_str(&format!("{app}:\n"));
    }
    if !forecast.under_way.is_empty() {
        let names: Vec<String> = forecast.under_way.iter().map(ToString::to_string).collect();
        out.push_str(&format!("     what is under way ends well: {}\n", names.join(" ")));
    }
    for round in &forecast.rounds {
        let acts: Vec<String> = round
            .acts
            .iter()
            .map(|asked| format!("{}: {}", asked.act, join(&asked.nodes)))
            .collect();
        let acts = if acts.is_empty() { "-".to_owned() } else { acts.join("; ") };
        out.push_str(&format!("{:>3}  {acts}\n", round.round));
        for event in &round.events {
            out.push_str(&format!("     * {}\n", clean(event)));
        }
    }
    let ends = if forecast.converged { "converged" } else { "blocked" };
    out.push_str(&format!("{app} ends {ends}:\n"));
    for (name, end) in &forecast.clusters {
        let End { phase, converged, expected, target, message } = end;
        let phase = word(*phase);
        let message = clean(message);
        out.push_str(&format!(
            "  {name} {phase}, {converged} of {expected} at {target}: {message}\n"
        ));
    }
    let mut reasons: BTreeMap<&str, Vec<NodeName>> = BTreeMap::new();
    for (name, reason) in &forecast.blocked {
        reasons.entry(reason).or_default().push(name.clone());
    }
    for (reason, nodes) in reasons {
        out.push_str(&format!("  {}: {}\n", join(&nodes), clean(reason)));
    }
}

fn join(nodes: &[NodeName]) -> String {
    nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" ")
}
