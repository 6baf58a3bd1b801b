//! Floor 4: the command line, one file a subcommand.

pub mod agent;
pub mod controller;
pub mod daemon;
pub mod schema;
pub mod signals;
pub mod validate;

use std::process::ExitCode;

/// evenkeel
#[derive(Debug, clap::Parser)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Controller(controller::ControllerArgs),
    Agent(agent::AgentArgs),
    Validate(validate::ValidateArgs),
    Schema(schema::SchemaArgs),
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
        match self.command {
            Command::Controller(args) => controller::run(&args),
            Command::Agent(args) => agent::run(&args),
            Command::Validate(args) => validate::run(&args),
            Command::Schema(args) => schema::run(&args),
        }
    }
}
