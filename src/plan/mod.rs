//! Floor 1: what decides, and the traits through which decisions reach the world. Pure: no IO, no
//! logging, no clock; everything comes in as values and goes out as values.

mod budget;
mod conditions;
mod drafts;
mod forward;
mod gate;
mod input;
mod planner;
pub mod ports;
mod rollout;
mod telling;
mod traffic;
mod verdict;
mod view;

pub use forward::{Ending, Step, World};
pub use input::{Assigned, ClusterPlan, Desire, Input, NodePlan, Observed, Phase, Plan, PlanEvent};
pub use planner::plan;
pub use telling::Telling;
