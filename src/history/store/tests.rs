//! The store on real files: what was written is read, and whatever happens to the file is survived.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::history::{Filter, Kind, ReadError, Reader, RolloutOutcome};

const LARGE: Bounds = Bounds { rows_max: 1_000_000, age_ms_max: 1_000_000_000 };

fn all() -> Filter {
    Filter { limit: 5_000, ..Filter::default() }
}

fn entry(at: u64, name: &str) -> Entry {
    Entry {
        kind: Kind::Event,
        name: name.to_owned(),
        app: Some("shop".to_owned()),
        cluster: Some("alfa".to_owned()),
        ..Entry::gap(Wall(at), 0, "")
    }
}

fn of(rollout: &str, at: u64, name: &str) -> Entry {
    Entry { rollout: Some(rollout.to_owned()), ..entry(at, name) }
}

fn numbered(entries: &[Entry], from: u64) -> Vec<Entry> {
    let number = |(id, entry): (u64, &Entry)| Entry { id: Some(id), ..entry.clone() };
    (from..).zip(entries).map(number).collect()
}

struct Rig {
    folder: tempfile::TempDir,
    store: Store,
}

impl Rig {
    fn new(bounds: Bounds) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join(crate::history::FILE), bounds);
        Rig { folder, store }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn reader(&self) -> Reader {
        Reader::new(self.folder.path().to_owned())
    }

    fn read(&self) -> Vec<Entry> {
        self.reader().entries(&all()).unwrap().entries
    }

    fn tend_all(&mut self, now: Wall) -> usize {
        (1..).find(|_| !self.store.tend(now).unwrap()).unwrap()
    }
}

#[test]
fn what_is_written_is_read_by_others_and_after_a_restart() {
    let mut rig = Rig::new(LARGE);
    assert!(matches!(rig.reader().entries(&all()), Err(ReadError::Absent { .. })));
    let full = Entry {
        kind: Kind::Action,
        what: "what".to_owned(),
        cause: "cause".to_owned(),
        node: Some("web1".to_owned()),
        epoch: Some(3),
        controller: Some("me".to_owned()),
        commit: Some("c0ffee".to_owned()),
        before: Some("1".to_owned()),
        after: Some("2".to_owned()),
        asked: Some("lb1".to_owned()),
        generation: Some(7),
        ..of("r1", 5, "take_out")
    };
    let first = [full, entry(6, "desired_changed")];
    rig.store.write(&first).unwrap();
    assert_eq!(rig.read(), numbered(&first, 1), "while it is written");
    rig.store = Store::new(rig.file("history.db"), LARGE);
    let second = [entry(7, "converged")];
    rig.store.write(&second).unwrap();
    assert_eq!(rig.read(), [numbered(&first, 1), numbered(&second, 3)].concat());
    rig.store.open = None;
    assert!(!rig.file("history.db-wal").exists(), "a clean end leaves one file");
    assert_eq!(rig.read().len(), 3);
}

#[test]
fn it_is_nobody_elses() {
    let mut rig = Rig::new(LARGE);
    rig.store.write(&[entry(1, "converged")]).unwrap();
    for name in ["history.db", "history.db-wal"] {
        assert_eq!(fs::metadata(rig.file(name)).unwrap().mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn pages_lead_on() {
    let mut rig = Rig::new(LARGE);
    let entries: Vec<Entry> = (1..=10).map(|at| of("r1", at, "presence_changed")).collect();
    rig.store.write(&entries).unwrap();
    let ids = |entries: &[Entry]| entries.iter().filter_map(|e| e.id).collect::<Vec<u64>>();
    let mut filter = Filter { limit: 4, ..Filter::default() };
    let mut seen = Vec::new();
    loop {
        let page = rig.reader().entries(&filter).unwrap();
        seen.push(ids(&page.entries));
        filter.before = page.before;
        if page.before.is_none() {
            break;
        }
    }
    assert_eq!(seen, [vec![7, 8, 9, 10], vec![3, 4, 5, 6], vec![1, 2]]);
    let mut filter = Filter { limit: 6, rollout: Some("r1".to_owned()), ..Filter::default() };
    let page = rig.reader().rollout(&filter).unwrap();
    assert_eq!((ids(&page.entries), page.after), ((1..=6).collect(), Some(6)));
    filter.after = page.after;
    let page = rig.reader().rollout(&filter).unwrap();
    assert_eq!((ids(&page.entries), page.after), ((7..=10).collect(), None));
}

#[test]
fn filters_hold_together() {
    let mut rig = Rig::new(LARGE);
    let web = |node: &str, at| Entry { node: Some(node.to_owned()), ..of("r1", at, "node_failed") };
    let decided = Entry { kind: Kind::Decision, ..web("web1", 4) };
    let bravo = Entry { cluster: Some("bravo".to_owned()), ..entry(5, "converged") };
    let gap = Entry::gap(Wall(6), 3, "full");
    rig.store.write(&[web("web1", 1), web("web2", 2), decided, bravo, gap]).unwrap();
    let check = |filter: Filter, expected: &[u64]| {
        let page = rig.reader().entries(&Filter { limit: 100, ..filter.clone() }).unwrap();
        let ids: Vec<u64> = page.entries.iter().filter_map(|entry| entry.id).collect();
        assert_eq!(ids, expected, "{filter:?}");
    };
    let some = |text: &str| Some(text.to_owned());
    check(Filter::default(), &[1, 2, 3, 4, 5]);
    check(Filter { app: some("shop"), ..Filter::default() }, &[1, 2, 3, 4, 5]);
    check(Filter { app: some("shop"), cluster: some("bravo"), ..Filter::default() }, &[4, 5]);
    check(Filter { app: some("other"), ..Filter::default() }, &[5]);
    check(Filter { node: some("web1"), kinds: vec![Kind::Event], ..Filter::default() }, &[1]);
    check(Filter { rollout: some("r1"), since: Some(Wall(2)), ..Filter::default() }, &[2, 3]);
}

#[test]
fn it_grows_to_its_bounds_and_no_further() {
    let mut rig = Rig::new(Bounds { rows_max: 3_000, age_ms_max: 1_000 });
    let entries: Vec<Entry> = (1..=5_500).map(|at| entry(at, "presence_changed")).collect();
    rig.store.write(&entries).unwrap();
    assert_eq!(rig.tend_all(Wall(5_500)), 5, "2,500 were too many, and 1,999 too old");
    let left = rig.read();
    let ends = (left[0].id, left[left.len() - 1].id);
    assert_eq!(
        (left.len(), ends),
        (1_001, (Some(4_500), Some(5_500))),
        "none is older than a second"
    );
    // One in the future does not keep the others.
    rig.store.write(&[entry(9_000, "converged"), entry(5_501, "converged")]).unwrap();
    rig.tend_all(Wall(7_000));
    assert_eq!(rig.read().iter().map(|entry| entry.at.0).collect::<Vec<_>>(), [9_000]);
}

#[test]
fn an_older_database_is_brought_up_to_date() {
    for seen in 1..VERSION {
        let mut rig = Rig::new(LARGE);
        let path = rig.file("history.db");
        let mut older = Connection::open(&path).unwrap();
        migrate(&mut older, &MIGRATIONS[..seen]).unwrap();
        insert(&mut older, &[entry(1, "converged")]).unwrap();
        drop(older);
        let told = rig.reader().entries(&all()).unwrap_err();
        assert!(matches!(told, ReadError::Version { found, .. } if found == seen), "{told}");
        rig.store.write(&[entry(2, "converged")]).unwrap();
        assert_eq!(rig.read().iter().map(|entry| entry.at.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(version(&rig.store.open.as_ref().unwrap().connection), Ok(VERSION));
    }
}

#[test]
fn a_newer_database_is_refused_in_words_and_left_alone() {
    let mut rig = Rig::new(LARGE);
    let path = rig.file("history.db");
    let newer = Connection::open(&path).unwrap();
    newer.execute_batch("CREATE TABLE other (a); PRAGMA user_version = 99").unwrap();
    drop(newer);
    let before = fs::read(&path).unwrap();
    let error = rig.store.write(&[entry(1, "converged")]).unwrap_err();
    let words = format!(
        "the history {} has version 99, and this program knows up to {VERSION}: a newer evenkeel has written it; use that, or move the file away",
        path.display()
    );
    assert_eq!(error, words);
    assert!(rig.store.tend(Wall(1)).is_err());
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(!rig.file("history.db.bad").exists());
    let told = rig.reader().entries(&all()).unwrap_err();
    assert!(matches!(told, ReadError::Version { found: 99, .. }), "{told}");
}

#[test]
fn a_damaged_database_is_set_aside_and_a_new_one_begun() {
    let good = Rig::new(LARGE);
    let mut good = good;
    let entries: Vec<Entry> = (1..=500).map(|at| entry(at, "presence_changed")).collect();
    good.store.write(&entries).unwrap();
    good.store.open = None;
    let bytes = fs::read(good.file("history.db")).unwrap();
    let mut holed = bytes.clone();
    holed[8_192..20_000].fill(0x5a);
    let cut = bytes[..bytes.len() / 2].to_vec();
    for damaged in [b"this was never a database, whatever its name".repeat(40), holed, cut] {
        let mut rig = Rig::new(LARGE);
        fs::write(rig.file("history.db"), &damaged).unwrap();
        rig.store.write(&[entry(1, "converged")]).unwrap();
        assert_eq!(rig.read().len(), 1);
        assert_eq!(fs::read(rig.file("history.db.bad")).unwrap().len(), damaged.len());
    }
    // While it runs, too.
    let mut rig = Rig::new(LARGE);
    rig.store.write(&entries).unwrap();
    rig.store.open = None;
    rig.store.write(&[entry(1, "converged")]).unwrap();
    for name in ["history.db", "history.db-wal", "history.db-shm"] {
        let length = fs::metadata(rig.file(name)).unwrap().len();
        fs::write(rig.file(name), vec![0x5a; usize::try_from(length).unwrap()]).unwrap();
    }
    rig.store.open = None;
    rig.store.write(&[entry(2, "converged")]).unwrap();
    assert_eq!(rig.read().iter().map(|entry| entry.at.0).collect::<Vec<_>>(), [2]);
}

#[test]
fn one_that_was_removed_is_begun_anew() {
    let mut rig = Rig::new(LARGE);
    rig.store.write(&[entry(1, "converged")]).unwrap();
    fs::remove_file(rig.file("history.db")).unwrap();
    rig.store.write(&[entry(2, "converged")]).unwrap();
    assert_eq!(rig.read().iter().map(|entry| entry.at.0).collect::<Vec<_>>(), [2]);
}

/// SQLite's own limit stands for a disk that is full: the same error, from the same place.
#[test]
fn a_disk_that_is_full_is_an_error_and_nothing_is_written_by_half() {
    let mut rig = Rig::new(LARGE);
    rig.store.write(&[entry(1, "converged")]).unwrap();
    let limit = |rig: &Rig, pages: u32| {
        let connection = &rig.store.open.as_ref().unwrap().connection;
        let sql = format!("PRAGMA max_page_count = {pages}");
        connection.query_row(&sql, (), |row| row.get::<_, i64>(0)).unwrap()
    };
    limit(&rig, 1);
    let many: Vec<Entry> = (2..=2_000).map(|at| entry(at, "presence_changed")).collect();
    let error = rig.store.write(&many).unwrap_err();
    assert!(error.contains("cannot write to the history") && error.contains("full"), "{error}");
    assert_eq!(rig.read().len(), 1);
    assert!(!rig.file("history.db.bad").exists(), "it is not damaged");
    rig.store.write(&many).unwrap();
    assert_eq!(rig.read().len(), 2_000);
}

#[test]
fn a_place_that_is_none_is_an_error_in_words() {
    let mut rig = Rig::new(LARGE);
    fs::create_dir(rig.file("history.db")).unwrap();
    let error = rig.store.write(&[entry(1, "converged")]).unwrap_err();
    assert!(
        error.starts_with(&format!("cannot open the history {}", rig.file("history.db").display())),
        "{error}"
    );
    assert!(rig.file("history.db").is_dir());
}

#[test]
fn rollouts_are_told_with_their_ends() {
    let mut rig = Rig::new(LARGE);
    let begun = |rollout: &str, at, to: &str| Entry {
        before: Some("1".to_owned()),
        after: Some(to.to_owned()),
        cause: "commit c0ffee: Bump".to_owned(),
        ..of(rollout, at, "rollout_begun")
    };
    let node = |rollout: &str, at, node: &str, name: &str| Entry {
        node: Some(node.to_owned()),
        ..of(rollout, at, name)
    };
    let back = Entry { after: Some("1".to_owned()), ..of("r2", 22, "rejected") };
    rig.store
        .write(&[
            begun("r1", 10, "2"),
            node("r1", 11, "web1", "node_failed"),
            node("r1", 12, "web2", "node_failed"),
            of("r1", 13, "rejected"),
            node("r1", 14, "web2", "node_recovered"),
            begun("r2", 20, "3"),
            back,
            begun("r3", 30, "4"),
            begun("r4", 40, "5"),
            of("r4", 41, "converged"),
            begun("r5", 50, "6"),
        ])
        .unwrap();
    let list = rig.reader().rollouts(&Filter { limit: 4, ..Filter::default() }).unwrap();
    let short = |rollout: &crate::history::Rollout| {
        let ended = rollout.ended.map(|at| at.0);
        (rollout.rollout.clone(), rollout.outcome, ended, rollout.failed.join(" "))
    };
    let told: Vec<_> = list.rollouts.iter().map(short).collect();
    let expected =
        |rollout: &str, outcome, ended| (rollout.to_owned(), outcome, ended, String::new());
    assert_eq!(
        told,
        [
            expected("r5", RolloutOutcome::UnderWay, None),
            expected("r4", RolloutOutcome::Completed, Some(41)),
            expected("r3", RolloutOutcome::Superseded, Some(40)),
            expected("r2", RolloutOutcome::RolledBack, Some(22)),
        ]
    );
    let filter = Filter { limit: 4, before: list.before, ..Filter::default() };
    let list = rig.reader().rollouts(&filter).unwrap();
    let held = ("r1".to_owned(), RolloutOutcome::Held, Some(13), "web1".to_owned());
    assert_eq!(list.rollouts.iter().map(short).collect::<Vec<_>>(), [held]);
    assert_eq!(list.before, None);
    let rollout = &list.rollouts[0];
    assert_eq!((rollout.from.as_deref(), rollout.to.as_deref()), (Some("1"), Some("2")));
    let filter = Filter { rollout: Some("r9".to_owned()), ..all() };
    assert!(rig.reader().rollout(&filter).unwrap_err().is_unknown());
}
