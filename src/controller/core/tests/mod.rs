//! The controller's core, driven by hand, without IO.

mod bench;
mod leading;
mod mail;
mod memory;
mod presence;
mod records;
