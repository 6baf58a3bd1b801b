//! What really happened, from what deploy commands, checks and web servers wrote down themselves.
//!
//! Neither the controller nor an agent is asked. A node's journal has a line for each beginning and end of a
//! deploy command and for each check; HAProxy stamps each request before it picks a server for it.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel::checker::Invariant::{self, BatchKept, PutBackOnlySettled, UpgradedOnlyWhileOut};

/// A moment, in microseconds since the epoch, by the machine's one clock.
pub type Micros = u64;

/// A request that was served.
#[derive(Debug, Clone)]
pub struct Answer {
    pub node: String,
    pub revision: String,
    /// When HAProxy had it, and had not picked a server yet.
    pub sent: Micros,
}

/// One look at a load balancer: which of its servers were in maintenance, by its own word.
#[derive(Debug, Clone)]
pub struct Look {
    /// The process that answered.
    pub process: u32,
    pub asked: Micros,
    pub answered: Micros,
    pub out: BTreeSet<String>,
}

/// Nothing was answered by a node that was in maintenance at the load balancer that had the request: by two looks in a row, one
/// before and one after, at the same process.
pub fn hold_out(looks: &[Look], answers: &[Answer]) -> Result<(), String> {
    for answer in answers {
        let after = looks.partition_point(|look| look.answered <= answer.sent);
        let (Some(before), Some(after)) =
            (after.checked_sub(1).map(|at| &looks[at]), looks.get(after))
        else {
            continue;
        };
        let out = before.out.contains(&answer.node) && after.out.contains(&answer.node);
        if out && before.process == after.process && after.asked >= answer.sent {
            let broken = UpgradedOnlyWhileOut;
            return Err(format!(
                "{broken} broke: {answer:?}, though it was in maintenance from {} to {}",
                before.answered, after.asked
            ));
        }
    }
    Ok(())
}

/// One deploy command; without an end if it was killed.
#[derive(Debug, Clone)]
struct Deploy {
    pid: u32,
    from: Micros,
    to: Option<Micros>,
}

#[derive(Debug)]
struct Check {
    from: Micros,
    to: Micros,
    is_ok: bool,
}

/// What one node wrote down.
#[derive(Debug, Default)]
pub struct Journal {
    deploys: Vec<Deploy>,
    checks: Vec<Check>,
}

impl Journal {
    /// Reads lines such as `deploy PID TIME`, `ended PID TIME` and `check FROM TO CODE`.
    pub fn read(text: &str) -> Journal {
        let mut journal = Journal::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<Micros>().expect("a number");
            match words[0] {
                "deploy" => {
                    let pid = number(1) as u32;
                    journal.deploys.push(Deploy { pid, from: number(2), to: None });
                }
                "ended" => {
                    let pid = number(1) as u32;
                    let open = journal.deploys.iter_mut().rev().find(|deploy| deploy.pid == pid);
                    open.expect("it had begun").to = Some(number(2));
                }
                "check" => {
                    let is_ok = number(3) == 0;
                    journal.checks.push(Check { from: number(1), to: number(2), is_ok });
                }
                other => panic!("a journal does not say {other:?}"),
            }
        }
        journal
    }

    /// Never two deploy commands at once on one node, whichever life of the agent started them.
    fn one_at_a_time(&self, node: &str) -> Result<(), String> {
        for pair in self.deploys.windows(2) {
            // One that never wrote its end was killed; when, nobody knows.
            if pair[0].to.is_some_and(|to| to > pair[1].from) {
                let broken = BatchKept;
                return Err(format!(
                    "{broken} broke: {node}: {:?} ran beside {:?}",
                    pair[0], pair[1]
                ));
            }
        }
        Ok(())
    }

    /// When the deploy command that began then ended.
    fn ended(&self, from: Micros) -> Option<Micros> {
        self.deploys.iter().find(|deploy| deploy.from == from)?.to
    }

    /// From when to when nothing may be answered: from the beginning of a deploy command to the end of the first
    /// check that was OK and had begun after the end of the last command.
    fn unfit(&self) -> Vec<(Micros, Micros)> {
        let mut spans: Vec<(Micros, Micros)> = Vec::new();
        for (number, deploy) in self.deploys.iter().enumerate() {
            let next = self.deploys.get(number + 1).map_or(Micros::MAX, |next| next.from);
            let settles =
                |check: &&Check| check.is_ok && deploy.to.is_some_and(|to| check.from >= to);
            let settled = self.checks.iter().filter(settles).map(|check| check.to).min();
            let until = settled.unwrap_or(Micros::MAX).min(next);
            spans.push((deploy.from, until));
        }
        spans
    }
}

/// Holds what was served and what was written down against what was promised.
pub fn hold(
    journals: &BTreeMap<String, Journal>,
    answers: &[Answer],
    batch: usize,
) -> Result<(), String> {
    let mut changes: Vec<(Micros, i32)> = Vec::new();
    for (node, journal) in journals {
        journal.one_at_a_time(node)?;
        let whole = journal.deploys.iter().filter_map(|deploy| Some((deploy.from, deploy.to?)));
        changes.extend(whole.flat_map(|(from, to)| [(from, 1), (to, -1)]));
    }
    // An end comes before a beginning at the same moment.
    changes.sort_unstable();
    let mut running = 0;
    for (at, change) in changes {
        running += change;
        if running > batch as i32 {
            let broken = BatchKept;
            return Err(format!(
                "{broken} broke: at {at} {running} deploy commands were running; the batch is {batch}"
            ));
        }
    }
    let unfit: BTreeMap<&String, Vec<(Micros, Micros)>> =
        journals.iter().map(|(node, journal)| (node, journal.unfit())).collect();
    for answer in answers {
        let spans = unfit.get(&answer.node).ok_or_else(|| format!("who is {answer:?}"))?;
        if let Some(span) = spans.iter().find(|(from, to)| (*from..*to).contains(&answer.sent)) {
            // In the upgrade, or between that and the first check after it that was OK.
            let (from, to) = span;
            let ended = journals[&answer.node].ended(*from).is_some_and(|at| at <= answer.sent);
            let broken = if ended { PutBackOnlySettled } else { UpgradedOnlyWhileOut };
            return Err(format!(
                "{broken} broke: {answer:?}, though it was unfit from {from} to {to}"
            ));
        }
    }
    Ok(())
}

/// Which node answered with which revision.
pub fn by(answers: &[Answer]) -> BTreeSet<(String, String)> {
    answers.iter().map(|answer| (answer.node.clone(), answer.revision.clone())).collect()
}

#[test]
fn an_answer_out_of_maintenance_is_seen() {
    let look = |process, asked, out: &[&str]| Look {
        process,
        asked,
        answered: asked + 5,
        out: out.iter().map(ToString::to_string).collect(),
    };
    let looks = [
        look(1, 100, &[]),
        look(1, 200, &["a"]),
        look(1, 300, &["a", "b"]),
        look(2, 400, &["a", "b"]),
        look(2, 500, &["b"]),
    ];
    for (node, sent, held) in [
        ("a", 150, true),
        ("a", 204, true), // not known to be out yet
        ("a", 205, false),
        ("a", 250, false),
        ("a", 300, false),
        ("a", 301, true), // being looked at
        ("b", 250, true),
        ("a", 350, true), // another process may have come in between, and not known it
        ("a", 450, true),
        ("b", 450, false),
        ("b", 600, true), // nobody has looked since
        ("c", 450, true),
    ] {
        let answer = Answer { node: node.into(), revision: "2".into(), sent };
        let said = hold_out(&looks, &[answer]);
        assert_eq!(said.is_ok(), held, "{node} at {sent}: {said:?}");
    }
}

/// What each broken promise looks like.
#[test]
fn each_broken_promise_is_seen() {
    let good = "deploy 1 100\nended 1 200\ncheck 210 220 0\n";
    let answer = |sent| Answer { node: "a".into(), revision: "2".into(), sent };
    for (name, a, b, sent, batch, broken) in [
        ("before and after", good, "", vec![99, 220], 1, None),
        ("in its upgrade", good, "", vec![150], 1, Some(UpgradedOnlyWhileOut)),
        ("unchecked", good, "", vec![205], 1, Some(PutBackOnlySettled)),
        (
            "a check that failed",
            "deploy 1 100\nended 1 200\ncheck 210 220 2\n",
            "",
            vec![250],
            1,
            Some(PutBackOnlySettled),
        ),
        (
            "a check from before",
            "deploy 1 100\ncheck 190 220 0\nended 1 200\n",
            "",
            vec![250],
            1,
            Some(PutBackOnlySettled),
        ),
        ("killed, and done again", &format!("deploy 9 50\n{good}"), "", vec![49, 230], 1, None),
        (
            "killed, and put back",
            "deploy 9 50\ncheck 60 70 0\n",
            "",
            vec![80],
            1,
            Some(UpgradedOnlyWhileOut),
        ),
        (
            "two at once on a node",
            "deploy 1 100\ndeploy 2 150\nended 1 200\nended 2 210\n",
            "",
            vec![],
            9,
            Some(BatchKept),
        ),
        ("one after the other", good, "deploy 1 200\nended 1 300\n", vec![], 1, None),
        ("two nodes at once", good, "deploy 1 199\nended 1 300\n", vec![], 1, Some(BatchKept)),
        ("a batch of two", good, "deploy 1 199\nended 1 300\n", vec![], 2, None),
    ] {
        let journals =
            [("a", a), ("b", b)].map(|(node, text)| (node.to_owned(), Journal::read(text)));
        let answers: Vec<Answer> = sent.into_iter().map(answer).collect();
        let held = hold(&journals.into(), &answers, batch);
        let names = |broken: Invariant| format!("{broken} broke");
        match broken {
            None => assert_eq!(held, Ok(()), "{name}"),
            Some(broken) => {
                let error = held.expect_err(name);
                assert!(error.starts_with(&names(broken)), "{name}: {error}");
            }
        }
    }
}
