//! Who may speak to this server: rules for `Host` and `Origin`, pure.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, StatusCode, Uri, header};

use super::problem::Problem;

/// Refuses a request whose `Host` is neither loopback nor in `allowed`, and a change asked for by a foreign page.
///
/// The first keeps a page elsewhere from reaching this server by rebinding its own name to 127.0.0.1; the second keeps it from
/// posting forms and JSON here.
pub(super) fn check(method: &Method, uri: &Uri, headers: &HeaderMap, allowed: &[String]) -> Result<(), Problem> {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // An absolute request target overrides `Host` (RFC 9112 § 3.2.2), so both must be right.
    if !is_ours(host, allowed) || uri.authority().is_some_and(|authority| !is_ours(authority.as_str(), allowed)) {
        let detail =
            format!("the host {host:?} is not one of this server's; add it with --allowed-hosts if it is yours");
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "host_not_allowed", detail));
    }
    if method.is_safe() {
        return Ok(());
    }
    match headers.get(header::ORIGIN).map(|value| value.to_str().unwrap_or_default()) {
        Some(origin) if !same_origin(origin, host) => {
            let detail = format!("a page of {origin:?} may not change anything on {host:?}");
            Err(Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail))
        }
        _ => Ok(()),
    }
}

fn is_ours(authority: &str, allowed: &[String]) -> bool {
    let name = without_port(authority);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if address.is_ok_and(|address| address.is_loopback()) {
        return true;
    }
    name.eq_ignore_ascii_case("localhost") || allowed.iter().any(|host| name.eq_ignore_ascii_case(without_port(host)))
}

/// `[::1]:80` → `[::1]`, `localhost:80` → `localhost`.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => authority,
    }
}

fn same_origin(origin: &str, host: &str) -> bool {
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(method: Method, host: &str, origin: Option<&str>, allowed: &[&str]) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        let allowed: Vec<_> = allowed.iter().map(|&host| host.to_owned()).collect();
        check(&method, &Uri::from_static("/"), &headers, &allowed).err().map(|problem| problem.code())
    }

    #[test]
    fn only_loopback_and_allowed_hosts_are_served() {
        for host in
            ["localhost", "LOCALHOST:10010", "127.0.0.1:80", "127.8.9.1", "[::1]:10010", "[::1]", "agents.lan:443"]
        {
            assert_eq!(code(Method::GET, host, None, &["agents.lan"]), None, "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:80",
            "10.0.0.1",
            "[fe80::1]:80",
            "agents.lan.evil",
        ] {
            assert_eq!(code(Method::GET, host, None, &["agents.lan"]), Some("host_not_allowed"), "{host}");
        }
    }

    #[test]
    fn an_absolute_target_counts_as_well() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "localhost".parse().unwrap());
        let uri = Uri::from_static("http://evil.example/health");
        assert!(check(&Method::GET, &uri, &headers, &[]).is_err());
    }

    #[test]
    fn foreign_pages_read_nothing_new_and_change_nothing() {
        let host = "localhost:10010";
        assert_eq!(code(Method::POST, host, None, &[]), None);
        assert_eq!(code(Method::POST, host, Some("http://localhost:10010"), &[]), None);
        for origin in ["http://localhost:3000", "https://evil.example", "null", "http://localhost:10010.evil.example"] {
            assert_eq!(code(Method::POST, host, Some(origin), &[]), Some("origin_not_allowed"), "{origin}");
            assert_eq!(code(Method::GET, host, Some(origin), &[]), None, "{origin}");
        }
    }
}
