//! Where one node's traffic stands: its server at every load balancer of its cluster.

use crate::model::{
    AdminBits, BackendName, Blocked, ClusterName, NodeName, Order, OutProof, ServerName,
    ServerReport,
};

use super::view::{Balancer, Fleet, Member};

/// Where a node's traffic stands.
pub(super) enum Traffic<'a> {
    /// Nothing balances the cluster: there is nothing to take out.
    Unbalanced,
    /// Something about it is not known, which is never taken as fine.
    Unreadable(Blocked),
    /// Its server at every load balancer.
    Balanced(Servers<'a>),
}

/// A node's server at every load balancer of its cluster; never empty.
pub(super) struct Servers<'a> {
    pub backend: BackendName,
    pub name: ServerName,
    at: Vec<At<'a>>,
}

struct At<'a> {
    lb: NodeName,
    server: &'a ServerReport,
    /// What was last asked.
    order: Option<Order>,
    /// The load balancer has done all that was asked; its observation is of after that.
    done: bool,
    seen_age_ms: u64,
    stamp: Option<&'a crate::model::Stamp>,
}

impl<'a> Traffic<'a> {
    /// Where `member`'s traffic stands, as a member of `cluster`.
    pub fn of(fleet: &Fleet<'a>, cluster: &ClusterName, member: &Member<'a>) -> Self {
        let Some(backend) = fleet.backend_of(cluster) else { return Self::Unbalanced };
        let name = match &member.server {
            Some(Ok(name)) => name,
            Some(Err(error)) => {
                return Self::Unreadable(Blocked::NoServerName { error: error.clone() });
            }
            None => return Self::Unbalanced,
        };
        let Some(balancers) = fleet.balancers.get(backend).filter(|b| !b.is_empty()) else {
            return Self::Unreadable(Blocked::BalancerMissing {
                present: 0,
                expected: 1,
                names: Vec::new(),
            });
        };
        let mut at = Vec::new();
        for (lb, balancer) in balancers {
            match At::of(fleet, backend, name, lb, balancer) {
                Ok(one) => at.push(one),
                Err(blocked) => return Self::Unreadable(blocked),
            }
        }
        Self::Balanced(Servers { backend: backend.clone(), name: name.clone(), at })
    }
}

impl<'a> At<'a> {
    fn of(
        fleet: &Fleet<'a>,
        backend: &BackendName,
        name: &ServerName,
        lb: &NodeName,
        balancer: &Balancer<'a>,
    ) -> Result<Self, Blocked> {
        let servers = match &balancer.servers {
            Ok(servers) => *servers,
            Err(error) => {
                return Err(Blocked::BalancerUnread { lb: lb.clone(), error: error.clone() });
            }
        };
        let server = servers
            .get(name)
            .ok_or_else(|| Blocked::NoServer { lb: lb.clone(), server: name.clone() })?;
        Ok(Self {
            lb: lb.clone(),
            server,
            order: balancer.order(backend, name),
            done: balancer.has_done(fleet.input),
            seen_age_ms: balancer.report_age_ms,
            stamp: balancer.assigned.map(|a| &a.assignment.stamp),
        })
    }

    fn is_ours(&self) -> bool {
        self.order == Some(Order::Out) || self.server.owned.is_some()
    }
}

impl<'a> Servers<'a> {
    /// Our maintenance is in force, or asked for, or not yet lifted, somewhere.
    pub fn any_ours(&self) -> bool {
        self.at.iter().any(At::is_ours)
    }

    /// The load balancers.
    pub fn names(&self) -> impl Iterator<Item = &NodeName> {
        self.at.iter().map(|at| &at.lb)
    }

    /// It is asked out everywhere.
    pub fn asked_out(&self) -> bool {
        self.at.iter().all(|at| at.order == Some(Order::Out))
    }

    /// It is asked out somewhere.
    pub fn asked_out_somewhere(&self) -> bool {
        self.at.iter().any(|at| at.order == Some(Order::Out))
    }

    /// A load balancer that has not yet done what was last asked of it, if there is one.
    pub fn pending(&self) -> Option<&NodeName> {
        self.at.iter().find(|at| !at.done).map(|at| &at.lb)
    }

    /// Out everywhere, in truth, since it was last asked out: the proofs for a permit.
    pub fn proofs_out(&self) -> Option<Vec<OutProof>> {
        self.at
            .iter()
            .map(|at| {
                let out = at.order == Some(Order::Out) && at.done && at.server.seen.admin.is_out();
                let stamp = at.stamp.filter(|_| out)?;
                Some(OutProof {
                    lb: at.lb.clone(),
                    backend: self.backend.clone(),
                    server: self.name.clone(),
                    at: stamp.clone(),
                })
            })
            .collect()
    }

    /// In service at some load balancer.
    pub fn any_in_service(&self) -> bool {
        self.at.iter().any(|at| at.server.seen.is_in_service())
    }

    /// The shortest time for which it has been in service without a break, in milliseconds.
    pub fn in_service_for_ms(&self) -> u64 {
        let ready_for = |at: &At<'_>| at.server.steady_for_ms.saturating_add(at.seen_age_ms);
        self.at.iter().map(ready_for).min().unwrap_or(0)
    }

    /// Where somebody else's maintenance or drain keeps it out of service.
    pub fn foreign(&self) -> Option<(&NodeName, AdminBits)> {
        let foreign = |at: &&At<'_>| !at.server.seen.admin.is_clear() && !at.is_ours();
        self.at.iter().find(foreign).map(|at| (&at.lb, at.server.seen.admin))
    }

    /// Where it is not in service.
    pub fn not_up(&self) -> Option<&NodeName> {
        self.at.iter().find(|at| !at.server.seen.is_in_service()).map(|at| &at.lb)
    }

    /// Where it has been clear, but not UP, for longer than `limit_ms`.
    pub fn clear_but_not_up_for(&self, limit_ms: u64) -> Option<&NodeName> {
        self.at
            .iter()
            .find(|at| {
                let seen = &at.server.seen;
                seen.admin.is_clear()
                    && !seen.is_in_service()
                    && at.server.steady_for_ms.saturating_add(at.seen_age_ms) > limit_ms
            })
            .map(|at| &at.lb)
    }

    /// How long until [`Self::clear_but_not_up_for`] could become true, in milliseconds.
    pub fn left_until_not_up_ms(&self, limit_ms: u64) -> u64 {
        let left = |at: &At<'_>| {
            limit_ms.saturating_sub(at.server.steady_for_ms.saturating_add(at.seen_age_ms))
        };
        let waits =
            |at: &&At<'_>| at.server.seen.admin.is_clear() && !at.server.seen.is_in_service();
        self.at.iter().filter(waits).map(left).min().unwrap_or(limit_ms) + 1
    }
}
