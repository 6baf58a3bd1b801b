//! The records of whose a maintenance is: how they end, and what the log says of them.

use super::Step;
use super::memory::Holding;
use super::note::Note;
use super::orders::Place;
use crate::model::AdminBits;

/// Says what a new record means to people. `before`: the bits of the record that it replaces.
pub(super) fn log_record(step: &mut Step, place: &Place, before: Option<AdminBits>, new: &Holding) {
    let (backend, server) = place.clone();
    match before {
        None => step.log(Note::Owns { backend, server, owned: new.owned.clone() }),
        Some(before) if before != new.owned.before => {
            step.log(Note::ChangedByHand { backend, server });
        }
        Some(_) => {}
    }
}

/// Ends a record.
pub(super) fn disown(step: &mut Step, place: &Place) {
    let owned = &mut step.disk.change().owned;
    if let Some(servers) = owned.get_mut(&place.0) {
        servers.remove(&place.1);
        if servers.is_empty() {
            owned.remove(&place.0);
        }
    }
    let (backend, server) = place.clone();
    step.log(Note::Disowns { backend, server });
}
