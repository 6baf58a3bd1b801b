//! What one server needs, from what was ordered, what is ours, and what HAProxy shows: a table, as a function.
//!
//! Principle: what somebody else set is never lifted and never lost. So what was there before is
//! recorded before it is touched, and only what is ours is ever restored.

use std::collections::BTreeMap;

use super::memory::{Holding, Memory};
use crate::model::{AdminBits, AppName, BackendName, Order, Owned, ServerName, ServerSeen, Stamp};
use crate::plan::ports::{ProcessId, SetState};

/// A server of a backend.
pub(super) type Place = (BackendName, ServerName);

/// What is ordered for one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ordered {
    pub(super) order: Order,
    pub(super) app: AppName,
    pub(super) stamp: Stamp,
    pub(super) drain_ms: u64,
}

/// Every order of `memory`'s assignments. Where two apps disagree about a server, which no valid
/// desired state leads to, it is kept out.
pub(super) fn collect(memory: &Memory) -> BTreeMap<Place, Ordered> {
    let mut orders: BTreeMap<Place, Ordered> = BTreeMap::new();
    for (app, assignment) in &memory.assignments {
        for (backend, work) in &assignment.balance {
            for (server, order) in &work.servers {
                let place = (backend.clone(), server.clone());
                if orders.get(&place).is_some_and(|other| other.order == Order::Out) {
                    continue;
                }
                let stamp = assignment.stamp.clone();
                let (order, app, drain_ms) = (*order, app.clone(), work.drain_ms);
                orders.insert(place, Ordered { order, app, stamp, drain_ms });
            }
        }
    }
    orders
}

/// What HAProxy has been told of a server since it was taken for ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing yet, in this life.
    Nothing,
    /// A drain, in this life.
    Drain,
    /// Maintenance, or something in an earlier life.
    Maintenance,
    /// That it is ready again, and it has said so. Or it was seen as it is to be again.
    Restored {
        /// The process that was known as it was sent, or in which it was last seen so.
        process: ProcessId,
    },
}

/// What one server needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It is as ordered.
    Nothing,
    /// This is to be on record first; then look again.
    Record(Holding),
    /// The record is to end: nothing of ours is there any more, once no reload can bring it back.
    Disown,
    /// The record is to end at once: what is there is somebody else's.
    Leave,
    /// This is to be set.
    Set(SetState),
    /// Its sessions are to end, for as long as the drain lasts.
    Drain {
        /// The drain is yet to be set.
        set: bool,
    },
}

/// What the server needs. `seen` is none if HAProxy does not have it, which leaves nothing to keep
/// out or to restore.
pub(super) fn need(
    ordered: &Ordered,
    holding: Option<&Holding>,
    seen: Option<&ServerSeen>,
    process: ProcessId,
    sent: Sent,
) -> Need {
    match (ordered.order, holding, seen) {
        (Order::Out, None, Some(seen)) => Need::Record(Holding {
            owned: Owned { asked: ordered.stamp.clone(), before: seen.admin },
            process: Some(process.0),
            draining: ordered.drain_ms > 0 && !seen.admin.is_out(),
            closing: false,
        }),
        (Order::Out, Some(holding), Some(seen)) => keep_out(ordered, holding, seen, process, sent),
        (Order::In, Some(holding), Some(seen)) => put_back(holding, seen, process, sent),
        (Order::In, Some(_), None) => Need::Disown,
        (Order::In, None, _) | (Order::Out, _, None) => Need::Nothing,
    }
}

fn keep_out(
    ordered: &Ordered,
    holding: &Holding,
    seen: &ServerSeen,
    process: ProcessId,
    sent: Sent,
) -> Need {
    let same_process = holding.process == Some(process.0);
    if seen.admin.is_forced_maintenance() {
        // Before we have set it, it is somebody else's, who has been quicker.
        let by_a_hand = is_a_hands(holding, sent, process);
        let before = if by_a_hand { seen.admin } else { holding.owned.before };
        if same_process && !holding.draining && before == holding.owned.before {
            return Need::Nothing;
        }
        let owned = Owned { before, ..holding.owned.clone() };
        let process = Some(process.0);
        return Need::Record(Holding { owned, process, draining: false, closing: false });
    }
    // In the process that had it out, only a hand can have lifted it, and what is seen is what that hand wants.
    // A new process has read its configuration, which has no drains, and enables nothing that it disables.
    let bits = without_our_drain(holding, seen.admin, sent, process);
    let wanted = if same_process {
        bits != holding.owned.before
    } else {
        let before = holding.owned.before;
        let drains = bits.0 & !before.0 & AdminBits::FORCED_DRAIN != 0;
        let enables = before.is_forced_maintenance() && bits.0 & AdminBits::CONFIGURED != 0;
        drains || enables
    };
    if wanted {
        let owned = Owned { before: bits, ..holding.owned.clone() };
        return Need::Record(Holding { owned, ..holding.clone() });
    }
    let drained = seen.admin.0 & AdminBits::FORCED_DRAIN != 0;
    // What gets no traffic, for whatever reason, needs no drain.
    let sessions = seen.sessions > 0 || !drained;
    if holding.draining && !holding.closing {
        if ordered.drain_ms > 0 && sessions && !seen.admin.is_out() {
            return Need::Drain { set: !drained };
        }
        return Need::Record(Holding { closing: true, ..holding.clone() });
    }
    Need::Set(SetState::Maint)
}

fn put_back(holding: &Holding, seen: &ServerSeen, process: ProcessId, sent: Sent) -> Need {
    let same_process = holding.process == Some(process.0) || sent == Sent::Restored { process };
    let out = seen.admin.is_forced_maintenance();
    let restoring = SetState::restoring(holding.owned.before);
    if out && (restoring.is_none() || is_a_hands(holding, sent, process)) {
        return Need::Leave;
    }
    let drained = seen.admin.0 & AdminBits::FORCED_DRAIN != 0;
    match restoring {
        Some(SetState::Ready) if out || (drained && is_our_drain(holding, sent, process)) => {
            Need::Set(SetState::Ready)
        }
        // A reload has lost the maintenance, and the drain that is to be restored with it.
        Some(SetState::Drain) if out || !(drained || same_process) => Need::Set(SetState::Drain),
        Some(SetState::Ready | SetState::Drain | SetState::Maint) | None => Need::Disown,
    }
}

/// Whether a maintenance that is seen is somebody else's: we have set none in this life, or, which outlives it, got no
/// further than a drain; or ours is lifted, and only a new process can have found it in an old file.
fn is_a_hands(holding: &Holding, sent: Sent, process: ProcessId) -> bool {
    match sent {
        Sent::Nothing | Sent::Drain => true,
        Sent::Maintenance => holding.draining && !holding.closing,
        Sent::Restored { process: restored } => restored == process,
    }
}

/// Whether a drain that is seen may be ours, on the way to maintenance.
fn is_our_drain(holding: &Holding, sent: Sent, process: ProcessId) -> bool {
    holding.draining
        && match sent {
            Sent::Nothing => false,
            Sent::Drain | Sent::Maintenance => true,
            Sent::Restored { process: restored } => restored != process,
        }
}

/// The bits as they would be without the drain that we have set on the way to maintenance.
fn without_our_drain(
    holding: &Holding,
    bits: AdminBits,
    sent: Sent,
    process: ProcessId,
) -> AdminBits {
    if !is_our_drain(holding, sent, process) {
        return bits;
    }
    let before = holding.owned.before.0 & AdminBits::FORCED_DRAIN;
    AdminBits(bits.0 & !AdminBits::FORCED_DRAIN | before)
}
