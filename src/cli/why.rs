//! `evenkeel why`: what is decided about one node, since when, and what that rests on.

use clap::Args;

use super::client::{Client, Connection};
use super::nodes::{decision, idle};
use super::outcome::{Outcome, Problem};
use super::print::{self, Output, clean};
use super::select::Unknown;
use crate::controller::view::{NodeAppView, NodeView, View};
use crate::model::{AppName, NodeName, RevisionSeen, Wall, render_duration_ms};

/// Says why a node is as it is: the decision about it, since when, and what it rests on.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// The node.
    node: NodeName,
    #[command(flatten)]
    connection: Connection,
    /// The form of the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Prints it.
///
/// # Errors
/// [`Problem`].
pub fn run(args: &WhyArgs) -> Result<Outcome, Problem> {
    let view: View = Client::new(&args.connection)?.get("api/v1/state")?;
    let Some(node) = view.nodes.get(&args.node) else {
        return Err(Unknown::node(&args.node, view.nodes.keys()).into());
    };
    match args.output {
        Output::Table => print::text(&render(&view, &args.node, node))?,
        Output::Json => print::json(node)?,
    }
    Ok(Outcome::Fine)
}

fn render(view: &View, name: &NodeName, node: &NodeView) -> String {
    let mut out = Lines::default();
    if node.apps.is_empty() {
        out.heading(&format!("{name}: {}", idle(node)));
    }
    for (app, part) in &node.apps {
        let cluster = part.cluster.as_ref();
        let place = cluster.map_or_else(|| app.to_string(), |cluster| format!("{app}/{cluster}"));
        out.heading(&format!("{name} in {place}: {}", decision(part)));
        part_lines(&mut out, view.at, part);
        balancer_lines(&mut out, view, app, name);
    }
    out.heading(&format!("{name} is {}", node.presence));
    out.line("roles", &node.roles.join(", "));
    out.line("agent", &node.agent);
    for (fact, value) in &node.facts {
        out.line("fact", &format!("{fact} = {value}"));
    }
    out.0
}

fn part_lines(out: &mut Lines, now: Wall, part: &NodeAppView) {
    if let Some(since) = part.since {
        // To the second: less is noise.
        let ms = now.0.saturating_sub(since.0) / 1000 * 1000;
        out.line("since", &format!("{} ({since})", render_duration_ms(ms)));
    }
    match &part.revision {
        Some(RevisionSeen::Running(revision)) => out.line("runs", revision.as_str()),
        Some(RevisionSeen::Unknown(error)) => out.line("runs", &format!("unknown: {error}")),
        None => {}
    }
    if let Some(goal) = &part.goal {
        out.line("goal", goal.as_str());
    }
    for (lb, server) in &part.servers {
        out.line(&format!("at {lb}"), &format!("server {}: {}", server.server, server.state));
    }
    out.line("last attempt", part.last_attempt.as_deref().unwrap_or_default());
    for line in part.last_output.iter().flat_map(|output| output.lines()) {
        out.line("  its output", line.trim_end());
    }
    out.line("last checks", part.last_checks.as_deref().unwrap_or_default());
}

/// Of a load balancer: its backends.
fn balancer_lines(out: &mut Lines, view: &View, app: &AppName, name: &NodeName) {
    let backends = view.apps.get(app).into_iter().flat_map(|app| &app.balancers);
    for (backend, balancer) in backends.filter_map(|(b, lbs)| Some((b, lbs.get(name)?))) {
        let state = match &balancer.error {
            Some(error) => format!("{backend} cannot be read: {error}"),
            None => format!(
                "{backend}: {} of {} servers are ready, the floor is {}",
                balancer.ready, balancer.servers, balancer.floor
            ),
        };
        out.line("backend", &state);
    }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn heading(&mut self, text: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(&clean(text));
        self.0.push('\n');
    }

    /// A line; none if there is nothing to say.
    fn line(&mut self, what: &str, text: &str) {
        if !text.is_empty() {
            self.0.push_str(&format!("  {:<13} {}\n", clean(what), clean(text)));
        }
    }
}
