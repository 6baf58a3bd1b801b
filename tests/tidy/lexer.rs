//! As much of Rust's lexer as the rules need: code without comments and literals, and the paths in it.

/// The text with every comment and literal blanked; lines and columns stay.
pub fn code(text: &str) -> String {
    let mut out = text.as_bytes().to_vec();
    let mut at = 0;
    while at < text.len() {
        let end = at + blank_length(text, at);
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The length of the comment or literal that begins at `at`; 0 if none does.
fn blank_length(text: &str, at: usize) -> usize {
    let Some(rest) = text.get(at..) else { return 0 }; // within a character
    let after_word = at > 0 && is_word(text.as_bytes()[at - 1]);
    match rest.as_bytes() {
        [b'/', b'/', ..] => rest.find('\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => quoted(rest, '"'),
        [b'\'', ..] => character(rest),
        [b'r', ..] if !after_word => raw(rest),
        [b'b' | b'c', b'r', ..] if !after_word => match raw(&rest[1..]) {
            0 => 0,
            length => length + 1,
        },
        _ => 0,
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    rest.len()
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character literal; a lifetime is none.
fn character(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(rest, '\''),
        _ => 0,
    }
}

fn raw(rest: &str) -> usize {
    let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
    if rest.as_bytes().get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    rest[body..].find(&end).map_or(rest.len(), |found| body + found + end.len())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// `::`
    Colons,
    Open,
    Close,
    Other,
}

/// Every path in blanked code, a lone word too, with its line; groups are taken apart, so that
/// `use a::{b, c::d}` gives `a::b` and `a::c::d`.
pub fn paths(code: &str) -> Vec<(usize, String)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = path(&tokens, at, "", &mut found);
    }
    found
}

/// Takes the path that begins at `at`, or one token; returns where it ends.
fn path(
    tokens: &[(usize, Token)],
    mut at: usize,
    before: &str,
    found: &mut Vec<(usize, String)>,
) -> usize {
    let (line, Token::Word(word)) = tokens[at] else { return at + 1 };
    let mut whole = format!("{before}{word}");
    at += 1;
    while let Some((_, Token::Colons)) = tokens.get(at) {
        match tokens.get(at + 1) {
            Some((_, Token::Word(word))) => {
                whole = format!("{whole}::{word}");
                at += 2;
            }
            Some((_, Token::Open)) => {
                at += 2;
                while at < tokens.len() && tokens[at].1 != Token::Close {
                    at = path(tokens, at, &format!("{whole}::"), found);
                }
                return at + 1;
            }
            Some((_, Token::Colons | Token::Close | Token::Other)) | None => break,
        }
    }
    found.push((line, whole));
    at
}

fn tokens(code: &str) -> Vec<(usize, Token<'_>)> {
    let mut found = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.bytes().take_while(|byte| is_word(*byte)).count();
            let (token, length) = if word > 0 {
                (Token::Word(&rest[..word]), word)
            } else if rest.starts_with("::") {
                (Token::Colons, 2)
            } else {
                let token = match first {
                    '{' => Token::Open,
                    '}' => Token::Close,
                    _ => Token::Other,
                };
                (token, first.len_utf8())
            };
            found.push((line + 1, token));
            rest = rest[length..].trim_start();
        }
    }
    found
}

#[test]
fn comments_and_literals_are_blanked() {
    for (text, left) in [
        ("a // b\nc", "a\nc"),
        ("a /* b /* c */ d */ e", "a e"),
        ("f(\"b \\\" c\", d)", "f( , d)"),
        ("f(r#\"b \" c\"#, br\"x\", r#type)", "f( , , r#type)"),
        ("f('\"', '\\'', 'ä', b'x', &'a T)", "f( , , , b , &'a T)"),
        ("for_r\"x\" é", "for_r é"),
    ] {
        let lines = code(text);
        let words = |text: &str| {
            let lines = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(words(&lines), left, "{text}");
        assert_eq!(lines.lines().count(), text.lines().count());
    }
}

#[test]
fn paths_are_found_and_groups_taken_apart() {
    let found = paths("use a::{self, b,\n c::{d, e as f}};\nlet x = crate::g::<u8>(h::*) { i }");
    let found: Vec<String> = found.iter().map(|(line, path)| format!("{line} {path}")).collect();
    let wanted = [
        "1 use",
        "1 a::self",
        "1 a::b",
        "2 a::c::d",
        "2 a::c::e",
        "2 a::c::as",
        "2 a::c::f",
        "3 let",
        "3 x",
        "3 crate::g",
        "3 u8",
        "3 h",
        "3 i",
    ];
    assert_eq!(found, wanted);
}
