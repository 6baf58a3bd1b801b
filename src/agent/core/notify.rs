//! The mailbox of a notification server: what is delivered, tried again, and receipted.
//!
//! At least once: an outcome is on disk before its receipt is published. What fails a few times in a way that
//! passes by is left alone until it is handed out anew: whoever asks for that can then give it to somebody else, and
//! nobody is told twice.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Step;
use super::event::{Effect, Publication};
use super::note::{Handed, Note};
use crate::model::{
    Mailbox, Message, MessageKey, Mono, Receipt, ReceiptOutcome, RecipientName, SignedBy,
};
use crate::plan::ports::DeliverError;

/// The first wait after a transient failure; it doubles from there.
const BACKOFF_MS: u64 = 1_000;

/// The longest wait that a service may ask for; a slip of its clock must not silence us for good.
const ASKED_MS_MAX: u64 = 3_600_000;

/// After this many transient failures in a row it is left, and the receipt says so.
const TRIES: u32 = 3;

/// Deliveries under way at once; each takes a connection.
const UNDER_WAY_MAX: usize = 8;

/// Messages of a mailbox that are worked on, urgent ones first, then old ones; the rest waits.
const MESSAGES_MAX: usize = 256;

/// The mailbox.
#[derive(Debug, Clone, Default)]
pub(super) struct Post {
    mailbox: Option<Mailbox>,
    /// Who has signed it.
    signed: SignedBy,
    /// Who has signed the one that was not taken last, if none was taken since.
    untrusted: Option<SignedBy>,
    tries: BTreeMap<(MessageKey, RecipientName), Tries>,
    /// The receipts of this connection.
    receipts: BTreeMap<MessageKey, Receipt>,
}

/// What was tried for a recipient of a message.
#[derive(Debug, Clone, Default)]
struct Tries {
    under_way: bool,
    failures: u32,
    again_at: Option<Mono>,
    /// The error that it was left with.
    delayed: Option<String>,
}

impl Post {
    /// What was published may be lost.
    pub(super) fn connected(&mut self) {
        self.receipts.clear();
    }

    /// Takes in the mailbox, whole.
    pub(super) fn mailbox(&mut self, step: &mut Step, mailbox: Mailbox, key: SignedBy) {
        if !step.setup.trusts(key) {
            if self.untrusted.replace(key) != Some(key) {
                step.log(Note::UntrustedMailbox { key });
            }
            return;
        }
        (self.signed, self.untrusted) = (key, None);
        let kept = |key: &MessageKey| mailbox.messages.contains_key(key);
        // What is under way is remembered until it ends: it takes one of the places.
        self.tries.retain(|(key, _), tries| kept(key) || tries.under_way);
        self.receipts.retain(|key, _| kept(key));
        if step.disk.memory().delivered.keys().any(|key| !kept(key)) {
            step.disk.change().delivered.retain(|key, _| kept(key));
        }
        self.mailbox = Some(mailbox);
    }

    /// Takes in what became of a try.
    pub(super) fn delivered(
        &mut self,
        step: &mut Step,
        key: MessageKey,
        recipient: RecipientName,
        result: Result<(), DeliverError>,
    ) {
        let place = (key, recipient);
        let message = self.mailbox.as_ref().and_then(|mailbox| mailbox.messages.get(&place.0));
        let Some(message) = message.map(|message| self.handed(step, message)) else {
            self.tries.remove(&place);
            return;
        };
        let outcome = match result {
            Ok(()) => {
                step.log(Note::Delivered { message, recipient: place.1.clone() });
                ReceiptOutcome::Delivered
            }
            Err(DeliverError::Terminal { error }) => {
                log_failure(step, message, &place.1, &error, None);
                ReceiptOutcome::Failed(error)
            }
            Err(DeliverError::Paced { again_in_ms }) => {
                let tries = self.tries.entry(place).or_default();
                tries.under_way = false;
                tries.again_at = Some(step.now.mono.plus_ms(again_in_ms.min(ASKED_MS_MAX)));
                return;
            }
            Err(DeliverError::Transient { error, retry_after_ms }) => {
                self.failed(step, message, place, error, retry_after_ms);
                return;
            }
        };
        self.tries.remove(&place);
        record(step, place, outcome);
    }

    /// Starts deliveries, and publishes receipts of what is on disk.
    pub(super) fn advance(&mut self, step: &mut Step, connected: bool) {
        let Some(mailbox) = self.mailbox.take() else { return };
        let mut messages: Vec<&Message> = mailbox.messages.values().collect();
        messages.sort_by_key(|message| (Reverse(message.priority), message.at));
        for message in messages.into_iter().take(MESSAGES_MAX) {
            if !step.stopping {
                self.deliver(step, message);
            }
            if connected {
                self.receipt(step, message);
            }
        }
        self.mailbox = Some(mailbox);
    }

    pub(super) fn next_wake(&self) -> Option<Mono> {
        let under_way = self.tries.values().filter(|tries| tries.under_way).count();
        if under_way >= UNDER_WAY_MAX {
            return None;
        }
        self.tries.values().filter(|tries| !tries.under_way).filter_map(|t| t.again_at).min()
    }

    /// On whose word a message is delivered.
    fn handed(&self, step: &Step, message: &Message) -> Handed {
        let epoch = step.disk.memory().epochs.get(&message.app).cloned();
        let (key, app) = (message.key.clone(), message.app.clone());
        Handed { key, app, epoch, signed: self.signed }
    }

    fn failed(
        &mut self,
        step: &mut Step,
        message: Handed,
        place: (MessageKey, RecipientName),
        error: String,
        retry_after_ms: Option<u64>,
    ) {
        let tries = self.tries.entry(place.clone()).or_default();
        tries.under_way = false;
        tries.failures = tries.failures.saturating_add(1);
        if tries.failures >= TRIES {
            tries.delayed = Some(format!("not delivered after {TRIES} tries: {error}"));
            log_failure(step, message, &place.1, &error, None);
            return;
        }
        // 1 s, 2 s.
        let backoff_ms = BACKOFF_MS << (tries.failures - 1);
        let wait_ms = backoff_ms.max(retry_after_ms.unwrap_or(0).min(ASKED_MS_MAX));
        tries.again_at = Some(step.now.mono.plus_ms(wait_ms));
        log_failure(step, message, &place.1, &error, Some(wait_ms));
    }

    fn deliver(&mut self, step: &mut Step, message: &Message) {
        for recipient in &message.recipients {
            let known = step.disk.memory().delivered.get(&message.key);
            if known.is_some_and(|outcomes| outcomes.contains_key(recipient)) {
                continue;
            }
            let place = (message.key.clone(), recipient.clone());
            if !step.setup.recipients.as_ref().is_some_and(|known| known.contains(recipient)) {
                let error = format!("{} does not know {recipient}", step.setup.node);
                let handed = self.handed(step, message);
                log_failure(step, handed, recipient, &error, None);
                record(step, place, ReceiptOutcome::Failed(error));
                continue;
            }
            if self.tries.values().filter(|tries| tries.under_way).count() >= UNDER_WAY_MAX {
                return;
            }
            let tries = self.tries.entry(place).or_default();
            let rests = tries.under_way || tries.delayed.is_some();
            if !rests && tries.again_at.is_none_or(|at| step.now.mono >= at) {
                tries.under_way = true;
                tries.again_at = None;
                let message = Box::new(message.clone());
                step.effects.push(Effect::Deliver { recipient: recipient.clone(), message });
            }
        }
    }

    fn receipt(&mut self, step: &mut Step, message: &Message) {
        let written = step.disk.written();
        let known = written.delivered.get(&message.key);
        let mut outcomes: BTreeMap<RecipientName, ReceiptOutcome> = BTreeMap::new();
        for recipient in &message.recipients {
            if let Some(outcome) = known.and_then(|known| known.get(recipient)) {
                outcomes.insert(recipient.clone(), outcome.clone());
            } else if let Some(error) = self
                .tries
                .get(&(message.key.clone(), recipient.clone()))
                .and_then(|tries| tries.delayed.clone())
            {
                outcomes.insert(recipient.clone(), ReceiptOutcome::Delayed(error));
            }
        }
        let told: BTreeSet<&RecipientName> = outcomes.keys().collect();
        let whole = message.recipients.iter().all(|recipient| told.contains(recipient));
        if !whole {
            return;
        }
        let (key, node) = (message.key.clone(), step.setup.node.clone());
        let receipt = Receipt { key: key.clone(), node, outcomes };
        if self.receipts.get(&key) != Some(&receipt) {
            self.receipts.insert(key, receipt.clone());
            step.effects.push(Effect::Publish(Box::new(Publication::Receipt(receipt))));
        }
    }
}

fn record(step: &mut Step, (key, recipient): (MessageKey, RecipientName), outcome: ReceiptOutcome) {
    step.disk.change().delivered.entry(key).or_default().insert(recipient, outcome);
}

fn log_failure(
    step: &mut Step,
    message: Handed,
    recipient: &RecipientName,
    error: &str,
    again_in_ms: Option<u64>,
) {
    step.log(Note::NotDelivered {
        message,
        recipient: recipient.clone(),
        error: error.to_owned(),
        again_in_ms,
    });
}
