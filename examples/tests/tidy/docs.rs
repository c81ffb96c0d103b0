//! The documentation points at things that exist, and leaves none of them out.

use std::collections::BTreeSet;

use crate::tree::{File, files, none, root};

/// The targets of a Markdown file's links, code blocks left out.
fn links(file: &File) -> Vec<&str> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in file.text.lines() {
        in_code ^= line.trim_start().starts_with("```");
        if !in_code {
            found.extend(line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
        }
    }
    found
}

/// The anchors that a Markdown file's headings have, as mdBook and the forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let slug = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(slug).collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut broken = Vec::new();
    for file in files(&["md"]) {
        let folder = root().join(&file.path).parent().map(ToOwned::to_owned).unwrap_or_default();
        for link in links(&file).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { root().join(&file.path) } else { folder.join(path) };
            let lost = match std::fs::read_to_string(&target) {
                Ok(text) => !anchor.is_empty() && !anchors(&text).contains(anchor),
                Err(_) => !target.is_dir(),
            };
            if lost {
                broken.push(format!("{}: {link}", file.path));
            }
        }
    }
    none(broken, "every relative link leads to a file, and its anchor to a heading");
}

#[test]
fn the_book_lists_every_page() {
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).expect("docs/SUMMARY.md");
    let unlisted = files(&["md"]).into_iter().filter_map(|file| file.path.strip_prefix("docs/").map(ToOwned::to_owned));
    let unlisted = unlisted.filter(|page| page != "SUMMARY.md" && !summary.contains(&format!("({page})")));
    none(unlisted.collect(), "docs/SUMMARY.md lists every page");
}

/// The first Rust block of a Markdown text.
fn first_block(text: &str) -> &str {
    text.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a Rust block")
}

#[test]
fn the_ten_lines_are_the_same_everywhere() {
    let read =
        |path: &str| std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let example = read("examples/examples/hello.rs");
    let code: String =
        example.lines().filter(|line| !line.starts_with("//!")).map(|line| format!("{line}\n")).collect();
    assert!(code.lines().filter(|line| !line.is_empty()).count() <= 10, "ten lines are ten lines");
    for path in ["README.md", "sutazai-core/README.md"] {
        assert_eq!(
            first_block(&read(path)).trim(),
            code.trim(),
            "the first block of {path} is examples/examples/hello.rs"
        );
    }
}

/// Every string that stands right after `call` in the code of the house, with the file it stands in.
fn strings_after(call: &str, folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in files(&["rs"]).iter().filter(|file| !file.is_beside_the_code() && file.path.starts_with(folder)) {
        let code: String = file.code().iter().flat_map(|(_, line)| [line.trim(), " "]).collect();
        let strings =
            code.split(call).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
        found.extend(strings.map(|text| (text.to_owned(), file.path.clone())));
    }
    found
}

#[test]
fn every_error_code_has_an_entry() {
    let page = std::fs::read_to_string(root().join("docs/reference/errors.md")).expect("docs/reference/errors.md");
    let known = anchors(&page);
    let calls = ["with_code(", "TaskError::new(", "AgentError::permanent(", "AgentError::temporary("];
    let mut codes: Vec<_> = calls.iter().flat_map(|call| strings_after(call, "sutazai-")).collect();
    let is_code = |text: &str| text.contains('_') && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    codes.extend(strings_after("ErrorKind::", "sutazai-").into_iter().filter(|(text, _)| is_code(text)));
    codes.retain(|(_, path)| !path.contains("/conformance/")); // suites make up codes of their own
    codes.extend(strings_after(" code(", "sutazai-server/src/http/codes.rs"));
    assert!(codes.len() > 20, "the rule looks for codes in the wrong way: {codes:?}");
    let missing: BTreeSet<_> = codes.into_iter().filter(|(code, _)| !known.contains(code)).collect();
    none(
        missing.iter().map(|(code, path)| format!("{code} ({path})")).collect(),
        "docs/reference/errors.md has a heading for every code",
    );
}

#[test]
fn every_setting_is_documented() {
    let page = std::fs::read_to_string(root().join("docs/reference/configuration.md"))
        .expect("docs/reference/configuration.md");
    let keys = "sutazai-server/src/config/keys.rs";
    let calls = ["Key::new(", "Key::not_built(", ".also(", ".also_as("];
    let names: Vec<_> = calls.iter().flat_map(|call| strings_after(call, keys)).collect();
    assert!(names.len() > 20, "the rule looks for settings in the wrong way: {names:?}");
    let missing = names.into_iter().map(|(name, _)| name).filter(|name| !page.contains(&format!("`{name}`")));
    none(missing.collect(), "docs/reference/configuration.md has every key and every variable of another name");
}
