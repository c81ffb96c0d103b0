//! A file that is no TOML: where it breaks and why, and nothing of what stands there, for that may be a secret.

use std::{fs, path::Path};

use config::ConfigError;

use super::{keys::KEYS, load::one_line};

/// What is wrong with the file at `path`.
pub(super) fn explain(path: &str, error: ConfigError) -> String {
    let ConfigError::FileParse { cause, .. } = error else { return one_line(&error.to_string()) };
    let text = cause.to_string();
    // `TOML parse error at line L, column C`, three lines that show the place, and the reason.
    let mut lines = text.lines();
    let place = lines.next().and_then(|first| first.strip_prefix("TOML parse error at "));
    let Some(place) = place else { return format!("config: {path}: {}", one_line(&text)) };
    let why = one_line(&lines.skip(3).collect::<Vec<_>>().join(" "));
    let number = place.trim_start_matches(|c: char| !c.is_ascii_digit()).split(',').next();
    let key = number.and_then(|number| key_at(path.as_ref(), number.parse().ok()?));
    let key = key.map(|key| format!(", which gives {key}")).unwrap_or_default();
    format!("config: {path}, {place}{key}: {why}")
}

/// The known key that a line gives a value to. Any other text before the sign may be a part of a value.
fn key_at(path: &Path, number: usize) -> Option<&'static str> {
    let text = fs::read_to_string(path).ok()?;
    let name = text.lines().nth(number.checked_sub(1)?)?.split('=').next()?.trim();
    KEYS.iter().map(|key| key.name).find(|known| *known == name)
}
