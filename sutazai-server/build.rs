//! Records which source this binary was built from, and when. Works in a clone, in a packaged crate and without git.

use std::{env, fs, path::Path, process::Command, time::SystemTime};

#[allow(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // The head's log changes with every commit, HEAD itself with every switch of branch.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    // Not with the prefix of our settings: `cargo run` hands these on to the server, which would warn of names it does not know.
    println!("cargo::rustc-env=BUILT_FROM_SHA={}", sha().unwrap_or_else(|| "unknown".into()));
    println!("cargo::rustc-env=BUILT_AT_EPOCH={}", epoch());
}

/// The commit: of the package, where this is one (its folder may lie inside a repository of somebody else), else of the clone.
fn sha() -> Option<String> {
    packaged().or_else(|| git(&["rev-parse", "HEAD"])).map(|sha| sha.chars().take(12).collect())
}

/// `cargo package` leaves the commit in a small JSON file: `{"git": {"sha1": "…"}, …}`.
fn packaged() -> Option<String> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    rest.split('"').nth(1).map(str::to_owned)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// Seconds since 1970; reproducible builds set them (<https://reproducible-builds.org/specs/source-date-epoch/>).
fn epoch() -> u64 {
    let given = env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs()))
}
