//! Inputs that are a little wrong: seeds, cut, stretched, spliced, and with what is dangerous in them.

use proptest::prelude::*;
use proptest::sample::Index;

/// What parsers trip over.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\n",
    b"\xff\xfe",
    b"\"",
    b"'",
    b"$",
    b"[",
    b"{",
    b"}",
    b"|",
    b"../",
    b"/",
    b"0",
    b"-1",
    b"18446744073709551615",
    b"4294967296",
    b"1e400",
    b"null",
    b"\\u0000",
    b"\xe2\x80\xae",
    b"\n> ",
    b"\n#: a/b.toml\n",
];

/// One change.
#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Insert(Index, usize),
    Cut(Index, usize),
    Repeat(Index, usize, usize),
    Splice(Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, to)| Edit::Set(at, to)),
        (any::<Index>(), 0..TOKENS.len()).prop_map(|(at, token)| Edit::Insert(at, token)),
        (any::<Index>(), 1..64usize).prop_map(|(at, length)| Edit::Cut(at, length)),
        (any::<Index>(), 1..64usize, 1..50usize)
            .prop_map(|(at, length, times)| Edit::Repeat(at, length, times)),
        (any::<Index>(), any::<Index>()).prop_map(|(at, from)| Edit::Splice(at, from)),
    ]
}

/// One of the seeds with some changes, of at most `bytes_max`.
pub fn mutated(seeds: Vec<Vec<u8>>, bytes_max: usize) -> impl Strategy<Value = Vec<u8>> {
    let pair = (any::<Index>(), any::<Index>());
    (pair, prop::collection::vec(edit(), 1..6)).prop_map(move |((one, other), edits)| {
        let seed = |which: &Index| &seeds[which.index(seeds.len())];
        let mut bytes = seed(&one).clone();
        for edit in edits {
            bytes = edited(bytes, &edit, seed(&other));
            bytes.truncate(bytes_max);
        }
        bytes
    })
}

fn edited(mut bytes: Vec<u8>, edit: &Edit, other: &[u8]) -> Vec<u8> {
    let place = |at: &Index, bytes: &[u8]| at.index(bytes.len() + 1);
    match edit {
        Edit::Set(at, to) => {
            let at = place(at, &bytes);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = *to;
            }
        }
        Edit::Insert(at, token) => {
            let at = place(at, &bytes);
            drop(bytes.splice(at..at, TOKENS[*token].iter().copied()));
        }
        Edit::Cut(at, length) => {
            let at = place(at, &bytes);
            let end = bytes.len().min(at + length);
            drop(bytes.drain(at..end));
        }
        Edit::Repeat(at, length, times) => {
            let at = place(at, &bytes);
            let part = bytes[at..bytes.len().min(at + length)].repeat(*times);
            drop(bytes.splice(at..at, part));
        }
        Edit::Splice(at, from) => {
            bytes.truncate(place(at, &bytes));
            bytes.extend_from_slice(&other[place(from, other)..]);
        }
    }
    bytes
}
