//! `evenkeel agent`: runs the agent of this node until it is asked to end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::runtime::Builder;

use crate::agent::counters::Counted;
use crate::agent::{Config, run as run_agent};
use crate::command::chain;
use crate::http;

/// Runs the agent of this node.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Its configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/evenkeel/agent.toml")]
    pub config: PathBuf,
    /// Where /metrics and /healthz are served; without it, nowhere. They change nothing and tell no secrets,
    /// but ask for no password either.
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<SocketAddr>,
}

/// Runs until SIGTERM or SIGINT. Exits 0 after a clean end; otherwise the reason is on standard error.
pub fn run(args: &AgentArgs) -> ExitCode {
    // One thread: the agent waits nearly all the time, and shares the machine with what it looks after.
    super::daemon::serve(Builder::new_current_thread(), async { agent(args).await })
}

async fn agent(args: &AgentArgs) -> Result<(), String> {
    let config = Config::read(&args.config).map_err(|error| chain(&error))?;
    let counted = Counted::default();
    let http = match args.http {
        Some(address) => {
            let listener = super::daemon::listen(address).await?;
            Some(tokio::spawn(http::serve_agent(listener, counted.clone())))
        }
        None => None,
    };
    let outcome = run_agent(config, counted).await;
    if let Some(http) = http {
        http.abort();
    }
    outcome.map_err(|error| chain(&error))
}
