//! Which targets a webhook may have. A server that calls any address for anybody would open its own network to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use reqwest::Url;
use sutazai_core::{Error, Fault, Result};

/// Bytes of a URL at most.
const MAX_URL: usize = 2_048;

/// The code of every refusal.
pub(super) const REFUSED: &str = "webhook_target_refused";

pub(super) const NOT_PUBLIC_NAME: &str =
    "this name has no public address; an operator may allow private ones with SUTAZAI_WEBHOOK_ALLOW_PRIVATE=true";

const NOT_PUBLIC: &str =
    "this address is not public; an operator may allow private ones with SUTAZAI_WEBHOOK_ALLOW_PRIVATE=true";

/// What the operator allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Every address, this machine's and its networks' among them.
    pub(crate) allow_private: bool,
}

impl Policy {
    /// Reads a target: an `http` or `https` URL with a host, without user and password, whose host, where it is an address, is allowed. A name
    /// is resolved and its addresses are checked when it is called, except that `localhost` and names below it are never public.
    ///
    /// # Errors
    ///
    /// `Invalid` with code `webhook_target_refused` and a fault at `/webhook/url`, for whatever is wrong.
    pub(crate) fn check_url(self, text: &str) -> Result<Url> {
        if text.len() > MAX_URL {
            return Err(refused(format!("a URL has {MAX_URL} bytes at most")));
        }
        let url = Url::parse(text).map_err(|error| refused(format!("this is no URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused("the scheme must be http or https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("a URL with a user or a password would be shown; deliveries are signed instead"));
        }
        // Parsing has already made 127.0.0.1 of all that stands for it, such as 0x7f.1 and 2130706433.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let name = host.strip_suffix('.').unwrap_or(host);
        let public = match host.parse::<IpAddr>() {
            Ok(address) => is_public(address),
            Err(_) => name != "localhost" && !name.ends_with(".localhost"),
        };
        match (name, public || self.allow_private) {
            ("", _) => Err(refused("the URL has no host")),
            (_, false) => Err(refused(NOT_PUBLIC)),
            (_, true) => Ok(url),
        }
    }

    /// Whether this address may be called.
    pub(crate) fn is_allowed(self, address: IpAddr) -> bool {
        self.allow_private || is_public(address)
    }
}

pub(super) fn refused(message: impl Into<String>) -> Error {
    let fault = Fault::new("/webhook/url", message);
    Error::invalid("this target of a webhook is refused", vec![fault]).with_code(REFUSED)
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(a: u16, b: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), bits)
}

/// What is not global in IANA's IPv4 Special-Purpose Address Registry, and multicast.
#[rustfmt::skip]
const NOT_PUBLIC_V4: [Ipv4Net; 15] = [
    v4(0, 0, 0, 0, 8),          // "this network"; 0.0.0.0 reaches this machine
    v4(10, 0, 0, 0, 8),         // private
    v4(100, 64, 0, 0, 10),      // carrier-grade NAT
    v4(127, 0, 0, 0, 8),        // loopback
    v4(169, 254, 0, 0, 16),     // link-local, where clouds keep a machine's credentials
    v4(172, 16, 0, 0, 12),      // private
    v4(192, 0, 0, 0, 24),       // IETF protocol assignments
    v4(192, 0, 2, 0, 24),       // documentation
    v4(192, 88, 99, 0, 24),     // relays of 6to4, withdrawn
    v4(192, 168, 0, 0, 16),     // private
    v4(198, 18, 0, 0, 15),      // benchmarks
    v4(198, 51, 100, 0, 24),    // documentation
    v4(203, 0, 113, 0, 24),     // documentation
    v4(224, 0, 0, 0, 4),        // multicast
    v4(240, 0, 0, 0, 4),        // reserved, and broadcast
];

/// The one block that IANA has given out for global unicast. All others are outside it: loopback, mapped IPv4, both NAT64 prefixes, unique-local,
/// link-local, multicast.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);

/// What is not global inside that block; most of it would carry an IPv4 address of any kind.
#[rustfmt::skip]
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [
    v6(0x2001, 0, 23),        // IETF protocol assignments, Teredo among them
    v6(0x2001, 0x0db8, 32),   // documentation
    v6(0x2002, 0, 16),        // 6to4
    v6(0x3fff, 0, 20),        // documentation
];

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => GLOBAL_V6.contains(&address) && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&address)),
    }
}

/// The name in a URL, where its host is no address.
pub(crate) fn name_of(url: &str) -> Option<String> {
    Url::parse(url).ok()?.domain().map(str::to_owned)
}

/// Whose slots a delivery takes: the host and the port.
pub(super) fn host_of(url: &str) -> String {
    let url = Url::parse(url).ok();
    url.map_or_else(String::new, |url| {
        format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
    })
}

/// A target as it may be shown: its path and its query may be secrets.
pub(crate) fn shown(url: &str) -> String {
    Url::parse(url).map_or_else(|_| "?".to_owned(), |url| url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use sutazai_core::ErrorKind;

    use super::*;

    const PUBLIC: Policy = Policy { allow_private: false };
    const ALL: Policy = Policy { allow_private: true };

    #[test]
    #[rustfmt::skip]
    fn addresses_that_are_not_public_are_refused_however_they_are_written() {
        for host in [
            "localhost", "LOCALHOST", "localhost.", "a.localhost", "a.localhost.",
            "127.0.0.1", "127.9.9.9", "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "127.0.0.1.", "0.0.0.0", "0",
            "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255",
            "169.254.169.254", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.19.255.255", "198.51.100.7",
            "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
            "[::]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:8.8.8.8]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
            "[64:ff9b:1::a00:1]", "[100::1]", "[fc00::1]", "[fd12::1]", "[fe80::1]", "[fec0::1]", "[ff02::1]",
            "[2001::1]", "[2001:db8::1]", "[2002:7f00:1::]", "[3fff::1]",
        ] {
            let url = format!("http://{host}:8080/hook");
            let error = PUBLIC.check_url(&url).unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, REFUSED), "{host}");
            assert_eq!(error.faults()[0].path, "/webhook/url");
            assert!(error.faults()[0].message.contains("SUTAZAI_WEBHOOK_ALLOW_PRIVATE"), "{host}");
            assert!(ALL.check_url(&url).is_ok(), "{host}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn public_addresses_and_names_are_allowed() {
        for host in [
            "hooks.example.com", "localhost.example.com", "mylocalhost", "8.8.8.8", "172.15.0.1", "172.32.0.1",
            "100.63.0.1", "100.128.0.1", "192.0.1.1", "198.17.0.1", "198.20.0.1", "223.255.255.255",
            "[2606:4700::1111]", "[2001:4860:4860::8888]", "[2003::1]",
        ] {
            let url = PUBLIC.check_url(&format!("https://{host}/hook?a=b")).unwrap();
            assert_eq!(url.path(), "/hook", "{host}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn what_is_no_target_is_refused_under_every_policy() {
        let long = format!("http://hooks.example.com/{}", "a".repeat(MAX_URL));
        for wrong in [
            "", "hooks.example.com", "//hooks.example.com", "http://", "http://.", "http://[::1", "file:///etc/passwd",
            "ftp://hooks.example.com", "unix:/run/docker.sock", "http://me@hooks.example.com",
            "https://me:secret@hooks.example.com", "https://:secret@hooks.example.com", &long,
        ] {
            for policy in [PUBLIC, ALL] {
                let error = policy.check_url(wrong).unwrap_err();
                assert_eq!(error.code(), REFUSED, "{wrong}");
                assert!(!format!("{error:?} {:?}", error.faults()).contains("secret"), "{wrong}");
            }
        }
    }
}
