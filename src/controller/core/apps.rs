//! One app: its desired state, what was asked of its nodes, its ledgers, and its plans.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    AppName, Assignment, Cause, ClusterLedger, ClusterName, Decision, DesiredApp, Epoch, EventKind,
    Mono, NodeName, Now, Revision, RolloutId, Standing, Wait, Wall,
};
use crate::plan::{self, Assigned, Desire, Plan, Telling};

use super::records::{Because, Moved, Round, of_desired};
use super::{Core, Effect, Publication, earliest, publish};
use crate::controller::store::AppFile;

/// How long to wait before planning again when the disk did not take what must be kept, in
/// milliseconds: long enough not to hammer a full disk, short enough to go on soon when it is freed.
const DISK_RETRY_MS: u64 = 5_000;

/// How long a cause that somebody was told of must be over before that is told, too, at most, in
/// milliseconds: longer than all agents take to answer a controller that has just started.
const RECOVERY_MS_MAX: u64 = 10_000;

/// One app.
#[derive(Debug, Clone, Default)]
pub struct App {
    /// The claim under which its assignments are made; none before the first.
    pub epoch: Option<Epoch>,
    /// The settings in force, with their standing; vanished clusters stay until they are forgotten.
    pub desired: BTreeMap<ClusterName, Desire>,
    /// The commit behind them.
    pub commit: Option<crate::model::Commit>,
    /// What was asked last, and when.
    pub assigned: BTreeMap<NodeName, Asked>,
    /// What is remembered.
    pub ledgers: BTreeMap<ClusterName, ClusterLedger>,
    /// The last plan.
    pub plan: Plan,
    /// Since when each decision holds.
    pub since: BTreeMap<NodeName, (Decision, Wall)>,
    /// Clusters that the last readable files did not have any more.
    gone: BTreeSet<ClusterName>,
    /// Since when each cause lasts.
    causes: BTreeMap<(ClusterName, Cause), Mono>,
    /// Since when each cause that somebody was told of does not last any more.
    ended: BTreeMap<(ClusterName, Cause), Mono>,
    /// What to go back to if the disk does not take the last change.
    before: Option<(BTreeMap<ClusterName, ClusterLedger>, BTreeMap<NodeName, Asked>)>,
    /// Not to be planned for before this.
    rest_until: Option<Mono>,
    /// The desired state differs from what is on disk.
    unkept: bool,
}

/// What was asked of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The assignment.
    pub assignment: Assignment,
    /// When it was published or found.
    pub at: Mono,
    /// It was found under somebody else's signature, or under none, and its node does not say that it obeys it. It counts,
    /// but is not given again as it is: that would put our signature under it.
    pub foreign: bool,
}

impl App {
    /// As the disk remembers it. Nothing of it counts as current before the files have been read.
    pub fn restored(file: AppFile) -> Self {
        let desired = file.desired.map_or_else(BTreeMap::new, |desired| {
            desired
                .clusters
                .into_iter()
                .map(|(name, settings)| (name, Desire { settings, standing: Standing::Vanished }))
                .collect()
        });
        Self { desired, gone: file.gone, ledgers: file.ledgers, ..Self::default() }
    }

    /// The highest epoch number that its ledgers were written with.
    pub fn epoch_number_kept(&self) -> u64 {
        self.ledgers.values().map(|ledger| ledger.epoch).max().unwrap_or(0)
    }

    /// The disk has taken everything until now.
    pub fn begin_round(&mut self) {
        self.before = None;
    }

    /// Nothing is to be changed for a while: the disk did not take the last change.
    pub fn rests(&self, now: Mono) -> bool {
        self.rest_until.is_some_and(|until| until > now)
    }

    /// The disk did not take it: back to what it was when the round began.
    pub fn undo(&mut self, now: Mono) {
        if let Some((ledgers, assigned)) = self.before.take() {
            self.ledgers = ledgers;
            self.assigned = assigned;
        }
        self.unkept = true;
        self.rest_until = Some(now.plus_ms(DISK_RETRY_MS));
    }

    /// What was asked last, as the planner is told of it.
    pub fn assigned(&self, now: Mono) -> BTreeMap<NodeName, Assigned> {
        let assigned = |asked: &Asked| Assigned {
            assignment: asked.assignment.clone(),
            age_ms: now.since_ms(asked.at),
        };
        self.assigned.iter().map(|(name, asked)| (name.clone(), assigned(asked))).collect()
    }

    /// The app's files are faulty: what they last declared stays in force, and what they had
    /// given up before stays given up.
    fn keep_last_good(&mut self, fault: &str) -> bool {
        let mut changed = false;
        for (name, desire) in &mut self.desired {
            let standing = if self.gone.contains(name) {
                Standing::Vanished
            } else {
                Standing::LastGood(fault.to_owned())
            };
            changed |= desire.standing != standing;
            desire.standing = standing;
        }
        changed
    }

    fn vanish(&mut self) -> bool {
        let mut changed = false;
        for desire in self.desired.values_mut() {
            changed |= desire.standing != Standing::Vanished;
            desire.standing = Standing::Vanished;
        }
        changed
    }

    fn take(&mut self, desired: DesiredApp) -> bool {
        let mut changed = false;
        self.gone.clear();
        for (name, desire) in &mut self.desired {
            if !desired.clusters.contains_key(name) {
                changed |= desire.standing != Standing::Vanished;
                desire.standing = Standing::Vanished;
                self.gone.insert(name.clone());
            }
        }
        for (name, settings) in desired.clusters {
            let desire = Desire { settings, standing: Standing::Current };
            changed |= self.desired.get(&name) != Some(&desire);
            self.desired.insert(name, desire);
        }
        self.commit = desired.commit;
        changed
    }

    fn file(&self, name: &AppName) -> AppFile {
        let clusters =
            self.desired.iter().map(|(name, d)| (name.clone(), d.settings.clone())).collect();
        AppFile {
            app: name.clone(),
            desired: Some(DesiredApp { name: name.clone(), clusters, commit: self.commit.clone() }),
            gone: self.gone.clone(),
            ledgers: self.ledgers.clone(),
        }
    }
}

impl Core {
    /// Takes over what the directory says. Apps and clusters that are gone from it stay, as vanished.
    pub(super) fn desired(
        &mut self,
        now: Now,
        mut read: BTreeMap<AppName, Result<DesiredApp, String>>,
    ) -> Vec<Effect> {
        for name in read.keys() {
            self.apps.entry(name.clone()).or_default();
        }
        // A directory with nothing in it, or none, is no desired state: its path may be wrong, or its
        // checkout is still to come.
        self.desired_read |= !self.apps.is_empty();
        let mut effects = Vec::new();
        let names: Vec<AppName> = self.apps.keys().cloned().collect();
        for name in names {
            let Some(app) = self.apps.get_mut(&name) else { continue };
            let before = app.desired.clone();
            let (changed, kind) = match read.remove(&name) {
                Some(Ok(desired)) => {
                    let changed = app.take(desired);
                    app.unkept |= changed;
                    (changed, EventKind::DesiredChanged)
                }
                Some(Err(fault)) => {
                    (app.keep_last_good(&fault), EventKind::DesiredInvalid { fault })
                }
                None => (app.vanish(), EventKind::DesiredVanished),
            };
            if changed {
                let because = match &kind {
                    EventKind::DesiredInvalid { fault } => {
                        Because { cause: fault.clone(), ..of_desired(&before, app) }
                    }
                    _ => of_desired(&before, app),
                };
                effects.push(self.tell(now, &name, None, None, kind, because));
            }
        }
        effects
    }

    /// Takes over an assignment that is newer than what we remember; says whether it is what we
    /// hold now, as we would publish it.
    pub(super) fn adopt(&mut self, now: Now, assignment: &Assignment, signed_here: bool) -> bool {
        self.peers.saw_epoch(&assignment.app, &assignment.stamp.epoch);
        let app = self.apps.entry(assignment.app.clone()).or_default();
        if let Some(known) = app.assigned.get_mut(&assignment.node)
            && known.assignment.stamp >= assignment.stamp
        {
            let same = known.assignment == *assignment;
            known.foreign &= !(same && signed_here);
            return same && (signed_here || known.foreign);
        }
        let foreign = !signed_here;
        let asked = Asked { assignment: assignment.clone(), at: now.mono, foreign };
        app.assigned.insert(assignment.node.clone(), asked);
        true
    }

    /// Takes over a ledger that is newer than what we remember; says whether it is what we hold
    /// now.
    pub(super) fn adopt_ledger(
        &mut self,
        app: &AppName,
        cluster: &ClusterName,
        ledger: ClusterLedger,
    ) -> bool {
        let app = self.apps.entry(app.clone()).or_default();
        let order = |ledger: &ClusterLedger| (ledger.epoch, ledger.sequence);
        if let Some(known) = app.ledgers.get(cluster)
            && order(known) >= order(&ledger)
        {
            return *known == ledger;
        }
        app.ledgers.insert(cluster.clone(), ledger);
        true
    }

    /// Plans for one app; says what follows, and when to look again.
    pub(super) fn plan_app(&mut self, now: Now, name: &AppName) -> (Vec<Effect>, Option<Mono>) {
        let Some(app) = self.apps.get_mut(name) else { return (Vec::new(), None) };
        let Some(epoch) = app.epoch.clone() else { return (Vec::new(), None) };
        if let Some(until) = app.rest_until.filter(|until| *until > now.mono) {
            return (Vec::new(), Some(until));
        }
        app.rest_until = None;
        let observed = self.observed(now.mono);
        let Some(app) = self.apps.get_mut(name) else { return (Vec::new(), None) };
        let assigned = app.assigned(now.mono);
        let mut plan = plan::plan(plan::Input {
            app: name,
            epoch: &epoch,
            desired: &app.desired,
            nodes: &observed,
            assigned: &assigned,
            ledgers: &app.ledgers,
            wall: now.wall,
        });
        let mut ledgers = std::mem::take(&mut plan.ledgers);
        let mut due = plan.look_again_ms.map(|ms| now.mono.plus_ms(ms));
        let page = self.setup.page.as_deref();
        due = earliest(due, app.tell_people(now, (name, page), &plan, &mut ledgers));
        let events = std::mem::take(&mut plan.events);
        let assignments = std::mem::take(&mut plan.assignments);
        let moved = app.moved(now, &plan);
        let (told, actions) = {
            let round = Round {
                name,
                app,
                plan: &plan,
                observed: &observed,
                ledgers: &ledgers,
                events: &events,
            };
            (round.told(moved), round.actions(now, &assignments))
        };
        app.plan = plan;
        let mut effects = app.change(now, name, epoch.number, ledgers, assignments);
        for (event, because) in events.into_iter().zip(told.events) {
            let (cluster, node) = (Some(event.cluster), event.node);
            effects.push(self.tell(now, name, cluster, node, event.kind, because));
        }
        for (moved, because) in told.decisions {
            effects.push(self.tell_decision(now, name, moved, because));
        }
        effects.extend(actions.into_iter().map(|record| Effect::Log(Box::new(record))));
        (effects, due)
    }
}

impl App {
    /// Takes over new ledgers and assignments: kept first, then published.
    fn change(
        &mut self,
        now: Now,
        name: &AppName,
        epoch: u64,
        ledgers: BTreeMap<ClusterName, ClusterLedger>,
        assignments: BTreeMap<NodeName, Assignment>,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let keep = !ledgers.is_empty() || self.unkept;
        if keep && self.before.is_none() {
            self.before = Some((self.ledgers.clone(), self.assigned.clone()));
        }
        let mut published = Vec::new();
        for (cluster, mut ledger) in ledgers {
            let sequence = self.ledgers.get(&cluster).map_or(0, |known| known.sequence);
            ledger.epoch = epoch;
            ledger.sequence = sequence + 1;
            let publication = Publication::Ledger(name.clone(), cluster.clone(), ledger.clone());
            published.push(publish(publication));
            self.ledgers.insert(cluster, ledger);
        }
        for (node, assignment) in assignments {
            published.push(publish(Publication::Assignment(assignment.clone())));
            self.assigned.insert(node, Asked { assignment, at: now.mono, foreign: false });
        }
        if keep {
            self.unkept = false;
            effects.push(Effect::Keep(Box::new(self.file(name))));
        }
        effects.extend(published);
        effects
    }

    /// Takes over one ledger: kept first, then published.
    pub(super) fn keep_ledger(
        &mut self,
        now: Now,
        name: &AppName,
        epoch: u64,
        cluster: &ClusterName,
        ledger: ClusterLedger,
    ) -> Vec<Effect> {
        self.change(now, name, epoch, BTreeMap::from([(cluster.clone(), ledger)]), BTreeMap::new())
    }

    /// Whether a cause has lasted for long enough to tell somebody.
    pub fn is_ripe(&self, now: Mono, cluster: &ClusterName, cause: Cause) -> bool {
        let since = self.causes.get(&(cluster.clone(), cause));
        since.is_some_and(|since| ripe_at(*since, cause) <= now)
    }

    /// Books the messages that are due; says when the next cause is ripe.
    fn tell_people(
        &mut self,
        now: Now,
        (name, page): (&AppName, Option<&str>),
        plan: &Plan,
        ledgers: &mut BTreeMap<ClusterName, ClusterLedger>,
    ) -> Option<Mono> {
        let lasting = |cluster: &ClusterName, cause: &Cause| {
            plan.clusters.get(cluster).is_some_and(|state| state.causes.contains_key(cause))
        };
        self.causes.retain(|(cluster, cause), _| lasting(cluster, cause));
        let mut due = None;
        for (cluster, state) in &plan.clusters {
            let mut ripe = BTreeMap::new();
            for (cause, text) in &state.causes {
                let since = *self.causes.entry((cluster.clone(), *cause)).or_insert(now.mono);
                let at = ripe_at(since, *cause);
                if at <= now.mono {
                    ripe.insert(*cause, text.clone());
                } else {
                    due = earliest(due, Some(at));
                }
            }
            let ended = self.over(now, cluster, &state.causes, &mut due);
            let old = self.ledgers.get(cluster);
            let mut ledger = ledgers.get(cluster).or(old).cloned().unwrap_or_default();
            let completed = plan.events.iter().find_map(|event| match &event.kind {
                EventKind::Converged { rollout, .. } if event.cluster == *cluster => {
                    had_begun(old, rollout).then_some(rollout)
                }
                _ => None,
            });
            let before: Option<&Revision> =
                old.and_then(|ledger| ledger.converged.as_ref()).map(|c| &c.revision);
            let completed: Option<(&RolloutId, Option<&Revision>)> =
                completed.map(|rollout| (rollout, before));
            let Some(desire) = self.desired.get(cluster) else { continue };
            let telling = Telling {
                app: name,
                cluster,
                settings: &desire.settings,
                plan: state,
                ripe: &ripe,
                ended: &ended,
                completed,
                commit: self.commit.as_ref(),
                page,
                wall: now.wall,
            };
            if telling.tell(&mut ledger) {
                ledgers.insert(cluster.clone(), ledger);
            }
        }
        due
    }

    /// The causes that somebody was told of and that have been over for long enough to be believed.
    ///
    /// What cannot be seen is not over: after a restart, and while an agent is silent, what blocked
    /// a node is out of sight for a moment.
    fn over(
        &mut self,
        now: Now,
        cluster: &ClusterName,
        lasting: &BTreeMap<Cause, String>,
        due: &mut Option<Mono>,
    ) -> BTreeSet<Cause> {
        let told = self.ledgers.get(cluster).map(|ledger| &ledger.told);
        let hidden = |cause: Cause| match cause {
            Cause::Ambiguous | Cause::ForeignMaintenance | Cause::Stuck => {
                lasting.contains_key(&Cause::Unreachable)
            }
            Cause::Completed
            | Cause::Failed
            | Cause::Unreachable
            | Cause::DesiredInvalid
            | Cause::DesiredVanished => false,
        };
        let absent: BTreeSet<Cause> = told
            .into_iter()
            .flat_map(BTreeMap::keys)
            .copied()
            .filter(|cause| !lasting.contains_key(cause) && !hidden(*cause))
            .collect();
        self.ended.retain(|(of, cause), _| of != cluster || absent.contains(cause));
        let mut over = BTreeSet::new();
        for cause in absent {
            let since = *self.ended.entry((cluster.clone(), cause)).or_insert(now.mono);
            let at = since.plus_ms(cause.patience_ms().min(RECOVERY_MS_MAX));
            if at <= now.mono {
                over.insert(cause);
            } else {
                *due = earliest(*due, Some(at));
            }
        }
        over
    }

    /// The decisions that are not what they were; what only moves a deadline is no change.
    fn moved(&mut self, now: Now, plan: &Plan) -> Vec<Moved> {
        self.since.retain(|node, _| plan.nodes.contains_key(node));
        let mut moved = Vec::new();
        for (node, state) in &plan.nodes {
            let decision = timeless(&state.decision);
            let known = self.since.get(node).map(|(known, _)| known);
            if known == Some(&decision) {
                continue;
            }
            moved.push(Moved {
                node: node.clone(),
                cluster: state.cluster.clone(),
                before: known.cloned(),
                after: state.decision.clone(),
            });
            self.since.insert(node.clone(), (decision, now.wall));
        }
        moved
    }
}

/// When a cause has lasted for long enough to tell somebody.
fn ripe_at(since: Mono, cause: Cause) -> Mono {
    since.plus_ms(cause.patience_ms())
}

fn had_begun(ledger: Option<&ClusterLedger>, rollout: &RolloutId) -> bool {
    ledger.and_then(|l| l.rollout.as_ref()).is_some_and(|begun| begun.id == *rollout)
}

/// A decision without its deadline, which moves with every look, and without the counts of others,
/// which move with every one of them.
fn timeless(decision: &Decision) -> Decision {
    match decision {
        Decision::Wait { what: Wait::Others { .. }, .. } => {
            Decision::Wait { what: Wait::Others { unsettled: 0 }, until_ms: None }
        }
        Decision::Wait { what: Wait::Echo { .. }, .. } => {
            Decision::Wait { what: Wait::Echo { from: Vec::new(), refusal: None }, until_ms: None }
        }
        Decision::Wait { what: Wait::Batch { batch, .. }, .. } => {
            let what = Wait::Batch { upgrading: *batch, batch: *batch };
            Decision::Wait { what, until_ms: None }
        }
        Decision::Wait { what, .. } => Decision::Wait { what: what.clone(), until_ms: None },
        Decision::Act(_) | Decision::Blocked(_) | Decision::Done(_) => decision.clone(),
    }
}
