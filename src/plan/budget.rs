//! How many servers may be taken out, and how many nodes may upgrade.
//!
//! The floor, by example: backend `app` has 9 servers and `min_ready = "40%"`, so the floor is
//! 3.6, rounded up: 4. All 9 are ready, so 5 may be taken out. While those are out, or only asked
//! out, ready servers that are not asked out are 4, and no sixth is taken out, until a load
//! balancer has *reported* servers ready again. A server that is down anyway costs nothing: taking
//! it out leaves the ready ones as many as they were. What this plan puts back is not counted as
//! ready, so that any subset of the plan's acts, in any order, keeps the floor.

use std::collections::BTreeMap;

use crate::model::{BackendName, ClusterName, NodeName, Order, ServerName, Wait};

use super::view::{Fleet, Member};

/// Ready servers, per backend and load balancer, that are not asked out.
pub(super) struct Floors {
    at: BTreeMap<(BackendName, NodeName), Floor>,
}

struct Floor {
    ready: usize,
    floor: usize,
    servers: BTreeMap<ServerName, bool>,
}

impl Floors {
    pub fn new(fleet: &Fleet<'_>) -> Self {
        let mut at = BTreeMap::new();
        for (backend, balancers) in &fleet.balancers {
            for (name, balancer) in balancers {
                let Ok(seen) = &balancer.servers else { continue };
                let servers: BTreeMap<ServerName, bool> = seen
                    .iter()
                    .map(|(server, report)| {
                        let asked_out = balancer.order(backend, server) == Some(Order::Out);
                        (server.clone(), report.seen.is_ready() && !asked_out)
                    })
                    .collect();
                let ready = servers.values().filter(|ready| **ready).count();
                let floor = floor_of(fleet, backend, servers.len());
                at.insert((backend.clone(), name.clone()), Floor { ready, floor, servers });
            }
        }
        Self { at }
    }

    /// Takes the member's server out of the count everywhere, or says where a floor forbids it.
    pub fn take(
        &mut self,
        fleet: &Fleet<'_>,
        cluster: &ClusterName,
        member: &Member<'_>,
    ) -> Result<(), Wait> {
        let Some(backend) = fleet.backend_of(cluster) else { return Ok(()) };
        let Some(Ok(server)) = &member.server else { return Ok(()) };
        for ((at_backend, lb), floor) in &self.at {
            let ready = floor.servers.get(server).copied().unwrap_or(false);
            if at_backend == backend && ready && floor.ready <= floor.floor {
                return Err(Wait::Floor {
                    lb: lb.clone(),
                    backend: backend.clone(),
                    ready: floor.ready,
                    floor: floor.floor,
                });
            }
        }
        for ((at_backend, _), floor) in &mut self.at {
            if at_backend == backend
                && let Some(ready) = floor.servers.get_mut(server)
                && std::mem::take(ready)
            {
                floor.ready -= 1;
            }
        }
        Ok(())
    }
}

/// The floor of a backend with `servers` servers: the highest that any of its clusters asks for.
fn floor_of(fleet: &Fleet<'_>, backend: &BackendName, servers: usize) -> usize {
    fleet
        .input
        .desired
        .values()
        .filter_map(|desire| desire.settings.load_balancer.as_ref())
        .filter(|lb| lb.backend == *backend)
        .map(|lb| lb.min_ready.floor_of(servers))
        .max()
        .unwrap_or(0)
}

/// Places in the batch of the app.
pub(super) struct Batch {
    upgrading: usize,
    members: usize,
}

impl Batch {
    pub fn new(fleet: &Fleet<'_>) -> Self {
        let upgrading = fleet.members.values().filter(|m| m.is_upgrading(fleet.input)).count();
        Self { upgrading, members: fleet.present_members() }
    }

    /// Takes a place, or says that there is none.
    pub fn take(&mut self, fleet: &Fleet<'_>, cluster: &ClusterName) -> Result<(), Wait> {
        let batch = self.limit(fleet, cluster);
        if self.upgrading >= batch {
            return Err(Wait::Batch { upgrading: self.upgrading, batch });
        }
        self.upgrading += 1;
        Ok(())
    }

    /// How many nodes of the app may upgrade at once, by the settings of `cluster`.
    pub fn limit(&self, fleet: &Fleet<'_>, cluster: &ClusterName) -> usize {
        fleet.desire(cluster).settings.rollout.batch.batch_of(self.members)
    }
}
