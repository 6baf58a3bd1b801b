//! What `evenkeel status --watch` draws: lines that fit a terminal. What is as it should be is folded first, and how
//! much was folded is said; where there is room left, it goes to the recent events.

use std::collections::BTreeMap;

use super::super::status::word;
use super::line::{Line, Tone};
use super::unready;
use crate::controller::live::{
    Live, LiveApp, LiveCluster, LiveEvent, LiveNode, LiveOther, NodeState,
};
use crate::controller::view::Progress;
use crate::model::{AppName, ClusterName, NodeName, Presence, Wall};
use crate::plan::Phase;

/// The bar of a rollout, in columns.
const BAR: usize = 12;

/// One look.
pub(super) struct Glance<'a> {
    /// What was seen last, if anything was.
    pub live: Option<&'a Live>,
    /// Why it could not be seen now.
    pub trouble: Option<&'a str>,
    pub columns: usize,
    pub lines: usize,
}

/// How much is folded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fold {
    Nothing,
    /// Nodes of converged clusters that are in service.
    Converged,
    /// All nodes that are in service.
    Quiet,
    /// Converged clusters as a whole, too.
    Clusters,
    /// And of each cluster all nodes but so many.
    Nodes(std::cmp::Reverse<usize>),
}

impl Glance<'_> {
    /// At most `lines` lines of at most `columns` characters.
    pub fn screen(&self) -> Vec<Line> {
        let most = std::iter::once(Fold::Nothing)
            .chain([Fold::Converged, Fold::Quiet, Fold::Clusters])
            .chain((0..=self.lines).rev().map(|n| Fold::Nodes(std::cmp::Reverse(n))));
        let mut lines = Vec::new();
        for fold in most {
            lines = self.folded(fold);
            if lines.len() <= self.lines {
                break;
            }
        }
        if lines.len() > self.lines {
            let more = lines.len() + 1 - self.lines.max(1);
            lines.truncate(self.lines.saturating_sub(1));
            lines.push(Line::plain(format!("… {more} more lines do not fit here")));
        } else if let Some(live) = self.live {
            lines.extend(event_lines(live, self.lines - lines.len()));
        }
        lines.iter().map(|line| line.cut(self.columns)).collect()
    }

    fn folded(&self, fold: Fold) -> Vec<Line> {
        let mut lines = vec![self.head()];
        lines.extend(self.trouble.map(|trouble| Line::default().and(Tone::Bad, trouble)));
        let Some(live) = self.live else { return lines };
        lines.extend(unready(live).map(|why| Line::default().and(Tone::Bad, why)));
        for (name, app) in &live.apps {
            lines.push(Line::default());
            lines.extend(app_head(name, app));
            let mut converged = 0;
            for (cluster, state) in &app.clusters {
                if fold >= Fold::Clusters
                    && state.phase == Phase::Converged
                    && state.notes.is_empty()
                    && state.warnings.is_empty()
                {
                    converged += 1;
                } else {
                    lines.extend(cluster_lines(live.at, cluster, state, fold));
                }
            }
            if converged > 0 {
                lines.push(Line::plain(format!("  + {converged} converged (folded)")));
            }
            lines.extend(unclaimed_lines(&app.unclaimed));
        }
        lines.extend(absent_line(&live.others));
        lines
    }

    fn head(&self) -> Line {
        let name = Line::default().and(Tone::Title, "evenkeel: ");
        match (self.live, self.trouble) {
            (Some(live), None) => {
                name.and(Tone::Good, "live").and(Tone::Plain, format!(", as of {}", clock(live.at)))
            }
            (Some(live), Some(_)) => {
                let seen = format!(", last seen {}; trying again", clock(live.at));
                name.and(Tone::Bad, "NOT CONNECTED").and(Tone::Plain, seen)
            }
            (None, Some(_)) => {
                name.and(Tone::Bad, "NOT CONNECTED yet").and(Tone::Plain, "; trying again")
            }
            (None, None) => name.and(Tone::Plain, "connecting"),
        }
    }
}

/// The time of day, UTC.
pub(super) fn clock(at: Wall) -> String {
    format!("{} UTC", time_of_day(at))
}

fn time_of_day(at: Wall) -> String {
    let text = at.to_string();
    let time = text.split_once('T').map_or(text.as_str(), |(_, time)| time);
    time.trim_end_matches('Z').to_owned()
}

/// What a node without a revision does.
pub(super) fn roles(other: &LiveOther) -> String {
    if other.roles.is_empty() { "no role".to_owned() } else { other.roles.join(", ") }
}

fn app_head(name: &AppName, app: &LiveApp) -> Vec<Line> {
    let commit = app.commit.as_ref().map_or_else(String::new, |commit| format!("  {commit}"));
    let mut lines = vec![Line::default().and(Tone::Title, name.as_str()).and(Tone::Plain, commit)];
    for (backend, balancers) in &app.balancers {
        for (lb, state) in balancers {
            let (ready, all, floor) = (state.ready, state.servers, state.floor);
            let words =
                format!("  backend {backend} at {lb}: {ready} of {all} ready, floor {floor}");
            let mut trouble = String::new();
            if ready < floor {
                trouble += ", BELOW THE FLOOR";
            }
            if state.presence != Presence::Present {
                trouble += &format!(", agent {}", state.presence);
            }
            if let Some(error) = &state.error {
                trouble += &format!(", {error}");
            }
            lines.push(Line::plain(words).and(Tone::Bad, trouble));
        }
    }
    if app.clusters.is_empty() {
        let why = "  no cluster is known: its files have gone, or were never without a fault";
        lines.push(Line::default().and(Tone::Bad, why));
    }
    lines
}

fn cluster_lines(now: Wall, name: &ClusterName, cluster: &LiveCluster, fold: Fold) -> Vec<Line> {
    let sign = match cluster.phase {
        Phase::Converged => "✓",
        Phase::Progressing => "↑",
        Phase::Degraded => "!",
    };
    let (phase, target) = (word(cluster.phase), &cluster.target);
    let (done, of) = (cluster.converged, cluster.expected);
    let head = Line::plain("  ").and(Tone::Title, name.as_str()).and(Tone::Plain, ": ");
    let head = head.and(Tone::of_phase(cluster.phase), format!("{sign} {phase}"));
    let mut lines =
        vec![head.and(Tone::Plain, format!(", {done} of {of} at {target} and in service"))];
    if let Some(progress) = cluster.progress {
        lines.push(Line::plain(format!("    {}", progress_words(progress, now))));
    }
    if cluster.phase == Phase::Degraded
        && !cluster.notes.values().any(|n| n.starts_with(&cluster.message))
    {
        lines.push(Line::plain(format!("    {}", cluster.message)));
    }
    let note = |cause: &str, text: &str| {
        Line::default().and(Tone::Bad, format!("    {}: {text}", cause.replace('_', " ")))
    };
    lines.extend(cluster.notes.iter().map(|(cause, text)| note(cause.as_str(), text)));
    lines.extend(cluster.warnings.iter().map(|(what, text)| note(what, text)));
    lines.extend(node_lines(cluster, fold));
    lines
}

fn node_lines(cluster: &LiveCluster, fold: Fold) -> Vec<Line> {
    let mut nodes: Vec<(&NodeName, &LiveNode)> = cluster.nodes.iter().collect();
    let folds_quiet = match fold {
        Fold::Nothing => false,
        Fold::Converged => cluster.phase == Phase::Converged,
        Fold::Quiet | Fold::Clusters | Fold::Nodes(_) => true,
    };
    let mut folded: BTreeMap<NodeState, usize> = BTreeMap::new();
    nodes.retain(|(_, node)| {
        let keep = !(folds_quiet && node.state.is_quiet());
        *folded.entry(node.state).or_default() += usize::from(!keep);
        keep
    });
    if let Fold::Nodes(std::cmp::Reverse(most)) = fold
        && nodes.len() > most
    {
        // What is wrong stays longest.
        nodes.sort_by_key(|(_, node)| node.state);
        for (_, node) in nodes.split_off(most) {
            *folded.entry(node.state).or_default() += 1;
        }
    }
    let widest = nodes.iter().map(|(name, _)| name.as_str().len()).max().unwrap_or(0);
    let mut lines: Vec<Line> =
        nodes.iter().map(|(name, node)| node_line(name, node, widest)).collect();
    let folded: Vec<String> = folded
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(state, count)| format!("{count} {}", state.words()))
        .collect();
    if !folded.is_empty() {
        lines.push(Line::plain(format!("    + {} (folded)", folded.join(", "))));
    }
    lines
}

fn node_line(name: &NodeName, node: &LiveNode, widest: usize) -> Line {
    let runs = node.revision.as_ref().map_or("unknown", |revision| revision.as_str());
    let goal = node.goal.as_ref().map(|goal| goal.as_str()).filter(|goal| *goal != runs);
    let revision = goal.map_or(runs.to_owned(), |goal| format!("{runs} -> {goal}"));
    let (sign, words) = (node.state.sign(), node.state.words());
    let name = name.as_str();
    Line::plain(format!("    {name:widest$}  "))
        .and(Tone::of_state(node.state), format!("{sign} {words:12}"))
        .and(Tone::Plain, format!("  {revision:9}  {}", node.reason))
}

/// Those that no cluster claims, or more than one: a line for each state, with their number first, should it be cut.
fn unclaimed_lines(nodes: &BTreeMap<NodeName, LiveNode>) -> Vec<Line> {
    let mut by_state: BTreeMap<NodeState, Vec<&str>> = BTreeMap::new();
    for (name, node) in nodes {
        by_state.entry(node.state).or_default().push(name.as_str());
    }
    let line = |(state, names): (NodeState, Vec<&str>)| {
        let claimed = if state == NodeState::Unclaimed { "" } else { ", and in no cluster" };
        let words = format!("{} {} {}{claimed}", state.sign(), names.len(), state.words());
        Line::plain("  ")
            .and(Tone::of_state(state), words)
            .and(Tone::Plain, format!(": {}", names.join(", ")))
    };
    by_state.into_iter().map(line).collect()
}

/// Load balancers and notification servers that are not there.
fn absent_line(others: &BTreeMap<NodeName, LiveOther>) -> Option<Line> {
    let absent = others.iter().filter(|(_, other)| other.presence != Presence::Present);
    let words: Vec<String> = absent
        .map(|(name, other)| format!("{name} ({}) is {}", roles(other), other.presence))
        .collect();
    (!words.is_empty()).then(|| Line::default().and(Tone::Bad, format!("! {}", words.join(", "))))
}

/// The latest first, with a title, in so many lines.
fn event_lines(live: &Live, room: usize) -> Vec<Line> {
    let Some(most) = room.checked_sub(2).filter(|most| *most > 0) else { return Vec::new() };
    let mut events = live.events.values().rev().take(most).map(event_line).peekable();
    if events.peek().is_none() {
        return Vec::new();
    }
    let title = Line::default().and(Tone::Title, "recent events").and(Tone::Plain, ", in UTC");
    [Line::default(), title].into_iter().chain(events).collect()
}

fn event_line(event: &LiveEvent) -> Line {
    let place: Vec<&str> = [Some(event.app.as_str())]
        .into_iter()
        .chain([event.cluster.as_ref().map(ClusterName::as_str)])
        .chain([event.node.as_ref().map(NodeName::as_str)])
        .flatten()
        .collect();
    let tone = if event.important { Tone::Title } else { Tone::Plain };
    Line::plain(format!("  {} ", time_of_day(event.at)))
        .and(tone, format!("{}: {}", place.join("/"), event.what))
}

fn progress_words(progress: Progress, now: Wall) -> String {
    let all = (2 * progress.nodes).max(1);
    let full = (progress.upgraded + progress.in_service) * BAR / all;
    let bar = format!("[{}{}]", "#".repeat(full.min(BAR)), "-".repeat(BAR.saturating_sub(full)));
    let ends = match progress.ends.map(|end| end.0.saturating_sub(now.0) / 1000) {
        None => "end unknown".to_owned(),
        Some(seconds) if seconds < 90 => {
            format!("about {} s left", seconds.div_ceil(10).max(1) * 10)
        }
        Some(seconds) if seconds < 5400 => format!("about {} min left", seconds.div_ceil(60)),
        Some(seconds) => format!("about {} h left", seconds.div_ceil(3600)),
    };
    let Progress { nodes, upgraded, in_service, .. } = progress;
    format!("{bar} {upgraded} of {nodes} upgraded, {in_service} back in service, {ends}")
}
