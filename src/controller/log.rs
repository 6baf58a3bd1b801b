//! Records as lines of the log: a constant message for each kind, and what differs in fields.

use crate::model::{EventKind, Record, What};

/// Logs what has come about, was decided, or was asked for.
pub(super) fn log(record: &Record) {
    let app = tracing::field::display(&record.app);
    let cluster = record.cluster.as_ref().map(tracing::field::display);
    let node = record.node.as_ref().map(tracing::field::display);
    let rollout = record.rollout.as_ref().map(tracing::field::display);
    let epoch = record.epoch.as_ref().map(|epoch| epoch.number);
    macro_rules! line {
        ($level:ident, $message:literal $($more:tt)*) => {
            tracing::$level!(app, cluster, node, rollout, epoch $($more)*, $message)
        };
    }
    let kind = match &record.what {
        What::Event(kind) => kind,
        // One for every node and every step: too many for a large fleet's log.
        What::Decision(decision) => {
            line!(debug, "node is decided on", %decision);
            return;
        }
        What::Action { asked, of, generation, server } => {
            let (asked, server) = (asked.as_str(), server.as_deref());
            line!(debug, "agent is asked", asked, %of, generation, server);
            return;
        }
    };
    match kind {
        EventKind::RolloutBegun { rollout: _, revision } => {
            line!(info, "rollout has begun", %revision);
        }
        EventKind::Converged { rollout: of, revision } => {
            tracing::info!(app, cluster, rollout = %of, epoch, %revision, "cluster has converged");
        }
        EventKind::NodeFailed { detail } => line!(warn, "node has failed", detail),
        EventKind::NodeRecovered => line!(info, "node has recovered"),
        EventKind::Rejected { revision, rollback } => {
            line!(warn, "revision is rejected", %revision, rollback);
        }
        EventKind::Decided { decision } => line!(debug, "node is decided on", decision),
        EventKind::NodeForgotten => line!(info, "node is forgotten"),
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
