//! Events as lines of the log: a constant message for each kind, and what differs in fields.

use crate::model::{Event, EventKind, RolloutId};

use super::core::Core;

/// Logs what has happened, with the claim and the rollout that it happened under.
pub(super) fn log(event: &Event, core: &Core) {
    let (epoch, rollout) = core.circumstances(event);
    log_under(event, epoch, rollout);
}

fn log_under(event: &Event, epoch: Option<u64>, rollout: Option<&RolloutId>) {
    let app = tracing::field::display(&event.app);
    let cluster = event.cluster.as_ref().map(tracing::field::display);
    let node = event.node.as_ref().map(tracing::field::display);
    let rollout = rollout.map(tracing::field::display);
    macro_rules! line {
        ($level:ident, $message:literal $($more:tt)*) => {
            tracing::$level!(app, cluster, node, epoch, rollout $($more)*, $message)
        };
    }
    match &event.kind {
        EventKind::RolloutBegun { rollout: _, revision } => {
            line!(info, "rollout has begun", %revision);
        }
        EventKind::Converged { rollout: of, revision } => {
            tracing::info!(app, cluster, epoch, rollout = %of, %revision, "cluster has converged");
        }
        EventKind::NodeFailed { detail } => line!(warn, "node has failed", detail),
        EventKind::NodeRecovered => line!(info, "node has recovered"),
        EventKind::Rejected { revision, rollback } => {
            line!(warn, "revision is rejected", %revision, rollback);
        }
        // One for every node and every step: too many for a large fleet's log.
        EventKind::Decided { decision } => line!(debug, "node is decided on", decision),
        EventKind::DesiredChanged => line!(info, "desired files have changed"),
        EventKind::DesiredInvalid { fault } => line!(warn, "desired files are faulty", fault),
        EventKind::DesiredVanished => line!(warn, "desired files have gone"),
        EventKind::PresenceChanged { presence } => {
            line!(info, "presence of an agent has changed", presence);
        }
        EventKind::MessageSent { key } => line!(info, "message is handed out", key),
        EventKind::MessageDelivered { key } => line!(info, "message is delivered", key),
        EventKind::MessageFailed { key, error } => {
            line!(warn, "message could not be delivered", key, error);
        }
        EventKind::LeadershipClaimed { epoch: _ } => line!(info, "leadership is claimed"),
    }
}
