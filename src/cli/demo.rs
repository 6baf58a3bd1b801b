//! `evenkeel demo`.

use std::process::ExitCode;

/// Shows a fleet on this machine.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {}

/// Not there yet.
pub fn run(_: &DemoArgs) -> ExitCode {
    super::print::error("not in this build");
    ExitCode::FAILURE
}
