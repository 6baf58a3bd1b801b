//! Addresses: what the running service says, and archives that are fetched, within bounds.

use std::io;
use std::path::Path;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, Response, Url, redirect};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::command::chain;

/// The largest answer of a service, or file of checksums, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// One try of a probe: a service that accepts and then says nothing must not use up the attempt.
const PROBE_TRY: Duration = Duration::from_secs(5);

/// The pause between two tries of a probe: short at first, because most services are up in a
/// moment, and long enough later on to be no burden to one that is not.
const PROBE_PAUSE_MIN: Duration = Duration::from_millis(10);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A server of archives that does not accept in this time is not going to.
const CONNECT: Duration = Duration::from_secs(10);

/// A download in which nothing arrives for this long is dead; how long it may take in all is the
/// attempt's business.
const SILENCE: Duration = Duration::from_secs(30);

/// How often a download may be sent elsewhere.
const REDIRECTS_MAX: usize = 5;

/// Asks `url` until it answers with success, or `until` has come; then what came last, in words.
pub(super) async fn probe(url: &Url, until: Instant) -> Result<(), String> {
    let client = service(url)?;
    let mut pause = PROBE_PAUSE_MIN;
    let mut last = "there was no time left".to_owned();
    loop {
        let try_until = until.min(Instant::now() + PROBE_TRY);
        match timeout_at(try_until, client.get(url.clone()).send()).await {
            Ok(Ok(answer)) if answer.status().is_success() => return Ok(()),
            Ok(Ok(answer)) => last = format!("HTTP status {}", answer.status()),
            Ok(Err(error)) => last = chain(&error.without_url()),
            Err(_) if Instant::now() < until => last = "no answer in 5 s".to_owned(),
            Err(_) => {}
        }
        // The other side cannot tell us when it is ready; that leaves asking.
        let next = Instant::now() + pause;
        if next >= until {
            return Err(last);
        }
        sleep_until(next).await;
        pause = (pause * 2).min(PROBE_PAUSE_MAX);
    }
}

/// What a service answers at `url`, which must be a success, until `until` at most.
pub(super) async fn ask(url: &Url, until: Instant) -> Result<Vec<u8>, String> {
    let asking = async {
        let answer = service(url)?.get(url.clone()).send().await;
        let answer = answer.map_err(|error| chain(&error.without_url()))?;
        if !answer.status().is_success() {
            return Err(format!("HTTP status {}", answer.status()));
        }
        Source::Web(answer).all(ANSWER_BYTES_MAX).await
    };
    let answer = timeout_at(until, asking).await;
    answer
        .unwrap_or_else(|_| Err("no answer in time".to_owned()))
        .map_err(|error| format!("{}: {error}", shown(url)))
}

/// Fetches a small text.
pub(super) async fn text(url: &Url) -> Result<String, String> {
    let fetching = async { Source::open(url).await?.all(ANSWER_BYTES_MAX).await };
    let bytes = fetching.await.map_err(|error| format!("cannot fetch {}: {error}", shown(url)))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Fetches an archive of at most `bytes_max` into the file `to`; gives its SHA-256, in hex.
pub(super) async fn download(url: &Url, to: &Path, bytes_max: u64) -> Result<String, String> {
    let fetching = async {
        let mut source = Source::open(url).await?;
        let too_large = || format!("it is larger than the {bytes_max} bytes that are allowed");
        if source.length().is_some_and(|length| length > bytes_max) {
            return Err(too_large());
        }
        let mut left = bytes_max;
        let mut hash = Sha256::new();
        let written = |error: io::Error| format!("cannot write {}: {error}", to.display());
        let mut file = File::create_new(to).await.map_err(written)?;
        while let Some(chunk) = source.chunk().await? {
            left = left.checked_sub(chunk.len() as u64).ok_or_else(too_large)?;
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(written)?;
        }
        file.flush().await.map_err(written)?;
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    };
    fetching.await.map_err(|error| format!("cannot fetch {}: {error}", shown(url)))
}

/// An address without what may be secret in it.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.set_query(None);
    url.to_string()
}

/// Something to read from.
enum Source {
    Web(Response),
    File(File),
}

impl Source {
    async fn open(url: &Url) -> Result<Source, String> {
        if url.scheme() != "file" {
            let answer = releases()?.get(url.clone()).send().await;
            let answer = answer.and_then(Response::error_for_status);
            return answer.map(Source::Web).map_err(|error| chain(&error.without_url()));
        }
        let path =
            url.to_file_path().map_err(|()| "it names no file of this machine".to_owned())?;
        // A pipe or a device would hang or never end.
        let is_file = tokio::fs::metadata(&path).await.map(|about| about.is_file());
        if !is_file.map_err(|error| error.to_string())? {
            return Err("it is not a file".to_owned());
        }
        File::open(&path).await.map(Source::File).map_err(|error| error.to_string())
    }

    /// What a server says beforehand; it may still send more or less.
    fn length(&self) -> Option<u64> {
        match self {
            Source::Web(answer) => answer.content_length(),
            Source::File(_) => None,
        }
    }

    async fn chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        match self {
            Source::Web(answer) => {
                let chunk = answer.chunk().await.map_err(|error| chain(&error.without_url()))?;
                Ok(chunk.map(Vec::from))
            }
            Source::File(file) => {
                let mut chunk = vec![0; 256 * 1024];
                let length = file.read(&mut chunk).await.map_err(|error| error.to_string())?;
                chunk.truncate(length);
                Ok((length > 0).then_some(chunk))
            }
        }
    }

    async fn all(mut self, bytes_max: usize) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if all.len() + chunk.len() > bytes_max {
                return Err(format!("the answer is longer than {bytes_max} bytes"));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}

/// A client for the service on this node: by no proxy, no redirection, and no connection that was
/// made to the process before a restart.
fn service(url: &Url) -> Result<Client, String> {
    let mut builder =
        Client::builder().no_proxy().redirect(redirect::Policy::none()).pool_max_idle_per_host(0);
    if url.scheme() == "http" {
        // Loading the system's certificates takes longer than the question.
        builder = builder.tls_certs_only([]);
    }
    built(builder)
}

/// A client for archives. A redirection must not lead from https to what anybody on the way can
/// change, since the checksum comes by the same way.
fn releases() -> Result<Client, String> {
    let policy = redirect::Policy::custom(|attempt| {
        let from_https = attempt.previous().iter().any(|url| url.scheme() == "https");
        if from_https && attempt.url().scheme() != "https" {
            attempt.error("a redirection from https to http is not followed")
        } else if attempt.previous().len() > REDIRECTS_MAX {
            attempt.error("too many redirections")
        } else {
            attempt.follow()
        }
    });
    built(Client::builder().redirect(policy).connect_timeout(CONNECT).read_timeout(SILENCE))
}

fn built(builder: ClientBuilder) -> Result<Client, String> {
    builder.build().map_err(|error| format!("cannot make an HTTP client: {}", chain(&error)))
}
