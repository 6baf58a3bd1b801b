//! From causes to messages: one per cause and rollout, one when it is over.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    AppName, Cause, ClusterLedger, ClusterName, Commit, DesiredCluster, Message, MessageKey,
    NotifyOn, Priority, Revision, RolloutId, Told, Wall,
};

use super::input::{ClusterPlan, Phase};

/// Messages of one cluster that may wait for a receipt: with nobody to deliver them they would grow
/// without end, and so would the ledger, beyond what the bus takes. The least urgent give way, the oldest of them first.
const MESSAGES_MAX: usize = 100;

/// What the messages of one cluster are made from.
pub struct Telling<'a> {
    /// The app.
    pub app: &'a AppName,
    /// The cluster.
    pub cluster: &'a ClusterName,
    /// Its settings.
    pub settings: &'a DesiredCluster,
    /// Its state after the present plan.
    pub plan: &'a ClusterPlan,
    /// The causes of that state that have lasted for as long as [`Cause::patience_ms`].
    pub ripe: &'a BTreeMap<Cause, String>,
    /// The causes that somebody was told of and that have been over for long enough to say so.
    pub ended: &'a BTreeSet<Cause>,
    /// The rollout that has converged with the present plan, and the revision converged on before.
    pub completed: Option<(&'a RolloutId, Option<&'a Revision>)>,
    /// The commit behind the settings.
    pub commit: Option<&'a Commit>,
    /// Where people find the page, with a slash at its end, if anybody said so.
    pub page: Option<&'a str>,
    /// To show.
    pub wall: Wall,
}

impl Telling<'_> {
    /// Books what is told now in `ledger`, with the messages that wait for a receipt there; returns
    /// whether it changed.
    pub fn tell(&self, ledger: &mut ClusterLedger) -> bool {
        let before = (ledger.told.clone(), ledger.messages.len());
        let completed = self.completed_message(ledger);
        for (cause, text) in self.ripe {
            let told = ledger.told.get(cause);
            if told.is_none_or(|told| *cause == Cause::Failed && told.rollout != self.plan.rollout)
            {
                self.begin(ledger, *cause, text);
            }
        }
        let over: Vec<Cause> = ledger
            .told
            .iter()
            .filter(|(c, told)| self.is_over(**c, told, completed))
            .map(|(c, _)| *c)
            .collect();
        for cause in over {
            ledger.told.remove(&cause);
            // "Completed" says it all.
            if !completed {
                self.end(ledger, cause);
            }
        }
        before != (ledger.told.clone(), ledger.messages.len())
    }

    /// A failure that a newer commit has left behind is not over before that has converged.
    fn is_over(&self, cause: Cause, told: &Told, completed: bool) -> bool {
        let gone = !self.plan.causes.contains_key(&cause);
        let gone = gone && (completed || self.ended.contains(&cause));
        let left_behind = cause == Cause::Failed
            && told.rollout != self.plan.rollout
            && self.plan.phase != Phase::Converged;
        gone && !left_behind
    }

    fn completed_message(&self, ledger: &mut ClusterLedger) -> bool {
        let Some((rollout, from)) = self.completed else { return false };
        let to = &self.settings.revision;
        if from == Some(to) {
            return false; // a repair, or a node let go of: no news for the phone
        }
        let title = format!("{}/{} is at {to}", self.app, self.cluster);
        let text = format!("All {} nodes are in service.", self.plan.converged);
        let from = from.cloned();
        let kind = NotifyOn::Completed;
        let words = Words { title, happened: text, advice: "" };
        self.post(ledger, rollout, Cause::Completed, kind, Priority::Normal, words, from);
        true
    }

    fn begin(&self, ledger: &mut ClusterLedger, cause: Cause, text: &str) {
        let (what, advice) = headline(cause);
        let title = format!("{}/{}: {what}", self.app, self.cluster);
        let words = Words { title, happened: text.to_owned(), advice };
        let rollout = self.plan.rollout.clone();
        let from = ledger.converged.as_ref().map(|c| c.revision.clone());
        let kind = NotifyOn::Failed;
        let key = self.post(ledger, &rollout, cause, kind, Priority::High, words, from);
        ledger.told.insert(cause, Told { key, rollout });
    }

    fn end(&self, ledger: &mut ClusterLedger, cause: Cause) {
        let (what, _) = headline(cause);
        let title = format!("{}/{} recovered", self.app, self.cluster);
        let words = Words { title, happened: format!("It is over: {what}."), advice: "" };
        let rollout = self.plan.rollout.clone();
        let from = ledger.converged.as_ref().map(|c| c.revision.clone());
        let kind = NotifyOn::Recovered;
        self.post(ledger, &rollout, cause, kind, Priority::Normal, words, from);
    }

    /// Puts a message into the ledger if anybody wants to hear of it. The key is the same whoever
    /// computes it from the same ledger.
    #[allow(clippy::too_many_arguments)] // the fields of one message, said once
    fn post(
        &self,
        ledger: &mut ClusterLedger,
        rollout: &RolloutId,
        cause: Cause,
        kind: NotifyOn,
        priority: Priority,
        words: Words,
        revision_from: Option<Revision>,
    ) -> MessageKey {
        let word = match kind {
            NotifyOn::Completed | NotifyOn::Failed => cause.as_str().to_owned(),
            NotifyOn::Recovered => format!("{}_over", cause.as_str()),
        };
        let key = MessageKey(format!(
            "{}.{}.{rollout}.{word}.{}",
            self.app,
            self.cluster,
            ledger.sequence + 1
        ));
        let policy = &self.settings.notify;
        if !policy.on.contains(&kind) || policy.recipients.is_empty() {
            return key;
        }
        let message = Message {
            key: key.clone(),
            app: self.app.clone(),
            cluster: self.cluster.clone(),
            rollout: Some(rollout.clone()),
            cause,
            kind,
            priority,
            title: words.title,
            happened: words.happened,
            advice: words.advice.to_owned(),
            revision_from,
            revision_to: self.settings.revision.clone(),
            commit: self.commit.map(Commit::words).unwrap_or_default(),
            link: self.link(),
            recipients: policy.recipients.clone(),
            at: self.wall,
        };
        ledger.messages.insert(key.clone(), message);
        while ledger.messages.len() > MESSAGES_MAX {
            let least = ledger.messages.values().min_by_key(|m| (m.priority, m.at, &m.key));
            let Some(least) = least.map(|message| message.key.clone()) else { break };
            ledger.messages.remove(&least);
        }
        key
    }

    fn link(&self) -> String {
        self.page.map_or_else(String::new, |page| format!("{page}#{}/{}", self.app, self.cluster))
    }
}

/// What a message says.
struct Words {
    title: String,
    happened: String,
    advice: &'static str,
}

/// What happened, and what to do about it.
fn headline(cause: Cause) -> (&'static str, &'static str) {
    match cause {
        Cause::Completed => ("converged", ""),
        Cause::Failed => (
            "nodes failed",
            "They stay out of service. Commit a fix, or set `retry` to try the same revision again.",
        ),
        Cause::Unreachable => (
            "agents are not heard",
            "Nothing is taken out or upgraded until they are back; `evenkeel nodes` shows who.",
        ),
        Cause::Ambiguous => (
            "names are not unique",
            "The nodes concerned are left alone; give every agent its own name, and every node one cluster.",
        ),
        Cause::ForeignMaintenance => (
            "somebody else's maintenance keeps nodes out of service",
            "evenkeel does not lift it; set the server ready in HAProxy when you are done.",
        ),
        Cause::Stuck => ("does not get on", "`evenkeel why NODE` says why."),
        Cause::DesiredInvalid => (
            "the desired files are faulty",
            "The last good ones stay in force; `evenkeel validate` shows every fault.",
        ),
        Cause::DesiredVanished => (
            "the desired files have gone",
            "Nothing new is begun. Bring them back, or stop the controller.",
        ),
    }
}
