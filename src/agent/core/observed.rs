//! What HAProxy was last seen to be, and for how long each server has been so.

use std::collections::BTreeMap;

use super::orders::Place;
use crate::model::{BackendName, Mono, ServerName, ServerSeen};
use crate::plan::ports::{BalancerState, ProcessId};

/// The last observation.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    /// Numbers its beginning among what happens.
    pub(super) begun: u64,
    pub(super) at: Mono,
    pub(super) process: ProcessId,
    pub(super) backends: BTreeMap<BackendName, BTreeMap<ServerName, Tracked>>,
}

/// A server, and for how long it has been as it is.
#[derive(Debug, Clone)]
pub(super) struct Tracked {
    pub(super) seen: ServerSeen,
    ready_since: Option<Mono>,
    clear_since: Option<Mono>,
}

impl Observed {
    /// What is seen now, after `before`.
    pub(super) fn new(
        state: BalancerState,
        begun: u64,
        at: Mono,
        before: Option<&Observed>,
    ) -> Observed {
        let track = |backend: &BackendName, name: &ServerName, seen: ServerSeen| {
            let known = before.and_then(|before| before.backends.get(backend)?.get(name));
            let since = |holds: bool, known: Option<Mono>| holds.then(|| known.unwrap_or(at));
            Tracked {
                ready_since: since(seen.is_ready(), known.and_then(|k| k.ready_since)),
                clear_since: since(seen.admin.is_clear(), known.and_then(|k| k.clear_since)),
                seen,
            }
        };
        let mut backends = BTreeMap::new();
        for (backend, servers) in state.backends {
            let tracked = servers.into_iter().map(|(name, seen)| {
                let tracked = track(&backend, &name, seen);
                (name, tracked)
            });
            let tracked = tracked.collect();
            backends.insert(backend, tracked);
        }
        Observed { begun, at, process: state.process, backends }
    }

    pub(super) fn server(&self, place: &Place) -> Option<&ServerSeen> {
        Some(&self.backends.get(&place.0)?.get(&place.1)?.seen)
    }

    /// Another process serves, or what the state file holds of a server differs.
    pub(super) fn is_dumped_otherwise(&self, before: Option<&Observed>) -> bool {
        let Some(before) = before.filter(|before| before.process == self.process) else {
            return true;
        };
        self.backends.iter().any(|(backend, servers)| {
            servers.iter().any(|(name, Tracked { seen, .. })| {
                let known = before.backends.get(backend).and_then(|known| known.get(name));
                known.is_none_or(|Tracked { seen: known, .. }| {
                    (known.admin, known.health, known.weight)
                        != (seen.admin, seen.health, seen.weight)
                })
            })
        })
    }

    /// Nobody knows for how long anything has been as it will be seen next.
    pub(super) fn forget_times(&mut self) {
        for server in self.backends.values_mut().flat_map(BTreeMap::values_mut) {
            (server.ready_since, server.clear_since) = (None, None);
        }
    }
}

impl Tracked {
    /// For how long it has been ready, or clear of any maintenance, in milliseconds.
    pub(super) fn steady_for_ms(&self, at: Mono) -> u64 {
        let since = if self.seen.is_ready() { self.ready_since } else { self.clear_since };
        since.map_or(0, |since| at.since_ms(since))
    }
}
