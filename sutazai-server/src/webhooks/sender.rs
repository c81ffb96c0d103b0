//! One attempt to deliver an event.

use std::{
    collections::BTreeSet,
    error::Error as StdError,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use reqwest::{Client, Response, StatusCode, Url, dns::Resolve, header, redirect};
use secrecy::SecretString;
use sutazai_core::{Error, ErrorKind, Fault, Result};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout, timeout_at},
};

use super::{
    backoff::LONGEST,
    names::{Guarded, Private, PrivateNames, System, Verdicts},
    signature::{HEADER, sign},
    target::Policy,
};

/// How long an attempt may take, from the name's resolution through every redirect to the answer's headers.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer's body is read so far, which lets the connection be used again, and dropped.
const MAX_ANSWER: usize = 1_024;

/// How long reading it may take.
const DRAIN: Duration = Duration::from_millis(500);

/// The header that names what is delivered: the same at every attempt.
const DELIVERY: &str = "x-sutazai-delivery";

/// How long a connection is kept for the next event.
const IDLE: Duration = Duration::from_secs(5);

const MAX_REDIRECTS: usize = 3;

const NO_SECRET: &str =
    "deliveries are signed, and SUTAZAI_WEBHOOK_SECRET is not set; set it and start the server again";

/// What became of an attempt. The texts are for the log and for operators: they name a target's scheme, host and port alone, since its path may be
/// a secret, and no address that a name was resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The receiver has it: it answered 2xx.
    Delivered {
        /// Which.
        status: u16,
    },
    /// Another attempt may succeed.
    Retry {
        /// What went wrong.
        why: String,
        /// What the receiver asked for with `Retry-After`, one hour at most.
        after: Option<Duration>,
    },
    /// No attempt will succeed: the URL is refused, or the receiver answered 410.
    Refused {
        /// What went wrong.
        why: String,
    },
}

impl Outcome {
    fn retry(why: impl Into<String>) -> Self {
        Self::Retry { why: why.into(), after: None }
    }
}

/// Signs events and sends them to the targets that the policy allows, to these alone.
pub(crate) struct Sender {
    secret: Option<SecretString>,
    policy: Policy,
    timeout: Duration,
    names: Arc<dyn Resolve>,
    verdicts: Verdicts,
    /// Made when it is first needed: it reads the system's certificates.
    client: OnceCell<Client>,
}

impl Sender {
    /// A sender whose attempts take `timeout` at most. Without a secret it admits and sends nothing.
    pub(crate) fn new(secret: Option<SecretString>, policy: Policy, timeout: Duration) -> Self {
        Self::with_names(secret, policy, timeout, Arc::new(Guarded { policy, names: Arc::new(System::default()) }))
    }

    /// The same with somebody else to resolve names, who must keep to the policy.
    pub(super) fn with_names(
        secret: Option<SecretString>,
        policy: Policy,
        timeout: Duration,
        names: Arc<dyn Resolve>,
    ) -> Self {
        Self { secret, policy, timeout, names, verdicts: Verdicts::default(), client: OnceCell::new() }
    }

    /// Whether a task may have its events sent to `url`, as far as can be said without resolving a name.
    ///
    /// # Errors
    ///
    /// `Invalid` with code `webhook_target_refused` for what [`Policy::check_url`] refuses, then with `webhook_secret_missing` without a secret.
    pub(crate) fn admit(&self, url: &str) -> Result<()> {
        self.policy.check_url(url)?;
        match self.secret {
            Some(_) => Ok(()),
            None => {
                let error = Error::invalid("webhooks cannot be signed", vec![Fault::new("/webhook", NO_SECRET)]);
                Err(error.with_code("webhook_secret_missing"))
            }
        }
    }

    /// Those of `names` that no webhook may have: all their addresses are private. Names that cannot be resolved within two seconds are not among them;
    /// every name is resolved and judged again when it is called.
    pub(crate) async fn private_names(&self, mut names: BTreeSet<String>) -> PrivateNames {
        if self.policy.allow_private {
            names.clear();
        }
        self.verdicts.private(names, &self.names).await
    }

    /// Makes one attempt to POST `body` to `url`, signed as of `now_unix`, seconds since 1970; `id` names what is delivered.
    ///
    /// 2xx is delivered. Everything else may be tried again, 404 too, which many receivers answer while they are being replaced, and a name without
    /// public addresses, which may be a passing fault of its zone; but 410 and a URL that is refused, the task's or a redirect's, are final. At most 3 redirects are followed, and
    /// only 307 and 308, the ones that keep a POST a POST. An attempt whose answer is lost is made again: receivers know an event again by its
    /// `task_id` and `seq`. Dropping the future ends the attempt.
    pub(crate) async fn send(&self, url: &str, id: &str, body: &[u8], now_unix: u64) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        match timeout_at(deadline, self.exchange(url, id, body, now_unix)).await {
            Ok(Ok(response)) => {
                let outcome = judge(&response, now_unix);
                // The status has decided; what becomes of the rest does not matter.
                let _ = timeout(DRAIN, drain(response)).await;
                outcome
            }
            Ok(Err(outcome)) => outcome,
            Err(_) => Outcome::retry(format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn exchange(&self, url: &str, id: &str, body: &[u8], now_unix: u64) -> Result<Response, Outcome> {
        let mut url = self.policy.check_url(url).map_err(|error| refused(&error))?;
        let secret = self.secret.as_ref().ok_or_else(|| Outcome::retry(NO_SECRET))?;
        let signature = sign(secret, body, now_unix);
        let body = Bytes::copy_from_slice(body);
        let client = self.client.get_or_try_init(|| self.make()).await?;
        for _ in 0..=MAX_REDIRECTS {
            let request = client.post(url.clone()).header(header::CONTENT_TYPE, "application/json");
            let sent = request.header(HEADER, &signature).header(DELIVERY, id).body(body.clone()).send().await;
            let response = sent.map_err(|error| fault(&url, error))?;
            match response.status() {
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => url = self.next(&url, &response)?,
                _ => return Ok(response),
            }
        }
        Err(Outcome::retry(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Where a redirect leads.
    fn next(&self, from: &Url, response: &Response) -> Result<Url, Outcome> {
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let Some(to) = location.and_then(|location| from.join(location).ok()) else {
            return Err(Outcome::retry(format!("{} answered with a redirect to nowhere", shown(from))));
        };
        let to = self.policy.check_url(to.as_str()).map_err(|error| refused(&error))?;
        if from.scheme() == "https" && to.scheme() == "http" {
            return Err(Outcome::retry(format!("{} answered with a redirect from https to http", shown(from))));
        }
        Ok(to)
    }

    async fn make(&self) -> Result<Client, Outcome> {
        let (names, connect) = (Arc::clone(&self.names), self.timeout / 2);
        let made = tokio::task::spawn_blocking(move || {
            // Another provider that the program installed first is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let builder = || {
                Client::builder()
                    .user_agent(concat!("sutazai/", env!("CARGO_PKG_VERSION")))
                    .no_proxy() // a proxy would resolve names itself
                    .redirect(redirect::Policy::none())
                    .dns_resolver(Arc::clone(&names))
                    .connect_timeout(connect) // leaves time for a name's other addresses
                    .pool_max_idle_per_host(2)
                    .pool_idle_timeout(IDLE)
            };
            builder().build().or_else(|error| {
                tracing::warn!(%error, "without the system's certificates no webhook reaches an https target; install them");
                builder().tls_certs_only([]).build()
            })
        });
        let made = made.await.map_err(|error| Outcome::retry(format!("cannot start an HTTP client: {error}")))?;
        made.map_err(|error| Outcome::retry(format!("cannot start an HTTP client: {error}")))
    }
}

/// What an answer means.
fn judge(response: &Response, now_unix: u64) -> Outcome {
    let status = response.status();
    let why = || format!("{} answered {status}", shown(response.url()));
    match status {
        _ if status.is_success() => Outcome::Delivered { status: status.as_u16() },
        StatusCode::GONE => Outcome::Refused { why: why() },
        _ => {
            let asked = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            Outcome::Retry { why: why(), after: asked.and_then(|text| retry_after(text, now_unix)) }
        }
    }
}

/// Reads `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date.
pub(super) fn retry_after(text: &str, now_unix: u64) -> Option<Duration> {
    let seconds = text.trim().parse().map(Duration::from_secs).ok();
    let until = || {
        let date = httpdate::parse_http_date(text.trim()).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(date.saturating_sub(Duration::from_secs(now_unix)))
    };
    Some(seconds.or_else(until)?.min(LONGEST))
}

/// Reads the answer's body if it is small. A larger one ends the connection.
async fn drain(mut response: Response) {
    let mut left = MAX_ANSWER;
    while let Ok(Some(chunk)) = response.chunk().await {
        let Some(rest) = left.checked_sub(chunk.len()) else { return };
        left = rest;
    }
}

/// What a fault of the network means.
fn fault(url: &Url, error: reqwest::Error) -> Outcome {
    let mut cause = Some(&error as &(dyn StdError + 'static));
    while let Some(error) = cause {
        if error.is::<Private>() {
            return Outcome::retry(format!("{}: {error}", shown(url)));
        }
        cause = error.source();
    }
    let error = Error::new(ErrorKind::Unavailable, "the receiver cannot be reached").because(error.without_url());
    Outcome::retry(error.about(shown(url)).report())
}

fn refused(error: &Error) -> Outcome {
    let faults = error.faults().iter().map(|fault| format!(": {}", fault.message));
    Outcome::Refused { why: error.to_string() + &faults.collect::<String>() }
}

/// A target as it may be shown.
fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}
