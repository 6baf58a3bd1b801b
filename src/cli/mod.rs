//! Floor 4: the command line, one file a subcommand.

pub mod agent;
pub mod controller;
pub mod daemon;
pub mod demo;
pub mod schema;
pub mod signals;
pub mod validate;
