//! Faults: where they are, and how they are shown.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::model::Fault;

/// Lines longer than this are not shown with a fault, only pointed at; nobody reads them.
const SHOWN_LINE_BYTES_MAX: usize = 1000;

/// With more faults in one app the rest are counted only: nobody mends that many before looking
/// again, and they travel in status documents.
pub(super) const FAULTS_MAX: usize = 100;

/// How faults are rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Text alone, for files, logs and the bus.
    Plain,
    /// With colours, for a terminal.
    Colour,
}

/// A file's text, to point into.
#[derive(Debug)]
pub(super) struct Source {
    /// The file, relative to the desired directory.
    pub path: String,
    /// What it says; empty if it could not be read.
    pub text: String,
    /// Where its lines begin, in bytes.
    line_starts: Vec<usize>,
}

impl Source {
    pub fn new(path: String, text: String) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        Self { path, text, line_starts }
    }

    /// The number of the line with the byte at `offset`, from 1.
    pub fn line_number(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// Where that line begins, and what it says.
    fn line(&self, number: usize) -> (usize, &str) {
        let start = self.line_starts[number - 1];
        (start, self.text[start..].lines().next().unwrap_or_default())
    }
}

/// A part of one of an app's files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Which of the app's sources.
    pub file: usize,
    /// From where to where, in bytes; `None`: the file as a whole.
    pub span: Option<(usize, usize)>,
}

impl Place {
    pub fn whole(file: usize) -> Self {
        Self { file, span: None }
    }

    pub fn part(file: usize, span: Range<usize>) -> Self {
        Self { file, span: Some((span.start, span.end)) }
    }
}

/// A fault, not yet rendered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flaw {
    pub place: Place,
    pub message: String,
}

/// Renders an app's flaws in the order of its files and lines, each once.
pub(super) fn render(sources: &[Source], mut flaws: Vec<Flaw>, style: Style) -> Vec<Fault> {
    flaws.sort();
    flaws.dedup();
    let more = flaws.len().saturating_sub(FAULTS_MAX);
    let mut faults: Vec<Fault> =
        flaws.into_iter().take(FAULTS_MAX).map(|flaw| render_one(sources, flaw, style)).collect();
    if more > 0
        && let Some(last) = faults.last()
    {
        let file = last.file.clone();
        faults.push(of_whole_file(&file, format!("{more} more faults are not shown"), style));
    }
    faults
}

/// A fault that has no line.
pub(super) fn of_whole_file(file: &str, message: String, style: Style) -> Fault {
    let rendered =
        show(Level::ERROR.primary_title(message.as_str()).element(Origin::path(file)), style);
    Fault { file: file.to_owned(), line: 0, column: 0, message, rendered }
}

/// Says where a place is, as `file:line`.
pub(super) fn name_place(sources: &[Source], place: &Place) -> String {
    let source = &sources[place.file];
    match place.span {
        Some((start, _)) => format!("{}:{}", source.path, source.line_number(start)),
        None => source.path.clone(),
    }
}

fn render_one(sources: &[Source], flaw: Flaw, style: Style) -> Fault {
    let source = &sources[flaw.place.file];
    let Some((start, end)) = flaw.place.span else {
        return of_whole_file(&source.path, flaw.message, style);
    };
    let number = source.line_number(start);
    let (line_start, line) = source.line(number);
    // A place can go on over more lines; and no place may split a character.
    let from = line.floor_char_boundary(start - line_start);
    let to = line.ceil_char_boundary(end.max(start) - line_start);
    let column = line[..from].chars().count() + 1;
    let title = Level::ERROR.primary_title(flaw.message.as_str());
    let rendered = if line.len() <= SHOWN_LINE_BYTES_MAX {
        let snippet = Snippet::source(line)
            .line_start(number)
            .path(source.path.as_str())
            .annotation(AnnotationKind::Primary.span(from..to));
        show(title.element(snippet), style)
    } else {
        let origin = Origin::path(source.path.as_str()).line(number).char_column(column);
        show(title.element(origin), style)
    };
    Fault { file: source.path.clone(), line: number, column, message: flaw.message, rendered }
}

fn show(group: Group<'_>, style: Style) -> String {
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Colour => Renderer::styled(),
    };
    renderer.render(&[group])
}
