//! The core's notes as lines of the log: constant messages, values as fields.

use tracing::{error, info, warn};

use super::core::{Handed, Note};
use crate::model::{
    AppName, Attempt, AttemptOutcome, CheckName, NodeName, Refusal, SettleState, Stamp,
};

/// Writes one line, in a span with the node's name. What a person should look at is a warning; what needs one is an error.
pub(super) fn log(node: &NodeName, note: &Note) {
    let _span = tracing::info_span!("agent", %node).entered();
    match note {
        Note::NameTaken { boot } => {
            error!(started = boot.started, "another agent uses this node's name");
        }
        Note::Recovered { assignments, owned } => {
            warn!(assignments, owned, "memory recovered from the retained report");
        }
        Note::Misaddressed { node } => warn!(%node, "assignment for another node"),
        Note::TooManyApps { app } => error!(%app, "too many apps command this node"),
        Note::Accepted { app, stamp, .. } => {
            let Stamp { epoch, generation } = stamp;
            let (epoch, controller) = (epoch.number, &epoch.controller);
            info!(%app, epoch, %controller, generation, "assignment accepted");
        }
        Note::StaleEpoch { app, offered, known, .. } => warn!(
            %app,
            offered = offered.number,
            by = %offered.controller,
            known = known.number,
            of = %known.controller,
            "order of a controller that does not command"
        ),
        Note::Untrusted { app, stamp, key } => {
            let Stamp { epoch, generation } = stamp;
            let (epoch, controller) = (epoch.number, &epoch.controller);
            let key = key.map(|key| key.to_string());
            warn!(%app, epoch, %controller, generation, key, "order by none of the trusted keys");
        }
        Note::UntrustedMailbox { key } => {
            let key = key.map(|key| key.to_string());
            warn!(key, "mailbox by none of the trusted keys");
        }
        Note::Refused { app, refusal } => log_refusal(app, refusal.as_ref()),
        Note::UpgradeStarts { app, revision, attempt } => {
            info!(%app, %revision, attempt, "upgrade starts");
        }
        Note::UpgradeEnded { app, attempt } => log_attempt(app, attempt),
        Note::AwaitsEarlier { app } => {
            warn!(%app, "an upgrade was running when the agent last ended; waiting until its command has ended");
        }
        Note::Interrupted { app, revision, attempt } => {
            warn!(%app, %revision, attempt, "upgrade was interrupted by the end of the agent");
        }
        Note::Settle { app, state, not_ok } => log_settle(app, *state, not_ok),
        Note::Owns { app, backend, server, owned } => {
            info!(%app, %backend, %server, before = owned.before.0, "takes out");
        }
        Note::Disowns { app, backend, server } => {
            info!(%app, %backend, %server, "put back");
        }
        Note::ChangedByHand { app, backend, server } => {
            warn!(%app, %backend, %server, "somebody changed a server that is kept out");
        }
        Note::ProcessChanged { process } => info!(process, "HAProxy process seen"),
        Note::BalancerFailed { error } => error!(error, "HAProxy cannot be asked"),
        Note::BalancerBack => info!("HAProxy answers again"),
        Note::DumpFailed { error } => error!(error, "HAProxy's state file cannot be written"),
        Note::DiskFailed { error } => error!(error, "the agent's memory cannot be written"),
        Note::Delivered { message: Handed { key, app, .. }, recipient } => {
            info!(%app, %key, %recipient, "message delivered");
        }
        Note::NotDelivered { message: Handed { key, app, .. }, recipient, error, again_in_ms } => {
            warn!(%app, %key, %recipient, error, again_in_ms, "message not delivered");
        }
        Note::Stopping { upgrading } => info!(upgrading, "ending"),
    }
}

fn log_refusal(app: &AppName, refusal: Option<&Refusal>) {
    match refusal {
        Some(Refusal { stamp: Stamp { epoch, generation }, reason }) => {
            let (epoch, controller) = (epoch.number, &epoch.controller);
            warn!(%app, epoch, %controller, generation, %reason, "order not followed");
        }
        None => info!(%app, "nothing is refused any more"),
    }
}

fn log_attempt(app: &AppName, attempt: &Attempt) {
    let Attempt { rollout, revision, attempt: number, took_ms, .. } = attempt;
    match &attempt.outcome {
        AttemptOutcome::Running => info!(%app, %rollout, %revision, number, "upgrade runs"),
        AttemptOutcome::Succeeded => {
            info!(%app, %rollout, %revision, number, took_ms, "upgrade succeeded");
        }
        AttemptOutcome::Failed { why, .. } => {
            warn!(%app, %rollout, %revision, number, took_ms, %why, "upgrade failed");
        }
    }
}

fn log_settle(app: &AppName, state: SettleState, not_ok: &[CheckName]) {
    match state {
        SettleState::Checking => info!(%app, ?not_ok, "checks are not OK"),
        SettleState::Settled { late } => info!(%app, late, "settled"),
        SettleState::TimedOut => warn!(%app, ?not_ok, "checks were not OK in time"),
    }
}
