//! Validated names: a value of one of these types is safe in a topic, a path and a HAProxy command.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a text is not a name: which kind of name was wanted, and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{text:?} is not a valid {kind}: {rule}")]
pub struct NameError {
    /// What kind of name was wanted, in words.
    pub kind: &'static str,
    /// The rejected text, cut to 160 characters.
    pub text: String,
    /// The rule, in words.
    pub rule: String,
}

/// Checks `text` against the one shape all names share: a letter or digit, then letters, digits and
/// the characters of `more`, at most `length_max` bytes in all.
fn check(kind: &'static str, text: &str, more: &str, length_max: usize) -> Result<(), NameError> {
    let mut characters = text.chars();
    let first_ok = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest_ok = characters.all(|c| c.is_ascii_alphanumeric() || more.contains(c));
    if first_ok && rest_ok && text.len() <= length_max {
        return Ok(());
    }
    Err(NameError {
        kind,
        text: text.chars().take(160).collect(),
        rule: format!(
            "it must begin with a letter or digit, go on with letters, digits or any of {more:?}, \
             and be 1 to {length_max} characters long"
        ),
    })
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident: $kind:literal, $more:literal, $length_max:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// What it is, in words.
            pub const KIND: &str = $kind;
            /// What may follow the first character, besides letters and digits.
            pub const MORE: &str = $more;
            /// The greatest length, in bytes.
            pub const LENGTH_MAX: usize = $length_max;

            /// Accepts `text` if it obeys the rule for this kind of name.
            ///
            /// # Errors
            /// [`NameError`] with the rule that `text` breaks.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                check($kind, text, $more, $length_max)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    )*};
}

names! {
    /// Everything one controller looks after; part of every bus topic.
    FleetName: "fleet name", "._-", 64;
    /// What is deployed; a folder under the desired directory.
    AppName: "app name", "._-", 64;
    /// A set of an app's nodes with one revision; a file in the app's folder.
    ClusterName: "cluster name", "._-", 64;
    /// One server with an agent. Host names with dots are welcome.
    NodeName: "node name", "._-", 128;
    /// A HAProxy backend (proxy names: HAProxy configuration manual, 2.4 "Proxies").
    BackendName: "backend name", "._:-", 128;
    /// A server of a HAProxy backend.
    ServerName: "server name", "._:-", 128;
    /// A check, as `command[NAME]` in `nrpe.cfg`.
    CheckName: "check name", "._-", 128;
    /// Somebody to be told; what stands behind the name is known to the notification servers only.
    RecipientName: "recipient name", "._-", 64;
    /// The revision of an app that a node runs or should run.
    Revision: "revision", "._+-", 128;
    /// Which controller: drawn at random once, kept in its state directory.
    ControllerId: "controller id", "-", 64;
    /// One effort to bring a cluster to a revision; see [`RolloutId::derive`].
    RolloutId: "rollout id", "-", 64;
}

impl RolloutId {
    /// The id of the rollout that would bring `cluster` of `app` to `revision` with `retry`, after
    /// the convergence of the rollout `previous`. The same inputs give the same id on every
    /// controller, so a restarted one continues the same rollout; converging makes a new one.
    pub fn derive(
        app: &AppName,
        cluster: &ClusterName,
        revision: &Revision,
        retry: &str,
        previous: Option<&RolloutId>,
    ) -> Self {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for part in [
            app.as_str(),
            cluster.as_str(),
            revision.as_str(),
            retry,
            previous.map_or("", |id| id.as_str()),
        ] {
            // A length before each part: ("ab", "c") and ("a", "bc") must differ.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let hex: String = hash.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect();
        Self(hex.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_their_rules() {
        for (text, good) in [
            ("web1", true),
            ("web-1.example.org", true),
            ("", false),
            (".hidden", false),
            ("a/b", false),
            ("a b", false),
            ("a+b", false),
            ("a#", false),
            ("ä", false),
        ] {
            assert_eq!(NodeName::new(text).is_ok(), good, "{text:?}");
        }
        assert!(NodeName::new("n".repeat(128)).is_ok());
        assert!(NodeName::new("n".repeat(129)).is_err());
        assert!(Revision::new("1.4.2+build-7").is_ok());
        assert!(Revision::new("-rf").is_err());
        assert!(serde_json::from_str::<Revision>("\"../etc\"").is_err());
    }

    #[test]
    fn rollout_ids_chain() {
        let app = AppName::new("shop").unwrap();
        let cluster = ClusterName::new("alfa").unwrap();
        let one = Revision::new("1").unwrap();
        let first = RolloutId::derive(&app, &cluster, &one, "", None);
        assert_eq!(first, RolloutId::derive(&app, &cluster, &one, "", None));
        assert_ne!(first, RolloutId::derive(&app, &cluster, &one, "", Some(&first)));
        assert_ne!(first, RolloutId::derive(&app, &cluster, &one, "again", None));
    }
}
