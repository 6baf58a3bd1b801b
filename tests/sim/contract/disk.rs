//! The disk: what is found again after writes that were whole, torn or refused.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use evenkeel::disk::{Found, Pair};

use crate::disk::Disk;

#[derive(Debug, Clone, Copy)]
enum Step {
    Write(&'static str),
    /// The power goes while this is being written. It has no byte in common with what it is written over.
    Torn(&'static str),
    /// Everything is lost.
    Wipe,
    /// There is no room for anything more.
    Fill,
    Free,
    /// There is no room for this.
    Refused(&'static str),
}

use Step::{Fill, Free, Refused, Torn, Wipe, Write};

const STORY: &[Step] = &[
    Torn("never"),
    Write("one"),
    Torn("two, longer than what was there"),
    Write("three"),
    Write("four"),
    Torn("4"),
    Torn("FIVE"),
    Write("six"),
    Wipe,
    Write("seven"),
    Write("eight"),
    Torn("NINE"),
];

/// The simulated disk refuses whatever is written while it is full; a real one takes what needs no more room than what it is
/// written over. This needs more.
const LONG: &str = match str::from_utf8(&[b'#'; 10_000]) {
    Ok(text) => text,
    Err(_) => panic!(),
};

const FULL_STORY: &[Step] = &[
    Write("one"),
    Write("two"),
    Fill,
    Refused(LONG),
    Refused(LONG),
    Free,
    Write("three"),
    Fill,
    Refused(LONG),
    Wipe,
    Free,
    Write(LONG),
    Torn("four"),
];

/// How much of a write is on disk, of so many bytes, when the power goes.
type Part = fn(usize) -> usize;

/// Nothing, the first byte, the head line in part, half, all but the last byte.
const PARTS: [Part; 5] = [|_| 0, |_| 1, |_| 40, |bytes| bytes / 2, |bytes| bytes - 1];

fn of_the_simulated(steps: &[Step]) -> Vec<Option<String>> {
    let mut disk = Disk::default();
    let mut story = Vec::new();
    for step in steps {
        match *step {
            Write(text) => {
                disk.write(&text).expect("it has room");
                disk.flushed();
            }
            Torn(text) => {
                disk.write(&text).expect("it has room");
                disk.tear();
            }
            Wipe => disk.wipe(),
            Fill => disk.full = true,
            Free => disk.full = false,
            Refused(text) => {
                disk.write(&text).expect_err("it has no room");
            }
        }
        story.push(disk.read());
    }
    story
}

const NAME: &str = "memory";
const BYTES_MAX: u64 = 1 << 20;

/// As agents and controllers open it: what is torn as a whole is set aside.
fn open(folder: &Path) -> (Pair, Option<String>) {
    match Pair::open(folder, NAME, BYTES_MAX).expect("a folder") {
        (pair, Found::Whole(bytes)) => (pair, Some(String::from_utf8(bytes).expect("UTF-8"))),
        (pair, Found::Nothing) => (pair, None),
        (_, Found::Torn) => {
            Pair::set_aside(folder, NAME).expect("a folder");
            (Pair::open(folder, NAME, BYTES_MAX).expect("a folder").0, None)
        }
    }
}

fn image(folder: &Path) -> [Vec<u8>; 2] {
    ["a", "b"].map(|end| fs::read(folder.join(format!("{NAME}.{end}"))).unwrap_or_default())
}

fn of_the_real(steps: &[Step], folder: &Path, part: Part) -> Vec<Option<String>> {
    let mut pair = open(folder).0;
    let mut story = Vec::new();
    for step in steps {
        match *step {
            Write(text) => pair.write(text.as_bytes()).expect("it has room"),
            Torn(text) => {
                let before = image(folder);
                pair.write(text.as_bytes()).expect("it has room");
                for ((end, before), after) in ["a", "b"].iter().zip(before).zip(image(folder)) {
                    // What follows the content is blank, whoever wrote it.
                    let whole = after.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at);
                    let mut bytes = before.clone();
                    if after != before {
                        let arrived = part(whole).min(whole);
                        bytes.resize(before.len().max(arrived), 0);
                        bytes[..arrived].copy_from_slice(&after[..arrived]);
                    }
                    fs::write(folder.join(format!("{NAME}.{end}")), bytes).expect("room");
                }
            }
            Wipe => {
                for end in ["a", "b"] {
                    fs::remove_file(folder.join(format!("{NAME}.{end}"))).expect("a file");
                }
            }
            Fill => {
                fs::write(folder.join("filler"), vec![0; ROOM]).expect_err("it is larger");
            }
            Free => fs::remove_file(folder.join("filler")).expect("a file"),
            Refused(text) => {
                pair.write(text.as_bytes()).expect_err("it has no room");
            }
        }
        let found;
        (pair, found) = open(folder);
        story.push(found);
    }
    story
}

/// A file system in memory with room for so many bytes, in a mount namespace that goes with its only process.
struct Small {
    process: Child,
    folder: PathBuf,
}

const ROOM: usize = 64 * 1024;

impl Small {
    fn mount() -> Self {
        let script = format!("mount -t tmpfs -o size={ROOM} none /mnt && echo mounted && exec cat");
        let mut process = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1)");
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().expect("a pipe"))
            .read_line(&mut line)
            .expect("UTF-8");
        assert_eq!(line, "mounted\n");
        let folder = PathBuf::from(format!("/proc/{}/root/mnt", process.id()));
        Self { process, folder }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn what_is_found_again() {
    let simulated = of_the_simulated(STORY);
    assert_eq!(simulated[2].as_deref(), Some("one"), "what was flushed survives a torn write");
    for part in PARTS {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(simulated, of_the_real(STORY, folder.path(), part));
    }
}

#[test]
fn what_is_found_again_on_a_full_disk() {
    let simulated = of_the_simulated(FULL_STORY);
    assert_eq!(
        simulated[4].as_deref(),
        Some("two"),
        "what was there survives a write without room"
    );
    for part in PARTS {
        let small = Small::mount();
        assert_eq!(simulated, of_the_real(FULL_STORY, &small.folder, part));
    }
}
