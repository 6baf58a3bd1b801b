//! Controllers with one rule broken on purpose, to see that the checker notices.
//!
//! What is broken is what the real core is told, or what it says: then it is the planner that does not
//! keep the rule, whatever the checker knows.

use std::collections::BTreeMap;

use evenkeel::bus::intake::Document;
use evenkeel::checker::Invariant;
use evenkeel::controller::core::{Effect, Publication};
use evenkeel::model::*;
use evenkeel::plan::ports::{BalancerState, SetServer, SetState};

use crate::haproxy::Haproxy;

/// Which rule.
pub type Mutant = Invariant;

/// The desired files, as a planner that ignores the rule sees them.
pub fn desired(
    mutant: Option<Mutant>,
    mut files: BTreeMap<AppName, Result<DesiredApp, String>>,
) -> BTreeMap<AppName, Result<DesiredApp, String>> {
    let Some(mutant) = mutant else { return files };
    let clusters = files.values_mut().flatten().flat_map(|app| app.clusters.values_mut());
    for settings in clusters {
        match mutant {
            Invariant::BatchKept => settings.rollout.batch = Share::Count(1_000),
            Invariant::FloorKept => {
                if let Some(balancing) = &mut settings.load_balancer {
                    balancing.min_ready = Share::Count(0);
                }
            }
            Invariant::SilenceBlocks => settings.rollout.max_missing = 1_000,
            Invariant::UntouchedWherePaused => settings.paused = false,
            Invariant::TriesBounded => {
                settings.rollout.tries = 1_000;
                settings.rollout.max_failed = 1_000;
            }
            Invariant::AfterGatesStart => settings.after.clear(),
            Invariant::UpgradedOnlyWhileOut
            | Invariant::PutBackOnlySettled
            | Invariant::ForeignKept
            | Invariant::QuietAtGoal
            | Invariant::Converges
            | Invariant::ToldOnce => {}
        }
    }
    files
}

/// A document, as a planner that ignores the rule reads it.
pub fn heard(mutant: Option<Mutant>, mut document: Document) -> Document {
    let Document::Report(report) = &mut document else { return document };
    // Every settling is taken for a success at once.
    if mutant == Some(Invariant::PutBackOnlySettled) {
        for settle in report.apps.values_mut().filter_map(|app| app.settle.as_mut()) {
            settle.state = SettleState::Settled { late: false };
        }
    }
    document
}

/// What HAProxy shows, as an agent sees it that takes nobody's maintenance for a reason, or everything it should take
/// out for out.
pub fn read(mutant: Option<Mutant>, state: &mut BalancerState, ours: impl Fn(&ServerName) -> bool) {
    for (name, seen) in state.backends.values_mut().flatten() {
        match mutant {
            Some(Invariant::ForeignKept) if !ours(name) => seen.admin = AdminBits(0),
            Some(Invariant::UpgradedOnlyWhileOut) if ours(name) => {
                seen.admin = AdminBits(AdminBits::FORCED_MAINTENANCE);
            }
            _ => {}
        }
    }
}

/// What HAProxy answers; that agent does not even ask for maintenance.
pub fn set(
    mutant: Option<Mutant>,
    haproxy: &mut Haproxy,
    commands: &[SetServer],
) -> Vec<Result<(), String>> {
    let set = |command: &SetServer| match (mutant, command.state) {
        (Some(Invariant::UpgradedOnlyWhileOut), SetState::Maint) => Ok(()),
        _ => haproxy.set(command),
    };
    commands.iter().map(set).collect()
}

/// What an agent that lifts anybody's maintenance sets beside what it wants to set.
pub fn lifts(
    mutant: Option<Mutant>,
    state: &BalancerState,
    ours: impl Fn(&ServerName) -> bool,
) -> Vec<SetServer> {
    let mut lifted = Vec::new();
    for (backend, servers) in &state.backends {
        for (server, seen) in servers {
            if mutant == Some(Invariant::ForeignKept) && seen.admin.is_out() && !ours(server) {
                let (backend, server) = (backend.clone(), server.clone());
                lifted.push(SetServer { backend, server, state: SetState::Ready });
            }
        }
    }
    lifted
}

/// An assignment that nothing asks for.
pub fn needless(mutant: Option<Mutant>, last: Option<&Assignment>) -> Option<Effect> {
    if mutant != Some(Invariant::QuietAtGoal) {
        return None;
    }
    let mut assignment = last?.clone();
    assignment.stamp.generation += 1;
    Some(Effect::Publish(Box::new(Publication::Assignment(assignment))))
}

/// What people are told: every cause once more, by another message.
pub fn messages(
    mutant: Option<Mutant>,
    mut messages: BTreeMap<MessageKey, Message>,
) -> BTreeMap<MessageKey, Message> {
    if mutant == Some(Invariant::ToldOnce) {
        let again = messages.values().cloned().map(|mut message| {
            let (which, sequence) = message.key.0.rsplit_once('.').expect("it ends in a sequence");
            message.key = MessageKey(format!("{which}.again.{sequence}"));
            (message.key.clone(), message)
        });
        messages.append(&mut again.collect());
    }
    messages
}

/// What the core says, as a planner that ignores the rule would say it.
pub fn effects(mutant: Option<Mutant>, effects: Vec<Effect>) -> Vec<Effect> {
    let Some(mutant) = mutant else { return effects };
    effects.into_iter().filter_map(|effect| say(mutant, effect)).collect()
}

fn say(mutant: Mutant, mut effect: Effect) -> Option<Effect> {
    let Effect::Publish(publication) = &mut effect else { return Some(effect) };
    match (mutant, &mut **publication) {
        // Nobody is ever put back.
        (Invariant::Converges, Publication::Assignment(assignment)) => {
            let orders = assignment.balance.values_mut().flat_map(|w| w.servers.values_mut());
            if orders.into_iter().any(|order| *order == Order::In) {
                return None;
            }
        }
        (_, Publication::Mailbox(_, mailbox)) => {
            mailbox.messages = messages(Some(mutant), std::mem::take(&mut mailbox.messages));
        }
        (_, _) => {}
    }
    Some(effect)
}
