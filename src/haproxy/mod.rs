//! Floor 2: HAProxy's runtime API. It asks and translates; what is to be done is decided elsewhere.

pub mod answer;
mod config;
mod connection;
mod session;
mod state_file;

use std::collections::{BTreeMap, BTreeSet};

use self::answer::{StateRow, Stats};
pub use self::config::{Config, Socket};
use self::session::Session;
use crate::command::chain;
use crate::model::{BackendName, ServerName, ServerSeen};
use crate::plan::ports::{Balancer, BalancerError, BalancerState, ProcessId, SetServer, SetState};

/// Names that were warned about are remembered, so that each is told once. A configuration with more
/// unusable names than this has been told enough.
const WARNED_MAX: usize = 100;

/// `show stat PROXY TYPE SERVER`: of every proxy the backend and the servers. Types are a sum of 1
/// frontend, 2 backend, 4 server (HAProxy management guide 9.3).
const STATS_OF_ALL: &str = "show stat -1 6 -1";

const STATES_OF_ALL: &str = "show servers state";

/// HAProxy behind its stats socket. It connects when it is first asked something.
pub struct Haproxy {
    config: Config,
    session: Session,
    warned: BTreeSet<String>,
}

impl Haproxy {
    /// A client for the HAProxy that `config` names.
    pub fn new(config: Config) -> Haproxy {
        let session = Session::new(config.socket.clone(), config.timeout_ms);
        Haproxy { config, session, warned: BTreeSet::new() }
    }

    /// Which backends to ask for: all of them, or just these.
    fn scope(&self, wanted: &[BackendName]) -> Scope {
        let configured: BTreeSet<BackendName> = self.config.backends.iter().cloned().collect();
        let wanted: BTreeSet<BackendName> = wanted.iter().cloned().collect();
        match (configured.is_empty(), wanted.is_empty()) {
            (true, true) => Scope::All,
            (true, false) => Scope::These(wanted),
            (false, true) => Scope::These(configured),
            (false, false) => Scope::These(wanted.intersection(&configured).cloned().collect()),
        }
    }

    /// The backends of valid names; the others are told once and left out.
    fn named(&mut self, tables: Tables) -> BTreeMap<BackendName, BTreeMap<ServerName, ServerSeen>> {
        let mut named: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (backend, servers) in tables {
            let Ok(name) = BackendName::new(&backend) else {
                self.warn_once(&backend, "");
                continue;
            };
            let into = named.entry(name).or_default();
            for (server, seen) in servers {
                match ServerName::new(&server) {
                    Ok(name) => drop(into.insert(name, seen)),
                    Err(_) => self.warn_once(&backend, &server),
                }
            }
        }
        named
    }

    fn warn_once(&mut self, backend: &str, server: &str) {
        let name = format!("{backend}/{server}");
        if self.warned.len() < WARNED_MAX && self.warned.insert(name.clone()) {
            tracing::warn!(name, "HAProxy has a name that evenkeel cannot use; it is left out");
        }
    }
}

impl Balancer for Haproxy {
    async fn read(&mut self, wanted: &[BackendName]) -> Result<BalancerState, BalancerError> {
        let deadline = self.session.deadline();
        let scope = self.scope(wanted);
        let states = scope.states();
        let mut stats = scope.stats();
        loop {
            let commands = [states.as_slice(), stats.as_slice()].concat();
            let (process, answers) = self.session.ask_serving(&commands, deadline).await?;
            match merge(&commands, &answers, states.len()) {
                Ok(tables) => {
                    let tables = scope.keep(tables);
                    return Ok(BalancerState { process, backends: self.named(tables) });
                }
                // `show stat NAME` shows a frontend of that name, if that comes first.
                Err(Unmerged::Incomplete { .. }) if stats != [STATS_OF_ALL] => {
                    stats = vec![STATS_OF_ALL.to_owned()];
                }
                Err(Unmerged::Incomplete { server }) => {
                    let error = format!("server {server} is in {STATES_OF_ALL:?} only");
                    return Err(self.session.unclear(STATS_OF_ALL, error));
                }
                Err(Unmerged::Unclear { command, error }) => {
                    return Err(self.session.unclear(&command, error));
                }
            }
        }
    }

    async fn set(
        &mut self,
        commands: &[SetServer],
    ) -> Result<Vec<Result<(), String>>, BalancerError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let deadline = self.session.deadline();
        // A kept connection may lead to a process that no longer serves; and what is set is not
        // to be repeated on another one unasked.
        self.session.ask_serving(&[], deadline).await?;
        let commands: Vec<String> = commands.iter().map(set_server).collect();
        let answers = self.session.ask(&commands, deadline).await?;
        Ok(answers
            .iter()
            .map(|answer| match answer.trim() {
                "" => Ok(()),
                error => Err(error.chars().take(SET_ERROR_CHARS_MAX).collect()),
            })
            .collect())
    }

    async fn process(&mut self) -> Result<ProcessId, BalancerError> {
        let deadline = self.session.deadline();
        Ok(self.session.ask_serving(&[], deadline).await?.0)
    }

    async fn dump_state(&mut self) -> Result<(), BalancerError> {
        let Some(path) = self.config.state_file.clone() else { return Ok(()) };
        let deadline = self.session.deadline();
        let command = STATES_OF_ALL.to_owned();
        let (_, answers) =
            self.session.ask_serving(std::slice::from_ref(&command), deadline).await?;
        let text = answers.concat();
        // Only what HAProxy would load again may replace what it would load now.
        match answer::servers_state(&text) {
            Ok(Some(_)) => {}
            Ok(None) => return Err(self.session.unclear(&command, answer::cut(&text))),
            Err(error) => return Err(self.session.unclear(&command, error)),
        }
        let refused = |path: &std::path::Path, error: String| BalancerError::StateFile {
            path: path.display().to_string(),
            error,
        };
        let target = path.clone();
        match tokio::task::spawn_blocking(move || state_file::replace(&target, &text)).await {
            Ok(written) => written.map_err(|error| refused(&path, chain(&error))),
            Err(ended) => Err(refused(&path, ended.to_string())),
        }
    }
}

/// An unknown command is answered with a list of all commands; nobody needs it whole.
const SET_ERROR_CHARS_MAX: usize = 200;

fn set_server(SetServer { backend, server, state }: &SetServer) -> String {
    let state = match state {
        SetState::Ready => "ready",
        SetState::Drain => "drain",
        SetState::Maint => "maint",
    };
    format!("set server {backend}/{server} state {state}")
}

/// Which backends are asked for.
enum Scope {
    All,
    These(BTreeSet<BackendName>),
}

impl Scope {
    fn states(&self) -> Vec<String> {
        match self {
            Self::All => vec![STATES_OF_ALL.to_owned()],
            Self::These(names) => {
                names.iter().map(|name| format!("{STATES_OF_ALL} {name}")).collect()
            }
        }
    }

    /// One backend costs HAProxy its own servers only: 0.6 ms where all 100 cost 48 ms.
    fn stats(&self) -> Vec<String> {
        match self {
            Self::All => vec![STATS_OF_ALL.to_owned()],
            Self::These(names) => {
                names.iter().map(|name| format!("show stat {name} 6 -1")).collect()
            }
        }
    }

    fn keep(&self, mut tables: Tables) -> Tables {
        match self {
            Self::All => {}
            Self::These(names) => tables
                .retain(|backend, _| names.iter().any(|name| name.as_str() == backend.as_str())),
        }
        tables
    }
}

/// Servers by backend, under whatever names HAProxy has for them.
type Tables = BTreeMap<String, BTreeMap<String, ServerSeen>>;

/// Why the two tables do not make one.
enum Unmerged {
    /// A server has a state and no statistics.
    Incomplete { server: String },
    /// An answer is not understood.
    Unclear { command: String, error: String },
}

/// Joins `answers` to `commands`: the first `states` are `show servers state`, the others `show stat`.
fn merge(commands: &[String], answers: &[String], states: usize) -> Result<Tables, Unmerged> {
    let unclear = |at: usize, error| Unmerged::Unclear { command: commands[at].clone(), error };
    let mut stats = Stats::default();
    let mut rows: Vec<StateRow<'_>> = Vec::new();
    for (at, answer) in answers.iter().enumerate() {
        if at < states {
            let found = answer::servers_state(answer).map_err(|error| unclear(at, error))?;
            rows.extend(found.into_iter().flatten());
        } else {
            stats.add(answer).map_err(|error| unclear(at, error))?;
        }
    }
    let mut tables: Tables = BTreeMap::new();
    for backend in &stats.backends {
        tables.entry(backend.clone()).or_default();
    }
    for row in &rows {
        let server = || format!("{}/{}", row.backend, row.server);
        let seen = stats.complete(row).ok_or_else(|| Unmerged::Incomplete { server: server() })?;
        let servers = tables.entry(row.backend.to_owned()).or_default();
        if servers.insert(row.server.to_owned(), seen).is_some() {
            let error = format!("server {} is there twice; names must be unique", server());
            return Err(unclear(0, error));
        }
    }
    Ok(tables)
}
