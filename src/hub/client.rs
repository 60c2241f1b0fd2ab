//! HTTP with sources that others run: asked again when that may help, never for ever, and told no more than they
//! have to know.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rusty_s3::Credentials;
use ureq::http::{HeaderMap, StatusCode, header};
use url::Url;

use super::names::shown;
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
    /// Bytes a second below which a transfer is as good as dead, as an average over [`Self::window`].
    pub min_rate: u64,
    pub window: Duration,
}

impl Default for Patience {
    /// About a minute until an error is final.
    fn default() -> Self {
        Self {
            attempts: 9,
            wait: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            silence: Duration::from_secs(60),
            min_rate: 1024,
            window: Duration::from_secs(60),
        }
    }
}

/// What proves to a source that one may read there. Neither shown nor kept.
#[derive(Default)]
pub struct Rights {
    /// Sent to the hub, and to no other host that it redirects to.
    pub hub_token: Option<String>,
    /// Of an object store; requests are signed with it.
    pub object_store: Option<Credentials>,
}

impl Rights {
    /// From `HF_TOKEN`, and from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    pub fn from_env() -> Self {
        let token = std::env::var("HF_TOKEN").unwrap_or_default().trim().to_owned();
        Self { hub_token: Some(token).filter(|token| !token.is_empty()), object_store: Credentials::from_env() }
    }
}

/// Who is asked: it decides what is sent along, and what to advise when the answer is no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Hub,
    ObjectStore,
    /// Any other server.
    Plain,
}

/// Speaks HTTP with hubs and other sources; shared by threads.
pub struct Client {
    agent: ureq::Agent,
    rights: Rights,
    patience: Patience,
    cancelled: Arc<AtomicBool>,
}

/// A failed request: whether another attempt may help, and how long the source asks to wait.
pub(super) struct Trouble {
    pub error: Error,
    passing: bool,
    wait: Option<Duration>,
}

impl Trouble {
    pub fn is_passing(&self) -> bool {
        self.passing
    }

    pub fn passing(error: Error) -> Self {
        Self { error, passing: true, wait: None }
    }

    pub fn lasting(error: Error) -> Self {
        Self { error, passing: false, wait: None }
    }
}

pub(super) type Response = ureq::http::Response<ureq::Body>;

impl Client {
    /// `cancelled` ends every wait and transfer.
    pub fn new(rights: Rights, patience: Patience, cancelled: Arc<AtomicBool>) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed here, where it is known what may be sent to whom.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("cmx/", env!("CARGO_PKG_VERSION")))
            // Ranges and sizes are those of the file itself.
            .accept_encoding("identity")
            .timeout_connect(Some(patience.silence))
            .timeout_recv_response(Some(patience.silence))
            .timeout_per_read(Some(patience.silence))
            .max_idle_connections_per_host(16)
            .build()
            .new_agent();
        Self { agent, rights, patience, cancelled }
    }

    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.rights.object_store.as_ref()
    }

    /// Fetches a document of moderate size. Each attempt asks `address` anew, for a signature ages; `what` is what
    /// is asked for, in words.
    pub(super) fn document(
        &self,
        address: impl Fn() -> String,
        peer: Peer,
        what: &str,
    ) -> Result<(Vec<u8>, HeaderMap)> {
        const LIMIT: u64 = 64 << 20;
        self.persist(|| {
            let address = address();
            let response = self.get(&address, peer, &[], what)?;
            let headers = response.headers().clone();
            let mut body = Vec::new();
            let read = self.steady(response).take(LIMIT + 1).read_to_end(&mut body);
            read.map_err(|error| broken(ureq::Error::from(error), &address))?;
            if body.len() as u64 > LIMIT {
                let message = format!("the answer of {} is longer than {} MiB", shown(&address), LIMIT >> 20);
                return Err(Trouble::lasting(Error::new(message)));
            }
            Ok((body, headers))
        })
    }

    /// Sends a request and follows redirects. Any answer but success, or that a range is empty, is trouble; `what` is what was asked for, in
    /// words.
    pub(super) fn get(
        &self,
        address: &str,
        peer: Peer,
        headers: &[(&str, String)],
        what: &str,
    ) -> Result<Response, Trouble> {
        const REDIRECTS: usize = 10;
        let unusable = |address: &str| {
            let error = Error::invalid(format!("the request to {} cannot be made", shown(address)));
            Trouble::lasting(
                error.hint("look at the address, at HF_ENDPOINT and HF_TOKEN: one holds a wrong character"),
            )
        };
        let home = Url::parse(address).map_err(|_| unusable(address))?;
        let mut url = home.clone();
        // Once elsewhere, no redirect brings the token back.
        let mut at_home = peer == Peer::Hub;
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(url.as_str());
            if let (true, Some(token)) = (at_home, &self.rights.hub_token) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            let response = request.call().map_err(|error| match error {
                ureq::Error::BadUri(_) | ureq::Error::Http(_) => unusable(url.as_str()),
                error => broken(error, url.as_str()),
            })?;
            let status = response.status();
            let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
            let Some(location) = location.filter(|_| status.is_redirection()) else {
                // What a range without bytes means is for the one to say who asked for it.
                let is_answer = status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE;
                return if is_answer {
                    Ok(response)
                } else {
                    Err(self.refusal(response, url.as_str(), peer, what))
                };
            };
            let next = url.join(location).ok().filter(|next| matches!(next.scheme(), "http" | "https"));
            let Some(next) = next else {
                let message = format!("{} redirects to what is no address of the web", shown(url.as_str()));
                return Err(Trouble::lasting(Error::new(message)));
            };
            at_home &= is_same_server(&home, &next);
            url = next;
            self.drain(response);
        }
        let message =
            format!("{} redirects more than {REDIRECTS} times, at last to {}", shown(address), shown(url.as_str()));
        Err(Trouble::lasting(Error::new(message)))
    }

    /// Reads the little that is left of an answer, so that its connection can serve the next request.
    fn drain(&self, response: Response) {
        const LITTLE: u64 = 4096;
        if response.body().content_length().is_some_and(|length| length <= LITTLE) {
            // If it cannot be read, the next request opens a connection of its own.
            let _ = io::copy(&mut self.steady(response).take(LITTLE), &mut io::sink());
        }
    }

    /// What an answer other than success means.
    fn refusal(&self, response: Response, address: &str, peer: Peer, what: &str) -> Trouble {
        let host = shown(address);
        let status = response.status();
        let number = status.as_u16();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let hub_says = header("x-error-code").map(str::to_owned);
        let region = header("x-amz-bucket-region").filter(|region| is_word(region)).map(str::to_owned);
        let wait = asked_wait(response.headers());
        // The hub does not tell strangers what exists.
        let unknown = matches!(hub_says.as_deref(), Some("RepoNotFound" | "RevisionNotFound" | "EntryNotFound"));
        let error = match status {
            StatusCode::NOT_FOUND => Error::invalid(format!("{what} was not found at {host}")),
            StatusCode::UNAUTHORIZED if peer == Peer::Hub && unknown => {
                Error::invalid(format!("{what} was not found at {host}"))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::new(format!("access to {what} was refused at {host} (HTTP {number})"))
            }
            StatusCode::PRECONDITION_FAILED => {
                Error::new(format!("{what} was changed at {host} while it was fetched"))
                    .hint("run again to fetch what is there now")
            }
            _ => Error::new(format!("{host} answered HTTP {number}")),
        };
        let passing = status.is_server_error()
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        let error = match (peer, status) {
            (Peer::Hub, StatusCode::NOT_FOUND) => {
                error.hint("check the name and the revision; a private one needs HF_TOKEN")
            }
            (Peer::Hub, StatusCode::UNAUTHORIZED) if unknown => {
                error.hint("check the name and the revision; a private one needs an HF_TOKEN that may read it")
            }
            (Peer::Hub, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) if self.rights.hub_token.is_none() => {
                error.hint("set HF_TOKEN to a token that may read it")
            }
            (Peer::Hub, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => error.hint(
                "the token in HF_TOKEN was sent; it may lack the right, or the terms on the repository's page may \
                 wait to be accepted",
            ),
            (Peer::ObjectStore, _) if !passing => {
                let code = super::s3::error_code(&self.little(response));
                let said = code.map(|code| format!("the store says {code}; ")).unwrap_or_default();
                let advice = match (region, status, self.rights.object_store.is_some()) {
                    (Some(region), StatusCode::MOVED_PERMANENTLY | StatusCode::BAD_REQUEST, _) => {
                        format!("the bucket lies in another region: set AWS_REGION={region}")
                    }
                    (_, _, true) => "the request was signed with the key in AWS_ACCESS_KEY_ID; check its rights, \
                                     AWS_REGION, and the names of bucket and object"
                        .to_owned(),
                    (_, _, false) => {
                        "the request was anonymous; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY sign it".to_owned()
                    }
                };
                error.hint(format!("{said}{advice}"))
            }
            _ => error,
        };
        Trouble { error, passing, wait }
    }

    /// The beginning of an answer's body.
    fn little(&self, response: Response) -> Vec<u8> {
        let mut body = Vec::new();
        // It serves an error's hint: what cannot be read of it is not missed.
        let _ = self.steady(response).take(16 << 10).read_to_end(&mut body);
        body
    }

    /// An answer's body, which ends with an error when it comes too slowly.
    pub(super) fn steady(&self, response: Response) -> Steady {
        Steady {
            body: response.into_body().into_reader(),
            min_rate: self.patience.min_rate,
            window: self.patience.window,
            since: Instant::now(),
            came: 0,
        }
    }

    /// Tries until it succeeds, an error is lasting, or patience ends.
    pub(super) fn persist<T>(&self, mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T> {
        /// Even a source that asks for more waits no longer.
        const LONGEST_ASKED: Duration = Duration::from_secs(300);
        let attempts = self.patience.attempts.max(1);
        let mut wait = self.patience.wait;
        let mut left = attempts;
        loop {
            self.check()?;
            left -= 1;
            match attempt() {
                Ok(value) => return Ok(value),
                Err(trouble) if !trouble.passing => return Err(trouble.error),
                Err(Trouble { error, .. }) if left == 0 => {
                    let hint =
                        format!("it was tried {attempts} times; run again later, what was fetched so far is kept");
                    return Err(if error.advice().is_none() { error.hint(hint) } else { error });
                }
                Err(trouble) => self.sleep(trouble.wait.unwrap_or_else(|| some_of(wait)).min(LONGEST_ASKED))?,
            }
            wait = (wait * 2).min(self.patience.longest);
        }
    }

    /// An interruption if one was asked for.
    pub(super) fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
    }

    pub(super) fn sleep(&self, time: Duration) -> Result<()> {
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

/// Between half of a time and all of it, by chance: many who were turned away at once come back one by one.
fn some_of(time: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish() % 1024;
    time / 2 + time / 2 * chance as u32 / 1024
}

/// A body that has to keep coming.
pub(super) struct Steady {
    body: ureq::BodyReader<'static>,
    min_rate: u64,
    window: Duration,
    /// Begin of the present window, and what came in it.
    since: Instant,
    came: u64,
}

impl Read for Steady {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(buffer)?;
        self.came += read as u64;
        let elapsed = self.since.elapsed();
        if read > 0 && elapsed >= self.window {
            let needed = self.min_rate as f64 * elapsed.as_secs_f64();
            if (self.came as f64) < needed {
                let message = format!(
                    "{} bytes came in {:.0} seconds, and at least {} a second are expected",
                    self.came,
                    elapsed.as_secs_f64(),
                    self.min_rate
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            (self.since, self.came) = (Instant::now(), 0);
        }
        Ok(read)
    }
}

/// An error below HTTP. The cause is told without its address, which may hold secrets.
pub(super) fn broken(error: ureq::Error, address: &str) -> Trouble {
    let lasting = !matches!(
        error,
        ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_)
    );
    let message = format!("cannot read from {}", shown(address));
    Trouble { error: Error::new(message).caused_by(error), passing: !lasting, wait: None }
}

/// Whether `next` may be told what `home` may: the same host and port, and no step from TLS to none.
fn is_same_server(home: &Url, next: &Url) -> bool {
    let upgraded =
        home.scheme() == "http" && home.port().is_none() && next.scheme() == "https" && next.port().is_none();
    home.host() == next.host() && (home.origin() == next.origin() || upgraded)
}

/// How long a source asks to wait: `Retry-After` in seconds or as a date (RFC 9110), or the seconds until a hub's
/// quota begins anew (`RateLimit: "api";r=0;t=55`).
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value: &ureq::http::HeaderValue| value.to_str().ok());
    let seconds = |text: &str| text.trim().parse().ok().map(Duration::from_secs);
    if let Some(after) = text("retry-after") {
        let date = || {
            let date = jiff::fmt::rfc2822::parse(after.trim()).ok()?;
            Some(SystemTime::from(date.timestamp()).duration_since(SystemTime::now()).unwrap_or_default())
        };
        return seconds(after).or_else(date);
    }
    let limit = text("ratelimit")?;
    let is_spent = limit.split(';').any(|part| part.trim() == "r=0");
    limit.split(';').find_map(|part| part.trim().strip_prefix("t=")).filter(|_| is_spent).and_then(seconds)
}

/// A name without spaces or signs, as regions and error codes are.
pub(super) fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_may_ask_for_patience() {
        let wait = |name: &'static str, value: &str| {
            asked_wait(&HeaderMap::from_iter([(header::HeaderName::from_static(name), value.parse().unwrap())]))
        };
        assert_eq!(wait("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(wait("retry-after", "Fri, 31 Dec 2100 23:59:59 GMT").is_some_and(|wait| wait.as_secs() > 1 << 30));
        assert_eq!(wait("retry-after", "soon"), None);
        assert_eq!(wait("ratelimit", "\"api\";r=0;t=55"), Some(Duration::from_secs(55)));
        assert_eq!(wait("ratelimit", "\"api\";r=3;t=55"), None);
    }

    #[test]
    fn waits_are_not_all_of_one_length() {
        let whole = Duration::from_secs(8);
        let waits: Vec<Duration> = (0..100).map(|_| some_of(whole)).collect();
        assert!(waits.iter().all(|wait| (whole / 2..=whole).contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }

    #[test]
    fn only_the_same_server_is_told_the_token() {
        let same = |home, next| is_same_server(&Url::parse(home).unwrap(), &Url::parse(next).unwrap());
        assert!(same("https://h.org/a", "https://h.org:443/b"));
        assert!(same("http://h.org/a", "https://h.org/b"));
        for next in ["http://h.org/a", "https://h.org:8443/a", "https://cdn.h.org/a", "https://h.org.evil.org/a"] {
            assert!(!same("https://h.org/a", next), "{next}");
        }
    }
}
