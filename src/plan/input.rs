//! What the planner is given, and what it gives back.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{
    AppName, Assignment, Cause, ClusterLedger, ClusterName, Condition, Decision, DesiredCluster,
    Epoch, EventKind, NodeName, Presence, Report, Revision, RolloutId, Standing, Wall,
};

/// Everything one call of the planner looks at: one app, with ALL its clusters and nodes.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The app.
    pub app: &'a AppName,
    /// In whose name assignments are made.
    pub epoch: &'a Epoch,
    /// What the files declare.
    pub desired: &'a BTreeMap<ClusterName, Desire>,
    /// What agents report.
    pub nodes: &'a BTreeMap<NodeName, Observed>,
    /// What was asked of them last.
    pub assigned: &'a BTreeMap<NodeName, Assigned>,
    /// What is remembered.
    pub ledgers: &'a BTreeMap<ClusterName, ClusterLedger>,
    /// To show, never to decide by.
    pub wall: Wall,
}

/// A cluster's settings, and how far to trust them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desire {
    /// The settings.
    pub settings: DesiredCluster,
    /// How far the files behind them can be trusted.
    pub standing: Standing,
}

/// A node, as heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Whether it is there.
    pub presence: Presence,
    /// Its last report. Proves something about the present only with [`Presence::Present`].
    pub report: Option<Arc<Report>>,
    /// How long ago that report arrived, in milliseconds: durations in it have grown by that.
    pub report_age_ms: u64,
}

/// An assignment, as last published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The assignment.
    pub assignment: Assignment,
    /// How long ago this controller published or found it, in milliseconds.
    pub age_ms: u64,
}

/// What to do now, and why. It says nothing of later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Assignments that change. Any subset of them, in any order, is safe to publish.
    pub assignments: BTreeMap<NodeName, Assignment>,
    /// A decision for every node that has to do with the app.
    pub nodes: BTreeMap<NodeName, NodePlan>,
    /// The state of every cluster.
    pub clusters: BTreeMap<ClusterName, ClusterPlan>,
    /// Ledgers that change; to be kept before any assignment is published.
    pub ledgers: BTreeMap<ClusterName, ClusterLedger>,
    /// What has come about.
    pub events: Vec<PlanEvent>,
    /// In how many milliseconds to plan again though nothing changes.
    pub look_again_ms: Option<u64>,
}

/// One node in a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// The cluster that it belongs to.
    pub cluster: Option<ClusterName>,
    /// What it should run now.
    pub goal: Option<Revision>,
    /// What is done about it, and why.
    pub decision: Decision,
}

/// One cluster in a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPlan {
    /// The revision that the files declare.
    pub target: Revision,
    /// The rollout that brings it there, or would.
    pub rollout: RolloutId,
    /// In one word.
    pub phase: Phase,
    /// Who must be there.
    pub expected: usize,
    /// Members that are there.
    pub present: usize,
    /// Members at their target and in service.
    pub converged: usize,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// What somebody should know, while it lasts, in words.
    pub causes: BTreeMap<Cause, String>,
}

/// The state of a cluster in one word; the exit codes of `evenkeel status` follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Every expected node is at its target and in service.
    Converged,
    /// Something is being done, or waited for.
    Progressing,
    /// Nothing leads on from here by itself.
    Degraded,
}

/// Something that has come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanEvent {
    /// Where.
    pub cluster: ClusterName,
    /// To whom.
    pub node: Option<NodeName>,
    /// What.
    pub kind: EventKind,
}
