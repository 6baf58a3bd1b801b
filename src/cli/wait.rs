//! `evenkeel status --wait`: follows clusters until none is progressing.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::client::Client;
use super::outcome::{Outcome, Problem};
use super::print::{self, clean};
use super::status::{StatusArgs, clusters, fetch, overall, unready, word};
use crate::command::chain;
use crate::controller::live::message;
use crate::controller::view::{ClusterView, View};
use crate::model::{Cause, render_duration_ms};

/// Between two looks; but never so often that asking takes more than a fifth of the time, since
/// the document of a large fleet is megabytes.
const PAUSE: Duration = Duration::from_millis(200);

/// How often the bar's clock moves.
const TICK: Duration = Duration::from_millis(250);

/// Follows until nothing that is asked for is progressing, or the time is up; returns the last view
/// and what it amounts to. A controller that is away is waited for too: it may be restarting.
///
/// # Errors
/// [`Problem`], if asking again cannot help, or there is no answer when the time is up.
pub(super) fn settled(client: &Client, args: &StatusArgs) -> Result<(View, Outcome), Problem> {
    let started = Instant::now();
    let mut progress = Progress::new();
    loop {
        let asked = Instant::now();
        let look = fetch(client, args.selection.as_ref());
        let took = asked.elapsed();
        let (why, view) = match look {
            Ok(view) => match unsettled(&view, args) {
                None => {
                    let outcome = overall(&view);
                    return Ok((view, outcome));
                }
                Some(why) => (why, Ok(view)),
            },
            Err(problem) if may_pass(&problem, args) => (chain(&problem), Err(problem)),
            Err(problem) => return Err(problem),
        };
        progress.show(view.as_ref().ok(), &why);
        let left = args.timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            drop(progress);
            let ms = u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX);
            print::error(&format!("not settled within {}: {why}", render_duration_ms(ms)));
            return view.map(|view| (view, Outcome::UnderWay));
        }
        std::thread::sleep(PAUSE.max(took * 4).min(left));
    }
}

/// What there is to wait for, in words; nothing if it has settled.
fn unsettled(view: &View, args: &StatusArgs) -> Option<String> {
    if let Some(why) = unready(view) {
        return Some(why);
    }
    if let Some(wanted) = &args.revision {
        if clusters(view).next().is_none() {
            return Some("no cluster is declared yet".to_owned());
        }
        let other = clusters(view).find(|(_, _, cluster)| cluster.target != *wanted);
        if let Some((app, name, cluster)) = other {
            let target = &cluster.target;
            return Some(format!("{app}/{name} is declared at {target}, not yet at {wanted}"));
        }
    }
    let progressing = || {
        let lines = clusters(view)
            .filter(|(_, _, cluster)| cluster.phase == crate::plan::Phase::Progressing)
            .map(|(app, name, cluster)| {
                format!("{app}/{name} has {} of {}", cluster.converged, cluster.expected)
            });
        lines.collect::<Vec<_>>().join(", ")
    };
    match overall(view) {
        Outcome::UnderWay => Some(progressing()),
        _ => unheard(view),
    }
}

/// Who is not there, while that may end by itself: an agent or the controller has been restarted.
fn unheard(view: &View) -> Option<String> {
    let young = |cluster: &ClusterView| cluster.young.contains(&Cause::Unreachable);
    let (app, name, cluster) = clusters(view).find(|(_, _, cluster)| young(cluster))?;
    let text = cluster.causes.get(&Cause::Unreachable)?;
    Some(format!("{app}/{name}: {text}; this may pass by itself"))
}

/// Whether asking again may help.
fn may_pass(problem: &Problem, args: &StatusArgs) -> bool {
    match problem {
        Problem::Client(error) => error.is_passing(),
        // With a revision that is still to come, its files may be too.
        Problem::Unknown(_) => args.revision.is_some(),
        Problem::NotReady { .. } => true,
        Problem::Desired { .. }
        | Problem::Endless { .. }
        | Problem::History(_)
        | Problem::Key(_)
        | Problem::Output(_) => false,
    }
}

/// What is shown meanwhile, on standard error: a bar on a terminal, else a line for each change.
struct Progress {
    bar: Option<ProgressBar>,
    shown: BTreeMap<String, String>,
}

impl Progress {
    fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {elapsed}  {wide_msg}");
            // The template is a constant; were it wrong, the plain style would do.
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(0).with_style(style).with_finish(ProgressFinish::AndClear);
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, shown: BTreeMap::new() }
    }

    fn show(&mut self, view: Option<&View>, why: &str) {
        if let Some(bar) = &self.bar {
            if let Some(view) = view {
                let sum = |count: fn(&ClusterView) -> usize| {
                    clusters(view).map(|(_, _, cluster)| count(cluster) as u64).sum()
                };
                bar.set_length(sum(|cluster| cluster.expected));
                bar.set_position(sum(|cluster| cluster.converged));
            }
            bar.set_message(clean(why));
            return;
        }
        let mut lines = BTreeMap::new();
        for (app, name, cluster) in view.into_iter().flat_map(clusters) {
            let line = format!(
                "{}, {} of {} at {}: {}",
                word(cluster.phase),
                cluster.converged,
                cluster.expected,
                cluster.target,
                message(&cluster.conditions)
            );
            lines.insert(format!("{app}/{name}"), line);
        }
        if lines.is_empty() || view.is_some_and(|view| overall(view) != Outcome::UnderWay) {
            lines.insert("waiting".to_owned(), why.to_owned());
        }
        for (what, line) in lines {
            if self.shown.get(&what) != Some(&line) {
                print::error(&format!("{what}: {}", clean(&line)));
                self.shown.insert(what, line);
            }
        }
    }
}
