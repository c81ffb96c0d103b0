//! Which versions of an agent can go on with each other's tasks.

/// The line of versions that `version` belongs to, by the rule of semantic versioning for compatible changes: `1.4.2` is of line `1`, `0.3.1` of line `0.3`,
/// `0.0.5` of its own. What is no semantic version is a line of its own.
#[must_use]
pub fn version_line(version: &str) -> &str {
    let mut parts = version.splitn(3, '.');
    let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next()) else { return version };
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let patch = rest.split(['-', '+']).next().unwrap_or_default();
    // A release candidate promises nothing about what it goes on with.
    if !number(major) || !number(minor) || !number(patch) || rest.contains('-') {
        return version;
    }
    match (major, minor) {
        ("0", "0") => version,
        ("0", minor) => &version[..2 + minor.len()],
        (major, _) => &version[..major.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_follow_semantic_versioning() {
        let lines = ["1.4.2", "12.0.0+b.7", "0.3.1", "0.0.5", "1.0.0-rc.1", "2026-11", "1.2", ""].map(version_line);
        assert_eq!(lines, ["1", "12", "0.3", "0.0.5", "1.0.0-rc.1", "2026-11", "1.2", ""]);
    }
}
