//! What a request to a model says in its headers, and what the answer says there.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use sutazai_core::model::{Caching, Served};

/// The task behind an agent's answer.
pub(in crate::http) const TASK_ID: HeaderName = HeaderName::from_static("x-sutazai-task-id");

const MODEL: HeaderName = HeaderName::from_static("x-sutazai-model");
const CACHE: HeaderName = HeaderName::from_static("x-sutazai-cache");
const FALLBACK: HeaderName = HeaderName::from_static("x-sutazai-fallback");

/// Whether an answer that was given before will do, as `Cache-Control` says.
pub(super) fn caching(headers: &HeaderMap) -> Caching {
    let lines = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut caching = Caching::default();
    for directive in lines.flat_map(|line| line.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match &*name.trim().to_ascii_lowercase() {
            "no-store" | "no-cache" => return Caching::Off,
            "max-age" => {
                let seconds = value.trim().trim_matches('"').parse().ok();
                caching = seconds.map_or(caching, |seconds| Caching::MaxAge(Duration::from_secs(seconds)));
            }
            _ => {}
        }
    }
    caching
}

/// What served an answer.
pub(super) fn of_served(served: &Served) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(MODEL, value(&served.model));
    headers.insert(CACHE, HeaderValue::from_static(served.cache.as_str()));
    if let Some(why) = &served.fallback {
        headers.insert(FALLBACK, value(why));
    }
    headers
}

/// `text` as far as a header can have it: in visible ASCII.
fn value(text: &str) -> HeaderValue {
    let visible = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let text: String = text.chars().map(visible).collect();
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use sutazai_core::model::ModelInfo;

    use super::*;

    #[test]
    fn the_cache_is_told_what_http_tells_it() {
        let said = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::CACHE_CONTROL, HeaderValue::from_static(line));
            }
            caching(&headers)
        };
        assert_eq!(said(&[]), Caching::Auto);
        assert_eq!(said(&["private, Max-Age=60"]), Caching::MaxAge(Duration::from_secs(60)));
        assert_eq!(said(&["max-age=60", "no-store"]), Caching::Off);
        assert_eq!(said(&["No-Cache"]), Caching::Off);
        assert_eq!(said(&["max-age=soon"]), Caching::Auto);
    }

    #[test]
    fn headers_are_visible_ascii() {
        let mut served = Served::by(&ModelInfo::new("größe", "test", 1));
        served.fallback = Some("away\nfor lunch".into());
        let headers = of_served(&served);
        assert_eq!(headers[MODEL], "gr??e");
        assert_eq!(headers[CACHE], "off");
        assert_eq!(headers[FALLBACK], "away?for lunch");
    }
}
