//! What `evenkeel status --watch` draws: lines that fit a terminal. What is as it should be is folded first, and how
//! much was folded is said.

use std::collections::BTreeMap;

use super::super::print::clean;
use super::super::status::{unready, word};
use crate::controller::live::{NodeState, message};
use crate::controller::view::{AppView, ClusterView, NodeAppView, Progress, View};
use crate::model::{AppName, ClusterName, NodeName, Presence, RevisionSeen, Wall};
use crate::plan::Phase;

/// The bar of a rollout, in columns.
const BAR: usize = 12;

/// One look.
pub(super) struct Glance<'a> {
    /// What was seen last, if anything was.
    pub view: Option<&'a View>,
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
    pub fn screen(&self) -> Vec<String> {
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
            lines.push(format!("… {more} more lines do not fit here"));
        }
        lines.iter().map(|line| cut(&clean(line), self.columns)).collect()
    }

    fn folded(&self, fold: Fold) -> Vec<String> {
        let mut lines = vec![self.head()];
        lines.extend(self.trouble.map(str::to_owned));
        let Some(view) = self.view else { return lines };
        lines.extend(unready(view));
        for (name, app) in &view.apps {
            lines.push(String::new());
            lines.extend(app_head(name, app));
            let mut converged = 0;
            for (cluster, state) in &app.clusters {
                if fold >= Fold::Clusters
                    && state.phase == Phase::Converged
                    && state.causes.is_empty()
                {
                    converged += 1;
                } else {
                    lines.extend(cluster_lines(view, name, cluster, state, fold));
                }
            }
            if converged > 0 {
                lines.push(format!("  + {converged} converged (folded)"));
            }
        }
        lines
    }

    fn head(&self) -> String {
        match (self.view, self.trouble) {
            (Some(view), None) => format!("evenkeel: live, as of {}", clock(view.at)),
            (Some(view), Some(_)) => {
                format!("evenkeel: NOT CONNECTED, last seen {}; trying again", clock(view.at))
            }
            (None, _) => "evenkeel: NOT CONNECTED yet; trying again".to_owned(),
        }
    }
}

/// The time of day, UTC.
pub(super) fn clock(at: Wall) -> String {
    let text = at.to_string();
    let time = text.split_once('T').map_or(text.as_str(), |(_, time)| time);
    format!("{} UTC", time.trim_end_matches('Z'))
}

fn app_head(name: &AppName, app: &AppView) -> Vec<String> {
    let commit = app.commit.as_ref().map_or_else(String::new, |commit| {
        let id: String = commit.id.chars().take(12).collect();
        format!("  commit {id}: {}", commit.subject)
    });
    let mut lines = vec![format!("{name}{commit}")];
    for (backend, balancers) in &app.balancers {
        for (lb, state) in balancers {
            let (ready, all, floor) = (state.ready, state.servers, state.floor);
            let mut line =
                format!("  backend {backend} at {lb}: {ready} of {all} ready, floor {floor}");
            if ready < floor {
                line += ", BELOW THE FLOOR";
            }
            if state.presence != Presence::Present {
                line += &format!(", agent {}", state.presence);
            }
            if let Some(error) = &state.error {
                line += &format!(", {error}");
            }
            lines.push(line);
        }
    }
    lines
}

fn cluster_lines(
    view: &View,
    app: &AppName,
    name: &ClusterName,
    cluster: &ClusterView,
    fold: Fold,
) -> Vec<String> {
    let sign = match cluster.phase {
        Phase::Converged => "✓",
        Phase::Progressing => "↑",
        Phase::Degraded => "!",
    };
    let (phase, target) = (word(cluster.phase), &cluster.target);
    let (done, of) = (cluster.converged, cluster.expected);
    let mut lines =
        vec![format!("  {name}: {sign} {phase}, {done} of {of} at {target} and in service")];
    if let Some(progress) = cluster.progress {
        lines.push(format!("    {}", progress_words(progress, view.at)));
    }
    if cluster.phase == Phase::Degraded {
        lines.push(format!("    {}", message(&cluster.conditions)));
    }
    let causes = cluster.causes.iter();
    lines.extend(
        causes.map(|(cause, text)| format!("    {}: {text}", cause.as_str().replace('_', " "))),
    );
    let part = |(node, seen): (&'_ NodeName, &'_ crate::controller::view::NodeView)| {
        let part = seen.apps.get(app).filter(|part| part.cluster.as_ref() == Some(name))?;
        Some((NodeState::of(seen.presence, part.decision.as_ref()), node.clone(), part.clone()))
    };
    let mut nodes: Vec<_> = view.nodes.iter().filter_map(part).collect();
    let folds_quiet = match fold {
        Fold::Nothing => false,
        Fold::Converged => cluster.phase == Phase::Converged,
        Fold::Quiet | Fold::Clusters | Fold::Nodes(_) => true,
    };
    let mut folded: BTreeMap<NodeState, usize> = BTreeMap::new();
    nodes.retain(|(state, _, _)| {
        let keep = !(folds_quiet && state.is_quiet());
        *folded.entry(*state).or_default() += usize::from(!keep);
        keep
    });
    if let Fold::Nodes(std::cmp::Reverse(most)) = fold
        && nodes.len() > most
    {
        // What is wrong stays longest.
        nodes.sort_by_key(|(state, _, _)| *state);
        for (state, _, _) in nodes.split_off(most) {
            *folded.entry(state).or_default() += 1;
        }
    }
    let widest = nodes.iter().map(|(_, name, _)| name.as_str().len()).max().unwrap_or(0);
    lines.extend(nodes.iter().map(|(state, name, part)| node_line(*state, name, part, widest)));
    let folded: Vec<String> = folded
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(state, count)| format!("{count} {}", state.words()))
        .collect();
    if !folded.is_empty() {
        lines.push(format!("    + {} (folded)", folded.join(", ")));
    }
    lines
}

fn node_line(state: NodeState, name: &NodeName, part: &NodeAppView, widest: usize) -> String {
    let runs = part.revision.as_ref().and_then(RevisionSeen::known);
    let runs = runs.map_or("unknown", |revision| revision.as_str());
    let goal = part.goal.as_ref().map(|goal| goal.as_str()).filter(|goal| *goal != runs);
    let revision = goal.map_or(runs.to_owned(), |goal| format!("{runs} -> {goal}"));
    let (sign, words) = (state.sign(), state.words());
    format!("    {name:widest$}  {sign} {words:12}  {revision:9}  {}", part.reason)
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

fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    let kept: String = line.chars().take(columns.saturating_sub(1)).collect();
    format!("{kept}…")
}
