//! The one maker of HTTP clients: rustls with ring, bounded waiting, no proxy between a program and its own machine. And what every backend does with
//! an answer: it reads a refusal so far and no further, and makes of a body what it says, as it comes.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, stream, stream::BoxStream};
use reqwest::{Client, Response, Url, header};
use sutazai_core::{Error, ErrorKind, Result};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// Bytes of a refusal that are read.
const REFUSAL: usize = 64 << 10;

/// A client for `base`. `silence` is how long the peer may send nothing before the call fails.
pub(crate) fn client(base: &Url, silence: Duration) -> Result<Client> {
    // Another provider that the program installed first is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("sutazai/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(silence);
        if is_loopback(base) { builder.no_proxy() } else { builder }
    };
    let made = match builder().build() {
        // A machine without certificates can still speak plain HTTP; without roots, TLS then trusts nobody.
        Err(_) if base.scheme() == "http" => builder().tls_certs_only([]).build(),
        made => made,
    };
    made.map_err(|error| {
        Error::new(ErrorKind::Unavailable, "no HTTP client can be made; are the system's certificates installed?")
            .during("connect to")
            .about(shown(base))
            .because(error)
    })
}

/// Parses an address; a bare `host:port` is taken as `http://host:port`.
pub(crate) fn parse(address: &str) -> Result<Url> {
    let full = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let wrong =
        || Error::new(ErrorKind::Invalid, "this is no http or https address").during("read address").about(address);
    let mut url = Url::parse(&full).map_err(|error| wrong().because(error))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong());
    }
    // Joining replaces the last segment of a path that does not end with a slash.
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

/// An address as it may be shown: without user, password and query.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.as_str().trim_end_matches('/').to_owned()
}

/// An answer that is not the one hoped for.
pub(crate) struct Refusal {
    /// The status.
    pub(crate) status: u16,
    /// When to come again, if it says so in seconds.
    pub(crate) wait: Option<Duration>,
    /// The beginning of its body.
    pub(crate) body: Vec<u8>,
}

/// Reads an answer as a refusal. One that breaks off is none: what it would have said may be the whole of it.
pub(crate) async fn refusal(response: Response) -> reqwest::Result<Refusal> {
    let status = response.status().as_u16();
    let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let body = read(response, REFUSAL).await?;
    Ok(Refusal { status, wait: wait.map(Duration::from_secs), body })
}

/// A body, or its first `most` bytes; what comes after them is not waited for.
pub(crate) async fn read(mut response: Response, most: usize) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        body.extend_from_slice(&piece);
        if body.len() >= most {
            body.truncate(most);
            break;
        }
    }
    Ok(body)
}

/// Makes of the bytes of a body what they say.
pub(crate) trait Decode: Send + 'static {
    /// What they say.
    type Item: Send + 'static;

    /// Takes bytes, cut anywhere, and adds to `out` what they say, before a failure too. Whether more may follow.
    fn push(&mut self, bytes: &[u8], out: &mut VecDeque<Self::Item>) -> Result<bool>;

    /// The body has ended although more might have followed.
    fn end(&mut self, out: &mut VecDeque<Self::Item>) -> Result<()>;
}

/// What the bytes of a body say, as they come; it ends with the first failure, and `failed` says what it means that they stop. Dropping it closes the
/// connection, which makes a server stop.
///
/// Many servers say 200 before they have looked at the request: a failure in place of the first item is this call's.
pub(crate) async fn decoded<D: Decode>(
    response: Response,
    failed: impl Fn(reqwest::Error) -> Error + Send + 'static,
    decoder: D,
) -> Result<BoxStream<'static, Result<D::Item>>> {
    let bytes = response.bytes_stream().map(move |piece| piece.map_err(&failed));
    let mut body = Body { bytes: Box::pin(bytes), decoder, items: VecDeque::new(), failure: None, open: true };
    let first = body.next().await.transpose()?;
    let rest = stream::unfold(body, |mut body| async move {
        let item = body.next().await?;
        Some((item, body))
    });
    Ok(stream::iter(first.map(Ok)).chain(rest).fuse().boxed())
}

struct Body<D: Decode> {
    bytes: Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>,
    decoder: D,
    items: VecDeque<D::Item>,
    /// What ends the body after those items.
    failure: Option<Error>,
    open: bool,
}

impl<D: Decode> Body<D> {
    async fn next(&mut self) -> Option<Result<D::Item>> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Some(Ok(item));
            }
            if let Some(error) = self.failure.take() {
                return Some(Err(error));
            }
            if !self.open {
                return None;
            }
            let more = match self.bytes.next().await {
                Some(Ok(bytes)) => self.decoder.push(&bytes, &mut self.items),
                Some(Err(error)) => Err(error),
                None => self.decoder.end(&mut self.items).map(|()| false),
            };
            self.open = matches!(more, Ok(true));
            self.failure = more.err();
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood_and_shown_without_secrets() {
        for (given, expected) in [
            ("127.0.0.1:11434", "http://127.0.0.1:11434"),
            ("http://localhost:11434/", "http://localhost:11434"),
            ("https://me:secret@hub.example/base?token=1", "https://hub.example/base"),
        ] {
            assert_eq!(shown(&parse(given).unwrap()), expected);
        }
        for wrong in ["", "ftp://x", "http://", "::"] {
            assert_eq!(parse(wrong).unwrap_err().kind(), ErrorKind::Invalid, "{wrong}");
        }
        assert_eq!(parse("hub.example/base").unwrap().join("a/b").unwrap().as_str(), "http://hub.example/base/a/b");
        assert!(is_loopback(&parse("[::1]:1").unwrap()) && is_loopback(&parse("127.0.0.2").unwrap()));
        assert!(!is_loopback(&parse("10.0.0.1").unwrap()));
    }

    /// Runs itself again on a machine that has no certificates, as far as it can see.
    #[test]
    #[cfg(target_os = "linux")]
    fn without_certificates_there_is_still_plain_http() {
        let client = |address: &str| client(&parse(address).unwrap(), Duration::from_secs(1));
        if std::env::var_os("SSL_CERT_FILE").is_some_and(|file| file == "/nowhere") {
            assert_eq!(client("https://hub.example").unwrap_err().kind(), ErrorKind::Unavailable);
            client("http://127.0.0.1:11434").unwrap();
            return;
        }
        let name = "http::tests::without_certificates_there_is_still_plain_http";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", name]).env("SSL_CERT_FILE", "/nowhere").env("SSL_CERT_DIR", "/nowhere");
        let output = again.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
