//! `evenkeel validate`: reads a desired directory as the controller would, and says what it found.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::print;
use crate::desired::{Snapshot, Style, load_styled};
use crate::model::{DesiredApp, Expect};

/// Checks a desired directory: every fault with its line, or one line a cluster.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// The directory with a folder for each app.
    pub dir: PathBuf,
}

/// Prints the clusters of the good apps, and every fault on standard error. Exits 0 if there is none.
pub fn run(args: &ValidateArgs) -> ExitCode {
    let coloured =
        stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let snapshot = load_styled(&args.dir, if coloured { Style::Colour } else { Style::Plain });
    let lines: String = clusters(&snapshot).iter().map(|line| format!("{line}\n")).collect();
    if print::text(&lines).is_err() {
        return ExitCode::FAILURE;
    }
    for fault in snapshot.all_faults() {
        print::error(&format!("{}\n", fault.rendered));
    }
    match snapshot.all_faults().count() {
        0 => ExitCode::SUCCESS,
        1 => fail("1 fault"),
        count => fail(&format!("{count} faults")),
    }
}

fn fail(count: &str) -> ExitCode {
    print::error(&format!(
        "{count}; an app with a fault stays as it was last declared without one"
    ));
    ExitCode::FAILURE
}

/// A line for each cluster of each good app.
fn clusters(snapshot: &Snapshot) -> Vec<String> {
    let lines: Vec<String> = snapshot.apps.values().flatten().flat_map(lines_of).collect();
    if lines.is_empty() && snapshot.all_faults().next().is_none() {
        return vec!["no clusters".to_owned()];
    }
    lines
}

fn lines_of(app: &DesiredApp) -> Vec<String> {
    let line = |(name, cluster): (_, &crate::model::DesiredCluster)| {
        let expect = match &cluster.expect {
            Expect::Count(count) => format!("{count} nodes"),
            Expect::Nodes(nodes) => {
                nodes.iter().map(|node| node.as_str()).collect::<Vec<_>>().join(", ")
            }
        };
        let balancer = cluster.load_balancer.as_ref();
        let behind = balancer.map_or_else(String::new, |lb| format!(", behind {}", lb.backend));
        let paused = if cluster.paused { ", paused" } else { "" };
        format!("{}/{name}: revision {}, {expect}{behind}{paused}", app.name, cluster.revision)
    };
    app.clusters.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::desired::load;

    #[test]
    fn a_line_says_what_is_declared() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(clusters(&load(dir.path())), ["no clusters"]);
        assert_eq!(
            clusters(&load(Path::new("desired"))),
            [
                "shop/alfa: revision 1, 5 nodes, behind app",
                "shop/bravo: revision 1, 4 nodes, behind app"
            ]
        );
    }

    #[test]
    fn a_fault_makes_it_fail() {
        let dir = tempfile::tempdir().unwrap();
        let args = |dir: &Path| ValidateArgs { dir: dir.to_owned() };
        assert_eq!(run(&args(dir.path())), ExitCode::SUCCESS);
        assert_eq!(run(&args(&dir.path().join("missing"))), ExitCode::FAILURE);
    }
}
