//! Signatures under orders: Ed25519 (RFC 8032), so that an agent knows whose they are, and can refuse those of others.
//!
//! What is signed is where the document is published, fleet and all, and what it says to the byte: it is good
//! for one node and one app of one fleet.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::file;
use crate::model::{PublicKey, Signature};

/// The longest key file, in bytes. A key has some 120.
const FILE_BYTES_MAX: u64 = 4096;

/// What comes before the 32 bytes of a private key in PKCS#8: version 0 and the algorithm 1.3.101.112 (RFC 8410, 7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A key that signs.
#[derive(Debug)]
pub struct Signer {
    pair: Ed25519KeyPair,
}

/// Why a key does not serve.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// It cannot be read.
    #[error(
        "cannot read the signing key {}; `openssl genpkey -algorithm ed25519 -out FILE` makes one",
        path.display()
    )]
    Read {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// Everybody can read it.
    #[error("everybody can read the signing key {0}; take that away: chmod o= {0}", path.display())]
    Exposed {
        /// Which.
        path: PathBuf,
    },
    /// It is no such key.
    #[error("{} is no Ed25519 key: PKCS#8 as PEM is wanted, as openssl genpkey writes it", path.display())]
    Content {
        /// Which.
        path: PathBuf,
    },
    /// The system has given no random bytes for a new one.
    #[error("the system has no random bytes for a signing key")]
    Random,
}

impl SignerError {
    /// There is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Read { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

impl Signer {
    /// The key in this file, PKCS#8 as PEM.
    ///
    /// # Errors
    /// [`SignerError`]
    pub fn read(path: &Path) -> Result<Self, SignerError> {
        let failed = |error| SignerError::Read { path: path.to_owned(), error };
        let content = file::read(path, FILE_BYTES_MAX).map_err(failed)?;
        if std::fs::metadata(path).map_err(failed)?.mode() & 0o007 != 0 {
            return Err(SignerError::Exposed { path: path.to_owned() });
        }
        Self::from_pem(&content).ok_or_else(|| SignerError::Content { path: path.to_owned() })
    }

    /// A new key, and its file's content.
    ///
    /// # Errors
    /// [`SignerError::Random`]
    pub fn make() -> Result<(Self, String), SignerError> {
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| SignerError::Random)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&secret).map_err(|_| SignerError::Random)?;
        let key = STANDARD.encode([&PKCS8[..], &secret].concat());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
        Ok((Self { pair }, pem))
    }

    fn from_pem(pem: &[u8]) -> Option<Self> {
        let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_der()).ok()?;
        Some(Self { pair })
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let mut key = PublicKey([0; 32]);
        key.0.copy_from_slice(self.pair.public_key().as_ref());
        key
    }

    /// The signature under `body` where it is published as `kind` on `topic`. The same again gives the same.
    pub(super) fn sign(&self, kind: &str, topic: &str, body: &[u8]) -> Signature {
        let mut signature = Signature([0; 64]);
        signature.0.copy_from_slice(self.pair.sign(&signed(kind, topic, body)).as_ref());
        signature
    }
}

/// Whether `signature` is `key`'s under `body`, published as `kind` on `topic`.
pub(super) fn fits(
    key: &PublicKey,
    signature: &Signature,
    kind: &str,
    topic: &str,
    body: &[u8],
) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, key.0);
    key.verify(&signed(kind, topic, body), &signature.0).is_ok()
}

/// What is signed: `evenkeel VERSION KIND TOPIC`, a line break, and the body.
fn signed(kind: &str, topic: &str, body: &[u8]) -> Vec<u8> {
    let mut signed = format!("evenkeel {} {kind} {topic}\n", super::wire::VERSION).into_bytes();
    signed.extend(body);
    signed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_that_does_not_serve_is_told_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        let missing = Signer::read(&path).unwrap_err();
        assert!(missing.is_missing() && missing.to_string().contains("openssl genpkey"));

        let keep = |content: &str, mode| {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let (made, pem) = Signer::make().unwrap();
        keep(&pem, 0o640);
        assert_eq!(Signer::read(&path).unwrap().public(), made.public());
        keep(&pem, 0o644);
        let exposed = Signer::read(&path).unwrap_err();
        assert!(exposed.to_string().contains("chmod o="), "{exposed}");

        let long = format!("{pem}{}", " ".repeat(5_000));
        for bad in ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            keep(bad, 0o600);
            let error = Signer::read(&path).unwrap_err();
            assert!(matches!(error, SignerError::Content { .. }), "{error}");
        }
        keep(&long, 0o600);
        assert!(matches!(Signer::read(&path), Err(SignerError::Read { .. })));
    }

    /// RFC 8032, 7.1, test 1: the secret key and the public key to it.
    #[test]
    fn it_is_ed25519() {
        let hex = |text: &str| -> Vec<u8> {
            let pairs = text.as_bytes().chunks(2);
            pairs.map(|p| u8::from_str_radix(str::from_utf8(p).unwrap(), 16).unwrap()).collect()
        };
        let secret = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let key = STANDARD.encode([PKCS8.to_vec(), secret].concat());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
        let signer = Signer::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(signer.public().0.to_vec(), public);
    }

    #[test]
    fn a_signature_is_good_for_one_document_in_one_place() {
        let [(signer, _), (other, _)] = [(); 2].map(|()| Signer::make().unwrap());
        let signature = signer.sign("assignment", "a/b", b"{}");
        assert_eq!(signer.sign("assignment", "a/b", b"{}"), signature);
        let fits = |key: &Signer, kind, topic, body: &[u8]| {
            super::fits(&key.public(), &signature, kind, topic, body)
        };
        assert!(fits(&signer, "assignment", "a/b", b"{}"));
        assert!(!fits(&signer, "assignment", "a/b", b"{ }"));
        assert!(!fits(&signer, "assignment", "a/c", b"{}"));
        assert!(!fits(&signer, "leader", "a/b", b"{}"));
        assert!(!fits(&other, "assignment", "a/b", b"{}"));
        // Where one ends and the next begins cannot be moved.
        assert!(!fits(&signer, "assignment a/b\n{}", "", b""));
    }
}
