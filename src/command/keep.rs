//! What is kept of a command's output: its beginning or its tail, bounded, and fit to be shown.

/// The most that is kept of a tail, in bytes of UTF-8.
///
/// It travels in every report of the node until the next attempt, so it must stay small beside the
/// bus's limit of 1 MiB; a screenful tells why a deployment failed.
pub const TAIL_BYTES_MAX: usize = 4096;

/// Takes everything in and keeps at most `max` bytes of it.
#[derive(Debug)]
pub(super) struct Keep {
    bytes: Vec<u8>,
    end: End,
    max: usize,
}

#[derive(Debug)]
enum End {
    /// Keeps the first bytes.
    Head,
    /// Keeps the last bytes.
    Tail,
}

impl Keep {
    pub(super) fn head(max: usize) -> Keep {
        Keep { bytes: Vec::new(), end: End::Head, max }
    }

    pub(super) fn tail(max: usize) -> Keep {
        Keep { bytes: Vec::new(), end: End::Tail, max }
    }

    pub(super) fn push(&mut self, more: &[u8]) {
        match self.end {
            End::Head => {
                let room = self.max - self.bytes.len();
                self.bytes.extend_from_slice(&more[..more.len().min(room)]);
            }
            End::Tail => {
                self.bytes.extend_from_slice(more);
                // Cut only now and then, so that a flood is not moved about byte by byte.
                if self.bytes.len() > 4 * self.max {
                    self.cut_front();
                }
            }
        }
    }

    fn cut_front(&mut self) {
        let surplus = self.bytes.len().saturating_sub(self.max);
        self.bytes.drain(..surplus);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The kept bytes as clean text of at most `max` bytes.
    pub(super) fn into_text(mut self) -> String {
        self.cut_front();
        let text = clean(&self.bytes);
        // Replacement characters are longer than what they replace.
        let mut from = text.len().saturating_sub(self.max);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        text[from..].to_owned()
    }
}

/// Output as text that can do no harm on a terminal or a page: valid UTF-8, and of the control
/// characters only line breaks and tabs.
pub fn clean(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_end_of_everything_and_bounded() {
        let mut keep = Keep::tail(10);
        for number in 0..1000 {
            keep.push(format!("{number} ").as_bytes());
        }
        assert_eq!(keep.into_text(), "7 998 999 ");
    }

    #[test]
    fn bad_bytes_do_not_outgrow_the_bound() {
        let mut keep = Keep::tail(10);
        keep.push(&[0xff; 100]);
        let text = keep.into_text();
        assert_eq!(text, "\u{fffd}".repeat(3));
    }

    #[test]
    fn a_head_is_the_beginning_of_everything() {
        let mut keep = Keep::head(4);
        keep.push(b"abc");
        keep.push(b"defg");
        assert_eq!(keep.into_bytes(), b"abcd");
    }

    #[test]
    fn control_characters_go() {
        assert_eq!(clean(b"\x1b[31mred\x07\r\n\tmore\x00"), "[31mred\n\tmore");
    }
}
