//! What a command is asked about: an app, a cluster, a node; and what to say of unknown ones.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::controller::view::View;
use crate::model::{AppName, ClusterName, NameError, NodeName};

/// Of the names that would have been good, more than this do not help a person any more.
const SHOWN_MAX: usize = 8;

/// An app, or one of its clusters: `APP` or `APP/CLUSTER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The app.
    pub app: AppName,
    /// The cluster; none stands for all of them.
    pub cluster: Option<ClusterName>,
}

impl FromStr for Selection {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (app, cluster) = match text.split_once('/') {
            Some((app, cluster)) => (app, Some(ClusterName::new(cluster)?)),
            None => (text, None),
        };
        Ok(Self { app: AppName::new(app)?, cluster })
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cluster {
            Some(cluster) => write!(f, "{}/{cluster}", self.app),
            None => write!(f, "{}", self.app),
        }
    }
}

impl Selection {
    /// Cuts apps down to it; `clusters` are an app's.
    ///
    /// # Errors
    /// [`Unknown`], with the names that are there.
    pub(super) fn narrow<A, C>(
        &self,
        apps: &mut BTreeMap<AppName, A>,
        clusters: impl Fn(&mut A) -> &mut BTreeMap<ClusterName, C>,
    ) -> Result<(), Unknown> {
        let Some(app) = apps.get_mut(&self.app) else {
            return Err(Unknown::new("app", &self.app, apps.keys()));
        };
        if let Some(cluster) = &self.cluster {
            let clusters = clusters(app);
            if !clusters.contains_key(cluster) {
                return Err(Unknown::new("cluster", &self, clusters.keys()));
            }
            clusters.retain(|name, _| name == cluster);
        }
        apps.retain(|name, _| *name == self.app);
        Ok(())
    }
}

/// Whether the controller has that app.
///
/// # Errors
/// [`Unknown`], with the names that are there.
pub(super) fn known_app(view: &View, app: &AppName) -> Result<(), Unknown> {
    if view.apps.contains_key(app) {
        return Ok(());
    }
    Err(Unknown::new("app", app, view.apps.keys()))
}

/// A name that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} {name}; {}", hint(known))]
pub struct Unknown {
    /// Of what.
    pub kind: &'static str,
    /// What was asked for.
    pub name: String,
    /// What could have been meant.
    pub known: Vec<String>,
}

impl Unknown {
    fn new<T: fmt::Display>(
        kind: &'static str,
        name: &impl fmt::Display,
        known: impl Iterator<Item = T>,
    ) -> Self {
        Self { kind, name: name.to_string(), known: known.map(|name| name.to_string()).collect() }
    }

    /// A node that is not there, with the names nearest to it first.
    pub(super) fn node<'a>(name: &NodeName, known: impl Iterator<Item = &'a NodeName>) -> Self {
        let mut near: Vec<(usize, &NodeName)> =
            known.map(|other| (distance(name.as_str(), other.as_str()), other)).collect();
        near.sort();
        Self::new("node", name, near.into_iter().map(|(_, name)| name))
    }
}

fn hint(known: &[String]) -> String {
    let shown = known.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match known.len().saturating_sub(SHOWN_MAX) {
        0 if known.is_empty() => "none is known yet".to_owned(),
        0 => format!("known: {shown}"),
        more => format!("known: {shown} and {more} more"),
    }
}

/// How many letters must be put in, left out or changed to make one of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, c) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, d) in other.iter().enumerate() {
            let changed = diagonal + usize::from(c != *d);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshtein() {
        for (one, other, distance) in [
            ("", "", 0),
            ("web1", "web1", 0),
            ("web1", "web11", 1),
            ("kitten", "sitting", 3),
            ("", "ab", 2),
        ] {
            assert_eq!(super::distance(one, other), distance, "{one} {other}");
            assert_eq!(super::distance(other, one), distance, "{other} {one}");
        }
    }

    #[test]
    fn selections_are_an_app_and_maybe_a_cluster() {
        for good in ["shop", "shop/alfa"] {
            assert_eq!(good.parse::<Selection>().unwrap().to_string(), good);
        }
        for bad in ["", "/alfa", "shop/", "shop/alfa/web1"] {
            assert!(bad.parse::<Selection>().is_err(), "{bad}");
        }
    }
}
