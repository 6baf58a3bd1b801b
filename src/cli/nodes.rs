//! `evenkeel nodes`: every node with its part in each app, in a table.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::Args;

use super::client::{Client, Connection};
use super::outcome::{Outcome, Problem};
use super::print::{self, Output};
use super::select::known_app;
use super::table::Table;
use crate::controller::view::{NodeAppView, NodeView, View};
use crate::model::{AppName, NodeName, RevisionSeen};

/// Lists the nodes, and what is decided about each.
#[derive(Debug, Args)]
pub struct NodesArgs {
    /// Only nodes with this: a fact, or `cluster`, `app`, `presence` (present, departed, unknown,
    /// duplicate) or `role` (app, balancer, notify). Repeat it to ask for more at once.
    #[arg(long = "where", value_name = "KEY=VALUE")]
    filters: Vec<Filter>,
    /// Only nodes that have to do with this app.
    #[arg(long)]
    app: Option<AppName>,
    #[command(flatten)]
    connection: Connection,
    /// The form of the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    key: String,
    value: String,
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Self { key: key.to_owned(), value: value.to_owned() })
            }
            Some(_) | None => Err("it must be KEY=VALUE".to_owned()),
        }
    }
}

impl Filter {
    /// Whether a node fits with one of its parts, or with `None` where it has none.
    fn fits(&self, node: &NodeView, part: Option<(&AppName, &NodeAppView)>) -> bool {
        let value = self.value.as_str();
        match self.key.as_str() {
            "app" => part.is_some_and(|(app, _)| app.as_str() == value),
            "cluster" => part
                .and_then(|(_, part)| part.cluster.as_ref())
                .is_some_and(|cluster| cluster.as_str() == value),
            "presence" => node.presence.to_string() == value,
            "role" => node.roles.iter().any(|role| role == value),
            fact => node.facts.get(fact).is_some_and(|is| is == value),
        }
    }
}

/// Prints them.
///
/// # Errors
/// [`Problem`].
pub fn run(args: &NodesArgs) -> Result<Outcome, Problem> {
    let view: View = Client::new(&args.connection)?.get("api/v1/state")?;
    if let Some(app) = &args.app {
        known_app(&view, app)?;
    }
    let nodes = chosen(view.nodes, &args.filters, args.app.as_ref());
    match args.output {
        Output::Table if nodes.is_empty() => print::error("no nodes"),
        Output::Table => print::text(&render(&nodes, print::width()))?,
        Output::Json => print::json(&nodes)?,
    }
    Ok(Outcome::Fine)
}

/// The nodes that fit, each with those of its parts that do.
fn chosen(
    nodes: BTreeMap<NodeName, NodeView>,
    filters: &[Filter],
    app: Option<&AppName>,
) -> BTreeMap<NodeName, NodeView> {
    let fit = |(name, mut node): (NodeName, NodeView)| {
        let all = |part| filters.iter().all(|filter| filter.fits(&node, part));
        let idle = app.is_none() && node.apps.is_empty() && all(None);
        let parts: BTreeMap<_, _> = node
            .apps
            .iter()
            .filter(|(name, part)| app.is_none_or(|app| app == *name) && all(Some((name, part))))
            .map(|(name, part)| (name.clone(), part.clone()))
            .collect();
        let fits = idle || !parts.is_empty();
        node.apps = parts;
        fits.then_some((name, node))
    };
    nodes.into_iter().filter_map(fit).collect()
}

fn render(nodes: &BTreeMap<NodeName, NodeView>, width: Option<usize>) -> String {
    let mut table = Table::new(&[
        "NODE",
        "PRESENCE",
        "CLUSTER",
        "REVISION",
        "AT THE LBS",
        "CHECKS",
        "DECISION",
    ]);
    for (name, node) in nodes {
        let (name, presence) = (name.to_string(), node.presence.to_string());
        if node.apps.is_empty() {
            let empty = String::new;
            table.row([
                name.clone(),
                presence.clone(),
                empty(),
                empty(),
                empty(),
                empty(),
                idle(node),
            ]);
        }
        for (app, part) in &node.apps {
            let cluster = part.cluster.as_ref();
            table.row([
                name.clone(),
                presence.clone(),
                cluster.map_or_else(|| app.to_string(), |cluster| format!("{app}/{cluster}")),
                match &part.revision {
                    Some(RevisionSeen::Running(revision)) => revision.to_string(),
                    Some(RevisionSeen::Unknown(_)) => "unknown".to_owned(),
                    None => String::new(),
                },
                at_balancers(part),
                checks(part).to_owned(),
                decision(part).to_owned(),
            ]);
        }
    }
    table.render(width)
}

/// What a node that no app concerns is there for.
pub(super) fn idle(node: &NodeView) -> String {
    if node.roles.is_empty() {
        return "no app concerns it, and its agent has no role".to_owned();
    }
    let role = |role: &String| match role.as_str() {
        "notify" => "delivers messages".to_owned(),
        "balancer" => "load balancer without a backend of an app".to_owned(),
        other => format!("has the role {other}, and no app wants it"),
    };
    node.roles.iter().map(role).collect::<Vec<_>>().join("; ")
}

/// The decision in words.
pub(super) fn decision(part: &NodeAppView) -> &str {
    if part.reason.is_empty() { "not decided yet" } else { &part.reason }
}

/// Its server at all load balancers, once if all agree.
fn at_balancers(part: &NodeAppView) -> String {
    let mut states = part.servers.values().map(|server| server.state.as_str());
    let Some(first) = states.next() else { return String::new() };
    if states.all(|state| state == first) {
        return first.to_owned();
    }
    let each = part.servers.iter().map(|(lb, server)| format!("{lb}: {}", server.state));
    each.collect::<Vec<_>>().join(", ")
}

/// How the last round of checks ended; `evenkeel why` has the results.
fn checks(part: &NodeAppView) -> &str {
    let words = part.last_checks.as_deref().unwrap_or_default();
    words.split_once(':').map_or(words, |(state, _)| state)
}
