//! The records of whose a maintenance is: how they end, and what the log says of them.

use super::Step;
use super::memory::Holding;
use super::note::Note;
use super::orders::Place;
use crate::model::{AdminBits, AppName};

/// Says what a new record means to people. `before`: the bits of the record that it replaces.
pub(super) fn log_record(
    step: &mut Step,
    app: &AppName,
    place: &Place,
    before: Option<AdminBits>,
    new: &Holding,
) {
    let (app, (backend, server)) = (app.clone(), place.clone());
    match before {
        None => step.log(Note::Owns { app, backend, server, owned: new.owned.clone() }),
        Some(before) if before != new.owned.before => {
            step.log(Note::ChangedByHand { app, backend, server });
        }
        Some(_) => {}
    }
}

/// Ends a record.
pub(super) fn disown(step: &mut Step, app: &AppName, place: &Place) {
    let owned = &mut step.disk.change().owned;
    if let Some(servers) = owned.get_mut(&place.0) {
        servers.remove(&place.1);
        if servers.is_empty() {
            owned.remove(&place.0);
        }
    }
    let (app, (backend, server)) = (app.clone(), place.clone());
    step.log(Note::Disowns { app, backend, server });
}
