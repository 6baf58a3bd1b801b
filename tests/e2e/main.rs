//! The whole of it, on real parts: the shipped binary in every role, real HAProxy, both brokers,
//! real plugins. Each test builds its own fleet in its own directory, on its own ports.

#[path = "../parts/mod.rs"]
mod parts;

mod rollouts;
mod scene;
mod web;
