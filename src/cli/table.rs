//! Tables of text, with aligned columns, for people.

use super::print::clean;

/// Between two columns.
const GAP: usize = 2;

/// The last column is never cut below this: less says nothing.
const LAST_MIN: usize = 12;

/// Rows under a header.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// Adds a row; an empty cell becomes `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cell = |text: String| if text.is_empty() { "-".to_owned() } else { clean(&text) };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// As lines. Where a terminal's `width` is given, the last column is cut to fit.
    pub fn render(&self, width: Option<usize>) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widest = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| length(cell)).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| widest(column).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths).take(columns.saturating_sub(1)) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width - length(cell) + GAP));
            }
            if let Some(last) = row.get(columns.saturating_sub(1)) {
                let room = width.map(|width| width.saturating_sub(length(&line)).max(LAST_MIN));
                line.push_str(&cut(last, room));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn cut(text: &str, room: Option<usize>) -> String {
    match room {
        Some(room) if length(text) > room => {
            let kept: String = text.chars().take(room - 1).collect();
            format!("{}…", kept.trim_end())
        }
        Some(_) | None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NODE", "STATE", "MESSAGE"]);
        table.row(["web1".into(), String::new(), "a message that goes on for long".into()]);
        table.row(["a-longer-name".into(), "up\u{1b}[2J".into(), "two\nlines".into()]);
        table
    }

    #[test]
    fn a_pipe_gets_it_whole() {
        expect![[r#"
            NODE           STATE   MESSAGE
            web1           -       a message that goes on for long
            a-longer-name  up�[2J  two; lines
        "#]]
        .assert_eq(&table().render(None));
    }

    #[test]
    fn a_terminal_gets_what_fits() {
        expect![[r#"
            NODE           STATE   MESSAGE
            web1           -       a message that…
            a-longer-name  up�[2J  two; lines
        "#]]
        .assert_eq(&table().render(Some(39)));
        for width in 0..60 {
            for line in table().render(Some(width)).lines() {
                assert!(length(line) <= width.max(23 + LAST_MIN), "{width}: {line}");
            }
        }
    }
}
