//! The one maker of HTTP clients: rustls with ring, bounded waiting, no proxy between a program and its own machine.

use std::time::Duration;

use reqwest::{Client, Url};
use sutazai_core::{Error, ErrorKind, Result};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

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
