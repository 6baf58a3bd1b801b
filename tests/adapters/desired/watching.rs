//! The watcher, on a real file system, with what editors, git and Kubernetes do there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use evenkeel::desired::{Pace, Snapshot, Watcher};
use evenkeel::model::DesiredApp;

use super::{directory, git, write_files};
use crate::parts::process::DEADLINE;

/// A directory `desired` with the app `shop` at revision 1, and a watcher that has told of it.
struct Scene {
    root: tempfile::TempDir,
    watcher: Watcher,
}

fn shop(revision: &str) -> String {
    format!("-- desired/shop/app.toml --\n-- desired/shop/alfa.toml --\n{}", alfa(revision))
}

fn alfa(revision: &str) -> String {
    format!("revision = \"{revision}\"\nexpect = 5\n")
}

impl Scene {
    async fn new() -> Self {
        Self::of(directory(&shop("1"))).await
    }

    async fn of(root: tempfile::TempDir) -> Self {
        Self::at_pace(root, pace()).await
    }

    /// With readings so far apart that two equal ones cannot be what makes it tell.
    async fn that_waits_for_writers() -> Self {
        let pace = Pace { equal_reads_apart: Duration::from_secs(3600), ..pace() };
        Self::at_pace(directory(&shop("1")), pace).await
    }

    async fn at_pace(root: tempfile::TempDir, pace: Pace) -> Self {
        let mut watcher = Watcher::with_pace(&root.path().join("desired"), pace).unwrap();
        let first = next(&mut watcher).await;
        assert_eq!(revision(&first), "1");
        Self { root, watcher }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join(path)
    }

    /// Waits until the watcher tells of this revision; of what comes before, at most of faults.
    async fn sees(&mut self, wanted: &str) -> Snapshot {
        self.sees_that(wanted, |snapshot| revision(snapshot) == wanted).await
    }

    async fn sees_that(&mut self, what: &str, is: impl Fn(&Snapshot) -> bool) -> Snapshot {
        loop {
            let waiting = tokio::time::timeout(DEADLINE, self.watcher.next());
            let snapshot =
                waiting.await.unwrap_or_else(|_| panic!("the watcher does not tell of {what}"));
            if is(&snapshot) {
                return snapshot;
            }
        }
    }

    /// Holds if the watcher tells of nothing for a while. A right watcher never fails this.
    async fn sees_nothing(&mut self) {
        let waiting = tokio::time::timeout(Duration::from_millis(200), self.watcher.next());
        if let Ok(snapshot) = waiting.await {
            panic!("the watcher tells of {snapshot:#?}");
        }
    }
}

/// The periodic look is out of reach, so that the tests see what events do.
fn pace() -> Pace {
    Pace { look_every: Duration::from_secs(3600), ..Pace::default() }
}

async fn next(watcher: &mut Watcher) -> Snapshot {
    tokio::time::timeout(DEADLINE, watcher.next()).await.expect("a snapshot")
}

fn app(snapshot: &Snapshot) -> Option<&DesiredApp> {
    snapshot.apps.values().next().and_then(|app| app.as_ref().ok())
}

/// The revision of the only cluster, or what stands in its place.
fn revision(snapshot: &Snapshot) -> String {
    match snapshot.apps.values().next() {
        None if snapshot.faults.is_empty() => "nothing".to_owned(),
        None => "no directory".to_owned(),
        Some(Err(faults)) => format!("fault: {}", faults[0].message),
        Some(Ok(app)) => match app.clusters.values().next() {
            Some(cluster) => cluster.revision.to_string(),
            None => "no cluster".to_owned(),
        },
    }
}

/// A directory with the app `shop` at revision 1, in a commit.
fn committed(subject: &str) -> tempfile::TempDir {
    let root = directory(&shop("1"));
    git(root.path(), &["init", "-q", "-b", "main"]);
    git(root.path(), &["add", "."]);
    git(root.path(), &["commit", "-q", "-m", subject]);
    root
}

fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, file).unwrap();
}

/// What the watcher has to tell, if it need not wait for it.
async fn at_once(watcher: &mut Watcher) -> Option<Snapshot> {
    tokio::select! {
        biased;
        snapshot = watcher.next() => Some(snapshot),
        () = std::future::ready(()) => None,
    }
}

#[test]
fn what_its_caller_did_not_wait_for_is_there_when_it_comes_back() {
    let mut one_thread = tokio::runtime::Builder::new_current_thread();
    let runtime = one_thread.enable_time().max_blocking_threads(1).build().unwrap();
    let root = directory(&shop("1"));
    let mut watcher = Watcher::with_pace(&root.path().join("desired"), pace()).unwrap();
    runtime.block_on(async {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || held.recv());
        assert!(at_once(&mut watcher).await.is_none(), "nobody has looked yet");
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        // What is begun on the only thread now ends after the look.
        tokio::task::spawn_blocking(|| {}).await.unwrap();
        let snapshot = at_once(&mut watcher).await.expect("what was seen meanwhile");
        assert_eq!(revision(&snapshot), "1");
    });
}

#[tokio::test]
async fn a_rename_over() {
    let mut scene = Scene::new().await;
    replace(&scene.path("desired/shop/alfa.toml"), &alfa("2"));
    scene.sees("2").await;
    // From outside: the watcher sees but half of the rename.
    fs::write(scene.path("alfa.toml"), alfa("3")).unwrap();
    fs::rename(scene.path("alfa.toml"), scene.path("desired/shop/alfa.toml")).unwrap();
    scene.sees("3").await;
}

#[tokio::test]
async fn a_write_in_place() {
    let mut scene = Scene::new().await;
    fs::write(scene.path("desired/shop/alfa.toml"), alfa("2")).unwrap();
    scene.sees("2").await;
}

#[tokio::test]
async fn an_editor_that_keeps_a_backup() {
    let mut scene = Scene::that_waits_for_writers().await;
    let file = scene.path("desired/shop/alfa.toml");
    fs::write(scene.path("desired/shop/.alfa.toml.swp"), "swap").unwrap();
    fs::rename(&file, scene.path("desired/shop/alfa.toml~")).unwrap();
    scene.sees_nothing().await;
    fs::write(&file, alfa("2")).unwrap();
    fs::remove_file(scene.path("desired/shop/alfa.toml~")).unwrap();
    assert_eq!(revision(&next(&mut scene.watcher).await), "2");
}

#[tokio::test]
async fn a_file_that_is_being_written_is_waited_for() {
    use std::io::Write;
    let mut scene = Scene::that_waits_for_writers().await;
    let mut file = fs::File::create(scene.path("desired/shop/alfa.toml")).unwrap();
    file.write_all(b"revision = \"2").unwrap();
    scene.sees_nothing().await;
    file.write_all(b"\"\nexpect = 5\n").unwrap();
    drop(file);
    assert_eq!(revision(&next(&mut scene.watcher).await), "2");
}

#[tokio::test]
async fn a_half_written_file_is_mended() {
    use std::io::Write;
    let mut scene = Scene::new().await;
    let mut file = fs::File::create(scene.path("desired/shop/alfa.toml")).unwrap();
    file.write_all(b"revision = \"2").unwrap();
    // Its writer takes so long that nobody can tell it from one that died: a fault.
    let snapshot = scene.sees_that("a fault", |snapshot| app(snapshot).is_none()).await;
    let fault = snapshot.all_faults().next().expect("a fault");
    assert_eq!((fault.file.as_str(), fault.line), ("shop/alfa.toml", 1));
    file.write_all(b"\"\nexpect = 5\n").unwrap();
    drop(file);
    scene.sees("2").await;
}

#[tokio::test]
async fn a_checkout_of_another_branch() {
    let root = committed("One");
    git(root.path(), &["checkout", "-q", "-b", "next"]);
    write_files(root.path(), &shop("2"));
    write_files(
        root.path(),
        "-- desired/blog/app.toml --\n-- desired/blog/main.toml --\nrevision = \"2\"\nexpect = 1\n",
    );
    git(root.path(), &["add", "."]);
    git(root.path(), &["commit", "-q", "-m", "Two"]);
    git(root.path(), &["checkout", "-q", "main"]);

    let mut scene = Scene::of(root).await;
    git(scene.root.path(), &["checkout", "-q", "next"]);
    let subject = |snapshot: &Snapshot| {
        app(snapshot).and_then(|app| app.commit.as_ref()).map(|commit| commit.subject.clone())
    };
    let two = |snapshot: &Snapshot| {
        snapshot.apps.len() == 2
            && revision(snapshot) == "2"
            && subject(snapshot).as_deref() == Some("Two")
    };
    scene.sees_that("the branch next", two).await;
    git(scene.root.path(), &["checkout", "-q", "main"]);
    let one = |snapshot: &Snapshot| {
        snapshot.apps.len() == 1
            && revision(snapshot) == "1"
            && subject(snapshot).as_deref() == Some("One")
    };
    scene.sees_that("the branch main", one).await;
    // The same files in another commit are news, too.
    git(scene.root.path(), &["commit", "-q", "--allow-empty", "-m", "Three"]);
    scene.sees_that("a commit", |snapshot| subject(snapshot).as_deref() == Some("Three")).await;
}

/// Git lets go of its lock when the files are in place, and only then says which commit they are of.
#[tokio::test]
async fn what_is_pulled_comes_with_its_commit() {
    let root = committed("1");
    let clone = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().to_str().unwrap(), clone.path().to_str().unwrap());
    git(root.path(), &["clone", "-q", from, to]);

    let mut scene = Scene::of(root).await;
    for number in 2..22 {
        let subject = number.to_string();
        write_files(clone.path(), &shop(&subject));
        git(clone.path(), &["commit", "-q", "-a", "-m", &subject]);
        let folder = scene.root.path().to_owned();
        let to = to.to_owned();
        let pull =
            tokio::task::spawn_blocking(move || git(&folder, &["pull", "-q", "--ff-only", &to]));
        let snapshot = scene.sees(&subject).await;
        let commit = app(&snapshot).and_then(|app| app.commit.clone()).expect("a commit");
        assert_eq!((commit.subject, commit.modified), (subject, false));
        pull.await.unwrap();
    }
}

/// Nor does it wait for a commit that does not come.
#[tokio::test]
async fn what_is_staged_is_seen_without_a_commit() {
    let root = committed("One");
    let mut scene = Scene::of(root).await;
    write_files(scene.root.path(), &shop("2"));
    git(scene.root.path(), &["add", "."]);
    let snapshot = scene.sees("2").await;
    let commit = app(&snapshot).and_then(|app| app.commit.clone()).expect("a commit");
    assert_eq!((commit.subject.as_str(), commit.modified), ("One", true));
}

#[tokio::test]
async fn while_git_works_nothing_is_read() {
    let root = directory(&shop("1"));
    git(root.path(), &["init", "-q", "-b", "main"]);
    let mut scene = Scene::of(root).await;
    let lock = scene.path(".git/index.lock");
    fs::write(&lock, "").unwrap();
    replace(&scene.path("desired/shop/alfa.toml"), &alfa("2"));
    scene.sees_nothing().await;
    replace(&scene.path("desired/shop/alfa.toml"), &alfa("3"));
    fs::remove_file(lock).unwrap();
    assert_eq!(revision(&next(&mut scene.watcher).await), "3");
}

#[tokio::test]
async fn a_forgotten_git_lock_does_not_stop_everything() {
    let root = directory(&shop("1"));
    git(root.path(), &["init", "-q", "-b", "main"]);
    fs::write(root.path().join(".git/index.lock"), "").unwrap();
    let pace = Pace { git_lock_max: Duration::from_millis(50), ..pace() };
    let watcher = Watcher::with_pace(&root.path().join("desired"), pace).unwrap();
    let mut scene = Scene { root, watcher };
    scene.sees("1").await;
    replace(&scene.path("desired/shop/alfa.toml"), &alfa("2"));
    scene.sees("2").await;
    replace(&scene.path("desired/shop/alfa.toml"), &alfa("3"));
    scene.sees("3").await;
}

/// Makes or replaces a link by renaming, as Kubernetes does.
fn swap_link(target: &str, link: &Path) {
    let new = link.with_file_name("..data_tmp");
    symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

#[tokio::test]
async fn a_kubernetes_swap() {
    let root = directory(&shop("1").replace("desired/", "desired/..2026_1/"));
    let desired = root.path().join("desired");
    symlink("..2026_1", desired.join("..data")).unwrap();
    symlink("..data/shop", desired.join("shop")).unwrap();
    let mut scene = Scene::of(root).await;
    for revision in ["2", "3"] {
        let version = format!("desired/..2026_{revision}/");
        write_files(scene.root.path(), &shop(revision).replace("desired/", &version));
        swap_link(&format!("..2026_{revision}"), &desired.join("..data"));
        scene.sees(revision).await;
    }
    fs::remove_dir_all(desired.join("..2026_1")).unwrap();
    // The folder behind the link is watched, not the one that was there first.
    fs::write(desired.join("..2026_3/shop/alfa.toml"), alfa("4")).unwrap();
    scene.sees("4").await;
}

#[tokio::test]
async fn a_kubernetes_swap_inside_of_an_app_folder() {
    let root = directory(&shop("1").replace("shop/", "shop/..2026_1/"));
    let folder = root.path().join("desired/shop");
    symlink("..2026_1", folder.join("..data")).unwrap();
    symlink("..data/app.toml", folder.join("app.toml")).unwrap();
    symlink("..data/alfa.toml", folder.join("alfa.toml")).unwrap();
    let mut scene = Scene::of(root).await;
    write_files(scene.root.path(), &shop("2").replace("shop/", "shop/..2026_2/"));
    swap_link("..2026_2", &folder.join("..data"));
    scene.sees("2").await;
}

#[tokio::test]
async fn a_link_above_the_directory_is_swapped() {
    // As git-sync does: /git/current leads to a checkout, and the directory lies in that.
    let root = directory(&shop("1").replace("desired/", "one/desired/"));
    write_files(root.path(), &shop("2").replace("desired/", "two/desired/"));
    symlink("one", root.path().join("current")).unwrap();
    let mut watcher = Watcher::with_pace(&root.path().join("current/desired"), pace()).unwrap();
    assert_eq!(revision(&next(&mut watcher).await), "1");
    let mut scene = Scene { root, watcher };
    swap_link("two", &scene.path("current"));
    scene.sees("2").await;
    fs::write(scene.path("two/desired/shop/alfa.toml"), alfa("3")).unwrap();
    scene.sees("3").await;
}

#[tokio::test]
async fn a_folder_is_deleted_and_made_again() {
    let mut scene = Scene::new().await;
    fs::remove_dir_all(scene.path("desired/shop")).unwrap();
    scene.sees("nothing").await;
    write_files(scene.root.path(), &shop("2"));
    scene.sees("2").await;
    fs::write(scene.path("desired/shop/alfa.toml"), alfa("3")).unwrap();
    scene.sees("3").await;
}

#[tokio::test]
async fn a_folder_is_swapped_for_another() {
    let mut scene = Scene::new().await;
    write_files(scene.root.path(), &shop("2").replace("desired/shop", "new"));
    fs::rename(scene.path("desired/shop"), scene.path("old")).unwrap();
    fs::rename(scene.path("new"), scene.path("desired/shop")).unwrap();
    scene.sees("2").await;
    fs::write(scene.path("desired/shop/alfa.toml"), alfa("3")).unwrap();
    scene.sees("3").await;
}

#[tokio::test]
async fn the_directory_vanishes_and_comes_back() {
    let mut scene = Scene::new().await;
    fs::remove_dir_all(scene.path("desired")).unwrap();
    scene.sees("no directory").await;
    fs::create_dir(scene.path("desired")).unwrap();
    scene.sees("nothing").await;
    write_files(scene.root.path(), &shop("2"));
    scene.sees("2").await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_yet() {
    let root = tempfile::tempdir().unwrap();
    let desired = root.path().join("deep/down/desired");
    let mut watcher = Watcher::with_pace(&desired, pace()).unwrap();
    assert_eq!(revision(&next(&mut watcher).await), "no directory");
    let mut scene = Scene { root, watcher };
    write_files(scene.root.path(), &shop("1").replace("desired/", "deep/down/desired/"));
    scene.sees("1").await;
}

#[tokio::test]
async fn a_new_folder_with_files_at_once() {
    let mut scene = Scene::new().await;
    for n in 0..20 {
        let archive = shop("7").replace("shop", &format!("app{n}"));
        write_files(scene.root.path(), &archive);
    }
    let all = |snapshot: &Snapshot| {
        snapshot.apps.len() == 21
            && snapshot
                .apps
                .values()
                .all(|app| app.as_ref().is_ok_and(|app| app.clusters.len() == 1))
    };
    scene.sees_that("21 apps", all).await;
}

#[tokio::test]
async fn what_changes_nothing_is_not_told() {
    let mut scene = Scene::new().await;
    replace(&scene.path("desired/shop/alfa.toml"), &alfa("1"));
    fs::write(scene.path("desired/shop/README"), "nothing").unwrap();
    fs::write(scene.path("neighbour"), "nothing").unwrap();
    scene.sees_nothing().await;
    replace(&scene.path("desired/shop/alfa.toml"), &alfa("2"));
    assert_eq!(revision(&next(&mut scene.watcher).await), "2");
}

#[tokio::test]
async fn without_events_the_periodic_look_finds_it() {
    let root = directory(&shop("1"));
    fs::rename(root.path().join("desired/shop/alfa.toml"), root.path().join("elsewhere")).unwrap();
    symlink("../../elsewhere", root.path().join("desired/shop/alfa.toml")).unwrap();
    let pace = Pace { look_every: Duration::from_millis(50), ..pace() };
    let watcher = Watcher::with_pace(&root.path().join("desired"), pace).unwrap();
    let mut scene = Scene { root, watcher };
    scene.sees("1").await;
    fs::write(scene.path("elsewhere"), alfa("2")).unwrap();
    scene.sees("2").await;
}

#[tokio::test]
async fn a_cancelled_call_loses_nothing() {
    let mut scene = Scene::new().await;
    for revision in ["2", "3", "4"] {
        replace(&scene.path("desired/shop/alfa.toml"), &alfa(revision));
        let deadline = std::time::Instant::now() + DEADLINE;
        loop {
            // Each call is given up after one more turn of the runtime than the one before.
            assert!(std::time::Instant::now() < deadline, "revision {revision} is lost");
            tokio::select! {
                biased;
                snapshot = scene.watcher.next() => {
                    assert_eq!(self::revision(&snapshot), revision);
                    break;
                }
                () = tokio::time::sleep(Duration::from_micros(100)) => {}
            }
        }
    }
}
