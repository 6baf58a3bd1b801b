//! Floor 4: the command line, one file a subcommand.

pub mod schema;
pub mod validate;
