//! Messages to people, handed to notification servers until there is a receipt.
//!
//! Every message without a receipt lies in a ledger. Here it is only decided which live server has
//! it now; that is lost with the process, and found again in the retained mailboxes. Where these are lost, too,
//! somebody may have delivered it, and is given the time to say so.

use std::collections::{BTreeMap, BTreeSet};

use crate::bus::topics::Topic;
use crate::model::{
    AppName, ClusterLedger, ClusterName, Condition, ConditionStatus, ConditionType, EventKind,
    Mailbox, Message, MessageKey, Mono, NodeName, Now, Presence, Receipt, ReceiptOutcome,
    render_duration_ms,
};

use super::records::Because;
use super::{Core, Effect, Publication, earliest, publish};

/// How long a server may take for a receipt before another one gets the message, in milliseconds:
/// a push service answers within 10 s, and one more try should fit.
const RECEIPT_MS: u64 = 20_000;

/// The longest rest after every server has tried in vain, in milliseconds. A refusal, such as that of a
/// wrong token, lasts until a person mends it, and is told at most this long after.
const REST_MS_MAX: u64 = 3_600_000;

/// The same where nobody has refused it: a service that is back is used within a minute.
const DELAY_MS_MAX: u64 = 60_000;

/// Who has which message.
#[derive(Debug, Clone, Default)]
pub(super) struct Post {
    /// As published.
    pub mailboxes: BTreeMap<NodeName, Mailbox>,
    /// Those that somebody else has published: under another signature than ours.
    foreign: BTreeSet<NodeName>,
    /// Receipts that have arrived and are not dealt with: each server's own.
    pub receipts: BTreeMap<(MessageKey, NodeName), Receipt>,
    handed: BTreeMap<MessageKey, Handed>,
    /// Messages that were in a ledger already when its app was claimed, and when that was.
    inherited: BTreeMap<MessageKey, Mono>,
    /// Receipts that this round has taken into ledgers.
    taken: Vec<(AppName, Receipt)>,
    /// What to go back to if the disk does not take a ledger of this round.
    before: Option<Before>,
}

type Before = (BTreeMap<NodeName, Mailbox>, BTreeSet<NodeName>, BTreeMap<MessageKey, Handed>);

#[derive(Debug, Clone)]
struct Handed {
    to: NodeName,
    at: Mono,
    /// Servers that had it and brought no receipt, or a bad one.
    tried: BTreeSet<NodeName>,
    /// `to` has given it up, and would try it again only if it left its mailbox in between.
    given_up: bool,
    /// A service has refused it, now or before.
    refused: bool,
    /// How often every server has tried it in vain.
    rounds: u32,
    /// All have tried; begun again then, or with a server that comes.
    rests_until: Option<Mono>,
    /// What the last bad receipt says.
    error: Option<String>,
}

impl Handed {
    fn new(to: NodeName, at: Mono) -> Self {
        Self {
            to,
            at,
            tried: BTreeSet::new(),
            given_up: false,
            refused: false,
            rounds: 0,
            rests_until: None,
            error: None,
        }
    }
}

/// The rest after every server has tried for the `rounds`th time: 20 s, 40 s, 80 s, ... up to a minute, or an hour.
fn rest_ms(rounds: u32, refused: bool) -> u64 {
    let most = if refused { REST_MS_MAX } else { DELAY_MS_MAX };
    (RECEIPT_MS << rounds.saturating_sub(1).min(16)).min(most)
}

impl Post {
    /// The disk has taken everything until now.
    pub fn begin_round(&mut self) {
        self.taken.clear();
        self.before = None;
    }

    /// The disk did not take a ledger of `app`: no mailbox was published, and its receipts are
    /// still to be dealt with.
    pub fn undo(&mut self, app: &AppName) {
        if let Some((mailboxes, foreign, handed)) = self.before.take() {
            self.mailboxes = mailboxes;
            self.foreign = foreign;
            self.handed = handed;
        }
        for (_, receipt) in self.taken.extract_if(.., |(of, _)| of == app) {
            let of = (receipt.key.clone(), receipt.node.clone());
            self.receipts.entry(of).or_insert(receipt);
        }
    }

    /// The broker is there again: what was handed out meanwhile is only now on its way.
    pub fn listed(&mut self, now: Mono) {
        for handed in self.handed.values_mut() {
            handed.at = now;
        }
    }

    /// What a server is handed by us.
    pub fn ours(&self, node: &NodeName) -> Option<&Mailbox> {
        self.mailboxes.get(node).filter(|_| !self.foreign.contains(node))
    }

    /// Takes over messages of an earlier life, which may have handed them out.
    pub fn inherit(&mut self, now: Mono, ledger: &ClusterLedger) {
        self.inherited.extend(ledger.messages.keys().map(|key| (key.clone(), now)));
    }

    /// Takes over what an earlier controller handed out; says whether it is what we hold, as we would publish it. What
    /// somebody else has signed, or nobody, may have been handed out, and is not ours to publish.
    pub fn adopt(
        &mut self,
        now: Mono,
        node: &NodeName,
        mailbox: Mailbox,
        signed_here: bool,
    ) -> bool {
        if self.mailboxes.get(node) == Some(&mailbox) {
            return signed_here || self.foreign.contains(node);
        }
        for key in mailbox.messages.keys() {
            self.handed.entry(key.clone()).or_insert_with(|| Handed::new(node.clone(), now));
        }
        let known = self.mailboxes.contains_key(node);
        if !known {
            self.mailboxes.insert(node.clone(), mailbox);
            if !signed_here {
                self.foreign.insert(node.clone());
            }
        }
        !known
    }
}

/// Whose turn a message is among servers that have as much to do: the lowest number's. It is the same for every controller, and
/// as good as drawn by lot, so that servers share messages that come one at a time, too.
fn turn(key: &MessageKey, node: &NodeName) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::new_with_prefix(&key.0).chain_update([0]).chain_update(node.as_str()).finalize().into()
}

impl Core {
    /// Deals with receipts, and gives every message that has none to one live server.
    pub(super) fn distribute(&mut self, now: Now) -> (Vec<Effect>, Option<Mono>) {
        let Post { mailboxes, foreign, handed, .. } = &self.post;
        self.post.before = Some((mailboxes.clone(), foreign.clone(), handed.clone()));
        let mut effects = self.settle_receipts(now);
        let pending = self.pending();
        self.post.handed.retain(|key, _| pending.contains_key(key));
        self.post.inherited.retain(|key, _| pending.contains_key(key));
        let mut due = None;
        let settling: BTreeSet<&MessageKey> =
            self.post.receipts.keys().map(|(key, _)| key).collect();
        let unsettled: Vec<&Message> =
            pending.values().filter(|message| !settling.contains(&message.key)).collect();
        for message in unsettled {
            due = earliest(due, self.hand_out(now, message, &mut effects));
        }
        let mut next: BTreeMap<NodeName, Mailbox> =
            self.post.mailboxes.keys().map(|node| (node.clone(), Mailbox::default())).collect();
        for (key, handed) in self.post.handed.iter().filter(|(_, handed)| !handed.given_up) {
            let mailbox = next.entry(handed.to.clone()).or_default();
            if let Some(message) = pending.get(key) {
                mailbox.messages.insert(key.clone(), message.clone());
            }
        }
        for (node, mailbox) in &next {
            let foreign = self.post.foreign.contains(node);
            if foreign || self.post.mailboxes.get(node) != Some(mailbox) {
                effects.push(publish(Publication::Mailbox(node.clone(), mailbox.clone())));
            }
        }
        self.post.mailboxes = next;
        self.post.foreign.clear();
        (effects, due)
    }

    fn pending(&self) -> BTreeMap<MessageKey, Message> {
        self.apps
            .values()
            .filter(|app| app.epoch.is_some())
            .flat_map(|app| app.ledgers.values())
            .flat_map(|ledger| ledger.messages.clone())
            .collect()
    }

    /// Gives a message to a server, if none has it or the one that has it does not get on. When all
    /// have tried in vain it rests, ever longer.
    fn hand_out(&mut self, now: Now, message: &Message, effects: &mut Vec<Effect>) -> Option<Mono> {
        let servers = self.servers_for(now, message);
        let before = self.post.handed.get(&message.key).cloned();
        let mut tried = BTreeSet::new();
        if let Some(handed) = &before {
            let late_at = handed.at.plus_ms(RECEIPT_MS);
            // One that has departed may have delivered it, and come back to say so.
            if now.mono < late_at && !handed.tried.contains(&handed.to) {
                return Some(late_at);
            }
            if handed.rests_until.is_none_or(|until| now.mono < until) {
                tried = handed.tried.clone();
                tried.insert(handed.to.clone());
            }
        } else if let Some(since) = self.post.inherited.get(&message.key) {
            let late_at = since.plus_ms(RECEIPT_MS);
            if now.mono < late_at {
                return Some(late_at);
            }
        }
        let load =
            |node: &NodeName| self.post.handed.values().filter(|handed| handed.to == *node).count();
        let fresh = servers.iter().filter(|node| !tried.contains(*node));
        let turn = |node: &NodeName| turn(&message.key, node);
        let Some(to) = fresh.min_by_key(|node| (load(node), turn(node))).cloned() else {
            return Some(self.rest(now, message, tried, servers.is_empty()));
        };
        let handed = Handed {
            tried,
            rounds: before.as_ref().map_or(0, |handed| handed.rounds),
            refused: before.as_ref().is_some_and(|handed| handed.refused),
            error: before.and_then(|handed| handed.error),
            ..Handed::new(to.clone(), now.mono)
        };
        self.post.handed.insert(message.key.clone(), handed);
        let kind = EventKind::MessageSent { key: message.key.to_string() };
        let cluster = Some(message.cluster.clone());
        let because = Because {
            cause: message.title.clone(),
            before: None,
            after: Some("handed out".to_owned()),
            rollout: message.rollout.clone(),
        };
        effects.push(self.tell(now, &message.app, cluster, Some(to), kind, because));
        Some(now.mono.plus_ms(RECEIPT_MS))
    }

    /// Lets a message rest that every server has tried, or that none is there for; says until when.
    fn rest(
        &mut self,
        now: Now,
        message: &Message,
        tried: BTreeSet<NodeName>,
        nobody: bool,
    ) -> Mono {
        let Some(handed) = self.post.handed.get_mut(&message.key).filter(|_| !nobody) else {
            return now.mono.plus_ms(RECEIPT_MS);
        };
        if let Some(until) = handed.rests_until.filter(|until| now.mono < *until) {
            return until;
        }
        handed.tried = tried;
        handed.rounds = handed.rounds.saturating_add(1);
        let until = now.mono.plus_ms(rest_ms(handed.rounds, handed.refused));
        handed.rests_until = Some(until);
        until
    }

    /// Whether a cluster's messages reach people.
    pub(in crate::controller) fn undelivered(&self, now: Now, ledger: &ClusterLedger) -> Condition {
        let failing = |message: &Message| {
            let handed = self.post.handed.get(&message.key);
            if self.servers_for(now, message).is_empty() {
                let names: Vec<_> = message.recipients.iter().map(ToString::to_string).collect();
                let names = names.join(", ");
                return Some(("NoServer", format!("no notification server knows {names}")));
            }
            let handed = handed.filter(|handed| handed.rounds > 0)?;
            let error = handed.error.as_deref().unwrap_or("no receipt in time");
            let to = &handed.to;
            let rest = render_duration_ms(rest_ms(handed.rounds, handed.refused));
            Some(("Failing", format!("{to}: {error}; tried again at least every {rest}")))
        };
        let mut all = ledger.messages.values().filter_map(failing);
        let (status, reason, message) = match all.next() {
            None => (ConditionStatus::False, "Fine", String::new()),
            Some((reason, text)) => match all.count() {
                0 => (ConditionStatus::True, reason, text),
                more => (ConditionStatus::True, reason, format!("{text}; and {more} more")),
            },
        };
        let kind = ConditionType::Undelivered;
        Condition { kind, status, reason: reason.to_owned(), message }
    }

    fn is_present(&self, now: Now, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|n| n.presence(now.mono) == Presence::Present)
    }

    /// Live servers that know the recipients; or, if none knows all, those that know any.
    fn servers_for(&self, now: Now, message: &Message) -> Vec<NodeName> {
        let known = |name: &NodeName| {
            let report = self.nodes[name].report.as_ref()?;
            let recipients = &report.notify.as_ref()?.recipients;
            Some(message.recipients.intersection(recipients).count())
        };
        let live: Vec<(NodeName, usize)> = self
            .nodes
            .keys()
            .filter(|name| self.is_present(now, name))
            .filter_map(|name| known(name).map(|count| (name.clone(), count)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let most = live.iter().map(|(_, count)| *count).max().unwrap_or(0);
        live.into_iter().filter(|(_, count)| *count == most).map(|(name, _)| name).collect()
    }

    /// Takes receipts into the ledgers. They are deleted from the bus after the ledger without the
    /// message is kept and published; while the disk takes nothing, they wait.
    fn settle_receipts(&mut self, now: Now) -> Vec<Effect> {
        let receipts = std::mem::take(&mut self.post.receipts);
        let mut effects = Vec::new();
        for ((key, node), receipt) in receipts {
            let Some((app, cluster)) = self.owner_of(&key) else {
                // Dealt with before, or of a controller whose memory is lost.
                effects.push(publish(Publication::Nothing(Topic::Receipt(node, key))));
                continue;
            };
            if self.apps.get(&app).is_some_and(|state| state.rests(now.mono)) {
                self.post.receipts.insert((key, node), receipt);
                continue;
            }
            effects.extend(self.settle_receipt(now, &app, &cluster, &receipt));
            self.post.taken.push((app, receipt));
        }
        effects
    }

    fn owner_of(&self, key: &MessageKey) -> Option<(AppName, ClusterName)> {
        self.apps.iter().find_map(|(app, state)| {
            let (cluster, _) =
                state.ledgers.iter().find(|(_, ledger)| ledger.messages.contains_key(key))?;
            Some((app.clone(), cluster.clone()))
        })
    }

    fn settle_receipt(
        &mut self,
        now: Now,
        app: &AppName,
        cluster: &ClusterName,
        receipt: &Receipt,
    ) -> Vec<Effect> {
        let Some(state) = self.apps.get_mut(app) else { return Vec::new() };
        let Some(epoch) = state.epoch.as_ref().map(|epoch| epoch.number) else {
            return Vec::new();
        };
        let Some(ledger) = state.ledgers.get(cluster) else { return Vec::new() };
        let Some(message) = ledger.messages.get(&receipt.key) else { return Vec::new() };
        let delivered = |name: &&crate::model::RecipientName| {
            receipt.outcomes.get(*name) == Some(&ReceiptOutcome::Delivered)
        };
        let reached: BTreeSet<_> = message.recipients.iter().filter(delivered).cloned().collect();
        let failed = receipt.outcomes.values().find_map(|outcome| match outcome {
            ReceiptOutcome::Failed(error) | ReceiptOutcome::Delayed(error) => Some(error.clone()),
            ReceiptOutcome::Delivered => None,
        });
        let because = Because {
            cause: message.title.clone(),
            rollout: message.rollout.clone(),
            ..Because::default()
        };
        let given_up = failed.is_some();
        let refusal = |outcome: &ReceiptOutcome| matches!(outcome, ReceiptOutcome::Failed(_));
        let refused = receipt.outcomes.values().any(refusal);
        let left: BTreeSet<_> = message.recipients.difference(&reached).cloned().collect();
        let all_reached = left.is_empty();
        let mut effects = Vec::new();
        if !reached.is_empty() {
            let mut ledger = ledger.clone();
            if all_reached {
                ledger.messages.remove(&receipt.key);
            } else if let Some(message) = ledger.messages.get_mut(&receipt.key) {
                message.recipients = left;
            }
            effects.extend(state.keep_ledger(now, app, epoch, cluster, ledger));
        }
        let because = Because {
            before: Some("handed out".to_owned()),
            after: Some(if all_reached { "delivered" } else { "not delivered" }.to_owned()),
            ..because
        };
        let key = receipt.key.to_string();
        let kind = if all_reached {
            EventKind::MessageDelivered { key }
        } else {
            let error = failed.unwrap_or_else(|| "no outcome for some recipients".to_owned());
            if let Some(handed) = self.post.handed.get_mut(&receipt.key) {
                handed.tried.insert(receipt.node.clone());
                handed.given_up |= given_up && handed.to == receipt.node;
                handed.refused |= refused;
                handed.error = Some(error.clone());
            }
            EventKind::MessageFailed { key, error }
        };
        let (node, key) = (receipt.node.clone(), receipt.key.clone());
        effects.push(publish(Publication::Receipted(app.clone(), node.clone(), key)));
        let node = Some(node);
        effects.push(self.tell(now, app, Some(cluster.clone()), node, kind, because));
        effects
    }
}
