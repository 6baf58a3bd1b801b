//! Each adapter against the real part at its far end.

#[path = "../parts/mod.rs"]
mod parts;

mod bus;
mod checks;
mod deploy;
mod desired;
mod haproxy;
mod notify;
