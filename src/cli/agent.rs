//! `evenkeel agent`.

use std::process::ExitCode;

/// Runs the agent of this node.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {}

/// Not there yet.
pub fn run(_: &AgentArgs) -> ExitCode {
    super::print::error("not in this build");
    ExitCode::FAILURE
}
