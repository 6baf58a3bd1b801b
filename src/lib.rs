//! evenkeel keeps fleets of plain servers behind HAProxy at the revision that files declare.
//!
//! The floors, from the ground up. A file imports from its own floor sparingly, and else only from
//! floors below; `tests/tidy` holds this.
//!
//! | floor | module | what lives there |
//! |---|---|---|
//! | 0 | [`model`] | values; no IO, no clock |
//! | 1 | [`plan`] | the planner, the nominal world, the ports; pure |
//! | 1 | [`checker`] | the checker that distrusts the planner; pure |
//! | 2 | [`desired`], [`bus`], [`haproxy`], [`disk`], [`command`], [`deploy`], [`checks`], [`facts`], [`notify`], [`history`] | adapters: they translate and decide nothing |
//! | 3 | [`controller`], [`agent`] | a pure core and a driver each |
//! | 4 | [`http`], [`cli`], [`demo`] | what people and machines look at |

pub mod agent;
pub mod bus;
pub mod checker;
pub mod checks;
pub mod cli;
pub mod command;
pub mod controller;
pub mod demo;
pub mod deploy;
pub mod desired;
pub mod disk;
pub mod facts;
pub mod haproxy;
pub mod history;
pub mod http;
pub mod model;
pub mod notify;
pub mod plan;
