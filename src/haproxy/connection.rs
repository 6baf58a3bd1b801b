//! One connection to HAProxy's runtime API: commands out, answers in, bounded in size.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::config::Socket;

/// The most that the answers to one pipeline may be, in bytes. 100,000 servers take about 30 MB.
const ANSWERS_BYTES_MAX: usize = 32 << 20;

/// How much is read at once: more than HAProxy's own buffer of 16 KiB, so that nothing is gained by more.
const CHUNK_BYTES: usize = 64 << 10;

/// After each answer (HAProxy management guide 9.3, `prompt`).
const PROMPT: &[u8] = b"\n> ";

/// A connection in interactive mode, which HAProxy keeps open between commands.
pub(super) struct Connection(Box<dyn Stream>);

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

impl Connection {
    /// Opens the socket, without a word yet.
    pub(super) async fn open(socket: &Socket) -> std::io::Result<Connection> {
        Ok(Connection(match socket {
            Socket::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Socket::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str()).await?;
                // Commands are small and wait for answers: delayed ACKs would cost 40 ms each.
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        }))
    }

    /// Sends all `commands` and reads the answer to each, without the prompt. `answers` has those that
    /// came, whatever happens, this future being dropped included.
    pub(super) async fn ask(
        &mut self,
        commands: &[String],
        answers: &mut Vec<String>,
    ) -> Result<(), String> {
        let (mut from, mut to) = tokio::io::split(&mut self.0);
        let mut text = commands.join("\n");
        text.push('\n');
        // Both at once: HAProxy stops reading while nobody takes its answers.
        let write = async { to.write_all(text.as_bytes()).await.map_err(|e| e.to_string()) };
        let read = read_answers(&mut from, commands, answers);
        tokio::try_join!(write, read)?;
        Ok(())
    }
}

async fn read_answers(
    from: &mut (impl AsyncRead + Unpin),
    commands: &[String],
    answers: &mut Vec<String>,
) -> Result<(), String> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes_left = ANSWERS_BYTES_MAX;
    let mut frame = Frame::new(commands.first());
    while answers.len() < commands.len() {
        let read = match from.read(&mut chunk).await.map_err(|error| error.to_string())? {
            0 => return Err("it closed the connection".to_owned()),
            read => read,
        };
        bytes_left = bytes_left
            .checked_sub(read)
            .ok_or_else(|| format!("the answer is longer than {ANSWERS_BYTES_MAX} bytes"))?;
        for byte in &chunk[..read] {
            if answers.len() == commands.len() {
                return Err("it says more than it was asked".to_owned());
            }
            if frame.push(*byte) {
                answers.push(frame.text());
                frame = Frame::new(commands.get(answers.len()));
            }
        }
    }
    Ok(())
}

/// One answer in the making.
struct Frame {
    bytes: Vec<u8>,
    /// Whether the answer is CSV. Its quoted fields repeat what checked servers said, and so may
    /// hold anything, a line that looks like a prompt included.
    csv: bool,
    quoted: bool,
}

impl Frame {
    fn new(command: Option<&String>) -> Frame {
        let csv = command.is_some_and(|command| command.starts_with("show stat"));
        Frame { bytes: Vec::new(), csv, quoted: false }
    }

    /// Takes one byte; true if it ends the answer.
    fn push(&mut self, byte: u8) -> bool {
        self.bytes.push(byte);
        if self.csv && byte == b'"' {
            self.quoted = !self.quoted;
        }
        byte == b' ' && !self.quoted && self.bytes.ends_with(PROMPT)
    }

    /// The answer without the prompt. What is not UTF-8 can only be what a checked server said.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.bytes.len() - PROMPT.len()]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answers(commands: &[&str], mut bytes: &[u8]) -> (Vec<String>, Result<(), String>) {
        let commands: Vec<String> = commands.iter().map(|c| (*c).to_owned()).collect();
        let mut answers = Vec::new();
        let result = read_answers(&mut bytes, &commands, &mut answers).await;
        (answers, result)
    }

    #[tokio::test]
    async fn answers_end_at_the_prompt() {
        let (answers, result) =
            answers(&["a", "b", "c"], b"\n> No such server.\n\n> 1\n\n> ").await;
        assert_eq!(answers, ["", "No such server.\n", "1\n"]);
        assert_eq!(result, Ok(()));
    }

    #[tokio::test]
    async fn a_prompt_in_a_quoted_field_is_no_prompt() {
        let text = b"app,web1,\"said \"\"x\n> y\",UP\n\n> ";
        let (answers, result) = answers(&["show stat -1 6 -1"], text).await;
        assert_eq!(answers, ["app,web1,\"said \"\"x\n> y\",UP\n"]);
        assert_eq!(result, Ok(()));
    }

    #[tokio::test]
    async fn half_an_answer_and_more_than_one_are_errors() {
        let (some, result) = answers(&["a", "b"], b"\n> half").await;
        assert_eq!(some, [""]);
        assert_eq!(result, Err("it closed the connection".to_owned()));
        let (_, result) = answers(&["a"], b"\n> \n> ").await;
        assert_eq!(result, Err("it says more than it was asked".to_owned()));
    }
}
