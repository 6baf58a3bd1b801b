//! The agent's audit trail: what it was told, by whom, and what it did, as JSON lines in its state directory.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::core::{Handed, Memory, Note};
use crate::history::{Lines, Rotation, Trail, time};
use crate::model::{
    AppName, Attempt, AttemptOutcome, Change, Epoch, NodeName, Refusal, RefusalReason, SignedBy,
    Stamp, Wall,
};

/// The file in the state directory; with the one before, `audit.log.1`, it is kept to twice [`BYTES_MAX`].
const NAME: &str = "audit.log";

/// An upgrade has some ten lines of a quarter of a kilobyte: some thousands of upgrades.
const BYTES_MAX: u64 = 4 << 20;

/// The trail of one agent.
pub(super) struct Audit {
    node: NodeName,
    trail: Trail,
    /// The assignment in force, per app: on whose word whatever is done is done. Who has signed it is not known of one that
    /// the disk remembers.
    told: BTreeMap<AppName, (Stamp, Option<SignedBy>)>,
}

impl Audit {
    /// In this state directory; with what the disk remembers of who commands.
    pub fn start(folder: &Path, node: NodeName, memory: Option<&Memory>) -> Audit {
        let told = memory.into_iter().flat_map(|memory| &memory.assignments);
        let told = told.map(|(app, assignment)| (app.clone(), (assignment.stamp.clone(), None)));
        let rotation = Rotation::At { bytes_max: BYTES_MAX };
        let trail = Trail::start(Lines::new(folder.join(NAME), rotation));
        Audit { node, trail, told: told.collect() }
    }

    /// Adds what a note says of orders and deeds; what it says of the machine alone is for the log only.
    pub fn note(&mut self, at: Wall, note: &Note) {
        if let Note::Accepted { app, stamp, key, .. } = note {
            self.told.insert(app.clone(), (stamp.clone(), Some(*key)));
        }
        let Some(deed) = deed(note) else { return };
        let mut line = Map::new();
        line.insert("time".to_owned(), json!(time(at)));
        line.insert("at".to_owned(), json!(at.0));
        line.insert("node".to_owned(), json!(self.node.as_str()));
        line.insert("app".to_owned(), json!(deed.app.as_str()));
        let Word { epoch, generation, signed } = self.word(&deed);
        if let Some(epoch) = epoch {
            line.insert("epoch".to_owned(), json!(epoch.number));
            line.insert("controller".to_owned(), json!(epoch.controller.as_str()));
        }
        if let Some(generation) = generation {
            line.insert("generation".to_owned(), json!(generation));
        }
        if let Some(key) = signed {
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

    /// On whose word a deed was done, or not.
    fn word<'a>(&'a self, deed: &Deed<'a>) -> Word<'a> {
        let in_force = self.told.get(deed.app);
        let of = |(stamp, signed): &'a (Stamp, Option<SignedBy>)| Word::of(stamp, *signed);
        match &deed.by {
            By::InForce => in_force.map_or(Word::default(), of),
            By::Order(stamp) => {
                let same = in_force.filter(|(known, _)| known == *stamp);
                same.map_or(Word::of(stamp, None), of)
            }
            By::Said(word) => *word,
        }
    }
}

/// Whose word it is, as far as it is known.
#[derive(Clone, Copy, Default)]
struct Word<'a> {
    epoch: Option<&'a Epoch>,
    generation: Option<u64>,
    signed: Option<SignedBy>,
}

impl<'a> Word<'a> {
    fn of(stamp: &'a Stamp, signed: Option<SignedBy>) -> Self {
        Self { epoch: Some(&stamp.epoch), generation: Some(stamp.generation), signed }
    }
}

/// On whose word something is done, or is not.
enum By<'a> {
    /// The assignment in force.
    InForce,
    /// This one, which may have been in force before.
    Order(&'a Stamp),
    /// The note says so.
    Said(Word<'a>),
}

/// What is written of a note.
struct Deed<'a> {
    what: &'static str,
    app: &'a AppName,
    by: By<'a>,
    more: Value,
}

impl<'a> Deed<'a> {
    fn of(app: &'a AppName, what: &'static str, more: Value) -> Self {
        Self { what, app, by: By::InForce, more }
    }

    fn by(self, by: By<'a>) -> Self {
        Self { by, ..self }
    }

    fn said(self, word: Word<'a>) -> Self {
        self.by(By::Said(word))
    }
}

fn deed(note: &Note) -> Option<Deed<'_>> {
    Some(match note {
        Note::Accepted { app, changes, .. } => {
            let asked: Vec<Value> = changes.iter().map(asked).collect();
            Deed::of(app, "told", json!({ "asked": asked }))
        }
        Note::StaleEpoch { app, offered, known, key } => {
            let more = json!({ "outcome": "not obeyed", "commands": epoch(known) });
            // Which order it was is not said: none of that controller's counts.
            let word = Word { epoch: Some(offered), generation: None, signed: Some(*key) };
            Deed::of(app, "order_of_another_controller", more).said(word)
        }
        Note::Untrusted { app, stamp, key } => {
            let more = json!({ "outcome": "not obeyed" });
            Deed::of(app, "untrusted_order", more).said(Word::of(stamp, Some(*key)))
        }
        Note::Refused { app, refusal: Some(Refusal { stamp, reason }) } => {
            let more = json!({ "outcome": "not obeyed", "why": reason.to_string() });
            let by = match reason {
                RefusalReason::Untrusted { key } => By::Said(Word::of(stamp, Some(*key))),
                _ => By::Order(stamp),
            };
            Deed::of(app, "refused", more).by(by)
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
            Deed::of(app, "takes_out", more).by(By::Order(&owned.asked))
        }
        Note::Disowns { app, backend, server } => {
            Deed::of(app, "put_back", json!({ "server": format!("{backend}/{server}") }))
        }
        Note::ChangedByHand { app, backend, server } => {
            Deed::of(app, "changed_by_hand", json!({ "server": format!("{backend}/{server}") }))
        }
        Note::Delivered { message, recipient } => {
            let more = json!({ "message": message.key.0, "recipient": recipient.as_str(),
                "outcome": "delivered" });
            Deed::of(&message.app, "message", more).said(handed(message))
        }
        Note::NotDelivered { message, recipient, error, again_in_ms: _ } => {
            let more = json!({ "message": message.key.0, "recipient": recipient.as_str(),
                "outcome": "not delivered", "why": error });
            Deed::of(&message.app, "message", more).said(handed(message))
        }
        Note::NameTaken { .. }
        | Note::Recovered { .. }
        | Note::Misaddressed { .. }
        | Note::TooManyApps { .. }
        | Note::UntrustedMailbox { .. }
        | Note::ProcessChanged { .. }
        | Note::BalancerFailed { .. }
        | Note::BalancerBack
        | Note::DumpFailed { .. }
        | Note::DiskFailed { .. }
        | Note::Stopping { .. } => return None,
    })
}

/// Mailboxes have no generation.
fn handed(message: &Handed) -> Word<'_> {
    Word { epoch: message.epoch.as_ref(), generation: None, signed: Some(message.signed) }
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
    use crate::model::{
        Asked, BackendName, ControllerId, MessageKey, PublicKey, RecipientName, Revision,
        ServerName,
    };

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
        let key = Some(PublicKey([7; 32]));
        let known = |number| Epoch { number, controller: ControllerId::new("me").unwrap() };
        let later = Stamp { generation: 18, ..stamp.clone() };
        let revision = Revision::new("2").unwrap();
        for note in [
            Note::Accepted { app: app.clone(), stamp, key, changes: vec![change] },
            Note::BalancerBack,
            Note::UpgradeStarts { app: app.clone(), revision, attempt: 1 },
            Note::Disowns {
                app: app.clone(),
                backend: BackendName::new("app").unwrap(),
                server: ServerName::new("web1").unwrap(),
            },
            Note::StaleEpoch { app: app.clone(), offered: known(2), known: known(3), key: None },
            Note::Untrusted { app: app.clone(), stamp: later, key: None },
            Note::Delivered {
                message: Handed {
                    key: MessageKey("k".to_owned()),
                    app,
                    epoch: Some(known(3)),
                    signed: key,
                },
                recipient: RecipientName::new("oncall").unwrap(),
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
        let mut stale = line("order_of_another_controller");
        (stale["epoch"], stale["outcome"]) = (json!(2), json!("not obeyed"));
        stale["commands"] = json!({ "epoch": 3, "controller": "me" });
        // A claim is not signed, and has no generation.
        stale["key"] = json!(null);
        stale.as_object_mut().unwrap().remove("generation");
        let mut untrusted = line("untrusted_order");
        (untrusted["generation"], untrusted["key"]) = (json!(18), json!(null));
        untrusted["outcome"] = json!("not obeyed");
        let mut message = line("message");
        message.as_object_mut().unwrap().remove("generation");
        (message["message"], message["recipient"]) = (json!("k"), json!("oncall"));
        message["outcome"] = json!("delivered");
        assert_eq!(lines, [told, starts, put_back, stale, untrusted, message]);
    }
}
