//! What a state is recognised by: its parts as they show themselves, with every number that only counts
//! or dates something brought down to what can matter.
//!
//! Without that no state would ever come again: reports are numbered, assignments too, and clocks go on. Of
//! generations and the like only their order counts, and whether one follows the other at once; of times only how
//! long ago they are. What is left out here, or written differently after a change of the cores, costs
//! states; it merges none that differ, but for the fields in [`LEFT_OUT`].

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Fields that decide nothing, or that others decide: the log kept for people; when the next heartbeat is due, which
/// the model decides itself; what follows from the last plan; and what the files declare, which is the state's own.
const LEFT_OUT: [&str; 7] =
    ["events", "jitter", "heartbeat_at", "sign_at", "plan", "since", "desired"];

/// The part whose `heard` is a copy of what the controller has heard.
pub const CHECKER: &str = "checker";

/// Longer ago than any deadline of the plots, in milliseconds.
const LONG_AGO_MS: u64 = 400_000;

/// Numbers that only their order tells something of, with whom they are counted for.
type Class = (&'static str, u64);

/// One part of a state.
#[derive(Debug, Clone, Default)]
pub struct Print {
    skeleton: u64,
    numbers: Vec<(Class, u64)>,
}

impl Print {
    /// Of a part that belongs to `scope` and whose clock shows `now_ms`.
    pub fn of(scope: &str, now_ms: u64, part: &impl Debug) -> Self {
        let mut reader = Reader::new(scope, now_ms);
        write!(reader, "{part:?}").expect("a hasher takes everything");
        reader.end()
    }
}

/// The fingerprint of a state, from the prints of its parts.
pub fn together<'a>(parts: impl Iterator<Item = &'a Print> + Clone) -> u64 {
    let mut classes: BTreeMap<Class, Vec<u64>> = BTreeMap::new();
    for (class, number) in parts.clone().flat_map(|part| &part.numbers) {
        classes.entry(*class).or_default().push(*number);
    }
    let mut meanings: BTreeMap<(Class, u64), u64> = BTreeMap::new();
    for (class, mut numbers) in classes {
        numbers.sort_unstable();
        numbers.dedup();
        let (mut meaning, mut before) = (0, numbers[0]);
        for number in numbers {
            meaning += (number - before).min(2);
            before = number;
            meanings.insert((class, number), meaning);
        }
    }
    let mut hasher = DefaultHasher::new();
    for part in parts {
        part.skeleton.hash(&mut hasher);
        for number in &part.numbers {
            meanings[number].hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// What a word of a field or a type means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    None,
    /// The numbers after it are of the node that follows.
    Owner,
    LeftOut,
    /// A time.
    Time,
    /// The core's view of HAProxy, which counts what it asks.
    Balancer,
    Ledger,
    Sequence,
    /// One of a load balancer's counts.
    Step,
    Generation,
    Read,
    Run,
    Token,
    Clock,
    Other,
}

fn meaning(word: &str) -> Word {
    match word {
        "node" | "lb" => Word::Owner,
        "Mono" | "now_ms" | "at_ms" => Word::Time,
        "Balancer" | "Read" | "Observed" => Word::Balancer,
        "ClusterLedger" => Word::Ledger,
        "sequence" => Word::Sequence,
        "accepted" | "written" | "begun" => Word::Step,
        "generation" | "asked" => Word::Generation,
        "reads" | "reading" | "read" => Word::Read,
        "runs" | "run" | "running" | "checks_run" => Word::Run,
        "token" | "tokens" | "writing" => Word::Token,
        "clock" | "touched" | "checks" => Word::Clock,
        word if LEFT_OUT.contains(&word) => Word::LeftOut,
        _ => Word::Other,
    }
}

#[derive(Debug, Clone, Copy)]
struct Scope {
    /// Whose numbers these are.
    owner: u64,
    field: Word,
    kind: Word,
}

/// Reads what `Debug` writes.
struct Reader {
    /// What is left of it.
    text: String,
    numbers: Vec<(Class, u64)>,
    now_ms: u64,
    here: Scope,
    around: Vec<Scope>,
    word: String,
    in_quotes: bool,
    escaped: bool,
    /// Everything until the end of a field at this depth is left out.
    left_out: Option<usize>,
    is_checker: bool,
}

fn hash(word: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    word.hash(&mut hasher);
    hasher.finish()
}

impl Reader {
    fn new(scope: &str, now_ms: u64) -> Self {
        Self {
            text: String::new(),
            numbers: Vec::new(),
            now_ms,
            here: Scope { owner: hash(scope), field: Word::None, kind: Word::None },
            around: Vec::new(),
            word: String::new(),
            in_quotes: false,
            escaped: false,
            left_out: None,
            is_checker: scope == CHECKER,
        }
    }

    fn end(mut self) -> Print {
        self.word_ends(b' ');
        Print { skeleton: hash(&self.text), numbers: self.numbers }
    }

    fn take(&mut self, c: u8) {
        if self.in_quotes {
            if c == b'"' && !self.escaped {
                self.in_quotes = false;
                self.text_ends();
            } else {
                self.escaped = c == b'\\' && !self.escaped;
                self.word.push(char::from(c));
            }
            return;
        }
        if c == b'_' || c.is_ascii_alphanumeric() {
            self.word.push(char::from(c));
            return;
        }
        self.word_ends(c);
        match c {
            b'"' => self.in_quotes = true,
            b' ' => {}
            b',' => {
                self.field_ends();
                self.put(",");
            }
            b'{' | b'(' | b'[' => {
                self.put("(");
                self.around.push(self.here);
                // A struct's fields are its own; a tuple, a list or a map is of the field that holds it.
                if c == b'{' && self.here.kind != Word::None {
                    self.here.field = Word::None;
                }
            }
            b'}' | b')' | b']' => {
                self.field_ends();
                let (owner, within) = (self.here.owner, self.here.field);
                self.here = self.around.pop().unwrap_or(self.here);
                // `lb: NodeName("lb1")`: the name is within brackets, and the fields after it are that node's.
                if c == b')' && within == Word::Owner {
                    self.here.owner = owner;
                }
                self.here.kind = Word::None;
                self.put(")");
            }
            _ => {}
        }
    }

    fn field_ends(&mut self) {
        if self.left_out == Some(self.around.len()) {
            self.left_out = None;
        }
        self.here.kind = Word::None;
    }

    fn put(&mut self, what: &str) {
        if self.left_out.is_none() {
            self.text.push_str(what);
            self.text.push(' ');
        }
    }

    fn text_ends(&mut self) {
        let text = std::mem::take(&mut self.word);
        self.put(&text);
        if self.here.field == Word::Owner {
            self.here.owner = hash(&text);
        }
    }

    fn word_ends(&mut self, next: u8) {
        if self.word.is_empty() {
            return;
        }
        let word = std::mem::take(&mut self.word);
        if next == b':' {
            (self.here.field, self.here.kind) = (meaning(&word), Word::None);
            self.put(&word);
            let is_copy = self.is_checker && word == "heard";
            if self.left_out.is_none() && (self.here.field == Word::LeftOut || is_copy) {
                self.left_out = Some(self.around.len());
            }
        } else if word.as_bytes()[0].is_ascii_digit() {
            self.number(&word);
        } else {
            self.put(&word);
            self.here.kind = match word.as_str() {
                "Some" | "Ok" | "Err" => Word::None,
                word => meaning(word),
            };
        }
    }

    fn number(&mut self, word: &str) {
        let Ok(number) = word.parse::<u64>() else { return self.put(word) };
        if self.left_out.is_some() {
            return;
        }
        // `Mono(7)`: the bracket has opened a scope of that kind.
        if self.here.kind == Word::Time || self.here.field == Word::Time {
            let age = (self.now_ms as i64 - number as i64).min(LONG_AGO_MS as i64);
            return self.put(&age.to_string());
        }
        let kind = self.around.iter().rev().map(|scope| scope.kind);
        let kind = kind.into_iter().find(|kind| *kind != Word::None);
        let class = match (kind, self.here.field) {
            (Some(Word::Balancer), Word::Sequence | Word::Step) => "balancer",
            (Some(Word::Ledger), Word::Sequence) => return self.put(word),
            (_, Word::Sequence) => "sequence",
            (_, Word::Generation) => "generation",
            (_, Word::Read) => "read",
            (_, Word::Run) => "run",
            (_, Word::Token) => "token",
            (_, Word::Clock) => "clock",
            _ => return self.put(word),
        };
        self.put(class);
        self.numbers.push(((class, self.here.owner), number));
    }
}

impl Write for Reader {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|c| self.take(c));
        Ok(())
    }
}
