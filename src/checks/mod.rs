//! Checks: the commands of NRPE's configuration, run as Nagios plugins, without NRPE.

mod nrpe;
mod output;
mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::command::{Apart, Command, Ended, chain, clean};
use crate::model::{CheckName, CheckResult, CheckStatus, parse_duration_ms, render_duration_ms};
use crate::plan::ports::Checks;
use nrpe::Definition;
pub use nrpe::NrpeError;

/// How many checks run at once by default: few enough to leave the machine to its service, enough
/// that one slow check does not hold up the rest.
const PARALLEL: usize = 4;

/// The time limit of a check where neither the table nor NRPE's configuration has one. Shorter
/// than NRPE's own 60 s, since a node is out of service while it settles.
const TIMEOUT_MS: u64 = 10_000;

/// The table `[checks]` of the agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// NRPE's configuration files; what they include is read as well.
    files: Vec<PathBuf>,
    /// The time limit of one check, in milliseconds.
    #[serde(default, deserialize_with = "timeout_ms")]
    timeout: Option<u64>,
    /// How many may run at once.
    #[serde(default = "parallel", deserialize_with = "parallel_of")]
    parallel: usize,
}

fn parallel() -> usize {
    PARALLEL
}

fn parallel_of<'de, D: serde::Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    match usize::deserialize(from)? {
        count @ 1..=256 => Ok(count),
        _ => Err(serde::de::Error::custom("parallel must be 1 to 256")),
    }
}

fn timeout_ms<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    match parse_duration_ms(&text).map_err(serde::de::Error::custom)? {
        0 => Err(serde::de::Error::custom("timeout must be above 0")),
        ms => Ok(Some(ms)),
    }
}

/// The checks of this node.
#[derive(Debug)]
pub struct Plugins {
    checks: BTreeMap<CheckName, Definition>,
    timeout_ms: u64,
    places: Semaphore,
}

impl Plugins {
    /// Reads the definitions. They are read once: a change of NRPE's files takes effect at the
    /// next start of the agent.
    ///
    /// # Errors
    /// [`NrpeError`] if a file that the table names cannot be read or has a line that NRPE would
    /// refuse. In included files that is logged only, as NRPE does.
    pub fn new(config: &Config) -> Result<Plugins, NrpeError> {
        let nrpe = nrpe::read(&config.files)?;
        let of_nrpe = nrpe.command_timeout.map(|seconds| seconds.saturating_mul(1000));
        Ok(Plugins {
            checks: nrpe.checks,
            timeout_ms: config.timeout.or(of_nrpe).unwrap_or(TIMEOUT_MS),
            places: Semaphore::new(config.parallel),
        })
    }

    /// The names of all checks, those that cannot be run included.
    pub fn names(&self) -> impl Iterator<Item = &CheckName> {
        self.checks.keys()
    }

    /// What the check of this name would run, if there is one; or why it cannot be run.
    pub fn argv(&self, name: &CheckName) -> Option<Result<&[String], &str>> {
        Some(match self.checks.get(name)? {
            Definition::Runnable(argv) => Ok(argv),
            Definition::Unrunnable(why) => Err(why),
        })
    }
}

impl Checks for Plugins {
    fn knows(&self, name: &CheckName) -> bool {
        self.checks.contains_key(name)
    }

    async fn run(&self, name: &CheckName) -> CheckResult {
        let argv = match self.checks.get(name) {
            Some(Definition::Runnable(argv)) => argv.clone(),
            Some(Definition::Unrunnable(why)) => {
                return unknown(&format!("command[{name}] cannot be run: {why}"), 0);
            }
            None => {
                return unknown(&format!("no command[{name}] in NRPE's configuration"), 0);
            }
        };
        // The semaphore is never closed, so there is always a place to come.
        let _place = self.places.acquire().await;
        let started = Instant::now();
        let ran = Command::new(argv).run_apart(Duration::from_millis(self.timeout_ms)).await;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match ran {
            Ok((Ended::Exit(code), said)) => verdict(code, &said, took_ms),
            Ok((Ended::Signal(signal), _)) => {
                unknown(&format!("ended by signal {signal}"), took_ms)
            }
            Ok((Ended::TimedOut, _)) => unknown(
                &format!("timed out after {}", render_duration_ms(self.timeout_ms)),
                took_ms,
            ),
            Err(error) => unknown(&chain(&error), took_ms),
        }
    }
}

/// What a plugin's exit code and output mean. Texts are clean and at most 1 KiB each, and there is
/// always a text; a code that is none of a plugin's is [`CheckStatus::Unknown`], and says so.
pub fn verdict(code: i32, said: &Apart, took_ms: u64) -> CheckResult {
    let status = match code {
        0 => Some(CheckStatus::Ok),
        1 => Some(CheckStatus::Warning),
        2 => Some(CheckStatus::Critical),
        3 => Some(CheckStatus::Unknown),
        _ => None,
    };
    let mut parsed = output::parse(&said.stdout);
    if parsed.text.is_empty() {
        // A plugin that cannot even start its work, for want of a library say, tells standard error.
        let line = said.stderr.lines().rev().find(|line| !line.trim().is_empty());
        parsed.text = output::cut(line.unwrap_or("no output from the plugin").trim());
    }
    if status.is_none() {
        parsed.text = output::cut(&format!(
            "exit code {code} is none of a plugin's (0 to 3): {}",
            parsed.text
        ));
    }
    CheckResult {
        status: status.unwrap_or(CheckStatus::Unknown),
        text: parsed.text,
        performance: parsed.performance,
        took_ms,
    }
}

fn unknown(why: &str, took_ms: u64) -> CheckResult {
    CheckResult {
        status: CheckStatus::Unknown,
        text: output::cut(&clean(why.as_bytes())),
        performance: String::new(),
        took_ms,
    }
}
