//! The rules of the protocol, one script each, on a core that is driven by hand.

mod balancer;
mod command;
mod drain;
mod hands;
mod life;
mod mess;
mod node;
mod notify;
mod rig;
mod settle;
