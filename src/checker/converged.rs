//! Which clusters have come to be at a revision as a whole, by what is heard.

use super::known::Known;
use crate::model::NodeName;

/// How many revisions a cluster may have come to by chance since it last converged with its rollout.
const BY_CHANCE_MAX: usize = 3;

impl Known {
    /// Remembers which clusters are at a revision as a whole, be it one that the files have overtaken: as many members
    /// as must be there are, and every one that is, unless held, runs it and is in service.
    /// Whatever changes that is called first, so that no moment is missed.
    pub(super) fn note_convergence(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let mut reached = Vec::new();
        for (cluster, (settings, _)) in &self.desired {
            let mut there = self.members(cluster);
            there.retain(|name| self.present.contains(name));
            if there.is_empty() || self.missing(cluster) > settings.rollout.max_missing as usize {
                continue;
            }
            there.retain(|name| !settings.hold.contains(name));
            let runs = there.first().map_or(Some(&settings.revision), |name| self.revision(name));
            let is_at = |name: &NodeName| self.revision(name) == runs && self.is_in_service(name);
            let wanted = self.wanted.get(cluster);
            let runs = runs.filter(|runs| wanted.is_some_and(|wanted| wanted.contains(*runs)));
            if let Some(revision) = runs.filter(|_| there.iter().all(is_at)) {
                reached.push((cluster.clone(), revision.clone(), there.is_empty()));
            }
        }
        for (cluster, revision, all_held) in reached {
            if all_held {
                // Nobody runs it, but nobody is waited for either.
                self.converged_held.entry(cluster.clone()).or_default().insert(revision.clone());
                self.converged_before.entry(cluster).or_default().insert(revision);
                continue;
            }
            // What had failed has been mended since.
            if self.rejected.get(&cluster).is_some_and(|((_, tried, _), _)| *tried == revision) {
                self.rejected.remove(&cluster);
            }
            let Some(before) = self.converged.insert(cluster.clone(), revision.clone()) else {
                continue;
            };
            if before != revision {
                let last = self.converged_last.entry(cluster.clone()).or_default();
                last.retain(|earlier| *earlier != before && *earlier != revision);
                last.push(before.clone());
                if last.len() > BY_CHANCE_MAX {
                    last.remove(0);
                }
            }
            self.converged_before.entry(cluster).or_default().insert(before);
        }
    }
}
