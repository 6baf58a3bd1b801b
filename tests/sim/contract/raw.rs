//! A client of a broker that does what no library would: falls silent, and says twice what nobody has confirmed.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::parts::process::DEADLINE;

/// MQTT 5 by hand: 3.1 CONNECT, 3.2 CONNACK, 3.3 PUBLISH, 3.4 PUBACK.
pub struct Raw(TcpStream);

impl Raw {
    /// Connects, and is let in.
    pub async fn connect(
        port: u16,
        client: &str,
        keep_alive_s: u16,
        will: Option<(&str, &str)>,
    ) -> Raw {
        // Clean start; a will of QoS 1 that is retained.
        let flags = 0b10 | if will.is_some() { 0b10_1100 } else { 0 };
        let mut body = text("MQTT");
        body.extend([5, flags]);
        body.extend(keep_alive_s.to_be_bytes());
        body.push(0); // no properties
        body.extend(text(client));
        if let Some((topic, said)) = will {
            body.push(0);
            body.extend(text(topic));
            body.extend(text(said));
        }
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a broker");
        let mut raw = Raw(stream);
        raw.send(0x10, &body).await;
        assert_eq!(raw.answer().await, 0x20, "it is let in");
        raw
    }

    /// Publishes a retained document as packet 1, for the first time or once more, and waits for the
    /// confirmation, of which it then makes nothing.
    pub async fn publish(&mut self, topic: &str, said: &str, again: bool) {
        let mut body = text(topic);
        body.extend([0, 1, 0]);
        body.extend(said.as_bytes());
        self.send(0x33 | if again { 0b1000 } else { 0 }, &body).await;
        assert_eq!(self.answer().await, 0x40, "it is confirmed");
    }

    async fn send(&mut self, kind: u8, body: &[u8]) {
        let length = u8::try_from(body.len()).ok().filter(|length| *length < 128);
        let mut packet = vec![kind, length.expect("a short packet")];
        packet.extend(body);
        self.0.write_all(&packet).await.expect("it takes it");
    }

    /// The kind of the next packet.
    async fn answer(&mut self) -> u8 {
        let read = async {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).await?;
            let mut rest = vec![0; usize::from(head[1])];
            self.0.read_exact(&mut rest).await?;
            Ok::<u8, std::io::Error>(head[0])
        };
        timeout(DEADLINE, read).await.expect("in time").expect("it answers")
    }
}

/// A string with its length before it (1.5.4).
fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short text");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}
