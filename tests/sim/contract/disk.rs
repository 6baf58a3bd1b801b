//! The disk: what is found again after writes that were whole, torn or refused.

use std::fs;
use std::path::Path;

use evenkeel::disk::{Found, Pair};

use crate::disk::Disk;

#[derive(Debug, Clone, Copy)]
enum Step {
    Write(&'static str),
    /// The power goes while this is being written. It has no byte in common with what it is written over.
    Torn(&'static str),
    /// Everything is lost.
    Wipe,
}

use Step::{Torn, Wipe, Write};

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

/// How much of a write is on disk, of so many bytes, when the power goes.
type Part = fn(usize) -> usize;

/// Nothing, the first byte, the head line in part, half, all but the last byte.
const PARTS: [Part; 5] = [|_| 0, |_| 1, |_| 40, |bytes| bytes / 2, |bytes| bytes - 1];

fn of_the_simulated() -> Vec<Option<String>> {
    let mut disk = Disk::default();
    let mut story = Vec::new();
    for step in STORY {
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

fn of_the_real(part: Part) -> Vec<Option<String>> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut pair = open(folder.path()).0;
    let mut story = Vec::new();
    for step in STORY {
        match *step {
            Write(text) => pair.write(text.as_bytes()).expect("it has room"),
            Torn(text) => {
                let before = image(folder.path());
                pair.write(text.as_bytes()).expect("it has room");
                for ((end, before), after) in
                    ["a", "b"].iter().zip(before).zip(image(folder.path()))
                {
                    // What follows the content is blank, whoever wrote it.
                    let whole = after.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at);
                    let mut bytes = before.clone();
                    if after != before {
                        let arrived = part(whole).min(whole);
                        bytes.resize(before.len().max(arrived), 0);
                        bytes[..arrived].copy_from_slice(&after[..arrived]);
                    }
                    fs::write(folder.path().join(format!("{NAME}.{end}")), bytes).expect("room");
                }
            }
            Wipe => {
                for end in ["a", "b"] {
                    fs::remove_file(folder.path().join(format!("{NAME}.{end}"))).expect("a file");
                }
            }
        }
        let found;
        (pair, found) = open(folder.path());
        story.push(found);
    }
    story
}

#[test]
fn what_is_found_again() {
    let simulated = of_the_simulated();
    assert_eq!(simulated[2].as_deref(), Some("one"), "what was flushed survives a torn write");
    for part in PARTS {
        assert_eq!(simulated, of_the_real(part));
    }
}
