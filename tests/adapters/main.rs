//! Each adapter against the real part at its far end.

#[path = "../parts/mod.rs"]
mod parts;

#[cfg(feature = "embedded-broker")]
mod agent;
mod bus;
mod checks;
mod deploy;
mod desired;
mod haproxy;
mod notify;
