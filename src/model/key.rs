//! Whose word it is: the public half of the key that signs a controller's orders.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// An Ed25519 public key (RFC 8032, 5.1.5), written as its 32 bytes in base64 (RFC 4648, 4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

/// Whose word a document is: the key that has signed it; none if it is not signed.
pub type SignedBy = Option<PublicKey>;

/// Why a text is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a public key is wanted, 32 bytes in base64, as `evenkeel public-key FILE` prints it")]
pub struct KeyError;

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        bytes(text).map(Self).ok_or(KeyError)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As many bytes as are wanted, out of base64.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let fits = text.len() == N.div_ceil(3) * 4;
    let decoded = fits.then(|| STANDARD.decode(text).ok()).flatten()?;
    decoded.try_into().ok()
}

/// What a key's owner has put under a document: an Ed25519 signature (RFC 8032, 5.1.6), in base64.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature(pub [u8; 64]);

/// Why a text is no signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a signature is wanted, 64 bytes in base64")]
pub struct SignatureError;

impl TryFrom<String> for Signature {
    type Error = SignatureError;

    fn try_from(text: String) -> Result<Self, SignatureError> {
        bytes(&text).map(Self).ok_or(SignatureError)
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> String {
        STANDARD.encode(signature.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from(*self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_form() {
        let key = PublicKey([7; 32]);
        let text = key.to_string();
        assert_eq!(text.len(), 44);
        assert_eq!(text.parse(), Ok(key));
        let longer = format!("{text}AAAA");
        let unpadded = text.trim_end_matches('=');
        let spaced = format!(" {text}");
        // The last digit carries two bits that no byte has.
        let loose = text.replace("c=", "d=");
        assert_ne!(loose, text);
        for bad in ["", unpadded, &longer, &spaced, &loose, "ssh-ed25519"] {
            assert_eq!(bad.parse::<PublicKey>(), Err(KeyError), "{bad:?}");
        }
        let signature = Signature([9; 64]);
        assert_eq!(Signature::try_from(String::from(signature)), Ok(signature));
        assert!(Signature::try_from(text).is_err());
    }
}
