//! One app: its files decoded, its clusters' tables laid over `app.toml`, and checked against each
//! other.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::fault::{self, FAULTS_MAX, Flaw, Place, Source, Style};
use super::form::{List, Whole, hint};
use super::keys::{self, App, Cluster};
use super::read::Folder;
use super::table::{At, Reader, Slot, Table};
use crate::model::{
    AppName, BackendName, ClusterName, Commit, DesiredApp, DesiredCluster, Expect, Fault,
    LoadBalancer, NodeName, NotifyPolicy, RolloutPolicy, SettlePolicy,
};

/// Beside the clusters' files; it is always the first source, whether it is there or not.
const APP_FILE: &str = "app.toml";

type Key<'a> = Spanned<DeString<'a>>;
type Value<'a> = Spanned<DeValue<'a>>;

/// An app as far as it could be read.
pub(super) struct Draft {
    name: AppName,
    sources: Vec<Source>,
    flaws: Vec<Flaw>,
    app: App,
    clusters: BTreeMap<ClusterName, ClusterDraft>,
    /// Sources that are not whole TOML: what they lack may be there, unread.
    broken: BTreeSet<usize>,
}

struct ClusterDraft {
    file: usize,
    keys: Cluster,
    /// The file's tables over those of `app.toml`, and over the defaults.
    app: App,
}

impl Draft {
    /// Decodes the files of one folder and checks them against each other.
    pub fn new(name: AppName, folder: &Folder) -> Self {
        let mut draft = Self {
            name,
            sources: Vec::new(),
            flaws: Vec::new(),
            app: App::default(),
            clusters: BTreeMap::new(),
            broken: BTreeSet::new(),
        };
        draft.read_app_file(folder);
        for (file, content) in folder.iter().filter(|(file, _)| *file != APP_FILE) {
            draft.read_cluster_file(file, content);
        }
        draft.check_required();
        draft.check_after();
        draft.check_nodes();
        draft
    }

    /// The app, or every fault.
    pub fn finish(
        mut self,
        commit: Option<Commit>,
        style: Style,
    ) -> Result<DesiredApp, Vec<Fault>> {
        let mut clusters = BTreeMap::new();
        for (name, cluster) in std::mem::take(&mut self.clusters) {
            let file = cluster.file;
            match cluster.finish(&name) {
                Some(cluster) => _ = clusters.insert(name, cluster),
                // Cannot be, but a cluster must never be lost without a word.
                None if self.flaws.is_empty() => self.flaws.push(Flaw {
                    place: Place::whole(file),
                    message: "this file is understood, but makes no cluster; please report this \
                              as a bug of evenkeel"
                        .to_owned(),
                }),
                None => {}
            }
        }
        if self.flaws.is_empty() {
            return Ok(DesiredApp { name: self.name, clusters, commit });
        }
        Err(fault::render(&self.sources, self.flaws, style))
    }

    fn read_app_file(&mut self, folder: &Folder) {
        let missing;
        let content = match folder.get(APP_FILE) {
            Some(content) => content,
            None => {
                missing = Err("there is no such file; it says how the app of the files beside it \
                               is rolled out, and may be empty"
                    .to_owned());
                &missing
            }
        };
        let file = self.add(APP_FILE, content);
        if let Some(Err(error)) = folder.get("") {
            self.flaw(Place::whole(0), error.clone());
        }
        let mut app = App::default();
        self.decode(file, |key, value, reader| {
            if !app.read_key(key, value, reader) {
                keys::unknown_key(key, App::fields, reader);
            }
        });
        self.check_either(app.load_balancer.at().map(|at| (&at.value.expect, &at.value.nodes)));
        self.app = app;
    }

    fn read_cluster_file(&mut self, name: &str, content: &Result<Vec<u8>, String>) {
        if name.is_empty() {
            return;
        }
        let file = self.add(name, content);
        let mut own = Cluster::default();
        let mut app = App::default();
        self.decode(file, |key, value, reader| {
            if !own.read_key(key, value, reader) && !app.read_key(key, value, reader) {
                keys::unknown_key(key, keys::cluster_fields, reader);
            }
        });
        self.check_either(Some((&own.expect, &own.nodes)));
        self.check_either(app.load_balancer.at().map(|at| (&at.value.expect, &at.value.nodes)));
        match ClusterName::new(name.strip_suffix(".toml").unwrap_or(name)) {
            Ok(name) => {
                let app = lay_over(app, self.app.clone());
                self.clusters.insert(name, ClusterDraft { file, keys: own, app });
            }
            Err(error) => self.flaw(Place::whole(file), error.to_string()),
        }
    }

    /// In one file, `expect` and `nodes` of one table exclude each other.
    fn check_either(&mut self, pair: Option<(&Slot<Whole<1>>, &Slot<List<NodeName, 1>>)>) {
        if let Some((Slot::Given(expect), Slot::Given(nodes))) = pair {
            let first = fault::name_place(&self.sources, &expect.key);
            let message = format!("`nodes` and `expect` ({first}) exclude each other");
            self.flaw(nodes.key.clone(), message);
        }
    }

    /// Takes in a file's text; takes down why it has none.
    fn add(&mut self, name: &str, content: &Result<Vec<u8>, String>) -> usize {
        let file = self.sources.len();
        let (text, flaw) = match content {
            Err(error) => (String::new(), Some((Place::whole(file), error.clone()))),
            Ok(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => (text.to_owned(), None),
                Err(error) => {
                    let at = error.valid_up_to();
                    let message = "this is not UTF-8, as TOML must be".to_owned();
                    let shown = String::from_utf8_lossy(bytes).into_owned();
                    (shown, Some((Place::part(file, at..at + 1), message)))
                }
            },
        };
        self.sources.push(Source::new(format!("{}/{name}", self.name), text));
        if let Some((place, message)) = flaw {
            self.flaws.push(Flaw { place, message });
            self.broken.insert(file);
        }
        file
    }

    /// Parses a file and has every top-level key read.
    fn decode(&mut self, file: usize, mut read: impl FnMut(&Key<'_>, &Value<'_>, &mut Reader<'_>)) {
        if self.broken.contains(&file) {
            return;
        }
        let source = &self.sources[file];
        let (document, errors) = DeTable::parse_recoverable(&source.text);
        let mut flaws = Vec::new();
        let mut reader = Reader::new(file, &mut flaws);
        for (key, value) in document.get_ref() {
            read(key, value, &mut reader);
        }
        // What the parser made of a broken line is its guess, and not worth a fault of its own.
        let broken =
            errors.iter().filter_map(|error| Some(source.line_number(error.span()?.start)));
        let broken: BTreeSet<usize> = broken.collect();
        flaws.retain(|flaw| {
            flaw.place.span.is_none_or(|(start, _)| !broken.contains(&source.line_number(start)))
        });
        for error in &errors {
            self.broken.insert(file);
            let place = error.span().map_or(Place::whole(file), |span| Place::part(file, span));
            let message = format!("this is not TOML: {}", error.message());
            flaws.push(Flaw { place, message });
        }
        self.flaws.append(&mut flaws);
    }

    fn flaw(&mut self, place: Place, message: String) {
        self.flaws.push(Flaw { place, message });
    }

    /// What must be written, and what must not be written together.
    fn check_required(&mut self) {
        let mut flaws = Vec::new();
        for cluster in self.clusters.values() {
            let whole = Place::whole(cluster.file);
            let read_whole = !self.broken.contains(&cluster.file);
            if read_whole {
                for key in cluster.keys.missing() {
                    flaws.push((whole.clone(), format!("`{key}` is missing")));
                }
                if !cluster.keys.expect.is_written() && !cluster.keys.nodes.is_written() {
                    let message = "`expect` is missing: how many nodes must be there; or `nodes`: \
                                   which ones";
                    flaws.push((whole, message.to_owned()));
                }
            }
            if let Some(balancer) = cluster.app.load_balancer.at()
                && read_whole
                && !self.broken.contains(&0)
            {
                for key in balancer.value.missing() {
                    let message = format!("`{key}` is missing in this table");
                    flaws.push((balancer.key.clone(), message));
                }
            }
        }
        flaws.into_iter().for_each(|(place, message)| self.flaw(place, message));
    }

    /// Names in `after`: they must be clusters of this app, and lead to an end.
    fn check_after(&mut self) {
        let after: After<'_> = self
            .clusters
            .iter()
            .map(|(name, cluster)| (name, elements(&cluster.keys.after)))
            .collect();
        let mut flaws = Vec::new();
        for predecessor in after.values().copied().flatten() {
            let wanted = &predecessor.value;
            if !after.contains_key(wanted) {
                let hint = hint(wanted.as_str(), after.keys().map(|name| name.as_str()));
                let message = format!("`after`: this app has no cluster {wanted:?}{hint}");
                flaws.push((predecessor.place.clone(), message));
            }
        }
        for (place, circle) in circles(&after) {
            let names: Vec<&str> = circle.iter().map(|name| name.as_str()).collect();
            let message = format!("`after` goes round in a circle: {}", names.join(" after "));
            flaws.push((place.clone(), message));
        }
        flaws.into_iter().for_each(|(place, message)| self.flaw(place, message));
    }

    /// A node can be named by one cluster only.
    fn check_nodes(&mut self) {
        let mut claims: BTreeMap<&NodeName, &Place> = BTreeMap::new();
        let mut flaws = Vec::new();
        for cluster in self.clusters.values() {
            for node in elements(&cluster.keys.nodes) {
                if let Some(first) = claims.insert(&node.value, &node.place)
                    && first.file != node.place.file
                {
                    let first = fault::name_place(&self.sources, first);
                    let message =
                        format!("the node {:?} is in another cluster, too: {first}", node.value);
                    flaws.push((node.place.clone(), message));
                }
            }
        }
        flaws.into_iter().for_each(|(place, message)| self.flaw(place, message));
    }

    /// The backends that the app claims, each with the first place that does.
    fn backends(&self) -> BTreeMap<BackendName, Place> {
        let of_clusters = self.clusters.values().map(|cluster| &cluster.app);
        let mut claims = BTreeMap::new();
        for app in of_clusters.chain([&self.app]) {
            let backend = app.load_balancer.at().and_then(|table| table.value.backend.at());
            if let Some(backend) = backend {
                claims.entry(backend.value.clone()).or_insert_with(|| backend.place.clone());
            }
        }
        claims
    }
}

/// Two apps with one backend would each count the other's servers: a fault in both.
pub(super) fn refuse_shared_backends(drafts: &mut BTreeMap<AppName, Draft>) {
    let mut claims: BTreeMap<BackendName, Vec<(AppName, Place)>> = BTreeMap::new();
    for (name, draft) in drafts.iter() {
        for (backend, place) in draft.backends() {
            claims.entry(backend).or_default().push((name.clone(), place));
        }
    }
    for (backend, claims) in claims {
        for (name, place) in &claims {
            // One other says enough.
            let Some((other, other_place)) = claims.iter().find(|(other, _)| other != name) else {
                continue;
            };
            let other = fault::name_place(&drafts[other].sources, other_place);
            if let Some(draft) = drafts.get_mut(name) {
                let message =
                    format!("the backend {backend:?} belongs to another app, too: {other}");
                draft.flaw(place.clone(), message);
            }
        }
    }
}

/// What each cluster waits for.
type After<'a> = BTreeMap<&'a ClusterName, &'a [At<ClusterName>]>;

/// The elements that close a circle, with the clusters of that circle; not more than are shown.
/// Depth first, so that each element is looked at once.
fn circles<'a>(after: &After<'a>) -> Vec<(&'a Place, Vec<&'a ClusterName>)> {
    let mut circles = Vec::new();
    let mut done = BTreeSet::new();
    let mut on_path = BTreeSet::new();
    for start in after.keys() {
        let mut path: Vec<(&ClusterName, std::slice::Iter<'a, At<ClusterName>>)> = Vec::new();
        let mut next = Some(*start);
        loop {
            if let Some(cluster) = next.take()
                && done.insert(cluster)
            {
                on_path.insert(cluster);
                path.push((cluster, after.get(cluster).copied().unwrap_or_default().iter()));
            }
            let Some((cluster, predecessors)) = path.last_mut() else { break };
            let Some(predecessor) = predecessors.next() else {
                on_path.remove(cluster);
                path.pop();
                continue;
            };
            if !on_path.contains(&predecessor.value) {
                next = Some(&predecessor.value);
                continue;
            }
            let circle = path.iter().map(|(cluster, _)| *cluster);
            let circle = circle.skip_while(|cluster| **cluster != predecessor.value);
            let circle = circle.chain([&predecessor.value]).collect();
            circles.push((&predecessor.place, circle));
            if circles.len() > FAULTS_MAX {
                return circles;
            }
        }
    }
    circles
}

fn elements<T: Clone, const MIN: usize>(list: &Slot<List<T, MIN>>) -> &[At<T>] {
    list.at().map_or(&[], |list| &list.value.0)
}

/// The tables of a cluster's file over those of `app.toml`.
fn lay_over(over: App, mut under: App) -> App {
    if let (Slot::Given(over), Slot::Given(under)) = (&over.load_balancer, &mut under.load_balancer)
        && (over.value.expect.is_written() || over.value.nodes.is_written())
    {
        // The two are one question; the cluster's answer goes before either.
        under.value.expect = Slot::Absent;
        under.value.nodes = Slot::Absent;
    }
    Table::over(over, under)
}

/// A table with its defaults under it; all of them, if nobody wrote it.
fn filled<T: Table>(table: Slot<T>) -> Option<T> {
    match table {
        Slot::Absent => Some(T::defaults()),
        Slot::Faulty => None,
        Slot::Given(at) => Some(Table::over(at.value, T::defaults())),
    }
}

fn expectation(
    expect: Slot<Whole<1>>,
    nodes: Slot<List<NodeName, 1>>,
    otherwise: Option<Expect>,
) -> Option<Expect> {
    match (expect, nodes) {
        (Slot::Absent, Slot::Absent) => otherwise,
        (Slot::Given(count), Slot::Absent) => Some(Expect::Count(count.value.0)),
        (Slot::Absent, Slot::Given(nodes)) => Some(Expect::Nodes(nodes.value.into_set())),
        (Slot::Given(_), Slot::Given(_)) | (Slot::Faulty, _) | (_, Slot::Faulty) => None,
    }
}

// From keys to the model. `None` where a key has no value; then a flaw has said why.

impl ClusterDraft {
    fn finish(self, name: &ClusterName) -> Option<DesiredCluster> {
        let keys = Table::over(self.keys, Cluster::defaults());
        let select = match keys.select {
            Slot::Absent => BTreeMap::from([("cluster".to_owned(), name.to_string())]),
            Slot::Faulty => return None,
            Slot::Given(at) => at.value.0,
        };
        Some(DesiredCluster {
            revision: keys.revision.get()?,
            expect: expectation(keys.expect, keys.nodes, None)?,
            select,
            retry: keys.retry.get()?.0,
            after: keys.after.get()?.into_set(),
            hold: keys.hold.get()?.into_set(),
            paused: keys.paused.get()?,
            load_balancer: match self.app.load_balancer {
                Slot::Absent => None,
                written => Some(load_balancer(filled(written)?)?),
            },
            rollout: rollout(filled(self.app.rollout)?)?,
            settle: settle(filled(self.app.settle)?)?,
            notify: notify(filled(self.app.notify)?)?,
        })
    }
}

fn load_balancer(keys: keys::LoadBalancer) -> Option<LoadBalancer> {
    Some(LoadBalancer {
        backend: keys.backend.get()?,
        expect: expectation(keys.expect, keys.nodes, Some(Expect::Count(1)))?,
        server: keys.server.get()?,
        drain_ms: keys.drain.get()?.0,
        min_ready: keys.min_ready.get()?.0,
    })
}

fn rollout(keys: keys::Rollout) -> Option<RolloutPolicy> {
    Some(RolloutPolicy {
        take_out: keys.take_out.get()?,
        batch: keys.batch.get()?.0,
        tries: keys.tries.get()?.0,
        upgrade_timeout_ms: keys.upgrade_timeout.get()?.0,
        on_failure: keys.on_failure.get()?,
        max_failed: keys.max_failed.get()?.0,
        max_missing: keys.max_missing.get()?.0,
    })
}

fn settle(keys: keys::Settle) -> Option<SettlePolicy> {
    Some(SettlePolicy {
        checks: keys.checks.get()?.into_set(),
        interval_ms: keys.interval.get()?.0,
        timeout_ms: keys.timeout.get()?.0,
        soak_ms: keys.soak.get()?.0,
    })
}

fn notify(keys: keys::Notify) -> Option<NotifyPolicy> {
    Some(NotifyPolicy {
        recipients: keys.recipients.get()?.into_set(),
        on: keys.on.get()?.into_set(),
    })
}
