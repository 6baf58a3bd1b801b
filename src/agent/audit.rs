//! The agent's audit trail: what it was told, by whom, and what it did, as JSON lines in its state directory.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::core::{Memory, Note};
use crate::history::{Lines, Rotation, Trail, time};
use crate::model::{
    AppName, Attempt, AttemptOutcome, Change, Epoch, NodeName, PublicKey, Refusal, RefusalReason,
    Stamp, Wall,
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
    came: BTreeMap<AppName, (Stamp, Signed)>,
    /// Who has signed the mailbox that came last.
    mailbox: Option<Signed>,
}

/// The key that has signed a document, if any has.
type Signed = Option<PublicKey>;

impl Audit {
    /// In this state directory; with what the disk remembers of who commands.
    pub fn start(folder: &Path, node: NodeName, memory: Option<&Memory>) -> Audit {
        let told = memory.into_iter().flat_map(|memory| &memory.assignments);
        let told = told.map(|(app, assignment)| (app.clone(), assignment.stamp.clone())).collect();
        let rotation = Rotation::At { bytes_max: BYTES_MAX };
        let trail = Trail::start(Lines::new(folder.join(NAME), rotation));
        Audit { node, trail, told, came: BTreeMap::new(), mailbox: None }
    }

    /// Remembers who has signed an assignment, which may be accepted at once, later, or not.
    pub fn came(&mut self, app: &AppName, stamp: &Stamp, key: Signed) {
        if self.came.len() < APPS_MAX || self.came.contains_key(app) {
            self.came.insert(app.clone(), (stamp.clone(), key));
        }
    }

    /// Remembers who has signed the mailbox.
    pub fn mailbox_came(&mut self, key: Signed) {
        self.mailbox = Some(key);
    }

    /// Adds what a note says of orders and deeds; what it says of the machine alone is for the log only.
    pub fn note(&mut self, at: Wall, note: &Note) {
        if let Note::Accepted { app, stamp, .. } = note {
            self.told.insert(app.clone(), stamp.clone());
        }
        let Some(deed) = deed(note) else { return };
        let mut line = Map::new();
        line.insert("time".to_owned(), json!(time(at)));
        line.insert("at".to_owned(), json!(at.0));
        line.insert("node".to_owned(), json!(self.node.as_str()));
        line.insert("app".to_owned(), json!(deed.app.as_str()));
        let (epoch, generation, key) = self.word(deed.app, &deed.word);
        if let Some(epoch) = epoch {
            line.insert("epoch".to_owned(), json!(epoch.number));
            line.insert("controller".to_owned(), json!(epoch.controller.as_str()));
        }
        if let Some(generation) = generation {
            line.insert("generation".to_owned(), json!(generation));
        }
        if let Some(key) = key {
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

    /// Whose word it is, as far as it is known: epoch, generation, and who has signed it.
    fn word<'a>(
        &'a self,
        app: &AppName,
        word: &Word<'a>,
    ) -> (Option<&'a Epoch>, Option<u64>, Option<Signed>) {
        let came = self.came.get(app);
        let order = |stamp: &'a Stamp| {
            let key = came.filter(|(came, _)| came == stamp).map(|(_, key)| *key);
            (Some(&stamp.epoch), Some(stamp.generation), key)
        };
        match *word {
            Word::InForce => self.told.get(app).map_or((None, None, None), order),
            Word::Order(stamp) => order(stamp),
            Word::Untrusted(stamp, key) => (Some(&stamp.epoch), Some(stamp.generation), Some(key)),
            Word::Claim(epoch) => {
                let key = came.filter(|(came, _)| came.epoch == *epoch).map(|(_, key)| *key);
                (Some(epoch), None, key)
            }
            Word::Mailbox(epoch) => (epoch, None, self.mailbox),
        }
    }
}

/// On whose word something is done, or is not.
enum Word<'a> {
    /// The assignment in force.
    InForce,
    /// This one.
    Order(&'a Stamp),
    /// This one, which is signed by none of the trusted keys.
    Untrusted(&'a Stamp, Signed),
    /// An order or a claim of this epoch.
    Claim(&'a Epoch),
    /// The mailbox, of which is known who commands the message's app.
    Mailbox(Option<&'a Epoch>),
}

/// What is written of a note.
struct Deed<'a> {
    what: &'static str,
    app: &'a AppName,
    word: Word<'a>,
    more: Value,
}

impl<'a> Deed<'a> {
    fn of(app: &'a AppName, what: &'static str, more: Value) -> Self {
        Self { what, app, word: Word::InForce, more }
    }

    fn by(self, word: Word<'a>) -> Self {
        Self { word, ..self }
    }
}

fn deed(note: &Note) -> Option<Deed<'_>> {
    Some(match note {
        Note::Accepted { app, changes, .. } => {
            let asked: Vec<Value> = changes.iter().map(asked).collect();
            Deed::of(app, "told", json!({ "asked": asked }))
        }
        Note::StaleEpoch { app, offered, known } => {
            let more = json!({ "outcome": "not obeyed", "commands": epoch(known) });
            // Which order it was is not said: none of that controller's counts.
            Deed::of(app, "order_of_another_controller", more).by(Word::Claim(offered))
        }
        Note::Untrusted { app, stamp, key } => {
            let more = json!({ "outcome": "not obeyed" });
            Deed::of(app, "untrusted_order", more).by(Word::Untrusted(stamp, *key))
        }
        Note::Refused { app, refusal: Some(Refusal { stamp, reason }) } => {
            let more = json!({ "outcome": "not obeyed", "why": reason.to_string() });
            let word = match reason {
                RefusalReason::Untrusted { key } => Word::Untrusted(stamp, *key),
                RefusalReason::StaleEpoch { .. } => Word::Claim(&stamp.epoch),
                _ => Word::Order(stamp),
            };
            Deed::of(app, "refused", more).by(word)
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
            Deed::of(app, "takes_out", more).by(Word::Order(&owned.asked))
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
            Deed::of(&message.app, "message", more).by(Word::Mailbox(message.epoch.as_ref()))
        }
        Note::NotDelivered { message, recipient, error, again_in_ms: _ } => {
            let more = json!({ "message": message.key.0, "recipient": recipient.as_str(),
                "outcome": "not delivered", "why": error });
            Deed::of(&message.app, "message", more).by(Word::Mailbox(message.epoch.as_ref()))
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
        | Note::Stopping { .. } => return None,
    })
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
    use crate::agent::core::Handed;
    use crate::model::{
        Asked, BackendName, ControllerId, MessageKey, RecipientName, Revision, ServerName,
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
        let key = PublicKey([7; 32]);
        let known = |number| Epoch { number, controller: ControllerId::new("me").unwrap() };
        let later = Stamp { generation: 18, ..stamp.clone() };
        audit.mailbox_came(Some(key));
        audit.came(&app, &stamp, Some(key));
        let revision = Revision::new("2").unwrap();
        for note in [
            Note::Accepted { app: app.clone(), stamp, changes: vec![change] },
            Note::BalancerBack,
            Note::UpgradeStarts { app: app.clone(), revision, attempt: 1 },
            Note::Disowns {
                app: app.clone(),
                backend: BackendName::new("app").unwrap(),
                server: ServerName::new("web1").unwrap(),
            },
            Note::StaleEpoch { app: app.clone(), offered: known(2), known: known(3) },
            Note::Untrusted { app: app.clone(), stamp: later, key: None },
            Note::Delivered {
                message: Handed { key: MessageKey("k".to_owned()), app, epoch: Some(known(3)) },
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
        stale.as_object_mut().unwrap().retain(|name, _| name != "key" && name != "generation");
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
