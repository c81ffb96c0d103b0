//! What a source file looks like.

use crate::tree::{File, files, none, root};

/// What stands at the top level beside dotfiles, and nothing else.
const TOP: [&str; 13] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "docs",
    "examples",
    "sutazai-agents",
    "sutazai-core",
    "sutazai-llm",
    "sutazai-server",
    "sutazai-store",
];

/// The longest a file may be, tests beside the code not counted.
const LINES: usize = 500;

#[test]
fn the_top_level_holds_what_the_map_shows() {
    let entries = ignore::WalkBuilder::new(root()).max_depth(Some(1)).build();
    let names = entries.map(|entry| entry.expect("the root can be read")).filter(|entry| entry.depth() == 1);
    let mut names: Vec<_> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, TOP, "a new entry at the top level belongs into one of these, or into docs/architecture.md");
}

#[test]
fn every_file_says_what_it_is_for() {
    let says = |file: &File| {
        let first = file.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        first.starts_with("//! ") || first.starts_with("#![doc = include_str!(")
    };
    let silent = files(&["rs"]).iter().filter(|file| !says(file)).map(|file| file.path.clone()).collect();
    none(silent, "every Rust file begins with `//!` and what it is for");
}

#[test]
fn no_file_needs_scrolling() {
    let long = files(&["rs"])
        .into_iter()
        .map(|file| (file.code().len(), file.path.clone()))
        .filter(|(lines, _)| *lines > LINES);
    none(long.map(|(lines, path)| format!("{path}: {lines} lines")).collect(), "no file is longer than 500 lines");
}

#[test]
fn nothing_promises_work_instead_of_being_it() {
    // Put together here, so that this file does not find itself.
    let words =
        [["TO", "DO"], ["FIX", "ME"], ["todo", "!("], ["unimplemented", "!("], ["place", "holder"], ["XX", "X"]]
            .map(|parts| parts.concat());
    let mut found = Vec::new();
    assert!(files(&[""]).iter().any(|file| file.path == ".ci/run"), "scripts are read too");
    for file in files(&["", "rs", "md", "toml", "yml", "yaml", "sh", "py", "lua", "sql", "html"]) {
        let says = |line: &str| words.iter().any(|word| contains_word(line, word));
        let lines = file.text.lines().enumerate().filter(|(_, line)| says(line));
        found.extend(lines.map(|(index, line)| format!("{}:{}: {}", file.path, index + 1, line.trim())));
    }
    none(found, "what is not built is left out and said so in the README");
}

/// Whether `word` stands in `line` by itself and not within a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    let in_a_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        !before.is_some_and(in_a_name) && (word.ends_with('(') || !after.is_some_and(in_a_name))
    })
}

#[test]
fn wall_clocks_are_read_in_clock_rs_alone() {
    let mut found = Vec::new();
    for file in files(&["rs"]).iter().filter(|file| !file.is_beside_the_code() && !file.path.ends_with("/clock.rs")) {
        let reads =
            |line: &str| ["SystemTime::now(", "Utc::now(", "Local::now("].iter().any(|call| line.contains(call));
        let lines = file.code();
        let lines = lines.iter().filter(|(_, line)| reads(line));
        found.extend(lines.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())));
    }
    none(found, "time comes from `sutazai_core::clock::Clock`, so that a simulation and a test can set it");
}

#[test]
fn an_ignored_test_says_why() {
    let mut found = Vec::new();
    for file in files(&["rs"]) {
        let bare = ["#[ign", "ore]"].concat();
        let lines = file.text.lines().enumerate().filter(|(_, line)| line.trim() == bare);
        found.extend(lines.map(|(index, _)| format!("{}:{}", file.path, index + 1)));
    }
    none(found, "`#[ignore = \"why\"]`: a skipped test never looks like a pass");
}
