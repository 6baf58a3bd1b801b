//! Floor 3: the agent of one node. A core that decides everything, and a driver that carries it out.

mod audit;
mod config;
pub mod core;
pub mod counters;
mod driver;
mod log;
mod store;

pub use config::{Config, ConfigError};
pub use driver::{AgentError, filter, run, run_until};
pub use store::StateError;
