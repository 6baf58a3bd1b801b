//! What came of the demo, for people and for machines.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The version of the program.
    pub version: &'static str,
    /// Web servers.
    pub nodes: usize,
    /// Who carried the documents.
    pub broker: String,
    /// Releases were unpacked and servers restarted, instead of one file written.
    pub release_layout: bool,
    /// Each rollout, in order.
    pub rollouts: Vec<Rollout>,
    /// The medians of the rollouts of each cluster, in seconds.
    pub medians: BTreeMap<String, Phases>,
    /// What the load saw.
    pub requests: Requests,
    /// Messages that reached the receiver.
    pub messages: usize,
    /// What is not as it should be; empty if all is well.
    pub problems: Vec<String>,
}

/// One cluster brought to one revision.
#[derive(Debug, Clone, Serialize)]
pub struct Rollout {
    /// Which.
    pub cluster: String,
    /// To what.
    pub revision: String,
    /// Nodes that were upgraded.
    pub upgraded: usize,
    /// When each phase ended, in seconds since the file was in its place.
    pub phases: Phases,
}

/// When the last node got to each step, in seconds since the file was in its place; not a number
/// (in JSON, null) where that was not seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Phases {
    /// The controller has read the change.
    pub noticed: f64,
    /// All have been taken out.
    pub out: f64,
    /// All run the revision.
    pub upgraded: f64,
    /// All have settled.
    pub settled: f64,
    /// All are back in service.
    pub back: f64,
    /// The controller says that the cluster has converged.
    pub converged: f64,
    /// The message has reached the receiver.
    pub told: f64,
}

/// What the load saw.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Requests {
    /// Answered with status 200, by revision.
    pub served: BTreeMap<String, u64>,
    /// Answered with status 503 while a floor of 0 let every server be out at once.
    pub unserved: u64,
    /// Anything else.
    pub failed: u64,
    /// The longest time that an answer took, in seconds.
    pub longest: f64,
}

impl Phases {
    const NAMES: [&str; 7] = ["noticed", "out", "upgraded", "settled", "back", "converged", "told"];

    /// The names of the phases that were not seen to end.
    pub fn unseen(&self) -> Vec<&'static str> {
        let values = Self::NAMES.into_iter().zip(self.values());
        values.filter(|(_, value)| value.is_nan()).map(|(name, _)| name).collect()
    }

    fn values(&self) -> [f64; 7] {
        [self.noticed, self.out, self.upgraded, self.settled, self.back, self.converged, self.told]
    }

    /// Phase by phase, the median of several; the lower of the two in the middle of an even number.
    pub fn median(of: &[Phases]) -> Phases {
        let median = |phase: fn(&Phases) -> f64| {
            let mut values: Vec<f64> = of.iter().map(phase).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
        };
        Phases {
            noticed: median(|p| p.noticed),
            out: median(|p| p.out),
            upgraded: median(|p| p.upgraded),
            settled: median(|p| p.settled),
            back: median(|p| p.back),
            converged: median(|p| p.converged),
            told: median(|p| p.told),
        }
    }
}

impl Summary {
    /// The medians of the rollouts of each cluster.
    pub fn medians(rollouts: &[Rollout]) -> BTreeMap<String, Phases> {
        let mut by_cluster: BTreeMap<String, Vec<Phases>> = BTreeMap::new();
        for rollout in rollouts {
            by_cluster.entry(rollout.cluster.clone()).or_default().push(rollout.phases);
        }
        by_cluster.into_iter().map(|(name, phases)| (name, Phases::median(&phases))).collect()
    }
}

/// The most rollouts that are shown one by one.
const SHOWN_MAX: usize = 10;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24}", "seconds since the change")?;
        for name in Phases::NAMES {
            write!(f, "{name:>10}")?;
        }
        writeln!(f)?;
        for rollout in self.rollouts.iter().take(SHOWN_MAX) {
            let Rollout { cluster, revision, upgraded, phases } = rollout;
            row(f, &format!("{cluster} to {revision}, {upgraded} nodes"), phases)?;
        }
        if let Some(more @ 1..) = self.rollouts.len().checked_sub(SHOWN_MAX) {
            writeln!(f, "and {more} more")?;
        }
        if self.rollouts.len() > self.medians.len() {
            for (cluster, phases) in &self.medians {
                row(f, &format!("{cluster}, median"), phases)?;
            }
        }
        let upgraded: usize = self.rollouts.iter().map(|rollout| rollout.upgraded).sum();
        let served: Vec<String> = self
            .requests
            .served
            .iter()
            .map(|(revision, count)| format!("{count} by revision {revision}"))
            .collect();
        writeln!(f, "\nupgrades    {upgraded}")?;
        writeln!(f, "requests    {}", served.join(", "))?;
        if self.requests.unserved > 0 {
            let why = "the floor of 0 lets every server be out at once";
            writeln!(f, "unserved    {}: {why}", self.requests.unserved)?;
        }
        writeln!(f, "failed      {}", self.requests.failed)?;
        writeln!(f, "slowest     {:.3} s", self.requests.longest)?;
        writeln!(f, "messages    {}", self.messages)?;
        for problem in &self.problems {
            writeln!(f, "PROBLEM     {problem}")?;
        }
        f.write_str(if self.problems.is_empty() {
            "\nAll is well."
        } else {
            "\nThe demo has failed."
        })
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, phases: &Phases) -> fmt::Result {
    write!(f, "{name:<24}")?;
    for value in phases.values() {
        write!(f, "{value:>10.3}")?;
    }
    writeln!(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_taken_phase_by_phase() {
        let phases = |noticed, converged| Phases { noticed, converged, ..Phases::default() };
        let of = [phases(0.3, 1.0), phases(0.1, 3.0), phases(0.2, 2.0)];
        assert_eq!(Phases::median(&of), phases(0.2, 2.0));
        assert_eq!(Phases::median(&of[..2]), phases(0.1, 1.0));
        assert_eq!(Phases::median(&[]), Phases::default());
    }

    #[test]
    fn it_is_shown_and_serialized() {
        let phases = Phases {
            noticed: 0.01,
            out: 0.02,
            upgraded: 0.4,
            settled: 0.5,
            back: 0.6,
            converged: 0.7,
            told: 0.8,
        };
        let rollout = Rollout { cluster: "alfa".into(), revision: "2".into(), upgraded: 5, phases };
        let mut summary = Summary {
            version: "1",
            nodes: 9,
            broker: "embedded".into(),
            release_layout: false,
            medians: Summary::medians(std::slice::from_ref(&rollout)),
            rollouts: vec![rollout],
            requests: Requests {
                served: BTreeMap::from([("1".into(), 7)]),
                unserved: 0,
                failed: 0,
                longest: 0.1,
            },
            messages: 3,
            problems: Vec::new(),
        };
        let text = summary.to_string();
        assert!(text.contains("alfa to 2, 5 nodes") && text.contains("0.700"), "{text}");
        assert!(text.contains("7 by revision 1") && text.ends_with("All is well."), "{text}");
        assert!(!text.contains("unserved"), "{text}");
        summary.requests.unserved = 3;
        assert!(summary.to_string().contains("unserved    3: the floor of 0"), "{summary}");
        summary.problems.push("one request failed".into());
        assert!(summary.to_string().contains("PROBLEM     one request failed"));
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["rollouts"][0]["phases"]["converged"], 0.7);
        assert_eq!(json["medians"]["alfa"]["noticed"], 0.01);
    }
}
