//! Archives that no release should be, and odd ones that are fine.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use tar::{Builder, EntryType, Header};

use super::*;

/// An entry as raw as it comes: no library smooths its path or link.
fn add(to: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, mode: u32, data: &str) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    let raw = header.as_gnu_mut().expect("a GNU header");
    raw.name[..path.len()].copy_from_slice(path.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    to.append(&header, data.as_bytes()).expect("append");
}

/// Entries of (kind, path, link), files with the content "evil".
fn with(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    add(&mut builder, EntryType::Regular, "REVISION", "", 0o644, "1");
    for (kind, path, link) in entries {
        let data = if *kind == EntryType::Regular { "evil" } else { "" };
        add(&mut builder, *kind, path, link, 0o644, data);
    }
    builder.into_inner().expect("an archive")
}

/// Everything below `folder`, with what files hold.
fn listing(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if entry.file_type().expect("a kind").is_dir() {
            found.extend(listing(&path));
        } else {
            let content = std::fs::read_to_string(&path).unwrap_or_default();
            found.push((path, content));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn no_entry_leaves_the_release() {
    use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let node = Node::new();
    let outside = node.path("outside");
    std::fs::create_dir(&outside).expect("make");
    node.write("outside/precious", "precious");
    let out = outside.to_str().expect("UTF-8").to_owned();
    let absolute = format!("{out}/evil");
    // From root/releases/.new/tree, where it is unpacked.
    let up = "../../../../outside";
    type Entries<'a> = &'a [(EntryType, &'a str, &'a str)];
    let cases: &[(&str, Entries)] = &[
        ("absolute", &[(Regular, &absolute, "")]),
        ("climbing", &[(Regular, &format!("{up}/evil"), "")]),
        ("climbing later", &[(Regular, &format!("a/b/../../{up}/evil"), "")]),
        ("climbing folder", &[(Directory, &format!("{up}/evil"), "")]),
        ("absolute symlink", &[(Symlink, "x", &out), (Regular, "x/evil", "")]),
        ("climbing symlink", &[(Symlink, "x", up), (Regular, "x/evil", "")]),
        ("symlink too high", &[(Symlink, "a/x", "../../y")]),
        ("symlink by a symlink", &[(Symlink, "a/b/x", "../.."), (Symlink, "a/b/y", "x/../..")]),
        ("through an inner symlink", &[(Symlink, "x", "a"), (Regular, "x/evil", "")]),
        ("folder over a symlink", &[(Symlink, "x", "a"), (Directory, "x", "")]),
        ("file over a folder", &[(Directory, "x", ""), (Regular, "x", "")]),
        ("absolute hard link", &[(Link, "x", &format!("{out}/precious")), (Regular, "x", "")]),
        ("climbing hard link", &[(Link, "x", &format!("{up}/precious"))]),
        ("hard link to a symlink", &[(Symlink, "s", "REVISION"), (Link, "x", "s")]),
        ("hard link through a symlink", &[(Symlink, "s", "."), (Link, "x", "s/REVISION")]),
        ("device", &[(Char, "x", "")]),
        ("block device", &[(Block, "x", "")]),
        ("pipe", &[(Fifo, "x", "")]),
        ("the marker", &[(Regular, "./.evenkeel-complete", "")]),
        ("nothing", &[(Regular, "", "")]),
    ];
    let app = node.app(&releases("file://FOLDER/{revision}.tar.gz", ""));
    for (what, entries) in cases {
        node.publish("1", &with(entries));
        let words = words(upgrade(&app, "1").await);
        assert!(words.contains("the archive's entry"), "{what}: {words}");
        let found = listing(&outside);
        assert_eq!(found, [(outside.join("precious"), "precious".to_owned())], "{what}");
        assert!(!node.path("root/releases/1").exists(), "{what}");
        assert!(!node.path("root/current").exists(), "{what}");
    }
}

#[tokio::test]
async fn what_is_no_archive_is_refused() {
    let node = Node::new();
    let app = node.app(&releases("file://FOLDER/{revision}.tar.gz", ""));
    let whole = archive("1");
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("noise", b"no archive at all".repeat(100)),
        ("cut gzip", whole[..whole.len() / 2].to_vec()),
        ("cut tar", with(&[])[..513].to_vec()),
        ("no entries", gzip(&[0; 1024])),
    ] {
        node.publish("1", &bytes);
        let words = words(upgrade(&app, "1").await);
        assert!(words.contains("the archive cannot be read"), "{what}: {words}");
        assert!(!node.path("root/releases/1").exists(), "{what}");
    }
}

#[tokio::test]
async fn odd_but_harmless_archives_are_fine() {
    let node = Node::new();
    let mut builder = Builder::new(Vec::new());
    let long = format!("{}/{}/file", "d".repeat(120), "e".repeat(120));
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::XGlobalHeader);
    let comment = "52 comment=0123456789012345678901234567890123456789\n";
    header.set_size(comment.len() as u64);
    header.set_cksum();
    builder.append(&header, comment.as_bytes()).expect("append");
    // Twice: the later one counts.
    add(&mut builder, EntryType::Regular, "REVISION", "", 0o644, "0");
    add(&mut builder, EntryType::Regular, "REVISION", "", 0o644, "1");
    add(&mut builder, EntryType::Regular, "bin/su", "", 0o6777, "set-id");
    add(&mut builder, EntryType::Directory, "locked/", "", 0o7000, "");
    add(&mut builder, EntryType::Regular, "locked/file", "", 0o000, "x");
    add(&mut builder, EntryType::Regular, "old-style/", "", 0o755, "");
    add(&mut builder, EntryType::Symlink, "lib/a/link", "../../REVISION", 0o777, "");
    add(&mut builder, EntryType::Link, "hard", "./bin/su", 0o644, "");
    for path in [&long, "plain/file"] {
        let mut header = Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, &b"long"[..]).expect("append");
    }
    builder
        .append_pax_extensions([("path", "pax/ä".as_bytes()), ("mtime", "1.5".as_bytes())])
        .expect("append");
    add(&mut builder, EntryType::Regular, "short", "", 0o644, "pax");
    node.publish("1", &builder.into_inner().expect("an archive"));

    let app = node.app(&releases("file://FOLDER/{revision}.tar.gz", ""));
    assert_eq!(upgrade(&app, "1").await, Ok(()));
    let mode = |path: &str| {
        let about = std::fs::symlink_metadata(node.path("root/current").join(path)).expect(path);
        assert!(!about.file_type().is_fifo());
        about.mode() & 0o7777
    };
    assert_eq!(mode("bin/su"), 0o755);
    assert_eq!(mode("locked"), 0o700);
    assert_eq!(mode("locked/file"), 0o600);
    assert!(node.path("root/current/old-style").is_dir());
    assert_eq!(node.read("root/current/lib/a/link").as_deref(), Some("1"));
    assert_eq!(node.read("root/current/hard").as_deref(), Some("set-id"));
    assert_eq!(node.read(&format!("root/current/{long}")).as_deref(), Some("long"));
    assert_eq!(node.read("root/current/pax/ä").as_deref(), Some("pax"));
    assert_eq!(node.read("running").as_deref(), Some("1"));
}
