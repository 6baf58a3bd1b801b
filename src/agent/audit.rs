//! The agent's audit trail: what it was told, by whom, and what it did, as JSON lines in its state directory.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::core::{Memory, Note};
use crate::history::{Lines, Rotation, Trail, time};
use crate::model::{
    AppName, Attempt, AttemptOutcome, Change, Epoch, NodeName, PublicKey, RefusalReason, Stamp,
    Wall,
};

/// The file in the state directory; with the one before, `audit.log.1`, it is kept to twice [`BYTES_MAX`].
const NAME: &str = "audit.log";

/// An upgrade has some ten lines of a quarter of a kilobyte: some thousands of upgrades.
const BYTES_MAX: u64 = 4 << 20;

/// Apps whose signatures are remembered; more than command any node.
const APPS_MAX: usize = 1_024;

/// The trail of one agent.
pub(super) struct Audit {
    node: NodeName,
    trail: Trail,
    /// The assignment in force, per app: on whose word whatever is done is done.
    told: BTreeMap<AppName, Stamp>,
    /// The assignment that came last, per app, and the key that has signed it, if any has.
    came: BTreeMap<AppName, (Stamp, Option<PublicKey>)>,
}

impl Audit {
    /// In this state directory; with what the disk remembers of who commands.
    pub fn start(folder: &Path, node: NodeName, memory: Option<&Memory>) -> Audit {
        let told = memory.into_iter().flat_map(|memory| &memory.assignments);
        let told = told.map(|(app, assignment)| (app.clone(), assignment.stamp.clone())).collect();
        let rotation = Rotation::At { bytes_max: BYTES_MAX };
        let trail = Trail::start(Lines::new(folder.join(NAME), rotation));
        Audit { node, trail, told, came: BTreeMap::new() }
    }

    /// Remembers who has signed an assignment, which may be accepted at once, later, or not.
    pub fn came(&mut self, app: &AppName, stamp: &Stamp, key: Option<PublicKey>) {
        if self.came.len() < APPS_MAX || self.came.contains_key(app) {
            self.came.insert(app.clone(), (stamp.clone(), key));
        }
    }

    /// The key that has signed what bears `stamp`, of which 0 says any of its epoch; none if it has not come in this life.
    fn key(&self, app: &AppName, stamp: &Stamp) -> Option<Option<PublicKey>> {
        let (came, key) = self.came.get(app)?;
        let any = stamp.generation == 0;
        let same = came.epoch == stamp.epoch && (any || came.generation == stamp.generation);
        same.then_some(*key)
    }

    /// Adds what a note says of orders and deeds; what it says of the machine alone is for the log only.
    pub fn note(&mut self, at: Wall, note: &Note) {
        if let Note::Accepted { app, stamp, .. } = note {
            self.told.insert(app.clone(), stamp.clone());
        }
        let Some(deed) = deed(note) else { return };
        let stamp = deed.stamp.as_ref().or_else(|| self.told.get(deed.app?));
        let mut line = Map::new();
        line.insert("time".to_owned(), json!(time(at)));
        line.insert("at".to_owned(), json!(at.0));
        line.insert("node".to_owned(), json!(self.node.as_str()));
        if let Some(app) = deed.app {
            line.insert("app".to_owned(), json!(app.as_str()));
        }
        if let Some(stamp) = stamp {
            line.insert("epoch".to_owned(), json!(stamp.epoch.number));
            line.insert("controller".to_owned(), json!(stamp.epoch.controller.as_str()));
            line.insert("generation".to_owned(), json!(stamp.generation));
        }
        let came = deed.app.zip(stamp).and_then(|(app, stamp)| self.key(app, stamp));
        if let Some(key) = deed.key.or(came) {
            line.insert("key".to_owned(), json!(key));
        }
        line.insert("what".to_owned(), json!(deed.what));
        if let Value::Object(more) = deed.more {
            line.extend(more);
        }
        let mut bytes = Value::Object(line).to_string().into_bytes();
        bytes.push(b'\n');
        self.trail.add(bytes);
    }
}

/// What is written of a note.
struct Deed<'a> {
    what: &'static str,
    app: Option<&'a AppName>,
    /// On whose word; that of the assignment in force, if nothing else is said.
    stamp: Option<Stamp>,
    /// Who has signed it, where the note says so.
    key: Option<Option<PublicKey>>,
    more: Value,
}

impl<'a> Deed<'a> {
    fn of(app: &'a AppName, what: &'static str, more: Value) -> Option<Self> {
        Some(Self { what, app: Some(app), stamp: None, key: None, more })
    }
}

fn deed(note: &Note) -> Option<Deed<'_>> {
    match note {
        Note::Accepted { app, changes, .. } => {
            let asked: Vec<Value> = changes.iter().map(asked).collect();
            Deed::of(app, "told", json!({ "asked": asked }))
        }
        Note::StaleEpoch { app, offered, known } => {
            // Which order it was is not said: none of that controller's counts.
            let stamp = Stamp { epoch: offered.clone(), generation: 0 };
            let more = json!({ "outcome": "not obeyed", "commands": epoch(known) });
            let deed = Deed::of(app, "order_of_another_controller", more)?;
            Some(Deed { stamp: Some(stamp), ..deed })
        }
        Note::Untrusted { app, stamp, key } => {
            let deed = Deed::of(app, "untrusted_order", json!({ "outcome": "not obeyed" }))?;
            Some(Deed { stamp: Some(stamp.clone()), key: Some(*key), ..deed })
        }
        Note::Refused { app, refusal: Some(refusal) } => {
            let more = json!({ "outcome": "not obeyed", "why": refusal.reason.to_string() });
            let deed = Deed::of(app, "refused", more)?;
            let key = match &refusal.reason {
                RefusalReason::Untrusted { key } => Some(*key),
                _ => None,
            };
            Some(Deed { stamp: Some(refusal.stamp.clone()), key, ..deed })
        }
        Note::Refused { app, refusal: None } => Deed::of(app, "refuses_nothing_more", json!({})),
        Note::UpgradeStarts { app, revision, attempt } => {
            let more = json!({ "revision": revision.as_str(), "attempt": attempt });
            Deed::of(app, "upgrade_starts", more)
        }
        Note::UpgradeEnded { app, attempt } => Deed::of(app, "upgrade_ended", outcome(attempt)),
        Note::AwaitsEarlier { app } => Deed::of(app, "awaits_earlier_upgrade", json!({})),
        Note::Interrupted { app, revision, attempt } => {
            let more = json!({ "revision": revision.as_str(), "attempt": attempt,
                "outcome": "interrupted" });
            Deed::of(app, "upgrade_ended", more)
        }
        Note::Settle { app, state, not_ok } => {
            let not_ok: Vec<&str> = not_ok.iter().map(|check| check.as_str()).collect();
            Deed::of(app, "checks", json!({ "outcome": state, "not_ok": not_ok }))
        }
        Note::Owns { app, backend, server, owned } => {
            let more = json!({ "server": format!("{backend}/{server}"), "before": owned.before.0 });
            let deed = Deed::of(app, "takes_out", more)?;
            Some(Deed { stamp: Some(owned.asked.clone()), ..deed })
        }
        Note::Disowns { app, backend, server } => {
            Deed::of(app, "put_back", json!({ "server": format!("{backend}/{server}") }))
        }
        Note::ChangedByHand { app, backend, server } => {
            Deed::of(app, "changed_by_hand", json!({ "server": format!("{backend}/{server}") }))
        }
        Note::Delivered { key, recipient } => {
            let more = json!({ "message": key.0, "recipient": recipient.as_str(),
                "outcome": "delivered" });
            Some(Deed { what: "message", app: None, stamp: None, key: None, more })
        }
        Note::NotDelivered { key, recipient, error, again_in_ms: _ } => {
            let more = json!({ "message": key.0, "recipient": recipient.as_str(),
                "outcome": "not delivered", "why": error });
            Some(Deed { what: "message", app: None, stamp: None, key: None, more })
        }
        Note::NameTaken { .. }
        | Note::Recovered { .. }
        | Note::Misaddressed { .. }
        | Note::TooManyApps { .. }
        | Note::ProcessChanged { .. }
        | Note::BalancerFailed { .. }
        | Note::BalancerBack
        | Note::DumpFailed { .. }
        | Note::DiskFailed { .. }
        | Note::Stopping { .. } => None,
    }
}

/// One thing that an assignment asks otherwise than the one before.
fn asked(change: &Change) -> Value {
    let mut asked = Map::new();
    asked.insert("what".to_owned(), json!(change.asked.as_str()));
    if let Some((backend, server)) = &change.server {
        asked.insert("server".to_owned(), json!(format!("{backend}/{server}")));
    }
    let rollout = change.rollout.as_ref().map(ToString::to_string);
    let texts = [("rollout", &rollout), ("before", &change.before), ("after", &change.after)];
    for (name, text) in texts {
        if let Some(text) = text {
            asked.insert(name.to_owned(), json!(text));
        }
    }
    Value::Object(asked)
}

fn epoch(epoch: &Epoch) -> Value {
    json!({ "epoch": epoch.number, "controller": epoch.controller.as_str() })
}

fn outcome(attempt: &Attempt) -> Value {
    let mut more = json!({ "rollout": attempt.rollout.as_str(), "revision": attempt.revision.as_str(),
        "attempt": attempt.attempt, "took_ms": attempt.took_ms });
    let outcome = match &attempt.outcome {
        AttemptOutcome::Running => "running",
        AttemptOutcome::Succeeded => "succeeded",
        AttemptOutcome::Failed { why, .. } => {
            more["why"] = json!(why.to_string());
            "failed"
        }
    };
    more["outcome"] = json!(outcome);
    more
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Asked, BackendName, ControllerId, Revision, ServerName};

    #[test]
    fn every_line_says_on_whose_word() {
        let folder = tempfile::tempdir().unwrap();
        let app = AppName::new("shop").unwrap();
        let stamp = Stamp {
            epoch: Epoch { number: 3, controller: ControllerId::new("me").unwrap() },
            generation: 17,
        };
        let change = Change {
            asked: Asked::Target,
            server: None,
            rollout: None,
            before: Some("1".to_owned()),
            after: Some("2".to_owned()),
        };
        let mut audit = Audit::start(folder.path(), NodeName::new("web1").unwrap(), None);
        let key = PublicKey([7; 32]);
        audit.came(&app, &stamp, Some(key));
        let revision = Revision::new("2").unwrap();
        for note in [
            Note::Accepted { app: app.clone(), stamp, changes: vec![change] },
            Note::BalancerBack,
            Note::UpgradeStarts { app: app.clone(), revision, attempt: 1 },
            Note::Disowns {
                app,
                backend: BackendName::new("app").unwrap(),
                server: ServerName::new("web1").unwrap(),
            },
        ] {
            audit.note(Wall(1_800_000_000_123), &note);
        }
        drop(audit);
        let text = std::fs::read_to_string(folder.path().join(NAME)).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let line = |what: &str| {
            json!({ "time": "2027-01-15T08:00:00.123Z", "at": 1_800_000_000_123_u64, "node": "web1",
                "app": "shop", "epoch": 3, "controller": "me", "generation": 17, "what": what,
                "key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=" })
        };
        let mut told = line("told");
        told["asked"] = json!([{ "what": "target", "before": "1", "after": "2" }]);
        let mut starts = line("upgrade_starts");
        (starts["revision"], starts["attempt"]) = (json!("2"), json!(1));
        let mut put_back = line("put_back");
        put_back["server"] = json!("app/web1");
        assert_eq!(lines, [told, starts, put_back]);
    }
}
