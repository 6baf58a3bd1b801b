//! Splits a command line into words as a POSIX shell does, and refuses what only a shell can do.
//!
//! NRPE hands its lines to `/bin/sh`. Nearly all of them are plain words, so that no shell is
//! needed; the rest is refused rather than run as something else than was meant. A splitter of
//! our own, because the crates that split words do not say which characters were quoted.
//! Source: POSIX.1-2017, Shell Command Language, 2.2 "Quoting" and 2.3 "Token Recognition".

use std::iter::Peekable;
use std::str::Chars;

/// Why a line cannot be run without a shell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WordsError {
    #[error("a quote ({0}) is not closed")]
    Unclosed(char),
    #[error("the line is empty")]
    Empty,
    #[error(
        "it needs a shell, for {what}; no shell is used here: quote the character if it is meant \
         as it stands, or put the line into a script"
    )]
    NeedsShell { what: &'static str },
}

/// The words of `line`.
pub(super) fn split(line: &str) -> Result<Vec<String>, WordsError> {
    let mut splitter = Splitter { rest: line.chars().peekable(), words: Vec::new(), word: None };
    splitter.run()?;
    let words = splitter.words;
    if words.is_empty() {
        return Err(WordsError::Empty);
    }
    Ok(words)
}

struct Splitter<'a> {
    rest: Peekable<Chars<'a>>,
    words: Vec<String>,
    /// The word under way; `None` between words, so that `''` is a word too.
    word: Option<String>,
}

impl Splitter<'_> {
    fn run(&mut self) -> Result<(), WordsError> {
        while let Some(c) = self.rest.next() {
            match c {
                ' ' | '\t' => self.end_word(),
                '#' if self.word.is_none() => break,
                '\'' => self.single_quoted()?,
                '"' => self.double_quoted()?,
                '\\' => {
                    let escaped = self.rest.next().unwrap_or('\\');
                    self.push(escaped);
                }
                _ => {
                    if let Some(what) = self.shell_work(c) {
                        return Err(WordsError::NeedsShell { what });
                    }
                    self.push(c);
                }
            }
        }
        self.end_word();
        Ok(())
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    fn single_quoted(&mut self) -> Result<(), WordsError> {
        self.word.get_or_insert_default();
        loop {
            match self.rest.next() {
                Some('\'') => return Ok(()),
                Some(c) => self.push(c),
                None => return Err(WordsError::Unclosed('\'')),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<(), WordsError> {
        self.word.get_or_insert_default();
        loop {
            match self.rest.next() {
                Some('"') => return Ok(()),
                Some('\\') => match self.rest.peek() {
                    Some('$' | '`' | '"' | '\\') => {
                        let escaped = self.rest.next().unwrap_or('\\');
                        self.push(escaped);
                    }
                    _ => self.push('\\'),
                },
                Some(c) => {
                    if let Some(what) = self.expansion(c) {
                        return Err(WordsError::NeedsShell { what });
                    }
                    self.push(c);
                }
                None => return Err(WordsError::Unclosed('"')),
            }
        }
    }

    /// What an unquoted `c` would have the shell do, if anything.
    fn shell_work(&mut self, c: char) -> Option<&'static str> {
        match c {
            '|' => Some("a pipe (|)"),
            '&' => Some("& or &&"),
            ';' => Some("a second command (;)"),
            '<' | '>' => Some("a redirection (< or >)"),
            '(' | ')' => Some("a subshell (parentheses)"),
            '*' | '?' | '[' => Some("file names by pattern (*, ? or [)"),
            '\n' => Some("a second line"),
            '~' if self.word.is_none() => self.home(),
            '=' if self.words.is_empty() => self.assignment(),
            _ => self.expansion(c),
        }
    }

    /// Expansions that double quotes do not prevent.
    fn expansion(&mut self, c: char) -> Option<&'static str> {
        match (c, self.rest.peek()) {
            ('`', _) | ('$', Some('(')) => Some("the output of a command (` or $()"),
            ('$', Some(next)) if next.is_ascii_alphanumeric() || "_{@*#?-$!".contains(*next) => {
                Some("a variable ($)")
            }
            _ => None,
        }
    }

    /// A range such as `~:10`, which plugins use, is no home directory.
    fn home(&mut self) -> Option<&'static str> {
        match self.rest.peek() {
            None | Some('/' | ' ' | '\t') => Some("a home directory (~)"),
            Some(next) if next.is_ascii_alphanumeric() || *next == '_' => {
                Some("a home directory (~)")
            }
            Some(_) => None,
        }
    }

    fn assignment(&self) -> Option<&'static str> {
        let name = self.word.as_deref().unwrap_or_default();
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let is_name = starts && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        is_name.then_some("a variable before the command (say `env NAME=value command`)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_ones_that_sh_makes() {
        for line in [
            "/usr/lib/nagios/plugins/check_load -r -w .15,.10,.05 -c .30,.25,.20",
            "  a\t b   c ",
            "'one word' \"another one\" third' 'half",
            r#""a \"b\" \$c \\ \d" '\n' \  \'x"#,
            "'' \"\" x",
            "check -w ~:10 -c @~:5 x~y #comment",
            "a#b 'x' # y",
            "price 5$ '$HOME' \"$\" $. -e ^a{1}$",
            "x=y",
            "env A=b c=d",
            "\"|&;<>()*?[\"",
            "ä \"ö\"",
        ] {
            // The shell's own words, one a line; a variable assignment is made a plain word first.
            let line = line.replace("x=y", "./x=y");
            let script = format!("printf '%s\\n' {line}");
            let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
            let expected = String::from_utf8(output.stdout).unwrap();
            let mut words = split(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
            words.push(String::new());
            assert_eq!(words.join("\n"), expected, "{line}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for line in [
            "a | b",
            "a|b",
            "a && b",
            "a; b",
            "a > /dev/null",
            "a 2>&1",
            "(a)",
            "a $(b)",
            "a \"$(b)\"",
            "a `b`",
            "a \"`b`\"",
            "a $HOME",
            "a \"${HOME}\"",
            "a *.log",
            "a [b]",
            "a ~/x",
            "a ~",
            "LANG=C a",
        ] {
            let error = split(line).expect_err(line);
            assert!(matches!(error, WordsError::NeedsShell { .. }), "{line}: {error}");
        }
        assert_eq!(split("a 'b"), Err(WordsError::Unclosed('\'')));
        assert_eq!(split("a \"b"), Err(WordsError::Unclosed('"')));
        assert_eq!(split("  # nothing"), Err(WordsError::Empty));
    }
}
