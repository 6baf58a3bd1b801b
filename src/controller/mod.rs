//! Floor 3: the controller. A synchronous core that takes events and gives effects, and a driver
//! that waits for the one and carries out the other.

pub mod core;
pub mod driver;
pub mod live;
mod log;
pub mod patch;
pub mod store;
pub mod tally;
pub mod view;
