//! Who depends on whom.

use std::{collections::BTreeSet, process::Command};

use cargo_metadata::{Dependency, DependencyKind, MetadataCommand, semver::VersionReq};

use crate::tree::{files, none, root};

/// What each crate of the house may know of the others, in whatever kind of dependency.
const EDGES: [(&str, &[&str]); 6] = [
    ("sutazai-core", &[]),
    (TESTING, &[]),
    ("sutazai-agents", &["sutazai-core"]),
    ("sutazai-llm", &["sutazai-core"]),
    ("sutazai-store", &["sutazai-core"]),
    ("sutazai-server", &["sutazai-agents", "sutazai-core", "sutazai-llm", "sutazai-store"]),
];

/// What tests share. Everybody's tests may know it, and nothing that is published.
const TESTING: &str = "sutazai-testing";

/// Drivers, HTTP, SQL and inference: nothing of it may come with core, however far down.
const NOT_IN_CORE: [&str; 26] = [
    "axum",
    "candle-core",
    "diesel",
    "h2",
    "http",
    "hyper",
    "lapin",
    "libsqlite3-sys",
    "native-tls",
    "neo4rs",
    "openssl",
    "qdrant-client",
    "redis",
    "reqwest",
    "rusqlite",
    "rustls",
    "sqlx",
    "sqlx-core",
    "tokenizers",
    "tokio-postgres",
    "tonic",
    "tower",
    "tower-http",
    "ureq",
    "usearch",
    "utoipa",
];

/// Crates whose types core's public API may name: plain data, and the traits that async Rust has no other form for.
const IN_PUBLIC_API: [&str; 6] = ["async_trait", "chrono", "futures_core", "schemars", "serde", "serde_json"];

fn workspace() -> cargo_metadata::Metadata {
    let manifest = root().join("Cargo.toml");
    let offline = ["--offline".to_owned()];
    MetadataCommand::new().manifest_path(manifest).no_deps().other_options(offline).exec().expect("cargo metadata")
}

#[test]
fn each_crate_knows_only_what_it_may() {
    let metadata = workspace();
    let mut breaches = Vec::new();
    for (name, allowed) in EDGES {
        let package = metadata.packages.iter().find(|package| package.name == name);
        let package = package.unwrap_or_else(|| panic!("{name} is not a member of the workspace"));
        let of_the_house = package.dependencies.iter().filter(|dependency| dependency.name.starts_with("sutazai-"));
        let for_tests = |dependency: &Dependency| {
            dependency.name == TESTING
                && dependency.kind == DependencyKind::Development
                && dependency.req == VersionReq::STAR
        };
        let known = |dependency: &Dependency| allowed.contains(&dependency.name.as_str()) || for_tests(dependency);
        for dependency in of_the_house.filter(|dependency| !known(dependency)) {
            breaches.push(format!("{name} → {}", dependency.name));
        }
    }
    none(breaches, "agents, store and llm know core only, core knows none of them, the server knows all");
}

#[test]
fn the_members_are_those_of_the_map() {
    let mut members: Vec<_> = workspace().packages.iter().map(|package| package.name.to_string()).collect();
    members.sort();
    let mut known: Vec<_> =
        EDGES.iter().map(|(name, _)| *name).chain(["sutazai-benches", "sutazai-examples"]).collect();
    known.sort_unstable();
    assert_eq!(members, known, "a new member gets its row in `EDGES` and in docs/architecture.md");
}

#[test]
fn every_shared_dependency_is_somebody_s() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let table =
        manifest.split("[workspace.dependencies]\n").nth(1).expect("the table").split("\n[").next().unwrap_or("");
    let shared: Vec<_> = table.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
    assert!(shared.len() > 20 && shared.contains(&"tokio"), "the rule reads the wrong table: {shared:?}");
    let metadata = workspace();
    let used: BTreeSet<_> =
        metadata.packages.iter().flat_map(|package| &package.dependencies).map(|used| used.name.as_str()).collect();
    let unused = shared.iter().filter(|name| !name.starts_with('#') && !used.contains(**name));
    none(unused.map(ToString::to_string).collect(), "each entry of [workspace.dependencies] is used by a member");
}

#[test]
fn every_member_says_what_a_registry_asks_for() {
    let metadata = workspace();
    let incomplete = metadata.packages.iter().filter(|package| {
        package.description.is_none()
            || package.license.as_deref() != Some("MIT OR Apache-2.0")
            || package.rust_version.is_none()
            || (package.publish.is_none() && package.readme.is_none())
    });
    let incomplete = incomplete.map(|package| package.name.to_string()).collect();
    none(incomplete, "description, licence, rust-version and, where it is published, a README are set");
}

/// The names of core's normal dependencies, direct and indirect, with its default features.
fn crates_of_core() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-p", "sutazai-core", "-e", "normal", "--prefix", "none", "--format", "{p}", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo tree starts");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo tree prints UTF-8");
    text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

#[test]
fn core_stays_small_and_free_of_drivers() {
    let crates = crates_of_core();
    let names: Vec<_> = crates.iter().filter_map(|line| line.split(' ').next()).collect();
    let drivers = names.iter().filter(|name| NOT_IN_CORE.contains(name)).map(ToString::to_string).collect();
    none(drivers, "core depends on no driver, no HTTP and no SQL crate");
    assert!(names.len() < 60, "core brings {} crates, the limit is 59: {}", names.len(), names.join(" "));
}

/// Reads signatures as text: every `pub` item of core up to its body, every item of a trait, and the names that `use` brings in
/// from crates that are not for the public.
#[test]
fn core_shows_no_foreign_type() {
    let metadata = workspace();
    let core = metadata.packages.iter().find(|package| package.name == "sutazai-core").expect("core is a member");
    let normal = core.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
    let private: Vec<_> = normal
        .map(|dependency| dependency.name.replace('-', "_"))
        .filter(|name| !IN_PUBLIC_API.contains(&name.as_str()))
        .collect();
    assert!(private.contains(&"tokio".to_owned()), "the rule looks at the wrong dependencies: {private:?}");

    let mut breaches = Vec::new();
    for file in files(&["rs"]).iter().filter(|file| file.path.starts_with("sutazai-core/src/")) {
        let lines = file.code();
        let foreign: BTreeSet<_> = imports(&lines, &private);
        for (number, signature) in public_signatures(&lines) {
            let words: BTreeSet<_> = signature.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            // `BoxFuture` is an alias of standard types, wherever it is imported from. The `Err` of a `FromStr` is no `pub` item and
            // may be a parser's own.
            let named =
                words.iter().filter(|word| foreign.contains(**word) || private.iter().any(|name| name == *word));
            let named = named.filter(|word| **word != "BoxFuture");
            breaches.extend(named.map(|word| format!("{}:{number}: {word} in `{}`", file.path, signature.trim())));
        }
    }
    none(breaches, "core's public API names no type of a crate that is an implementation detail");
}

/// The names that `use` brings in from `crates`.
fn imports<'a>(lines: &[(usize, &'a str)], crates: &[String]) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for (_, line) in lines {
        let line = line.trim();
        let path = line.strip_prefix("use ");
        inside |= path.is_some_and(|path| crates.iter().any(|name| path.starts_with(&format!("{name}::"))));
        if inside {
            let words = path.unwrap_or(line).split(|c: char| !c.is_alphanumeric() && c != '_');
            // Modules are lower case; a signature that names one (`watch::Receiver`) is caught as well.
            names.extend(
                words.filter(|word| !matches!(*word, "" | "self" | "as" | "use" | "time" | "task" | "sync" | "_")),
            );
            inside = !line.ends_with(';');
        }
    }
    names
}

/// `pub` items, re-exports among them, and the items of public traits, each up to its body or the fields it hides. The body of an enum is public.
fn public_signatures(lines: &[(usize, &str)]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_trait = false;
    let mut open: Option<(usize, String)> = None;
    for (number, line) in lines {
        let trimmed = line.trim();
        if let Some((_, text)) = &mut open {
            if !trimmed.starts_with("//") && !trimmed.starts_with('#') {
                text.push(' ');
                text.push_str(trimmed);
            }
        } else if *line == "}" {
            in_trait = false;
        } else {
            let item = trimmed.starts_with("pub ") && !trimmed.starts_with("pub mod");
            let within = ["fn ", "async fn ", "type ", "const "].iter().any(|kind| trimmed.starts_with(kind));
            open = (item || in_trait && within).then(|| (*number, trimmed.to_owned()));
            in_trait |= trimmed.starts_with("pub trait ");
        }
        let ended = |text: &str| match text.split(' ').nth(1) {
            Some("use") => text.ends_with(';'),
            Some("enum") => text.contains('{') && text.matches('{').count() == text.matches('}').count(),
            _ => text.contains('{') || text.ends_with(';') || text.ends_with(',') && !text.contains("fn "),
        };
        if let Some((number, text)) = open.take_if(|(_, text)| ended(text)) {
            let whole = text.starts_with("pub use") || text.starts_with("pub enum");
            let hidden = text.starts_with("pub struct").then(|| text.find('(')).flatten().or_else(|| text.find('{'));
            found.push((number, text[..hidden.filter(|_| !whole).unwrap_or(text.len())].to_owned()));
        }
    }
    found
}

#[test]
fn the_reader_of_signatures_sees_foreign_types() {
    let text = "use tokio::sync::{watch, mpsc::Receiver as Inbox};\n\
        use serde::Serialize;\n\
        pub struct Hidden(watch::Sender<u8>);\n\
        pub struct Handle {\n    inbox: Inbox<u8>,\n    pub open: Inbox<u8>,\n}\n\
        pub fn shown(\n    inbox: Inbox<u8>,\n) -> u8 {\n\
        pub enum Told {\n    /// tokio in words.\n    Open(Inbox<u8>),\n    Shut { of: u8 },\n}\n\
        pub use tokio::sync::{\n    oneshot,\n};\n\
        pub trait Held: Send {\n    type Of: Into<Inbox<u8>>;\n}\n";
    let lines: Vec<_> = text.lines().enumerate().map(|(index, line)| (index + 1, line)).collect();
    let foreign = imports(&lines, &["tokio".to_owned()]);
    assert_eq!(foreign, ["Inbox", "Receiver", "mpsc", "tokio", "watch"].into());
    let signatures = public_signatures(&lines);
    let naming: Vec<_> = signatures
        .iter()
        .filter(|(_, text)| ["Inbox", "watch", "tokio"].iter().any(|name| text.contains(name)))
        .collect();
    assert_eq!(naming.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [6, 8, 11, 16, 20], "{signatures:?}");
}
