//! A release's archive: unpacked or refused, and nothing outside of its folder is touched.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use evenkeel::deploy::unpack;

/// As `release.size_max`, in bytes.
const BYTES_MAX: u64 = 1 << 20;

const BLOCK: usize = 512;

/// A tar archive, gzipped or not. One that is not gets its checksums mended, so that what is wrong with it is not
/// only its checksum.
pub fn archive(data: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let data = if data.starts_with(&[0x1f, 0x8b]) { data.to_vec() } else { mended(data) };
    fs::write(path("archive"), &data).expect("write");
    fs::write(path("precious"), "precious").expect("write");
    let tree = path("tree");
    fs::create_dir(&tree).expect("make");
    let before = fs::symlink_metadata(path("precious")).expect("it is there");
    let unpacked = unpack(&path("archive"), &tree, BYTES_MAX, &AtomicBool::new(false));

    let mut names: Vec<_> = entries(folder.path()).map(|(path, _)| path).collect();
    names.sort();
    assert_eq!(names, [path("archive"), path("precious"), path("tree")], "outside");
    assert_eq!(fs::read(path("archive")).expect("it is there"), data);
    assert_eq!(fs::read_to_string(path("precious")).expect("it is there"), "precious");
    let after = fs::symlink_metadata(path("precious")).expect("it is there");
    let facts = |about: &Metadata| (about.nlink(), about.mode(), about.mtime(), about.ino());
    assert_eq!(facts(&after), facts(&before), "outside");

    let mut files = BTreeMap::new();
    inside(&tree, &tree, &mut files);
    assert!(files.values().sum::<u64>() <= BYTES_MAX, "more than was allowed");
    unpacked.is_ok()
}

fn entries(folder: &Path) -> impl Iterator<Item = (PathBuf, Metadata)> {
    fs::read_dir(folder).expect("a folder that can be read").map(|entry| {
        let path = entry.expect("an entry").path();
        let about = fs::symlink_metadata(&path).expect("it is there");
        (path, about)
    })
}

/// Nothing in `folder` is odd, and no link leads out of `tree`. Collects files' sizes, by what hard links share.
fn inside(tree: &Path, folder: &Path, files: &mut BTreeMap<u64, u64>) {
    for (path, about) in entries(folder) {
        let kind = about.file_type();
        assert!(kind.is_dir() || kind.is_file() || kind.is_symlink(), "{path:?} is a {kind:?}");
        if kind.is_symlink() {
            if let Ok(end) = fs::canonicalize(&path) {
                let tree = fs::canonicalize(tree).expect("it is there");
                assert!(end.starts_with(&tree), "{path:?} leads to {end:?}");
            }
            continue;
        }
        let mode = about.permissions().mode();
        assert_eq!(mode & 0o7022, 0, "{path:?} has mode {mode:o}");
        if kind.is_dir() {
            inside(tree, &path, files);
        } else {
            files.insert(about.ino(), about.len());
        }
    }
}

/// The archive with every header's checksum as it must be.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    let mut at = 0;
    while let Some(block) = data.get_mut(at..at + BLOCK) {
        at += BLOCK;
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
        let content = usize::try_from(header.entry_size().unwrap_or(0)).unwrap_or(usize::MAX);
        at = at.saturating_add(content.div_ceil(BLOCK).saturating_mul(BLOCK));
        if at > data.len() {
            break;
        }
    }
    data
}
