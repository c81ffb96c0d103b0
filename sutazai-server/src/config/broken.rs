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
    // Of a number that is too large the reader says no place.
    let beyond = place.is_none().then(|| beyond(path.as_ref())).flatten().map(|line| format!("line {line}"));
    let Some(place) = place.or(beyond.as_deref()) else { return format!("config: {path}: {}", one_line(&text)) };
    let why = if beyond.is_some() { one_line(&text) } else { one_line(&lines.skip(3).collect::<Vec<_>>().join(" ")) };
    let number = place.trim_start_matches(|c: char| !c.is_ascii_digit()).split(',').next();
    let key = number.and_then(|number| key_at(path.as_ref(), number.parse().ok()?));
    let key = key.map(|key| format!(", which gives {key}")).unwrap_or_default();
    format!("config: {path}, {place}{key}: {why}")
}

/// The first line with a whole number beyond 64 bits.
fn beyond(path: &Path) -> Option<usize> {
    let text = fs::read_to_string(path).ok()?;
    let number = |value: &str| {
        let digits = value.split('#').next().unwrap_or_default().trim().replace('_', "");
        let unsigned = digits.trim_start_matches(['+', '-']);
        !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<i64>().is_err()
    };
    let is_beyond = |line: &str| line.split_once('=').is_some_and(|(_, value)| number(value));
    text.lines().position(is_beyond).map(|line| line + 1)
}

/// The known key that a line gives a value to. Any other text before the sign may be a part of a value.
fn key_at(path: &Path, number: usize) -> Option<&'static str> {
    let text = fs::read_to_string(path).ok()?;
    let name = text.lines().nth(number.checked_sub(1)?)?.split('=').next()?.trim();
    KEYS.iter().map(|key| key.name).find(|known| *known == name)
}
