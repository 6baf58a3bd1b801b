//! The controller's core: a synchronous state machine. Events come in and change what is known;
//! [`Core::plan`] then says what follows from it. It knows no socket, file or clock.
//!
//! The driver hands in every event that is ready before it lets the core plan: the core runs at
//! its own pace, not at the pace of events.

mod apps;
mod echo;
mod leadership;
mod mail;
mod nodes;
mod records;

use std::collections::{BTreeMap, VecDeque};

use crate::bus::intake::Document;
use crate::bus::topics::{Filter, Topic};
use crate::model::{
    AppName, Assignment, Boot, ClusterLedger, ClusterName, ControllerAlive, ControllerId,
    DesiredApp, Event, EventKind, Leader, Mailbox, MessageKey, Mono, NodeName, Now, PublicKey,
    Record,
};

pub(super) use apps::App;
pub(super) use nodes::Node;

use super::driver::ForgetError;
use super::store::AppFile;
use echo::Echoes;
use leadership::Peers;
use mail::Post;
use records::Because;

/// Silence of an agent after which it counts as unknown, in milliseconds: three heartbeats.
pub const SILENT_MS: u64 = 90_000;

/// Events kept for people who ask; older ones are in the log.
const EVENTS_MAX: usize = 1_000;

/// Who this controller is.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its id, the same after every restart with the same state directory.
    pub id: ControllerId,
    /// When this process started, in wall milliseconds, later than any earlier start.
    pub started: u64,
    /// Where people find the page, with a slash at its end; goes into messages.
    pub page: Option<String>,
    /// What its assignments are signed with, if they are.
    pub key: Option<PublicKey>,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum Input {
    /// The broker has let us in.
    Connected {
        /// Which connection.
        connection: u64,
    },
    /// The broker is gone.
    Disconnected,
    /// Somebody published a document.
    Heard {
        /// What.
        document: Document,
        /// It was retained: it proves nothing about the present.
        retained: bool,
    },
    /// The desired directory was read: every app in it, or its first fault.
    Desired(BTreeMap<AppName, Result<DesiredApp, String>>),
    /// A file could not be written: what depended on it was not published.
    NotKept {
        /// Whose.
        app: AppName,
        /// Why, in words.
        error: String,
    },
    /// Somebody wants a node forgotten.
    Forget(NodeName),
}

/// What is to be done, in this order. When [`Effect::Keep`] fails, the rest of the same list that
/// concerns the app is dropped, and the core is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Subscribe.
    Subscribe(Vec<Filter>),
    /// Publish, retained but for the marker.
    Publish(Box<Publication>),
    /// Write to disk before anything that follows.
    Keep(Box<AppFile>),
    /// Something that happened, was decided or is asked, for the log and the history.
    Log(Box<Record>),
    /// Leave: somebody else leads.
    Resign {
        /// Why, in words.
        reason: String,
    },
}

/// A document to publish.
#[derive(Debug, Clone, PartialEq)]
pub enum Publication {
    /// Who leads.
    Leader(Leader),
    /// This controller is there.
    Controller(ControllerAlive),
    /// What is asked of a node.
    Assignment(Assignment),
    /// What is remembered of a cluster.
    Ledger(AppName, ClusterName, ClusterLedger),
    /// What a notification server is to deliver.
    Mailbox(NodeName, Mailbox),
    /// The marker, not retained.
    Marker(ControllerId, u64),
    /// Nothing more: a server's receipt of a message of this app is in its ledger.
    Receipted(AppName, NodeName, MessageKey),
    /// Nothing more: what is retained there is deleted.
    Nothing(Topic),
}

impl Publication {
    /// Whether it must not be published when a file of `app` could not be kept.
    pub fn rests_on(&self, app: &AppName) -> bool {
        match self {
            Self::Assignment(assignment) => assignment.app == *app,
            Self::Ledger(of, _, _) | Self::Receipted(of, _, _) => of == app,
            // It has messages of any app; and one that is handed out, or taken back, before the
            // ledger says so could be delivered twice.
            Self::Mailbox(..) => true,
            Self::Leader(_) | Self::Controller(_) | Self::Marker(..) | Self::Nothing(_) => false,
        }
    }
}

/// How far the bus can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bus {
    Down,
    /// Waiting for the marker of this connection.
    Listing(u64),
    /// Everything retained has been seen.
    Live(u64),
}

/// Everything the controller knows.
#[derive(Debug, Clone)]
pub struct Core {
    setup: Setup,
    bus: Bus,
    pub(super) nodes: BTreeMap<NodeName, Node>,
    pub(super) apps: BTreeMap<AppName, App>,
    peers: Peers,
    post: Post,
    pub(super) events: VecDeque<Event>,
    /// How many have happened before those.
    pub(super) events_gone: u64,
    /// The desired directory has been read at least once.
    desired_read: bool,
    /// What the broker shows of ours.
    echoes: Echoes,
    /// When the next look is due, as the last plan said.
    due: Option<Mono>,
    /// Something has changed since the last plan.
    dirty: bool,
}

impl Core {
    /// A controller that remembers `files`.
    pub fn new(setup: Setup, files: Vec<AppFile>) -> Self {
        let peers = Peers::new(setup.id.clone());
        let apps = files.into_iter().map(|file| (file.app.clone(), App::restored(file))).collect();
        Self {
            setup,
            bus: Bus::Down,
            nodes: BTreeMap::new(),
            apps,
            peers,
            post: Post::default(),
            events: VecDeque::new(),
            events_gone: 0,
            desired_read: false,
            echoes: Echoes::default(),
            due: None,
            dirty: false,
        }
    }

    /// Takes in what has happened.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.dirty = true;
        match input {
            Input::Connected { connection } => self.connected(connection),
            Input::Disconnected => {
                self.bus = Bus::Down;
                Vec::new()
            }
            Input::Heard { document, retained } => self.heard(now, document, retained),
            Input::Desired(apps) => self.desired(now, apps),
            Input::NotKept { app, error: _ } => {
                self.post.undo(&app);
                if let Some(app) = self.apps.get_mut(&app) {
                    app.undo(now.mono);
                }
                Vec::new()
            }
            Input::Forget(node) => self.forget(now, &node),
        }
    }

    /// Whether a plan could say anything new.
    pub fn wants_plan(&self, now: Now) -> bool {
        self.dirty || self.due.is_some_and(|due| due <= now.mono)
    }

    /// When [`Self::plan`] has to be called even though nothing happens.
    pub fn due(&self) -> Option<Mono> {
        self.due
    }

    /// Says what follows from everything that is known.
    pub fn plan(&mut self, now: Now) -> Vec<Effect> {
        if !self.wants_plan(now) {
            return Vec::new();
        }
        self.dirty = false;
        for app in self.apps.values_mut() {
            app.begin_round();
        }
        self.post.begin_round();
        let mut effects = self.lead(now);
        let Bus::Live(_) = self.bus else {
            self.due = None;
            return effects;
        };
        let mut due: Option<Mono> = self.peers.due();
        due = earliest(due, self.nodes.values().filter_map(|node| node.silent_at(now.mono)).min());
        let names: Vec<AppName> = self.apps.keys().cloned().collect();
        let (led, foreign): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| self.leads(name));
        for name in led {
            let (more, app_due) = self.plan_app(now, &name);
            effects.extend(more);
            due = earliest(due, app_due);
        }
        if self.desired_read && foreign.is_empty() {
            // Not before everything is ours: mailboxes hold the messages of all apps, and what
            // vanishes from one is forgotten by its server.
            let (more, post_due) = self.distribute(now);
            effects.extend(more);
            due = earliest(due, post_due);
        }
        self.await_echoes(now, &effects);
        let (more, echo_due) = self.repeat(now);
        effects.extend(more);
        self.due = earliest(due, echo_due);
        effects
    }

    /// Connected, and everything retained has been seen.
    pub fn is_live(&self) -> bool {
        matches!(self.bus, Bus::Live(_))
    }

    /// The desired directory has been read, and had something in it, now or before a restart.
    pub fn has_read_desired(&self) -> bool {
        self.desired_read
    }

    /// Everything that it takes to be of use: the bus, and the desired state.
    pub fn is_ready(&self) -> bool {
        self.is_live() && self.desired_read
    }

    fn connected(&mut self, connection: u64) -> Vec<Effect> {
        self.bus = Bus::Listing(connection);
        // What was heard before may have changed unheard: everybody is asked, and answers at once.
        self.nodes.values_mut().for_each(Node::unheard);
        self.echoes.connected();
        self.peers.connected();
        let id = self.setup.id.clone();
        vec![
            Effect::Subscribe(vec![
                Filter::AllLeaders,
                Filter::AllControllers,
                Filter::AllAlive,
                Filter::AllReports,
                Filter::AllAssignments,
                Filter::AllStatus,
                Filter::AllMailboxes,
                Filter::AllReceipts,
                Filter::One(Topic::Marker(id.clone())),
            ]),
            publish(Publication::Controller(self.alive(connection))),
            publish(Publication::Marker(id, connection)),
        ]
    }

    /// The document that says that this controller is there.
    pub fn alive(&self, connection: u64) -> ControllerAlive {
        let boot = Boot { started: self.setup.started, connection };
        ControllerAlive { controller: self.setup.id.clone(), boot, alive: true }
    }

    fn heard(&mut self, now: Now, document: Document, retained: bool) -> Vec<Effect> {
        match document {
            Document::Leader(leader) => self.heard_leader(now, leader, retained),
            Document::Controller(alive) => self.heard_controller(now, &alive, retained),
            Document::Alive(alive) => self.heard_alive(now, &alive),
            Document::Report(report) => self.heard_report(now, *report, retained),
            Document::Assignment(assignment, key) => {
                let signed_here = key == self.setup.key;
                let same = self.adopt(now, &assignment, signed_here);
                self.shown_assignment(now, &assignment.node, &assignment.app, same);
                Vec::new()
            }
            Document::Ledger(app, cluster, ledger) => {
                let same = self.adopt_ledger(&app, &cluster, *ledger);
                self.shown_ledger(now, &app, &cluster, same);
                Vec::new()
            }
            Document::Mailbox(node, mailbox, key) => {
                let signed_here = key == self.setup.key;
                let same = self.post.adopt(now.mono, &node, mailbox, signed_here);
                self.shown_mailbox(now, &node, same);
                Vec::new()
            }
            Document::Receipt(receipt) => {
                self.post.receipts.insert((receipt.key.clone(), receipt.node.clone()), receipt);
                Vec::new()
            }
            Document::Marker(connection) => self.listed(now, connection),
            Document::Deleted(topic) => {
                self.deleted(now, &topic);
                Vec::new()
            }
        }
    }

    /// Everything retained has been seen: what the broker has lost of ours is published again.
    fn listed(&mut self, now: Now, connection: u64) -> Vec<Effect> {
        if self.bus != Bus::Listing(connection) {
            return Vec::new();
        }
        self.bus = Bus::Live(connection);
        self.post.listed(now.mono);
        let mut effects = self.greet(now);
        let missing = self.not_shown();
        self.await_echoes(now, &missing);
        effects.extend(missing);
        effects
    }

    fn deleted(&mut self, now: Now, topic: &Topic) {
        match topic {
            Topic::Report(node)
                if self.nodes.get(node).is_some_and(|n| n.can_be_forgotten(now.mono)) =>
            {
                self.nodes.remove(node);
            }
            Topic::Assignment(node, app) if !self.nodes.contains_key(node) => {
                if let Some(app) = self.apps.get_mut(app) {
                    app.assigned.remove(node);
                }
            }
            Topic::Leader(_)
            | Topic::Controller(_)
            | Topic::Alive(_)
            | Topic::Report(_)
            | Topic::Assignment(..)
            | Topic::Status(..)
            | Topic::Mailbox(_)
            | Topic::Receipt(..)
            | Topic::Marker(_)
            | Topic::NodeMarker(_) => {}
        }
    }

    /// Whether a node can be forgotten, and what should be known before.
    ///
    /// # Errors
    /// [`ForgetError`].
    pub fn may_forget(&self, now: Now, node: &NodeName) -> Result<String, ForgetError> {
        let known = self.nodes.get(node).ok_or(ForgetError::Unknown)?;
        if !known.can_be_forgotten(now.mono) {
            return Err(ForgetError::Present);
        }
        let view = self.view(now);
        let kept_out: Vec<String> = view
            .nodes
            .get(node)
            .into_iter()
            .flat_map(|view| view.apps.values())
            .flat_map(|app| &app.servers)
            .filter(|(_, server)| server.admin.is_out())
            .map(|(lb, server)| format!("{} at {lb}", server.server))
            .collect();
        Ok(if kept_out.is_empty() {
            format!("{node} is forgotten")
        } else {
            let servers = kept_out.join(", ");
            format!("{node} is forgotten; its server stays in maintenance: {servers}")
        })
    }

    /// Forgets a node that is not there: nothing of it stays retained.
    fn forget(&mut self, now: Now, node: &NodeName) -> Vec<Effect> {
        if self.nodes.get(node).is_some_and(|n| !n.can_be_forgotten(now.mono)) {
            return Vec::new();
        }
        let known = self.nodes.remove(node).is_some();
        let mut topics = vec![
            Topic::Alive(node.clone()),
            Topic::Report(node.clone()),
            Topic::Mailbox(node.clone()),
        ];
        let mut concerned = Vec::new();
        for (name, app) in &mut self.apps {
            let asked = app.assigned.remove(node).is_some();
            if known && (asked || app.plan.nodes.contains_key(node)) {
                concerned.push(name.clone());
            }
            topics.push(Topic::Assignment(node.clone(), name.clone()));
        }
        let mut effects: Vec<Effect> =
            topics.into_iter().map(|topic| publish(Publication::Nothing(topic))).collect();
        for app in concerned {
            let (node, kind) = (Some(node.clone()), EventKind::NodeForgotten);
            effects.push(self.tell(now, &app, None, node, kind, Because::default()));
        }
        effects
    }
}

fn publish(publication: Publication) -> Effect {
    Effect::Publish(Box::new(publication))
}

fn earliest(a: Option<Mono>, b: Option<Mono>) -> Option<Mono> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests;
