//! Floor 3: the agent of one node. A core that decides everything, and a driver that carries it out.

pub mod core;
