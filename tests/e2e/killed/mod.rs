//! The real thing, killed: every part of a fleet, ended where it stands, in the middle of a rollout and under load.
//!
//! Each must end converged, with no request failed, none answered by a node that was being upgraded or had not
//! settled since, no node left in maintenance, and one message a cause.

mod effects;
mod traced;
