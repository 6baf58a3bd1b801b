//! Floor 4: the command line, one file a subcommand.

pub mod agent;
