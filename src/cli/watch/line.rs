//! A line of a terminal: pieces in few colours, cut to its width. Colours only repeat what words say.

use super::super::print::clean;
use crate::controller::live::NodeState;
use crate::plan::Phase;

/// What a piece is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing in particular.
    Plain,
    /// What stands over others.
    Title,
    /// As it should be.
    Good,
    /// Under way.
    Work,
    /// Waiting.
    Wait,
    /// For a person to see to.
    Bad,
}

impl Tone {
    pub fn of_state(state: NodeState) -> Tone {
        match state {
            NodeState::InService | NodeState::Serves => Self::Good,
            NodeState::Upgrading
            | NodeState::TakingOut
            | NodeState::Settling
            | NodeState::PuttingBack => Self::Work,
            NodeState::Waiting | NodeState::Held | NodeState::Unclaimed => Self::Wait,
            NodeState::Failed | NodeState::Blocked | NodeState::Missing => Self::Bad,
        }
    }

    pub fn of_phase(phase: Phase) -> Tone {
        match phase {
            Phase::Converged => Self::Good,
            Phase::Progressing => Self::Work,
            Phase::Degraded => Self::Bad,
        }
    }

    /// Of the colours that every terminal has, and every user may have changed.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Title => Some("1"),
            Self::Good => Some("32"),
            Self::Work => Some("36"),
            Self::Wait => Some("33"),
            Self::Bad => Some("1;31"),
        }
    }
}

/// One line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Tone, String)>);

impl Line {
    pub fn plain(text: impl Into<String>) -> Line {
        Line::default().and(Tone::Plain, text)
    }

    pub fn and(mut self, tone: Tone, text: impl Into<String>) -> Line {
        self.0.push((tone, text.into()));
        self
    }

    /// At most so many characters, none of which a terminal would obey.
    pub fn cut(&self, columns: usize) -> Line {
        let pieces: Vec<(Tone, String)> =
            self.0.iter().map(|(tone, text)| (*tone, clean(text))).collect();
        let length: usize = pieces.iter().map(|(_, text)| text.chars().count()).sum();
        if length <= columns {
            return Line(pieces);
        }
        let mut left = columns.saturating_sub(1);
        let mut line = Line::default();
        for (tone, text) in pieces {
            let kept: String = text.chars().take(left).collect();
            left -= kept.chars().count();
            line = line.and(tone, kept);
        }
        line.and(Tone::Plain, "…")
    }

    /// As it is sent to the terminal.
    pub fn written(&self, colours: bool) -> String {
        let mut written = String::new();
        for (tone, text) in &self.0 {
            match tone.code().filter(|_| colours && !text.is_empty()) {
                Some(code) => written.push_str(&format!("\x1b[{code}m{text}\x1b[m")),
                None => written.push_str(text),
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_through_its_pieces() {
        let line =
            Line::plain("web1  ").and(Tone::Good, "✓ in service").and(Tone::Plain, "  1\x1b[2J");
        assert_eq!(line.cut(80).written(false), "web1  ✓ in service  1\u{fffd}[2J");
        assert_eq!(line.cut(80).written(true), "web1  \x1b[32m✓ in service\x1b[m  1\u{fffd}[2J");
        assert_eq!(line.cut(12).written(true), "web1  \x1b[32m✓ in \x1b[m…");
        assert_eq!(line.cut(7).written(true), "web1  …");
        assert_eq!(line.cut(3).written(true), "we…");
        for columns in 1..30 {
            assert!(line.cut(columns).written(false).chars().count() <= columns, "{columns}");
        }
    }
}
