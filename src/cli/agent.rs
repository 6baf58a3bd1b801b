//! `evenkeel agent`: runs the agent of this node until it is asked to end.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::runtime::Builder;

use crate::agent::{AgentError, Config, run as run_agent};
use crate::command::chain;

/// Runs the agent of this node.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Its configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/evenkeel/agent.toml")]
    pub config: PathBuf,
}

/// Runs until SIGTERM or SIGINT. Exits 0 after a clean end; otherwise the reason is on standard error.
pub fn run(args: &AgentArgs) -> ExitCode {
    // One thread: the agent waits nearly all the time, and shares the machine with what it looks after.
    super::daemon::serve(Builder::new_current_thread(), async {
        agent(args).await.map_err(|error| chain(&error))
    })
}

async fn agent(args: &AgentArgs) -> Result<(), AgentError> {
    run_agent(Config::read(&args.config)?).await
}
