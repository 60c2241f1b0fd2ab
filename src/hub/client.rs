//! The Hub's HTTP API: commits, listings, and requests that are tried again when that may help.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::StatusCode;

use super::names::{self, shown};
use super::{Checksum, Listing, Origin, Patterns, Remote, Repo, RepoType};
use crate::error::{Error, Result};

/// How long a source that fails is borne with.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts without progress before an error is final.
    pub attempts: u32,
    /// The wait after the first failure; it doubles each time, up to [`Self::longest`].
    pub wait: Duration,
    pub longest: Duration,
    /// How long a silent connection is waited for.
    pub silence: Duration,
}

impl Default for Patience {
    /// About a minute and a half until an error is final.
    fn default() -> Self {
        Self {
            attempts: 9,
            wait: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            silence: Duration::from_secs(60),
        }
    }
}

/// Speaks HTTP with hubs and other sources; shared by threads.
pub struct Client {
    agent: ureq::Agent,
    /// Sent to the hub only, never shown.
    token: Option<String>,
    patience: Patience,
    cancelled: Arc<AtomicBool>,
}

/// A failed request: whether another attempt may help, and how long the source asks to wait.
pub struct Trouble {
    pub error: Error,
    /// Of the answer, if there was one.
    pub status: Option<StatusCode>,
    passing: bool,
    wait: Option<Duration>,
}

impl Trouble {
    pub fn is_passing(&self) -> bool {
        self.passing
    }

    pub fn passing(error: Error) -> Self {
        Self { error, status: None, passing: true, wait: None }
    }

    pub fn lasting(error: Error) -> Self {
        Self { error, status: None, passing: false, wait: None }
    }
}

/// An entry of the Hub's tree listing.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: Option<u64>,
    /// Git's name of the blob; of LFS files that of the pointer.
    oid: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    /// SHA-256 of the content.
    oid: String,
    size: u64,
}

impl Client {
    /// `token` is sent to hubs that need one; `cancelled` ends every wait and transfer.
    pub fn new(token: Option<String>, patience: Patience, cancelled: Arc<AtomicBool>) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // The token stays with the host that it is for.
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .user_agent(concat!("cmx/", env!("CARGO_PKG_VERSION")))
            // Ranges and sizes are those of the file itself.
            .accept_encoding("identity")
            .timeout_connect(Some(patience.silence))
            .timeout_recv_response(Some(patience.silence))
            .timeout_per_read(Some(patience.silence))
            .max_idle_connections_per_host(16)
            .build()
            .new_agent();
        Self { agent, token: token.filter(|token| !token.is_empty()), patience, cancelled }
    }

    /// The wanted files of a revision, at the commit that it stands for now.
    pub(super) fn list(&self, endpoint: &str, repo: &Repo, patterns: &Patterns) -> Result<Listing> {
        #[derive(Deserialize)]
        struct Revision {
            sha: String,
        }
        let endpoint = endpoint.trim_end_matches('/');
        let api = format!("{endpoint}/api/{}/{}", repo.kind.plural(), repo.name);
        let what = format!("{} `{}` at revision `{}`", repo.kind.word(), repo.name, repo.revision);
        let address = format!("{api}/revision/{}", names::encode(&repo.revision, false));
        let (revision, _): (Revision, _) = self.json(&address, &what)?;
        let commit = revision.sha;
        let resolve =
            format!("{endpoint}/{}{}/resolve/{}", repo.kind.prefix(), repo.name, names::encode(&commit, false));
        let mut files = Vec::new();
        let mut pages = HashSet::new();
        let mut page = Some(format!("{api}/tree/{}?recursive=true&expand=false", names::encode(&commit, false)));
        while let Some(address) = page {
            let (entries, next): (Vec<Entry>, _) = self.json(&address, &what)?;
            for entry in entries {
                if entry.kind != "file" {
                    continue;
                }
                names::check_file(&entry.path)?;
                if patterns.want(&entry.path) {
                    files.push(entry.into_remote(&resolve));
                }
            }
            pages.insert(address);
            page = next;
            if let Some(address) = &page
                && (pages.contains(address) || !address.starts_with(&format!("{endpoint}/")))
            {
                let message = format!("the listing of {what} continues at {}, which cannot be", shown(address));
                return Err(Error::new(message));
            }
        }
        Ok(Listing { commit: Some(commit), files })
    }

    /// Fetches a JSON document from the hub, and the address of the next page if there is one.
    fn json<T: for<'de> Deserialize<'de>>(&self, address: &str, what: &str) -> Result<(T, Option<String>)> {
        const LIMIT: u64 = 64 << 20;
        self.persist(|| {
            let response = self.get(address, true, &[], what)?;
            let next = response.headers().get("link").and_then(|link| next_page(link.to_str().ok()?));
            let text = response.into_body().into_with_config().limit(LIMIT).read_to_string();
            let text = text.map_err(|error| trouble(error, address))?;
            let value = serde_json::from_str(&text).map_err(|error| {
                let message = format!("{} does not answer as a Hugging Face hub does", shown(address));
                Trouble::lasting(Error::new(message).caused_by(error))
            })?;
            Ok((value, next))
        })
    }

    /// Sends a request. Any answer but success is trouble; `what` is what was asked for, in words.
    pub(super) fn get(
        &self,
        address: &str,
        authorized: bool,
        headers: &[(&str, String)],
        what: &str,
    ) -> Result<ureq::http::Response<ureq::Body>, Trouble> {
        let mut request = self.agent.get(address);
        if let (true, Some(token)) = (authorized, &self.token) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let response = request.call().map_err(|error| trouble(error, address))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let host = shown(address);
        Err(match status {
            StatusCode::NOT_FOUND => {
                let error = Error::invalid(format!("{what} was not found at {host}"));
                Trouble::lasting(if authorized {
                    error.hint("check the name and the revision; a private one needs HF_TOKEN")
                } else {
                    error
                })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let error =
                    Error::new(format!("access to {what} was refused at {host} (HTTP {})", status.as_u16()));
                Trouble::lasting(match (authorized, &self.token) {
                    (false, _) => error,
                    (true, None) => error.hint("set HF_TOKEN to a token that may read it"),
                    (true, Some(_)) => error.hint(
                        "the token in HF_TOKEN was sent; it may lack the right, or the terms on the repository's \
                         page may wait to be accepted",
                    ),
                })
            }
            _ => {
                let error = Error::new(format!("{host} answered HTTP {}", status.as_u16()));
                let passing = status.is_server_error()
                    || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
                    || status == StatusCode::RANGE_NOT_SATISFIABLE;
                let seconds =
                    response.headers().get("retry-after").and_then(|wait| wait.to_str().ok()?.parse().ok());
                Trouble { error, status: Some(status), passing, wait: seconds.map(Duration::from_secs) }
            }
        })
    }

    /// Tries until it succeeds, an error is lasting, or patience ends.
    pub(super) fn persist<T>(&self, mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T> {
        /// Even a source that asks for more waits no longer.
        const LONGEST_ASKED: Duration = Duration::from_secs(300);
        let mut wait = self.patience.wait;
        for left in (0..self.patience.attempts.max(1)).rev() {
            self.check()?;
            match attempt() {
                Ok(value) => return Ok(value),
                Err(trouble) if !trouble.passing || left == 0 => return Err(trouble.error),
                Err(trouble) => self.sleep(trouble.wait.unwrap_or(wait).min(LONGEST_ASKED))?,
            }
            wait = (wait * 2).min(self.patience.longest);
        }
        Err(Error::new("no attempt was made"))
    }

    /// An interruption if one was asked for.
    pub(super) fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
    }

    fn sleep(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

impl RepoType {
    fn word(self) -> &'static str {
        match self {
            RepoType::Model => "the model",
            RepoType::Dataset => "the dataset",
        }
    }
}

impl Entry {
    fn into_remote(self, resolve: &str) -> Remote {
        let url = format!("{resolve}/{}", names::encode(&self.path, true));
        let (size, checksum) = match self.lfs {
            Some(lfs) => (Some(lfs.size), Some(Checksum::Sha256(lfs.oid.to_ascii_lowercase()))),
            None => (self.size, self.oid.map(|oid| Checksum::GitBlob(oid.to_ascii_lowercase()))),
        };
        Remote { name: self.path, from: Origin::Address { url, authorized: true }, size, checksum }
    }
}

/// An error below HTTP. The cause is told without its address, which may hold secrets.
pub(super) fn trouble(error: ureq::Error, address: &str) -> Trouble {
    let host = shown(address);
    match error {
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_) => {
            Trouble::passing(Error::new(format!("cannot read from {host}")).caused_by(error))
        }
        ureq::Error::TooManyRedirects => Trouble::lasting(Error::new(format!("{host} redirects without end"))),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            let error = Error::invalid(format!("the request to {host} cannot be made"));
            Trouble::lasting(
                error.hint("look at the address, at HF_ENDPOINT and HF_TOKEN: one holds a wrong character"),
            )
        }
        error => Trouble::lasting(Error::new(format!("cannot read from {host}")).caused_by(error)),
    }
}

/// The address with `rel="next"` in a `Link` header (RFC 8288).
fn next_page(link: &str) -> Option<String> {
    link.split(',').find_map(|part| {
        let (address, parameters) = part.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters.split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"') == "next"
        });
        next.then(|| address.to_owned())
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_next_page_is_found_in_a_link_header() {
        let next = |link| super::next_page(link);
        assert_eq!(
            next("<https://h/api?cursor=a%3D%3D&x=1>; rel=\"next\"").as_deref(),
            Some("https://h/api?cursor=a%3D%3D&x=1")
        );
        assert_eq!(next("<https://h/1>; rel=\"prev\", <https://h/3>; rel=next").as_deref(), Some("https://h/3"));
        assert_eq!(next("<https://h/1>; rel=\"prev\""), None);
        assert_eq!(next("nonsense"), None);
    }
}
