//! What people write, and what they are told.

use std::io::Write;

use secrecy::ExposeSecret;

use super::*;
use crate::{
    config::{Role, find},
    process::Failure,
};

fn with(flags: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Configuration, Failure> {
    let flags: Vec<_> = flags.iter().filter_map(|(name, value)| Some((find(name)?, (*value).to_owned()))).collect();
    let mut environment: BTreeMap<_, _> = variables.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    environment.insert("HOME".into(), "/home/someone".into());
    load(&flags, &environment).map_err(Failure::from)
}

fn origin<'a>(configuration: &'a Configuration, name: &str) -> &'a str {
    &configuration.entries.iter().find(|entry| entry.key.name == name).unwrap().origin
}

#[test]
fn flags_beat_variables_beat_users_names_beat_the_file_beat_defaults() {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    writeln!(file, "max_running = 1\nmodel_id = \"file\"\ndrain_ms = 7\nlisten = \"127.0.0.1:1\"").unwrap();
    let path = file.path().to_str().unwrap();
    let variables = [
        ("SUTAZAI_CONFIG", path),
        ("AGENT_MAX_WORKERS", "2"),
        ("MODEL_ID", "theirs"),
        ("SUTAZAI_MODEL_ID", "ours"),
        ("AGENT_PORT", "4"),
        ("SUTAZAI_MAX_TOKENS", ""),
    ];
    let found = with(&[("listen", "127.0.0.1:5")], &variables).unwrap();
    let settings = &found.settings;
    assert_eq!((settings.listen.port(), settings.max_running, settings.drain_ms), (5, 2, 7));
    assert_eq!((settings.model_id.as_str(), settings.max_tokens), ("ours", None));
    assert_eq!(settings.store.expose_secret(), "sqlite");
    assert_eq!(origin(&found, "listen"), "flag --listen");
    assert_eq!(origin(&found, "max_running"), "environment AGENT_MAX_WORKERS");
    assert!(origin(&found, "drain_ms").ends_with(".toml"));
    assert_eq!(origin(&found, "store"), DEFAULT);
    assert!(found.is_flag("listen") && !found.is_flag("model_id") && !found.is_flag("server"));
    assert_eq!(found.notes, []);
}

#[test]
fn every_key_of_the_table_is_a_setting_and_has_names_of_its_own() {
    let values = [
        ("log_level", "warn"),
        ("agent_name", "a"),
        ("temperature", "1"),
        ("max_tokens", "1"),
        ("allowed_hosts", "a, b,"),
        ("docs_roots", "/x"),
        ("openai_base_url", "http://h:2/v1"),
        ("openai_models", "a"),
        ("model_fallbacks", "b,c"),
        ("tenants", r#"{"big": {"weight": 2}}"#),
        ("agent_limits", r#"{"dev.echo": {"concurrency": 1}}"#),
        ("budgets", r#"{"task": {"tokens": 1}}"#),
    ];
    let variables = [
        ("OLLAMA_BASE_URL", "http://h:1"),
        ("SUTAZAI_WEBHOOK_SECRET", "s"),
        ("OPENAI_API_KEY", "k"),
        ("REDIS_URL", "redis://h"),
    ];
    let found = with(&values, &variables).unwrap();
    let built: Vec<_> = KEYS.iter().filter(|key| key.kind != Kind::NotBuilt && key.name != "config").collect();
    assert_eq!(found.entries.len(), built.len());
    assert_eq!(found.settings.allowed_hosts, ["a", "b"]);
    assert_eq!(found.settings.docs_roots, [std::path::PathBuf::from("/x")]);
    let mut names: Vec<_> = KEYS
        .iter()
        .flat_map(|key| [key.variable(), key.alias.as_ref().map_or(key.flag(), |a| a.variable.into())])
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), KEYS.len() * 2);
}

#[test]
fn a_bad_value_names_field_origin_and_what_is_allowed() {
    let error =
        with(&[("max_running", "many")], &[("AGENT_PORT", "99999"), ("SUTAZAI_LOG_LEVEL", "verbose")]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(r#"max_running: found "many" (from flag --max-running); allowed is a whole number from 1"#),
        "{text}"
    );
    assert!(text.contains(r#"listen: found "127.0.0.1:99999" (from environment AGENT_PORT)"#), "{text}");
    assert!(text.contains("log_level: found"), "{text}");
}

#[test]
fn what_has_no_effect_is_reported_and_ignored_unless_asked_for_by_our_own_name() {
    let theirs = [("VECTOR_PROVIDER", "qdrant"), ("SUTAZAI_NEO4J_URI", "bolt://h")];
    let found = with(&[], &theirs).unwrap();
    let notes = found.notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for (name, _) in theirs {
        assert!(notes.contains(&format!("{name} is ignored: ")) && notes.contains("not built"), "{notes}");
    }
    for theirs in [
        ("PG_DSN", "postgresql+asyncpg://u:secret@h/d"),
        ("PG_DSN", "host=db password=secret"),
        ("REDIS_URL", "redis+sentinel://:secret@h"),
        ("VECTOR_PROVIDER", "milvus"),
    ] {
        let found = with(&[], &[theirs]).unwrap();
        assert_eq!(found.notes.len(), 1, "{theirs:?}");
        let note = found.notes[0].to_string();
        assert!(note.contains(theirs.0) && note.contains("ignored") && !note.contains("secret"), "{note}");
        assert_eq!(found.settings.store.expose_secret(), "sqlite");
        assert!(found.settings.redis_url.is_none());
    }
    let text = with(&[], &[("SUTAZAI_REDIS_URL", "h:6379?password=secret")]).unwrap_err().to_string();
    assert!(text.contains("redis_url: found") && text.contains("redis://USER") && !text.contains("secret"), "{text}");
    let text = with(&[], &[("SUTAZAI_STORE", "host=db password=secret")]).unwrap_err().to_string();
    assert!(text.contains("store: found") && text.contains("postgres://USER") && !text.contains("secret"), "{text}");
}

#[test]
fn a_shared_store_is_named_by_its_url_and_shown_without_it() {
    let url = "postgres://u:hunter2@h/d";
    for given in [&[("PG_DSN", url)][..], &[("PG_DSN", "postgres://x"), ("SUTAZAI_STORE", url)]] {
        let found = with(&[("role", "worker")], given).unwrap();
        assert_eq!(found.settings.store.expose_secret(), url);
        assert_eq!(found.settings.role, Role::Worker);
        assert!(found.settings.check().is_ok() && !format!("{found:?}").contains("hunter2"));
    }
}

#[test]
fn a_redis_is_named_by_its_url_and_shown_without_it() {
    let url = "rediss://u:hunter2@h:6380/2";
    for given in [&[("REDIS_URL", url)][..], &[("REDIS_URL", "redis://x"), ("SUTAZAI_REDIS_URL", url)]] {
        let found = with(&[], given).unwrap();
        assert_eq!(found.settings.redis_url.as_ref().unwrap().expose_secret(), url);
        assert_eq!((found.settings.redis_prefix.as_str(), found.settings.redis_timeout_ms), ("sutazai", 250));
        assert_eq!(found.entries.iter().find(|entry| entry.key.name == "redis_url").unwrap().shown, "rediss://***");
        assert!(found.notes.is_empty() && !format!("{found:?}").contains("hunter2"));
    }
}

#[test]
fn tenants_and_limits_are_tables_in_a_file_and_json_elsewhere() {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let text =
        "[tenants.Big]\nweight = 2.5\n[tenants.'*']\nconcurrency = 3\n[agent_limits.'dev.echo']\nper_minute = 7\n";
    let budgets = "[budgets.task]\ntokens = 7\n[budgets.tenant.Big]\ncost = 2\n[budgets.prices.'m:1b']\nprompt = 0.5\n";
    file.write_all(format!("{text}{budgets}").as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let found = with(&[("config", path)], &[]).unwrap();
    assert!(["tenants", "agent_limits", "budgets"].iter().all(|name| origin(&found, name).ends_with(".toml")));
    let settings = found.settings;
    let rules: Vec<_> = settings.tenants.rules().map(|(name, rule)| (name, rule.weight)).collect();
    assert_eq!((rules, settings.tenants.others().concurrency), (vec![("Big", 2.5)], Some(3)));
    assert_eq!(settings.agent_limits.of("dev.echo", Default::default()).per_minute, Some(7));

    let budgets = settings.budgets.config();
    assert_eq!((budgets.task.tokens, budgets.tenants["Big"].micros), (Some(7), Some(2_000_000)));
    assert!(budgets.prices.contains_key("m:1b"));

    let variable = ("SUTAZAI_TENANTS", r#"{"small": {"weight": 1}}"#);
    let settings = with(&[("config", path)], &[variable]).unwrap().settings;
    assert_eq!(settings.tenants.rules().next().unwrap().0, "small", "a variable takes the place of the table");
    assert_eq!(settings.tenants.rules().count(), 1);

    let text = with(&[("tenants", r#"{"small": {"share": 1}}"#)], &[]).unwrap_err().to_string();
    assert!(text.contains("tenants: found") && text.contains("share") && text.contains("weight"), "{text}");
}

#[test]
fn unknown_names_are_reported_with_the_nearest_known_one() {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    writeln!(file, "max_runing = 1").unwrap();
    let found =
        with(&[("config", file.path().to_str().unwrap())], &[("SUTAZAI_LISTN", "x"), ("SUTAZAI_QWERTZUIOP", "x")])
            .unwrap();
    let notes = found.notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(notes.contains("did you mean max_running?"), "{notes}");
    assert!(notes.contains("SUTAZAI_LISTN (environment) is unknown; did you mean SUTAZAI_LISTEN?"), "{notes}");
    assert!(notes.contains("SUTAZAI_QWERTZUIOP (environment) is unknown"), "{notes}");
}

#[test]
fn passwords_are_not_shown() {
    let key = find("ollama_base_url").unwrap();
    assert_eq!(masked(key, "http://u:p@host:1"), "http://***@host:1");
    assert_eq!(masked(key, "http://u:p@ss@host:1/a@b"), "http://***@host:1/a@b");
    assert_eq!(masked(key, "http://u:p/w@host:1"), "http://***@host:1");
    assert_eq!(masked(key, "u:p@host:1"), "***@host:1");
    assert_eq!(masked(key, "http://host:1/a"), "http://host:1/a");
    assert_eq!(masked(find("store").unwrap(), "postgres://u:p@h/d"), "postgres://***");
    assert_eq!(masked(find("store").unwrap(), "sqlite"), "sqlite");
    assert_eq!(masked(find("webhook_secret").unwrap(), "whsec://a"), "***");
}

#[test]
fn a_secret_is_read_and_never_shown() {
    let found = with(&[], &[("SUTAZAI_WEBHOOK_SECRET", "whsec"), ("SUTAZAI_WEBHOOK_ALLOW_PRIVATE", "true")]).unwrap();
    assert_eq!(found.settings.webhook_secret.as_ref().unwrap().expose_secret(), "whsec");
    assert!(found.settings.webhook_allow_private && !format!("{found:?}").contains("whsec"));
    let found = with(&[], &[("SUTAZAI_WEBHOOK_SECRET", "")]).unwrap();
    assert!(found.settings.webhook_secret.is_none() && !found.settings.webhook_allow_private);
    assert!(with(&[], &[("SUTAZAI_WEBHOOK_SECRET", " ")]).unwrap_err().to_string().contains("not empty"));
}

#[test]
fn a_broken_file_is_explained_without_what_stands_in_it() {
    let broken = [
        ("max_running = 1\nwebhook_secret = hunter2\n", "line 2, column 18, which gives webhook_secret: "),
        ("store = \"postgres://u:hunter2@h/d\n", ", which gives store: "),
        ("webhook_secret = \"a\\qhunter2\"", "which gives webhook_secret: "),
        (
            "webhook_secret = \"hunter2\"\nwebhook_secret = \"hunter2\"",
            "line 2, column 1, which gives webhook_secret: ",
        ),
        ("hunter2 = hunter2=", "line 1, column "),
        ("webhook_secret = [\"hunter2\"", "line 1, column "),
        ("webhook_secret = { hunter2 = 1 }", "webhook_secret: found a table or a list"),
        ("webhook_secret = 1e999hunter2", "line 1, column "),
        ("max_running = 7\nlease_ms = 99_999_999_999_999_999_999 # hunter2", "line 2, which gives lease_ms: "),
    ];
    for (text, place) in broken {
        let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let told = with(&[("config", file.path().to_str().unwrap())], &[]).unwrap_err().to_string();
        assert!(told.contains(place) && !told.contains("hunter2"), "{text}\n{told}");
        assert!(!told.trim_end().contains(": \n") && told.contains("hint"), "{told}");
    }
}

#[test]
fn a_list_is_written_as_one_in_a_file_too() {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    writeln!(file, "allowed_hosts = [\"agents.lan\", \"agents\"]").unwrap();
    let found = with(&[("config", file.path().to_str().unwrap())], &[]).unwrap();
    assert_eq!(found.settings.allowed_hosts, ["agents.lan", "agents"]);
}

#[test]
fn what_no_server_starts_with_is_found_before_it_starts() {
    let schema = with(&[("postgres_schema", "a b")], &[]).unwrap_err().to_string();
    assert!(schema.contains("postgres_schema: found \"a b\"") && schema.contains("a-z, 0-9 and _"), "{schema}");
    let strange = with(&[], &[("SUTAZAI_DATA_DIR", "/tmp/\u{fffd}")]).unwrap_err().to_string();
    assert!(strange.contains("data_dir: found") && strange.contains("allowed is text in UTF-8"), "{strange}");
    let wrong = [("listen", "0.0.0.0:1"), ("prometheus_namespace", "1 bad"), ("role", "api")];
    let found = with(&wrong, &[]).unwrap();
    let refused = found.settings.check().unwrap_err();
    assert_eq!(refused.faults().len(), 3, "{refused:?}");
    assert!(with(&[], &[]).unwrap().settings.check().is_ok());
}
