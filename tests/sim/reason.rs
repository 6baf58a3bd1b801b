//! Whether what is said of a node, when nothing moves any more, is so.

use evenkeel::model::*;

use crate::ending::Stays;
use crate::world::World;

/// A decision is one to rest with, and the facts are as it says.
pub fn is_true(world: &World, stays: &Stays, web: &NodeName, decision: &Decision) -> bool {
    let cluster = world.plot.cluster_of(web);
    let settings = &world.plot.last_good[cluster];
    let service = &world.agents[web].service;
    let is_dead = |node: &NodeName| *stays == Stays::Dead(node.clone());
    let fails = |node: &NodeName| match stays {
        Stays::Failing(of) => of == node,
        Stays::Overloaded(of) => of == node && !world.plot.checks.is_empty(),
        _ => false,
    };
    let siblings = || world.plot.webs().filter(|web| world.plot.cluster_of(web) == cluster);
    // What has failed at the revision that a cluster keeps to while it waits is tried anew with the next.
    let waits = !settings.after.is_empty();
    match decision {
        Decision::Done(Done::InService { revision }) => {
            service.runs.as_ref() == Some(revision) && world.is_in_service(web)
        }
        Decision::Done(Done::Held) => settings.hold.contains(web) && world.is_out(web),
        Decision::Blocked(Blocked::Paused) => settings.paused,
        Decision::Blocked(Blocked::Departed | Blocked::Silent) => is_dead(web),
        Decision::Blocked(Blocked::Missing { .. }) => siblings().any(is_dead),
        // It died over an order, and nobody knows what has become of that.
        Decision::Blocked(Blocked::BalancerDisobeys { lb, .. }) => is_dead(lb),
        Decision::Blocked(Blocked::BalancerMissing { .. }) => world.plot.balancers().any(is_dead),
        Decision::Blocked(Blocked::Failed { .. }) => fails(web) || waits,
        Decision::Blocked(Blocked::Rejected { .. }) => siblings().any(fails) || waits,
        Decision::Blocked(Blocked::ForeignMaintenance { lb, .. }) => {
            let server = ServerName::new(web.as_str()).expect("a name");
            let ours = world.checker.is_ours(lb, &world.plot.backend, &server);
            // What a dead one has heard last is all that is known of it.
            is_dead(lb)
                || !world.seen(lb, web).admin.is_clear() && (!ours || world.disowned.contains(lb))
        }
        Decision::Blocked(Blocked::Floor { lb, floor, .. }) => world.ready(lb) <= *floor,
        Decision::Blocked(Blocked::RevisionUnknown { .. } | Blocked::NotUp { .. }) => {
            service.runs.is_none() && waits
        }
        Decision::Wait { what: Wait::After { cluster, revision }, .. } => {
            *revision == settings.revision && settings.after.contains(cluster)
        }
        _ => false,
    }
}
