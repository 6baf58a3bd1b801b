//! Floor 1: what decides, and the traits through which decisions reach the world.

pub mod ports;
