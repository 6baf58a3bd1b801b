//! Real parts, started by tests on their own ports and in their own directories, and ended with them.

#![allow(dead_code)] // each test binary uses some of them

pub mod haproxy;
pub mod mosquitto;
pub mod namespace;
pub mod process;
pub mod prometheus;
pub mod receiver;
