//! Server-sent events, from the reading side: bytes as they come in, events as they are complete.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    /// What it is; `message` where it does not say.
    pub name: String,
    /// Its data, lines joined by line feeds.
    pub data: String,
}

/// What has been read of a stream and is no event yet.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// A line without its end.
    line: Vec<u8>,
    name: String,
    data: Option<String>,
    /// The last byte was a carriage return, which may be the first half of a line end.
    returned: bool,
}

impl Reader {
    /// So many bytes wait for the rest of their event.
    pub fn pending(&self) -> usize {
        self.line.len() + self.data.as_ref().map_or(0, String::len)
    }

    /// Takes the next bytes, wherever they were cut, and returns what is complete by them.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Sent> {
        let mut events = Vec::new();
        for &byte in bytes {
            let second_half = std::mem::replace(&mut self.returned, byte == b'\r') && byte == b'\n';
            match byte {
                b'\n' if second_half => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
        }
        events
    }

    fn end_line(&mut self) -> Option<Sent> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return self.data.take().map(|data| Sent { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "data" => match &mut self.data {
                None => self.data = Some(value.to_owned()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
            },
            _ => {} // a comment, an id, how soon to connect again: not for us
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(name: &str, data: &str) -> Sent {
        Sent { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn however_it_is_cut() {
        let text = "retry: 1000\n\n: a comment\nevent: state\nid: 1\ndata: {\"a\":\"\u{fc}\"}\n\n\
            data: x\r\ndata:y\r\n\r\nevent: none\n\nevent: change\rdata\r\rdata: not yet\n";
        let events =
            [sent("state", "{\"a\":\"\u{fc}\"}"), sent("message", "x\ny"), sent("change", "")];
        for size in [1, 2, 3, 7, text.len()] {
            let mut reader = Reader::default();
            let seen: Vec<Sent> =
                text.as_bytes().chunks(size).flat_map(|part| reader.take(part)).collect();
            assert_eq!(seen, events, "in pieces of {size}");
            assert_eq!(reader.pending(), "not yet".len());
        }
    }
}
