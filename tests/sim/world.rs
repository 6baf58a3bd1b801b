//! The world of one simulation: its clock, its queue of things to come, its chance, and everybody in it.
//!
//! Everything that happens is taken from one queue, in the order of time and then of being put there; all
//! chance comes from one seed. So a seed replays to the byte.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel::agent::core::Event as AgentEvent;
use evenkeel::checker::{Breach, Checker, Fact};
use evenkeel::model::*;
use fastrand::Rng;

use crate::agents::Agent;
use crate::broker::{Broker, Client, Link, Will};
use crate::control::Controller;
use crate::fault::Trouble;
use crate::mutant::Mutant;
use crate::plot::Plot;
use crate::plugin::Plugin;
use crate::trace::Trace;
use crate::wire::{Network, Packet};

/// What comes next.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A client tries to connect.
    Connect {
        client: Client,
        life: u64,
    },
    /// The broker has let a client in, and it hears of that.
    Connected {
        client: Client,
        link: Link,
    },
    /// A client notices that its connection has gone.
    Lost {
        client: Client,
        link: Link,
    },
    /// The broker notices that a client has gone.
    Gone {
        client: Client,
        link: Link,
    },
    /// The broker, or a client, has waited long enough for the other's next word, if what keeps it lasts.
    Patience {
        client: Client,
        link: Link,
        number: u64,
        broker: bool,
    },
    /// The broker says somebody's will.
    Will(Will),
    /// Something arrives at the broker.
    ToBroker {
        client: Client,
        link: Link,
        packet: Packet,
    },
    /// Something arrives at a client.
    ToClient {
        client: Client,
        link: Link,
        message: crate::broker::Message,
    },
    /// Something that an agent asked for has an answer.
    Answer {
        node: NodeName,
        life: u64,
        event: Box<AgentEvent>,
    },
    /// HAProxy carries out what an agent asked of it.
    Haproxy {
        node: NodeName,
        life: u64,
        question: crate::agents::Question,
    },
    /// The health checks of a load balancer have found out how the services are.
    Checked {
        node: NodeName,
    },
    /// A deploy command begins, or ends.
    JobBegins {
        node: NodeName,
        job: u64,
    },
    JobEnds {
        node: NodeName,
        job: u64,
    },
    /// A check ends.
    CheckEnds {
        node: NodeName,
        life: u64,
        app: AppName,
        run: u64,
        check: CheckName,
        plugin: Plugin,
    },
    /// A notification service has a message.
    Delivers {
        node: NodeName,
        life: u64,
        recipient: RecipientName,
        message: Box<Message>,
    },
    /// An agent's time has come.
    Wake(NodeName),
    /// The controller takes stock.
    Plan,
    /// A process is started again.
    Start(Client),
    /// The controller reads the desired files.
    Read {
        life: u64,
    },
    /// Something goes wrong.
    Trouble,
    /// Something that went wrong ends.
    Mend(Trouble),
}

/// Everything.
pub struct World {
    pub plot: Plot,
    pub rng: Rng,
    pub now_ms: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    pub broker: Broker,
    pub broker_up: bool,
    pub network: Network,
    pub controller: Controller,
    pub agents: BTreeMap<NodeName, Agent>,
    /// The desired files, as they are.
    pub files: BTreeMap<AppName, Result<DesiredApp, String>>,
    pub checker: Checker,
    pub trace: Trace,
    /// Things go wrong by chance.
    pub troubled: bool,
    /// What was last asked of everybody; what is said again is nothing new.
    pub published: BTreeMap<NodeName, Assignment>,
    /// When the last assignment was made.
    pub moved_ms: u64,
    /// When something was last lost on a client's way that could make a message come twice.
    receipts_lost_ms: BTreeMap<Client, u64>,
    /// Messages that a server delivered after they had been given to another one, for want of its receipt.
    pub overtaken: BTreeSet<MessageKey>,
    /// Messages that have reached people, when, and by whom.
    pub delivered: BTreeMap<(MessageKey, RecipientName), (u64, NodeName)>,
    /// What people know of clusters: the last that was written of each cause, and the revision that it is about.
    pub told: BTreeMap<(ClusterName, Cause), (u64, NotifyOn, Revision)>,
    /// Lives are counted over all processes.
    pub lives: u64,
    pub jobs: u64,
    pub mutant: Option<Mutant>,
    /// What has been seen to happen at all.
    pub seen: BTreeSet<&'static str>,
    /// Agents that never start again.
    pub gone: BTreeSet<NodeName>,
    /// Load balancers of which nobody knows any more whose maintenance there is.
    pub disowned: BTreeSet<NodeName>,
    /// Servers that are ours in truth, and that the load balancer's agent does not know to be.
    pub stranded: BTreeSet<(NodeName, NodeName)>,
}

impl World {
    /// A world that begins; nothing runs yet.
    pub fn new(seed: u64, mutant: Option<Mutant>, loud: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plot = Plot::new(&mut rng);
        let mut world = Self {
            files: BTreeMap::from([(plot.app.clone(), Ok(plot.desired.clone()))]),
            checker: Checker::new(plot.app.clone()),
            controller: Controller::default(),
            agents: Agent::all(&plot, &mut rng),
            plot,
            rng,
            now_ms: 1_000,
            queue: BTreeMap::new(),
            queued: 0,
            broker: Broker::default(),
            broker_up: true,
            network: Network::default(),
            trace: Trace::new(loud),
            troubled: false,
            published: BTreeMap::new(),
            moved_ms: 0,
            receipts_lost_ms: BTreeMap::new(),
            overtaken: BTreeSet::new(),
            delivered: BTreeMap::new(),
            told: BTreeMap::new(),
            lives: 0,
            jobs: 0,
            mutant,
            seen: BTreeSet::new(),
            gone: BTreeSet::new(),
            disowned: BTreeSet::new(),
            stranded: BTreeSet::new(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let names: Vec<NodeName> = self.agents.keys().cloned().collect();
        for web in self.plot.webs().cloned().collect::<Vec<_>>() {
            self.show_health(&web);
        }
        for name in names {
            self.tell_truth(&name);
            let at_ms = self.rng.u64(0..2_000);
            self.after(at_ms, Happening::Start(Client::Node(name)));
        }
        let at_ms = self.rng.u64(0..2_000);
        self.after(at_ms, Happening::Start(Client::Controller));
    }

    /// Puts something on the queue.
    pub fn after(&mut self, ms: u64, what: Happening) {
        self.queued += 1;
        self.queue.insert((self.now_ms + ms, self.queued), what);
    }

    /// What a client has said, or been told, may be lost until `until_ms`: receipts, too.
    pub fn receipts_lost(&mut self, client: &Client, until_ms: u64) {
        let lost_ms = self.receipts_lost_ms.entry(client.clone()).or_default();
        *lost_ms = until_ms.max(*lost_ms);
    }

    /// Whether a receipt of `before_ms` by `client` may have been lost.
    pub fn may_lack_receipt(&self, client: &Client, before_ms: u64) -> bool {
        self.receipts_lost_ms.get(client).is_some_and(|lost_ms| *lost_ms >= before_ms)
    }

    /// Chance, in thousandths.
    pub fn chance(&mut self, thousandths: u32) -> bool {
        self.rng.u32(0..1000) < thousandths
    }

    /// Tells the checker.
    pub fn fact(&mut self, fact: Fact) {
        if self.trace.is_loud() {
            match &fact {
                Fact::Heard(_) | Fact::Planned(_) => {}
                Fact::Found(assignment) => {
                    let text = format!("found for {}: {:?}", assignment.node, assignment.stamp);
                    self.trace.line(self.now_ms, &text);
                }
                Fact::Desired { cluster, settings, standing } => {
                    let (revision, retry) = (&settings.revision, &settings.retry);
                    let text = format!("desired {cluster}: {revision} {retry:?} {standing:?}");
                    self.trace.line(self.now_ms, &text);
                }
                other => {
                    let text = format!("fact {other:?}");
                    self.trace.line(self.now_ms, &text);
                }
            }
        }
        if self.checker.see(self.now_ms, fact) > 0 {
            let breach = self.checker.breaches().last().map(Breach::to_string).unwrap_or_default();
            self.trace.line(self.now_ms, &breach);
        }
    }

    /// Lets things happen until `until_ms`, or until something breaks.
    pub fn run(&mut self, until_ms: u64) {
        while self.checker.breaches().is_empty() {
            let Some(entry) = self.queue.first_entry() else { break };
            if entry.key().0 > until_ms {
                break;
            }
            let ((at_ms, _), what) = entry.remove_entry();
            self.now_ms = at_ms;
            self.happen(what);
        }
        self.now_ms = self.now_ms.max(until_ms);
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Connect { client, life } => self.try_connect(client, life),
            Happening::Connected { client, link } => self.connected(client, link),
            Happening::Lost { client, link } => self.client_notices(&client, link),
            Happening::Gone { client, link } => self.broker_notices(&client, link),
            Happening::Patience { client, link, number, broker } => {
                self.patience_ends(&client, link, number, broker);
            }
            Happening::Will(will) => self.say_will(will),
            Happening::ToBroker { client, link, packet } => self.at_broker(client, link, packet),
            Happening::ToClient { client, link, message } => self.at_client(client, link, message),
            Happening::Answer { node, life, event } => self.answer(&node, life, *event),
            Happening::Haproxy { node, life, question } => self.at_haproxy(&node, life, question),
            Happening::Checked { node } => self.checked(&node),
            Happening::JobBegins { node, job } => self.job_begins(&node, job),
            Happening::JobEnds { node, job } => self.job_ends(&node, job),
            Happening::CheckEnds { node, life, app, run, check, plugin } => {
                self.check_ends(&node, life, app, run, (check, plugin));
            }
            Happening::Delivers { node, life, recipient, message } => {
                self.delivers(&node, life, recipient, *message);
            }
            Happening::Wake(node) => self.wake(&node),
            Happening::Plan => self.plan(),
            Happening::Start(Client::Controller) => self.start_controller(),
            Happening::Start(Client::Node(name)) => self.start_agent(&name),
            Happening::Read { life } => self.read_files(life),
            Happening::Trouble => self.trouble(),
            // What stays wrong when the trouble has ended stays so.
            Happening::Mend(trouble) if self.troubled => self.mend(trouble),
            Happening::Mend(_) => {}
        }
    }

    /// The wall clock, which is not the time that counts.
    pub fn wall(&self) -> Wall {
        Wall(1_700_000_000_000 + self.now_ms)
    }
}
