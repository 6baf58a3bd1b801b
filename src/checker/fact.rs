//! The facts that a history is made of: what was declared, heard, asked and told, and what was true.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{
    Assignment, BackendName, Cause, CheckName, ClusterName, DesiredCluster, MessageKey, NodeName,
    NotifyOn, RecipientName, Report, Revision, RolloutId, ServerName, ServerSeen, Standing,
};

/// One thing that happened, or came to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    // -- what whoever plans has learnt
    /// The desired state of a cluster, as taken over.
    Desired {
        /// Which.
        cluster: ClusterName,
        /// Its settings.
        settings: Box<DesiredCluster>,
        /// How far they can be trusted.
        standing: Standing,
    },
    /// A report has arrived.
    Heard(Arc<Report>),
    /// Whether a node may be taken to be there has changed: it was heard live within the limit, and nothing says
    /// that it has gone or speaks with two voices.
    Presence {
        /// Which.
        node: NodeName,
        /// It may.
        present: bool,
    },
    /// An assignment was found on the bus: an earlier life gave it, or the broker shows it.
    Found(Box<Assignment>),
    /// A node was forgotten on request.
    Forgotten {
        /// Which.
        node: NodeName,
    },
    /// Whoever plans has started again: what was heard before proves nothing of the present, and what was asked
    /// is known as far as it is found.
    Restarted,

    // -- what was asked
    /// One plan: the assignments that it changed, as far as they were published.
    Planned(BTreeMap<NodeName, Assignment>),

    // -- what was true
    /// A server of HAProxy came to be like this.
    Server {
        /// Where.
        lb: NodeName,
        /// Where.
        backend: BackendName,
        /// Which.
        server: ServerName,
        /// How it is now.
        seen: ServerSeen,
        /// Who did it.
        by: By,
    },
    /// The service of a node came to run this.
    Runs {
        /// Which.
        node: NodeName,
        /// What; none if it does not run.
        revision: Option<Revision>,
        /// Who did it.
        by: By,
    },
    /// An upgrade has started.
    UpgradeStarted {
        /// Where.
        node: NodeName,
        /// The permit's.
        rollout: RolloutId,
        /// The permit's.
        revision: Revision,
        /// The permit's.
        retry: String,
        /// The permit's.
        attempt: u32,
    },
    /// The upgrade of a node has ended: nothing of it runs any more.
    UpgradeEnded {
        /// Where.
        node: NodeName,
    },
    /// A check has started.
    CheckStarted {
        /// Where.
        node: NodeName,
        /// Which.
        check: CheckName,
    },
    /// A check has ended.
    CheckEnded {
        /// Where.
        node: NodeName,
        /// Which.
        check: CheckName,
        /// It was OK.
        ok: bool,
    },

    // -- what people were told
    /// A message has reached a person.
    Told(Tale),
    /// A receipt was lost, or a notification server's memory: this message may come twice.
    ToldAgain {
        /// Which.
        key: MessageKey,
    },
    /// What files declared before is not known any more: only what is declared from now on is in force.
    FilesLost,
    /// Every copy of a ledger was lost at once: what was told before is not known any more.
    MemoryLost,
    /// Every copy of what an agent knew was lost at once: what was tried on its node is not known any more.
    TriesLost {
        /// Which.
        node: NodeName,
    },
}

/// Who changed something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// Our agent, as asked.
    Us,
    /// A person, or another program.
    Hand,
    /// A new process of HAProxy, which has lost what was set at run time.
    Reload,
    /// Health checks, or the service itself.
    #[default]
    Itself,
}

/// A message that has reached a person.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tale {
    /// Its key.
    pub key: MessageKey,
    /// The ledger's sequence in the key, which orders messages whatever way they took.
    pub sequence: u64,
    /// Whom it has reached.
    pub recipient: RecipientName,
    /// The cluster that it is about.
    pub cluster: ClusterName,
    /// The rollout that it is about.
    pub rollout: Option<RolloutId>,
    /// What it is about.
    pub cause: Cause,
    /// News, or the end of them.
    pub kind: NotifyOn,
}
