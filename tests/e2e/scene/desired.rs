//! The desired files of a fleet, and the repository that they are committed to.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::{Scene, write};
use crate::parts::process::program;

fn git(folder: &Path, arguments: &[&str]) {
    let mut command = Command::new(program("git", "git"));
    command.arg("-C").arg(folder).args(["-c", "user.name=t", "-c", "user.email=t@t"]);
    assert!(command.args(arguments).status().expect("run git").success(), "{arguments:?}");
}

impl Scene {
    pub(super) fn write_app(&self) {
        let mut tables: BTreeMap<&str, Vec<String>> = BTreeMap::from([
            (
                "load_balancer",
                vec![
                    "backend = \"app\"".to_owned(),
                    format!("expect = {}", self.plot.lbs),
                    "min_ready = \"40%\"".to_owned(),
                ],
            ),
            ("rollout", vec![format!("batch = {}", self.plot.batch)]),
            ("settle", vec!["interval = \"200ms\"".to_owned()]),
            ("notify", vec!["recipients = [\"oncall\"]".to_owned()]),
        ]);
        for (table, line) in &self.plot.app {
            let lines = tables.get_mut(table).expect("a table");
            let key = line.split('=').next().unwrap_or_default();
            lines.retain(|old| old.split('=').next() != Some(key));
            lines.push((*line).to_owned());
        }
        let text: String = tables
            .into_iter()
            .map(|(table, lines)| format!("[{table}]\n{}\n\n", lines.join("\n")))
            .collect();
        write(&self.folder.join("desired/shop/app.toml"), &text);
    }

    /// Writes a cluster's file: revision 1, and what `more` says. `more` may set another revision.
    pub fn write_cluster(&self, cluster: &str, more: &str) {
        let size =
            self.plot.clusters.iter().find(|(name, _)| *name == cluster).expect("a cluster").1;
        let revision = if more.contains("revision =") { "" } else { "revision = \"1\"\n" };
        let expect =
            if more.contains("expect =") { String::new() } else { format!("expect = {size}\n") };
        self.write_desired(cluster, &format!("{revision}{expect}{more}\n"));
    }

    /// Writes a file of another app.
    pub fn write_other(&self, file: &str, text: &str) {
        write(&self.folder.join("desired").join(file), text);
    }

    /// Writes a cluster's file, whatever it says.
    pub fn write_desired(&self, cluster: &str, text: &str) {
        write(&self.folder.join(format!("desired/shop/{cluster}.toml")), text);
    }

    /// Commits the desired files as they are; the first time into a new repository.
    pub fn commit(&self, subject: &str) {
        let desired = self.folder.join("desired");
        git(&desired, &["init", "-q"]);
        git(&desired, &["add", "."]);
        git(&desired, &["commit", "-q", "-m", subject]);
    }

    /// Sets a file's text in a commit elsewhere, and pulls that.
    pub fn pull(&self, file: &str, text: &str, subject: &str) {
        let (desired, clone) = (self.folder.join("desired"), self.folder.join("clone"));
        let path = clone.to_str().expect("a path");
        git(&desired, &["clone", "-q", ".", path]);
        write(&clone.join(file), text);
        git(&clone, &["commit", "-q", "-a", "-m", subject]);
        git(&desired, &["pull", "-q", "--ff-only", path]);
    }
}
