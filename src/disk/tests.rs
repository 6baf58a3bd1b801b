//! Tests of what is replaced as a whole, on a real file system.

use std::error::Error;

use super::*;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    (folder, file)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn a_file_is_made_and_replaced() {
    let (folder, file) = folder();
    for (content, left) in [("a longer one", None), ("two", Some("torn"))] {
        if let Some(left) = left {
            fs::write(beside(&file), left).unwrap();
        }
        replace(&file, content.as_bytes(), Access::Owner).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), content);
        assert_eq!(mode(&file), 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }
}

#[test]
fn a_reader_has_the_old_one_whole() {
    let (_folder, file) = folder();
    replace(&file, b"old", Access::Owner).unwrap();
    let reader = File::open(&file).unwrap();
    replace(&file, b"new", Access::Owner).unwrap();
    assert_eq!(io::read_to_string(reader).unwrap(), "old");
}

#[test]
fn access_stays_as_it_was() {
    let (_folder, file) = folder();
    let access = Access::AsBefore { new: 0o644 };
    replace(&file, b"one", access).unwrap();
    assert_eq!(mode(&file), 0o644);
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    replace(&file, b"two", access).unwrap();
    assert_eq!(mode(&file), 0o640);
}

#[test]
fn a_link_that_was_left_beside_is_not_followed() {
    let (folder, file) = folder();
    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, "precious").unwrap();
    symlink(&elsewhere, beside(&file)).unwrap();
    replace(&file, b"new", Access::Owner).unwrap();
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
    assert!(fs::symlink_metadata(&file).unwrap().is_file());
}

#[test]
fn a_failure_names_the_path_and_leaves_the_old_file() {
    let (folder, file) = folder();
    replace(&file, b"old", Access::Owner).unwrap();
    // A folder in its place stops the write, whoever the tests run as.
    fs::create_dir(beside(&file)).unwrap();
    let error = replace(&file, b"new", Access::Owner).unwrap_err();
    assert!(error.to_string().ends_with("/state.evenkeel-new"), "{error}");
    assert!(error.source().is_some());
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");

    let missing = folder.path().join("no/state");
    let error = replace(&missing, b"new", Access::Owner).unwrap_err();
    assert!(error.to_string().contains("no/state.evenkeel-new"), "{error}");
}

#[test]
fn what_cannot_be_replaced_leaves_nothing_beside() {
    let (folder, file) = folder();
    fs::create_dir(&file).unwrap();
    let error = replace(&file, b"new", Access::Owner).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot replace {}", file.display()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_link_is_made_and_replaced() {
    let (folder, link) = folder();
    for (target, left) in [("releases/1", false), ("releases/2", true)] {
        if left {
            symlink("nowhere", beside(&link)).unwrap();
        }
        replace_link(&link, Path::new(target)).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(target));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
    fs::remove_file(&link).unwrap();
    fs::create_dir(&link).unwrap();
    let error = replace_link(&link, Path::new("releases/3")).unwrap_err();
    assert!(error.to_string().starts_with("cannot replace /"), "{error}");
}

#[test]
fn one_process_has_a_folder() {
    let (_folder, state) = folder();
    let held = lock_folder(&state.join("deep")).unwrap().expect("nobody has it");
    assert_eq!(mode(&state.join("deep")), 0o700);
    assert!(lock_folder(&state.join("deep")).unwrap().is_none());
    drop(held);
    assert!(lock_folder(&state.join("deep")).unwrap().is_some());

    let file = state.join("file");
    fs::write(&file, "").unwrap();
    let error = lock_folder(&file).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot make the folder {}", file.display()));
}
