//! The series of HTTP routes; the ones of good answers are resolved once.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::http::{Method, StatusCode};
use prometheus::{Histogram, IntCounter};

use super::{Families, Metrics};

/// Counts requests by route.
pub(crate) struct Routes {
    families: Arc<Families>,
    known: HashMap<String, [OnceLock<Series>; 2]>,
}

struct Series {
    ok: IntCounter,
    accepted: IntCounter,
    duration: Histogram,
}

impl Routes {
    /// For the routes of these paths; all others are one.
    pub(crate) fn new<'a>(metrics: &Metrics, paths: impl Iterator<Item = &'a String>) -> Self {
        let known = paths.map(|path| (path.clone(), Default::default())).collect();
        Self { families: Arc::clone(&metrics.families), known }
    }

    /// A request was answered.
    pub(crate) fn observe(&self, method: &Method, route: Option<&str>, status: StatusCode, took: Duration) {
        let known = route.and_then(|route| self.known.get_key_value(route));
        let cell = match (known, method) {
            (Some((_, cells)), &Method::GET) => Some(&cells[0]),
            (Some((_, cells)), &Method::POST) => Some(&cells[1]),
            _ => None,
        };
        let route = known.map_or("other", |(route, _)| route);
        let method = match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            Method::PATCH => "PATCH",
            Method::HEAD => "HEAD",
            Method::OPTIONS => "OPTIONS",
            _ => "other",
        };
        let requests = |status: StatusCode| self.families.requests.with_label_values(&[method, route, status.as_str()]);
        let duration = || self.families.durations.with_label_values(&[method, route]);
        let Some(cell) = cell else {
            requests(status).inc();
            duration().observe(took.as_secs_f64());
            return;
        };
        let series = cell.get_or_init(|| Series {
            ok: requests(StatusCode::OK),
            accepted: requests(StatusCode::ACCEPTED),
            duration: duration(),
        });
        match status {
            StatusCode::OK => series.ok.inc(),
            StatusCode::ACCEPTED => series.accepted.inc(),
            status => requests(status).inc(),
        }
        series.duration.observe(took.as_secs_f64());
    }
}
