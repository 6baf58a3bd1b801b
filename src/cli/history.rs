//! `evenkeel history`: what happened, was decided and asked for, and why; of a running controller, or of a state
//! directory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};

use super::client::{Client, Connection};
use super::outcome::{Outcome, Problem};
use super::print::{self, Output, clean};
use super::select::Selection;
use super::table::Table;
use crate::history::{
    Entry, Filter, Kind, LIMIT_MAX, Page, Reader, Rollout, RolloutPage, Rollouts, age_ms,
};
use crate::model::{NodeName, RolloutId, Wall, render_duration_ms};

/// Pages of one rollout, at most: more entries than a history has where nobody asked for more.
const PAGES_MAX: usize = 1_000;

/// Of a commit's id, enough to be told apart.
const COMMIT_SHOWN: usize = 12;

/// Shows what happened: events, and what was asked of agents, with cause, before and after.
///
/// Oldest first; the newest --limit of those that fit. `evenkeel history show ROLLOUT` tells one rollout, node by node.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct HistoryArgs {
    #[command(subcommand)]
    command: Option<Show>,
    /// One app, or one cluster; without it, all of them.
    #[arg(value_name = "APP[/CLUSTER]")]
    selection: Option<Selection>,
    /// Only what is about this node.
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,
    /// Not older than this: an age such as 2d, 36h or 90m, or a time such as 2026-11-26T08:00:00Z.
    #[arg(long, value_name = "AGE|TIME", value_parser = since)]
    since: Option<Since>,
    /// Every decision about a node, too, whether or not something was asked of it.
    #[arg(long)]
    all: bool,
    /// The rollouts in short, newest first, instead of what happened in them.
    #[arg(long, conflicts_with_all = ["node", "all"])]
    rollouts: bool,
    /// So many at most.
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = limit)]
    limit: usize,
    /// Only what is older than the entry of this number, which the end of an answer names.
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Tells one rollout: how it began and ended, and the way of every node.
    Show(ShowArgs),
}

/// Tells one rollout: how it began and ended, and the way of every node.
#[derive(Debug, Args)]
struct ShowArgs {
    /// Its id, as `evenkeel status` and `evenkeel history --rollouts` show it.
    rollout: RolloutId,
    /// Only the way of this node.
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,
    #[command(flatten)]
    source: Source,
}

/// Whom to ask.
#[derive(Debug, Args)]
struct Source {
    #[command(flatten)]
    connection: Connection,
    /// Read this state directory of a controller, which need not run, instead of asking one.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The form of the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// How far back.
#[derive(Debug, Clone, Copy)]
enum Since {
    Age(u64),
    Time(Wall),
}

impl Since {
    fn wall(self) -> Wall {
        match self {
            Self::Time(at) => at,
            Self::Age(ms) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
                Wall(now.saturating_sub(ms))
            }
        }
    }
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Since::Time(Wall(u64::try_from(time.as_millisecond()).unwrap_or(0))));
    }
    let known = |error| format!("{error}; or a time such as 2026-11-26T08:00:00Z");
    age_ms(text).map(Since::Age).map_err(known)
}

fn limit(text: &str) -> Result<usize, String> {
    let limit = text.parse::<usize>().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| format!("{text:?} is not a number between 1 and {LIMIT_MAX}"))
}

/// Prints it.
///
/// # Errors
/// [`Problem`].
pub fn run(args: &HistoryArgs) -> Result<Outcome, Problem> {
    if let Some(Show::Show(show)) = &args.command {
        return tell(show);
    }
    let selection = args.selection.as_ref();
    let kinds = if args.all { Vec::new() } else { vec![Kind::Event, Kind::Action, Kind::Gap] };
    let filter = Filter {
        app: selection.map(|selection| selection.app.to_string()),
        cluster: selection.and_then(|s| s.cluster.as_ref()).map(ToString::to_string),
        node: args.node.as_ref().map(ToString::to_string),
        kinds,
        since: args.since.map(Since::wall),
        before: args.before,
        limit: args.limit,
        ..Filter::default()
    };
    if args.rollouts {
        let list = args.source.ask(&filter, "api/v1/rollouts", Reader::rollouts)?;
        return args.source.print(&list, render_rollouts);
    }
    let page = args.source.ask(&filter, "api/v1/history", Reader::entries)?;
    args.source.print(&page, render_page)
}

fn tell(args: &ShowArgs) -> Result<Outcome, Problem> {
    let path = format!("api/v1/history/{}", args.rollout);
    let mut filter = Filter {
        rollout: Some(args.rollout.to_string()),
        node: args.node.as_ref().map(ToString::to_string),
        limit: LIMIT_MAX,
        ..Filter::default()
    };
    let mut whole = args.source.ask(&filter, &path, Reader::rollout)?;
    for _ in 0..PAGES_MAX {
        let Some(after) = whole.after else { break };
        filter.after = Some(after);
        let next = args.source.ask(&filter, &path, Reader::rollout)?;
        whole = RolloutPage { entries: [whole.entries, next.entries].concat(), ..next };
    }
    args.source.print(&whole, render_rollout)
}

impl Source {
    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        filter: &Filter,
        path: &str,
        read: impl Fn(&Reader, &Filter) -> Result<T, crate::history::ReadError>,
    ) -> Result<T, Problem> {
        if let Some(folder) = &self.state_dir {
            return Ok(read(&Reader::new(folder.clone()), filter)?);
        }
        Ok(Client::new(&self.connection)?.get(&format!("{path}?{}", parameters(filter)))?)
    }

    fn print<T: serde::Serialize>(
        &self,
        document: &T,
        render: impl Fn(&T, Option<usize>) -> String,
    ) -> Result<Outcome, Problem> {
        match self.output {
            Output::Table => print::text(&render(document, print::width()))?,
            Output::Json => print::json(document)?,
        }
        Ok(Outcome::Fine)
    }
}

/// A filter as the parameters of an address. Names need no escapes.
fn parameters(filter: &Filter) -> String {
    let number = |value: u64| value.to_string();
    let kinds = filter.kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(",");
    let pairs = [
        ("app", filter.app.clone()),
        ("cluster", filter.cluster.clone()),
        ("node", filter.node.clone()),
        ("kind", (!kinds.is_empty()).then_some(kinds)),
        ("since", filter.since.map(|at| number(at.0))),
        ("before", filter.before.map(number)),
        ("after", filter.after.map(number)),
        ("limit", Some(filter.limit.to_string())),
    ];
    let given = pairs.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    given.collect::<Vec<_>>().join("&")
}

fn render_page(page: &Page, width: Option<usize>) -> String {
    let mut table = Table::new(&["TIME", "ROLLOUT", "WHERE", "WHAT", "CHANGE", "BECAUSE"]);
    for entry in &page.entries {
        table.row([
            entry.at.to_string(),
            entry.rollout.clone().unwrap_or_default(),
            place(entry),
            entry.what.clone(),
            change(entry),
            entry.cause.clone(),
        ]);
    }
    if table.is_empty() {
        return "nothing is known\n".to_owned();
    }
    table.render(width) + &more(page.before)
}

fn more(before: Option<u64>) -> String {
    before.map_or_else(String::new, |number| format!("\nolder ones: --before {number}\n"))
}

/// `app/cluster/node`, as far as it is known.
fn place(entry: &Entry) -> String {
    let parts = [&entry.app, &entry.cluster, &entry.node];
    parts.into_iter().flatten().cloned().collect::<Vec<_>>().join("/")
}

fn change(entry: &Entry) -> String {
    match (&entry.before, &entry.after) {
        (None, None) => String::new(),
        (before, after) => {
            let words =
                |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
            format!("{} -> {}", words(before), words(after))
        }
    }
}

fn render_rollouts(list: &Rollouts, width: Option<usize>) -> String {
    let mut table =
        Table::new(&["BEGUN", "ROLLOUT", "CLUSTER", "REVISION", "OUTCOME", "TOOK", "FAILED", "BY"]);
    for rollout in &list.rollouts {
        table.row([
            rollout.begun.to_string(),
            rollout.rollout.clone(),
            format!("{}/{}", rollout.app, rollout.cluster),
            way(rollout),
            rollout.outcome.words().to_owned(),
            took(rollout).unwrap_or_default(),
            rollout.failed.join(" "),
            declared(rollout),
        ]);
    }
    if table.is_empty() {
        return "no rollouts are known\n".to_owned();
    }
    table.render(width) + &more(list.before)
}

fn way(rollout: &Rollout) -> String {
    let words = |side: &Option<String>, none: &str| side.clone().unwrap_or_else(|| none.to_owned());
    format!("{} -> {}", words(&rollout.from, "none"), words(&rollout.to, "unknown"))
}

fn took(rollout: &Rollout) -> Option<String> {
    // To the second, but for what took less.
    let ms = rollout.ended?.0.saturating_sub(rollout.begun.0);
    Some(render_duration_ms(if ms < 1_000 { ms } else { ms / 1_000 * 1_000 }))
}

fn declared(rollout: &Rollout) -> String {
    match (&rollout.commit, rollout.cause.is_empty()) {
        (_, false) => rollout.cause.clone(),
        (Some(commit), true) => {
            format!("commit {}", commit.chars().take(COMMIT_SHOWN).collect::<String>())
        }
        (None, true) => String::new(),
    }
}

fn render_rollout(page: &RolloutPage, _width: Option<usize>) -> String {
    let rollout = &page.rollout;
    let mut out = format!(
        "rollout {} of {}/{}: {}, {}\n",
        clean(&rollout.rollout),
        clean(&rollout.app),
        clean(&rollout.cluster),
        clean(&way(rollout)),
        rollout.outcome.words()
    );
    let mut line = |what: &str, text: &str| {
        if !text.is_empty() {
            out.push_str(&format!("  {what:<13} {}\n", clean(text)));
        }
    };
    line("begun", &rollout.begun.to_string());
    if let (Some(ended), Some(took)) = (rollout.ended, took(rollout)) {
        line("ended", &format!("{ended}, after {took}"));
    }
    line("declared by", &declared(rollout));
    line("epochs", &epochs(&page.entries));
    line("failed", &rollout.failed.join(", "));
    let mut ways: BTreeMap<Option<&str>, Vec<&Entry>> = BTreeMap::new();
    for entry in &page.entries {
        ways.entry(entry.node.as_deref()).or_default().push(entry);
    }
    for (node, entries) in ways {
        out.push_str(&format!("\n{}\n", clean(node.unwrap_or(&rollout.cluster))));
        for entry in entries {
            out.push_str(&step(rollout.begun, entry));
        }
    }
    out
}

/// Who led meanwhile, first to last.
fn epochs(entries: &[Entry]) -> String {
    let mut epochs: Vec<String> = Vec::new();
    for entry in entries {
        let (Some(epoch), Some(controller)) = (entry.epoch, &entry.controller) else { continue };
        let words = format!("{epoch} of controller {controller}");
        if !epochs.contains(&words) {
            epochs.push(words);
        }
    }
    epochs.join(", then ")
}

/// One line of a node's way.
fn step(begun: Wall, entry: &Entry) -> String {
    let (sign, ms) = match entry.at.0.checked_sub(begun.0) {
        Some(ms) => ('+', ms),
        None => ('-', begun.0 - entry.at.0),
    };
    let mut line = format!("  {sign}{:>4}.{:03}s  {}", ms / 1_000, ms % 1_000, clean(&entry.what));
    // A decision's names say no more than its words do.
    let change = if entry.kind == Kind::Decision { String::new() } else { change(entry) };
    if !change.is_empty() {
        line.push_str(&format!(" ({})", clean(&change)));
    }
    if !entry.cause.is_empty() && !entry.what.contains(&entry.cause) {
        line.push_str(&format!("; {}", clean(&entry.cause)));
    }
    line.push('\n');
    line
}
