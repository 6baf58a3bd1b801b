//! What a plugin says: its text and its performance data.
//!
//! Source: Monitoring Plugins Development Guidelines, "Plugin Output for Nagios" and "Performance
//! data"; Nagios Core Plugin API, "Plugin Output Spec":
//!
//! ```text
//! TEXT OUTPUT | OPTIONAL PERFDATA
//! LONG TEXT LINE 1
//! LONG TEXT LINE N | PERFDATA LINE 2
//! PERFDATA LINE 3
//! ```

use crate::command::clean;

/// The most that is kept of either, in bytes: what a report may carry for each of many checks.
const BYTES_MAX: usize = 1024;

/// A plugin's text and performance data, each cleaned and bounded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) performance: String,
}

/// Takes a plugin's standard output apart.
pub(super) fn parse(stdout: &[u8]) -> Said {
    let output = clean(stdout);
    let (first, long) = output.split_once('\n').unwrap_or((&output, ""));
    let (text, performance) = first.split_once('|').unwrap_or((first, ""));
    let (_long_text, long_performance) = long.split_once('|').unwrap_or((long, ""));
    let performance = [performance]
        .into_iter()
        .chain(long_performance.lines())
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    Said { text: cut(text.trim()), performance: cut(&performance) }
}

/// At most [`BYTES_MAX`] bytes of `text`, cut between characters.
pub(super) fn cut(text: &str) -> String {
    let mut end = text.len().min(BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_performance_data_are_told_apart() {
        for (output, text, performance) in [
            ("", "", ""),
            ("OK - fine\n", "OK - fine", ""),
            ("OK - fine|a=1;2;3 b=4\n", "OK - fine", "a=1;2;3 b=4"),
            ("OK | a=1\nlong\ntext | b=2\nc=3\n\nd=4\n", "OK", "a=1 b=2 c=3 d=4"),
            ("OK\nlong text only\n", "OK", ""),
            ("OK\r\n", "OK", ""),
            ("| a=1", "", "a=1"),
        ] {
            let expected = Said { text: text.to_owned(), performance: performance.to_owned() };
            assert_eq!(parse(output.as_bytes()), expected, "{output:?}");
        }
    }

    #[test]
    fn both_are_bounded() {
        let said = parse(format!("{}|{}", "ä".repeat(5000), "x".repeat(5000)).as_bytes());
        assert_eq!((said.text.len(), said.performance.len()), (1024, 1024));
    }
}
