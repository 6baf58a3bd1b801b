//! A small fleet whose history is told step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::checker::{By, Checker, Fact, Tale};
use crate::model::*;

pub const ALL: [&str; 4] = ["web1", "web2", "web3", "web4"];
pub const LBS: [&str; 2] = ["lb1", "lb2"];

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub fn revision(text: &str) -> Revision {
    Revision::new(text).unwrap()
}

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

pub fn server(name: &str) -> ServerName {
    ServerName::new(name).unwrap()
}

pub fn app() -> AppName {
    AppName::new("shop").unwrap()
}

pub fn backend() -> BackendName {
    BackendName::new("app").unwrap()
}

pub fn check() -> CheckName {
    CheckName::new("check_load").unwrap()
}

pub fn rollout() -> RolloutId {
    RolloutId::new("r2").unwrap()
}

/// One at a time, two attempts, a floor of two of the four servers.
pub fn settings(name: &str, to: &str, expect: u32) -> DesiredCluster {
    DesiredCluster {
        revision: revision(to),
        expect: Expect::Count(expect),
        select: BTreeMap::from([("cluster".to_owned(), name.to_owned())]),
        retry: String::new(),
        after: BTreeSet::new(),
        hold: BTreeSet::new(),
        paused: false,
        load_balancer: Some(LoadBalancer {
            backend: backend(),
            expect: Expect::Count(2),
            server: ServerTemplate("{node}".to_owned()),
            drain_ms: 0,
            min_ready: Share::Count(2),
        }),
        rollout: RolloutPolicy {
            take_out: TakeOut::Batch,
            batch: Share::Count(1),
            tries: 2,
            upgrade_timeout_ms: 60_000,
            on_failure: OnFailure::Hold,
            max_failed: 0,
            max_missing: 0,
        },
        settle: SettlePolicy {
            checks: BTreeSet::from([check()]),
            interval_ms: 1_000,
            timeout_ms: 10_000,
            soak_ms: 0,
        },
        notify: NotifyPolicy { recipients: BTreeSet::new(), on: BTreeSet::new() },
    }
}

/// A fleet whose history is told: three nodes in `alfa`, one in `bravo`, behind two load balancers.
pub struct Bench {
    pub checker: Checker,
    at_ms: u64,
    /// What each was last asked.
    asked: BTreeMap<NodeName, Assignment>,
    servers: BTreeMap<(NodeName, ServerName), ServerSeen>,
    pub states: BTreeMap<NodeName, AppReport>,
    sequence: u64,
}

impl Bench {
    pub fn new() -> Bench {
        let mut bench = Bench {
            checker: Checker::new(app()),
            at_ms: 0,
            asked: BTreeMap::new(),
            servers: BTreeMap::new(),
            states: BTreeMap::new(),
            sequence: 0,
        };
        bench.declare("1", |_| {});
        for name in ALL {
            let state = AppReport {
                revision: RevisionSeen::Running(revision("1")),
                attempt: None,
                settle: None,
            };
            bench.states.insert(node(name), state);
            bench.runs(name, "1", By::Hand);
            for lb in LBS {
                bench.set(lb, name, 0, By::Itself);
            }
            bench.hear(name);
        }
        for lb in LBS {
            bench.hear(lb);
        }
        bench
    }

    pub fn see(&mut self, fact: Fact) {
        self.at_ms += 1;
        self.checker.see(self.at_ms, fact);
    }

    /// The files say `to` everywhere, and what `change` makes of `alfa`'s.
    pub fn declare(&mut self, to: &str, change: impl FnOnce(&mut DesiredCluster)) {
        let mut alfa = settings("alfa", to, 3);
        change(&mut alfa);
        let bravo = DesiredCluster {
            after: BTreeSet::from([cluster("alfa")]),
            rollout: alfa.rollout.clone(),
            ..settings("bravo", to, 1)
        };
        for (name, settings) in [("alfa", alfa), ("bravo", bravo)] {
            let (cluster, settings) = (cluster(name), Box::new(settings));
            self.see(Fact::Desired { cluster, settings, standing: Standing::Current });
        }
    }

    pub fn runs(&mut self, name: &str, to: &str, by: By) {
        self.see(Fact::Runs { node: node(name), revision: Some(revision(to)), by });
    }

    /// A server comes to be so, in truth; nobody has said it yet.
    pub fn set(&mut self, lb: &str, name: &str, bits: u8, by: By) {
        let admin = AdminBits(bits);
        let health = if admin.is_out() { Health::Down } else { Health::Up };
        let seen = ServerSeen { admin, health, weight: 1, backup: false, sessions: 0 };
        self.servers.insert((node(lb), server(name)), seen.clone());
        let (lb, backend, server) = (node(lb), backend(), server(name));
        self.see(Fact::Server { lb, backend, server, seen, by });
    }

    /// A server goes down by itself.
    pub fn falls(&mut self, name: &str) {
        for lb in LBS {
            let seen = self.servers.get_mut(&(node(lb), server(name))).unwrap();
            seen.health = Health::Down;
            let (seen, server) = (seen.clone(), server(name));
            let (lb, backend) = (node(lb), backend());
            self.see(Fact::Server { lb, backend, server, seen, by: By::Itself });
        }
    }

    /// It reports how things are, and what it obeys.
    pub fn hear(&mut self, name: &str) {
        self.hear_as(name, |_| {});
    }

    pub fn hear_as(&mut self, name: &str, change: impl FnOnce(&mut Report)) {
        self.sequence += 1;
        let mut report = Report::first(node(name), Boot { started: 1, connection: 1 });
        report.sequence = self.sequence;
        if let Some(state) = self.states.get(&node(name)) {
            let of = if name == "web4" { "bravo" } else { "alfa" };
            report.facts.insert("cluster".to_owned(), of.to_owned());
            report.apps.insert(app(), state.clone());
        } else {
            let here = self.servers.iter().filter(|((lb, _), _)| *lb == node(name));
            let servers = here.map(|((_, server), seen)| {
                let seen = seen.clone();
                (server.clone(), ServerReport { seen, owned: None, steady_for_ms: 0 })
            });
            let backends = [(backend(), BackendSeen::Servers(servers.collect()))].into();
            report.balancer = Some(BalancerReport { state_file: true, backends });
        }
        if let Some(assignment) = self.asked.get(&node(name)).cloned() {
            let done = Some(assignment.stamp.clone());
            report.assignments.insert(app(), Obeyed { assignment, done, refusal: None });
        }
        change(&mut report);
        self.see(Fact::Heard(Arc::new(report)));
        self.present(name, true);
    }

    pub fn present(&mut self, name: &str, present: bool) {
        self.see(Fact::Presence { node: node(name), present });
    }

    pub fn last(&self, name: &str) -> Assignment {
        let new = || Assignment {
            app: app(),
            node: node(name),
            stamp: serde_json::from_str(
                r#"{"epoch":{"number":1,"controller":"me"},"generation":0}"#,
            )
            .unwrap(),
            probes: BTreeSet::new(),
            work: None,
            balance: BTreeMap::new(),
        };
        self.asked.get(&node(name)).cloned().unwrap_or_else(new)
    }

    /// One plan, which asks all this.
    pub fn asks(&mut self, asked: Vec<Assignment>) {
        let mut planned = BTreeMap::new();
        for mut assignment in asked {
            assignment.stamp.generation += 1;
            self.asked.insert(assignment.node.clone(), assignment.clone());
            planned.insert(assignment.node.clone(), assignment);
        }
        self.see(Fact::Planned(planned));
    }

    pub fn order(&mut self, names: &[&str], order: Order) {
        let asked = LBS.map(|lb| {
            let mut assignment = self.last(lb);
            let work = assignment.balance.entry(backend()).or_default();
            work.servers.extend(names.iter().map(|name| (server(name), order)));
            assignment
        });
        self.asks(asked.into());
    }

    pub fn work(&self, name: &str, attempt: Option<u32>) -> Assignment {
        let mut assignment = self.last(name);
        let of = if name == "web4" { "bravo" } else { "alfa" };
        let permit = attempt.map(|attempt| Permit {
            rollout: rollout(),
            revision: revision("2"),
            retry: String::new(),
            attempt,
            out: Vec::new(),
        });
        let settle =
            SettleKey { rollout: rollout(), retry: String::new(), attempt: 1, asked: self.at_ms };
        let before = assignment.work.take().and_then(|work| work.settle);
        assignment.work = Some(NodeWork {
            cluster: cluster(of),
            target: revision("2"),
            load_balancers: LBS.map(node).into(),
            checks: BTreeSet::from([check()]),
            check_interval_ms: 1_000,
            settle_timeout_ms: 10_000,
            upgrade_timeout_ms: 60_000,
            settle: before.or(Some(settle)),
            permit,
        });
        assignment
    }

    pub fn permit(&mut self, name: &str, attempt: u32) {
        let asked = self.work(name, Some(attempt));
        self.asks(vec![asked]);
    }

    pub fn starts(&mut self, name: &str, attempt: u32) {
        let (node, retry) = (node(name), String::new());
        let (rollout, revision) = (rollout(), revision("2"));
        self.see(Fact::UpgradeStarted { node, rollout, revision, retry, attempt });
    }

    pub fn ends(&mut self, name: &str, attempt: u32, outcome: AttemptOutcome) {
        if outcome == AttemptOutcome::Succeeded {
            self.runs(name, "2", By::Us);
            self.states.get_mut(&node(name)).unwrap().revision =
                RevisionSeen::Running(revision("2"));
        }
        self.see(Fact::UpgradeEnded { node: node(name) });
        self.states.get_mut(&node(name)).unwrap().attempt = Some(Attempt {
            rollout: rollout(),
            revision: revision("2"),
            retry: String::new(),
            attempt,
            outcome,
            started: Wall(0),
            took_ms: 1,
        });
        self.hear(name);
    }

    pub fn fails(&mut self, name: &str, attempt: u32) {
        self.starts(name, attempt);
        let why = AttemptFailure::Exit(1);
        self.ends(name, attempt, AttemptOutcome::Failed { why, tail: String::new() });
    }

    /// Its check runs, and it says that it has settled.
    pub fn settles(&mut self, name: &str, ok: bool) {
        self.see(Fact::CheckStarted { node: node(name), check: check() });
        self.see(Fact::CheckEnded { node: node(name), check: check(), ok });
        self.says_settled(name, SettleState::Settled { late: false });
    }

    pub fn says_settled(&mut self, name: &str, state: SettleState) {
        let key = self.last(name).work.unwrap().settle.unwrap();
        self.states.get_mut(&node(name)).unwrap().settle = Some(SettleReport {
            key,
            boot_started: 1,
            checks: BTreeSet::from([check()]),
            state,
            ok_for_ms: 0,
            results: BTreeMap::new(),
        });
        self.hear(name);
    }

    pub fn take_out(&mut self, name: &str) {
        self.order(&[name], Order::Out);
        for lb in LBS {
            self.set(lb, name, 1, By::Us);
        }
        for lb in LBS {
            self.hear(lb);
        }
    }

    pub fn bring_in(&mut self, name: &str) {
        self.order(&[name], Order::In);
        for lb in LBS {
            self.set(lb, name, 0, By::Us);
        }
        for lb in LBS {
            self.hear(lb);
        }
    }

    pub fn upgrade(&mut self, name: &str) {
        self.take_out(name);
        self.permit(name, 1);
        self.starts(name, 1);
        self.ends(name, 1, AttemptOutcome::Succeeded);
        let asked = self.work(name, None);
        self.asks(vec![asked]);
        self.hear(name);
        self.settles(name, true);
        self.bring_in(name);
    }

    pub fn tell(&mut self, key: &str, sequence: u64, cause: Cause, kind: NotifyOn) {
        self.see(Fact::Told(Tale {
            key: MessageKey(key.to_owned()),
            sequence,
            recipient: RecipientName::new("oncall").unwrap(),
            cluster: cluster("alfa"),
            rollout: Some(rollout()),
            cause,
            kind,
        }));
    }
}

/// A rollout to 2 has begun, and `web1` is out for it.
pub fn out() -> Bench {
    let mut bench = Bench::new();
    bench.declare("2", |_| {});
    bench.take_out("web1");
    bench
}

/// Its upgrade has succeeded, and it is to settle.
pub fn upgraded() -> Bench {
    let mut bench = out();
    bench.permit("web1", 1);
    bench.starts("web1", 1);
    bench.ends("web1", 1, AttemptOutcome::Succeeded);
    let asked = bench.work("web1", None);
    bench.asks(vec![asked]);
    bench.hear("web1");
    bench
}
