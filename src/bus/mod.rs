//! Floor 2: MQTT 5. Topics, the envelope of documents, the session with the broker, and a broker
//! inside the process.
//!
//! State flows through the bus, commands do not: everything that matters is a retained document,
//! so that a subscriber has the present at once (list) and every change after it (watch). What is
//! lost with a connection is therefore never repeated from a queue; its owner publishes its present
//! state again on every [`session::Event::Connected`].

mod address;
mod connection;
#[cfg(feature = "embedded-broker")]
pub mod embedded;
mod file;
pub mod intake;
mod outage;
mod outbox;
mod refusals;
pub mod session;
pub mod signing;
mod tls;
pub mod topics;
pub mod wire;

pub use address::{AddressError, BrokerAddress};
pub use refusals::Refusals;
pub use signing::{Signer, SignerError};
pub use topics::{Filter, Topic, TopicError};
pub use wire::{Document, PAYLOAD_BYTES_MAX, WireError, decode, encode};
