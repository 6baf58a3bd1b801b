//! The command line: the real program, against an HTTP server that answers with documents made of
//! real model values. It stands in for the controller in these tests of what is printed, and how
//! the program ends, only.

#[path = "../planner/fleet.rs"]
#[allow(dead_code)] // the planner's tests use the rest
mod fleet;
#[path = "../parts/mod.rs"]
mod parts;

mod answers;
mod daemons;
mod forecast;
mod packaging;
mod past;
mod program;
mod shown;
mod stage;
mod waiting;
