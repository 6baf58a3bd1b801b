//! The envelope of every document on the bus: `{"version":1,"kind":"report","body":{…}}`.
//!
//! It is JSON, so that `mosquitto_sub` shows it to a person. A reader takes only what it
//! understands in full: another version, another kind or an unknown field is refused in words,
//! because half-understood orders are worse than none.
//!
//! Orders may be signed: `{"version":1,"kind":"assignment","body":{…},"signed":{"key":"…","signature":"…"}}`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::signing::{Signer, fits};
use crate::model::{
    Alive, Assignment, ClusterLedger, ControllerAlive, Leader, Mailbox, PublicKey, Receipt, Report,
    Signature, SignedBy,
};

/// The version that this program writes, and the only one that it reads.
pub const VERSION: u64 = 1;

/// The largest payload that is sent or parsed, in bytes; a broker must take packets of this size and
/// a little more. A load balancer's report has 130 bytes for each server and 250 for one that is
/// out, which makes room for 4,000 at the least.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// A document of the model that travels on the bus.
pub trait Document: Serialize + DeserializeOwned {
    /// Its name in the envelope.
    const KIND: &'static str;
}

impl Document for Assignment {
    const KIND: &'static str = "assignment";
}
impl Document for Report {
    const KIND: &'static str = "report";
}
impl Document for Alive {
    const KIND: &'static str = "alive";
}
impl Document for ControllerAlive {
    const KIND: &'static str = "controller";
}
impl Document for Leader {
    const KIND: &'static str = "leader";
}
impl Document for ClusterLedger {
    const KIND: &'static str = "status";
}
impl Document for Mailbox {
    const KIND: &'static str = "mailbox";
}
impl Document for Receipt {
    const KIND: &'static str = "receipt";
}

/// Why a document could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It is larger than [`PAYLOAD_BYTES_MAX`].
    #[error("the {kind} has {bytes} bytes, which is over the limit of {PAYLOAD_BYTES_MAX}")]
    TooLarge {
        /// What it is, or should have been.
        kind: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// It is no document of this kind, or of a version that is not understood; the source says where and why.
    #[error("the payload is no {kind} that this program understands")]
    Malformed {
        /// What it should have been.
        kind: &'static str,
        /// What is wrong with it.
        #[source]
        error: serde_json::Error,
    },
    /// The signature under it is not its key's, or not for this document in this place.
    #[error("the signature under the {kind} does not fit")]
    Forged {
        /// What it is.
        kind: &'static str,
    },
    /// It is no marker, which is the number of a connection.
    #[error("the payload is no marker, the number of a connection")]
    NoMarker,
    /// It cannot be written as JSON.
    #[error("the {kind} cannot be written as JSON")]
    Unwritable {
        /// What it is.
        kind: &'static str,
        /// What is wrong with it.
        #[source]
        error: serde_json::Error,
    },
}

/// The envelope. In this order we write it, so that another version is told as such, and not as whatever it has
/// changed in the body.
#[derive(Serialize)]
struct Envelope<'a> {
    version: u64,
    kind: &'static str,
    body: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    signed: Option<Signed>,
}

/// Whose word it is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    key: PublicKey,
    signature: Signature,
}

/// Writes `document` in its envelope.
///
/// # Errors
/// [`WireError::TooLarge`]; [`WireError::Unwritable`] if a value has no form in JSON, which none of
/// the model's should be.
pub fn encode<T: Document>(document: &T) -> Result<Vec<u8>, WireError> {
    write(document, |_| None)
}

/// Writes `document` in its envelope, signed for `topic`, which has the fleet in it.
///
/// # Errors
/// As those of [`encode`].
pub fn encode_signed<T: Document>(
    document: &T,
    signer: &Signer,
    topic: &str,
) -> Result<Vec<u8>, WireError> {
    write(document, |body| {
        let signature = signer.sign(T::KIND, topic, body.as_bytes());
        Some(Signed { key: signer.public(), signature })
    })
}

fn write<T: Document>(
    document: &T,
    sign: impl FnOnce(&str) -> Option<Signed>,
) -> Result<Vec<u8>, WireError> {
    let kind = T::KIND;
    let unwritable = |error| WireError::Unwritable { kind, error };
    let body = serde_json::value::to_raw_value(document).map_err(unwritable)?;
    let signed = sign(body.get());
    let envelope = Envelope { version: VERSION, kind, body: &body, signed };
    let payload = serde_json::to_vec(&envelope).map_err(unwritable)?;
    within_limit(kind, &payload)?;
    Ok(payload)
}

/// Reads a document from its envelope; `None` if the payload is empty, which is how MQTT says that
/// a retained document was deleted.
///
/// # Errors
/// [`WireError::TooLarge`], before anything is parsed; [`WireError::Malformed`].
pub fn decode<T: Document>(payload: &[u8]) -> Result<Option<T>, WireError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, bound = "T: Document")]
    struct Envelope<T: Document> {
        #[serde(rename = "version")]
        _version: KnownVersion,
        #[serde(rename = "kind")]
        _kind: KindOf<T>,
        body: T,
    }
    Ok(open::<T, Envelope<T>>(payload)?.map(|envelope| envelope.body))
}

/// Reads a document that may be signed, as it was published on `topic`; and who has signed it.
///
/// # Errors
/// Those of [`decode`], and [`WireError::Forged`].
pub fn decode_signed<T: Document>(
    payload: &[u8],
    topic: &str,
) -> Result<Option<(T, SignedBy)>, WireError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, bound = "T: Document")]
    struct Envelope<'a, T: Document> {
        #[serde(rename = "version")]
        _version: KnownVersion,
        #[serde(rename = "kind")]
        _kind: KindOf<T>,
        #[serde(borrow)]
        body: &'a RawValue,
        #[serde(default, deserialize_with = "present")]
        signed: Option<Signed>,
    }
    let kind = T::KIND;
    let Some(envelope) = open::<T, Envelope<T>>(payload)? else { return Ok(None) };
    let body = envelope.body.get();
    if let Some(Signed { key, signature }) = &envelope.signed
        && !fits(key, signature, kind, topic, body.as_bytes())
    {
        return Err(WireError::Forged { kind });
    }
    let malformed = |error| WireError::Malformed { kind, error };
    let document = serde_json::from_str(body).map_err(malformed)?;
    Ok(Some((document, envelope.signed.map(|signed| signed.key))))
}

fn open<'a, T: Document, E: Deserialize<'a>>(payload: &'a [u8]) -> Result<Option<E>, WireError> {
    let kind = T::KIND;
    if payload.is_empty() {
        return Ok(None);
    }
    within_limit(kind, payload)?;
    serde_json::from_slice(payload).map(Some).map_err(|error| WireError::Malformed { kind, error })
}

/// Reads a marker, which stands without an envelope; `None` if the payload is empty.
///
/// # Errors
/// [`WireError::NoMarker`].
pub(super) fn decode_marker(payload: &[u8]) -> Result<Option<u64>, WireError> {
    /// Digits of the largest.
    const BYTES_MAX: usize = 20;
    if payload.is_empty() {
        return Ok(None);
    }
    let short = Some(payload).filter(|payload| payload.len() <= BYTES_MAX);
    let number = short.and_then(|short| str::from_utf8(short).ok()?.parse().ok());
    number.map(Some).ok_or(WireError::NoMarker)
}

fn within_limit(kind: &'static str, payload: &[u8]) -> Result<(), WireError> {
    let bytes = payload.len();
    if bytes > PAYLOAD_BYTES_MAX {
        return Err(WireError::TooLarge { kind, bytes });
    }
    Ok(())
}

/// Not null: what is not signed says nothing of it.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Signed>, D::Error> {
    Signed::deserialize(deserializer).map(Some)
}

/// Deserializes from [`VERSION`] alone.
struct KnownVersion;

impl<'de> Deserialize<'de> for KnownVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            VERSION => Ok(Self),
            other => Err(D::Error::custom(format_args!(
                "version {other} is not understood, only version {VERSION}; \
                 run the same release of evenkeel everywhere"
            ))),
        }
    }
}

/// Deserializes from `T`'s kind alone.
struct KindOf<T>(PhantomData<T>);

impl<'de, T: Document> Deserialize<'de> for KindOf<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Wanted(&'static str);
        impl Visitor<'_> for Wanted {
            type Value = ();
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "the kind {:?}", self.0)
            }
            fn visit_str<E: serde::de::Error>(self, kind: &str) -> Result<(), E> {
                if kind == self.0 {
                    return Ok(());
                }
                let shown: String = kind.chars().take(40).collect();
                Err(E::invalid_value(Unexpected::Str(&shown), &self))
            }
        }
        deserializer.deserialize_str(Wanted(T::KIND)).map(|()| Self(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Boot, ControllerId, MessageKey, NodeName, ReceiptOutcome, RecipientName};
    use std::error::Error;

    fn alive() -> Alive {
        Alive {
            node: NodeName::new("web1").unwrap(),
            boot: Boot { started: 7, connection: 2 },
            alive: true,
        }
    }

    fn reason(payload: &str) -> String {
        let error = decode::<Alive>(payload.as_bytes()).expect_err(payload);
        error.source().expect("a source").to_string()
    }

    const GOOD: &str = r#"{"version":1,"kind":"alive","body":{"node":"web1","boot":{"started":7,"connection":2},"alive":true}}"#;

    #[test]
    fn the_envelope_is_plain_json() {
        assert_eq!(String::from_utf8(encode(&alive()).unwrap()).unwrap(), GOOD);
        assert_eq!(decode::<Alive>(GOOD.as_bytes()).unwrap(), Some(alive()));
        assert_eq!(decode::<Alive>(b"").unwrap(), None);
    }

    #[test]
    fn a_controller_says_that_it_is_alive() {
        let document = ControllerAlive {
            controller: ControllerId::new("c1").unwrap(),
            boot: Boot { started: 1, connection: 1 },
            alive: false,
        };
        assert_eq!(decode(&encode(&document).unwrap()).unwrap(), Some(document));
    }

    #[test]
    fn what_is_not_understood_is_refused_in_words() {
        for (from, to, word) in [
            ("\"version\":1", "\"version\":2", "version 2 is not understood"),
            ("\"version\":1", "\"version\":-1", "invalid value"),
            ("\"version\":1,", "", "missing field `version`"),
            ("\"alive\",\"body\"", "\"report\",\"body\"", "expected the kind \"alive\""),
            ("\"version\":1", "\"version\":1,\"extra\":0", "unknown field `extra`"),
            ("\"node\"", "\"extra\":0,\"node\"", "unknown field `extra`"),
            ("\"version\":1", "\"version\":1,\"version\":1", "duplicate field"),
            ("\"web1\"", "\"../etc\"", "not a valid node name"),
            ("}}", "}}}", "trailing characters"),
            ("}}", "}", "EOF"),
        ] {
            let payload = GOOD.replacen(from, to, 1);
            assert!(reason(&payload).contains(word), "{payload}: {}", reason(&payload));
        }
        // Nesting without end must not exhaust the stack.
        reason(&format!("{{\"version\":1,\"kind\":\"alive\",\"body\":{}", "[".repeat(100_000)));
        assert!(decode::<Alive>(&[0xff, 0xfe]).is_err());
        // Another version is told as such, whatever else has changed with it.
        assert!(
            reason(r#"{"version":2,"kind":"pulse","at":1}"#)
                .contains("version 2 is not understood")
        );
    }

    #[test]
    fn what_is_signed_says_by_whom_and_cannot_be_changed() {
        let (signer, _) = Signer::make().unwrap();
        let decode = |payload: &str, topic| decode_signed::<Alive>(payload.as_bytes(), topic);
        let signed = String::from_utf8(encode_signed(&alive(), &signer, "here").unwrap()).unwrap();
        let key = signer.public();
        assert!(signed.starts_with(GOOD.strip_suffix('}').unwrap()), "{signed}");
        assert_eq!(decode(&signed, "here").unwrap(), Some((alive(), Some(key))));
        assert_eq!(decode(GOOD, "here").unwrap(), Some((alive(), None)));
        assert_eq!(decode("", "here").unwrap(), None);
        assert!(matches!(decode(&signed, "there"), Err(WireError::Forged { .. })));

        let other = Signer::make().unwrap().0.public();
        let (key, other) = (key.to_string(), other.to_string());
        for (from, to, word) in [
            ("web1", "web2", "does not fit"),
            ("\"alive\":true", "\"alive\": true", "does not fit"),
            (key.as_str(), other.as_str(), "does not fit"),
            ("\"key\"", "\"by\"", "unknown field `by`"),
            ("signature\":\"", "signature\":\"A", "64 bytes in base64"),
            ("key\":\"", "key\":\"A", "32 bytes in base64"),
            ("\"version\":1", "\"version\":2", "version 2 is not understood"),
        ] {
            let error = decode(&signed.replacen(from, to, 1), "here").unwrap_err();
            let said = format!("{error}: {:?}", error.source().map(ToString::to_string));
            assert!(said.contains(word), "{said}");
        }
        let null = GOOD.replacen("}}", "},\"signed\":null}", 1).replace("true}}", "true}");
        assert!(matches!(decode(&null, "here"), Err(WireError::Malformed { .. })), "{null}");
        // Where nothing can be signed, nothing that is signed is understood.
        assert!(super::decode::<Alive>(signed.as_bytes()).is_err());
        // What is signed is judged before it is read.
        let broken = GOOD.replacen("true", "7", 1);
        assert!(matches!(decode(&broken, "here"), Err(WireError::Malformed { .. })));
    }

    #[test]
    fn too_large_is_refused_on_both_ways() {
        let of = |bytes: usize| Receipt {
            key: MessageKey("k".into()),
            node: NodeName::new("n1").unwrap(),
            outcomes: [(
                RecipientName::new("oncall").unwrap(),
                ReceiptOutcome::Failed("x".repeat(bytes)),
            )]
            .into(),
        };
        let frame = encode(&of(0)).unwrap().len();
        assert_eq!(encode(&of(PAYLOAD_BYTES_MAX - frame)).unwrap().len(), PAYLOAD_BYTES_MAX);
        let error = encode(&of(PAYLOAD_BYTES_MAX - frame + 1)).unwrap_err();
        assert!(matches!(error, WireError::TooLarge { kind: "receipt", .. }), "{error}");
        let error = decode::<Receipt>(&vec![b' '; PAYLOAD_BYTES_MAX + 1]).unwrap_err();
        assert!(matches!(error, WireError::TooLarge { .. }), "{error}");
    }
}
