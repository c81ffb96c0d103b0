//! Lays the sources over one another and checks what comes out.

use std::{collections::BTreeMap, ffi::OsString, path::Path};

use config::{Config, File, FileFormat, Map, Source, Value, ValueKind};
use etcetera::BaseStrategy;

use super::{
    Refused, Settings,
    broken::explain,
    check::{Checked, check, check_theirs, not_built},
    keys::{KEYS, Key, Kind, PREFIX, nearest},
};

/// The settings, where each came from, and what people should know about them.
#[derive(Debug)]
pub struct Configuration {
    /// The settings.
    pub settings: Settings,
    /// Each key that has a value, in the table's order.
    pub entries: Vec<Entry>,
    /// Names that nothing reads.
    pub notes: Vec<Note>,
}

impl Configuration {
    /// Whether somebody gave a value for the key called `name`.
    #[must_use]
    pub fn is_given(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.key.name == name && entry.origin != DEFAULT)
    }

    /// Whether the command line gave the key called `name`.
    #[must_use]
    pub fn is_flag(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.key.name == name && entry.origin.starts_with(FLAG))
    }
}

/// A key's value and where it came from.
#[derive(Debug)]
pub struct Entry {
    /// The key.
    pub key: &'static Key,
    /// Its value, masked where it may hold a secret.
    pub shown: String,
    /// `default`, a file, a variable or a flag.
    pub origin: String,
}

/// Something given that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// It cannot be followed here, such as what belongs to a part that does not exist yet.
    Ignored {
        /// The name that was used.
        name: String,
        /// Why it has no effect.
        why: String,
    },
    /// Nothing is called so.
    Unknown {
        /// The name that was used.
        name: String,
        /// Where it was used.
        origin: String,
        /// The known name nearest to it.
        nearest: Option<String>,
    },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ignored { name, why } => write!(f, "{name} is ignored: {why}"),
            Self::Unknown { name, origin, nearest: Some(nearest) } => {
                write!(f, "{name} ({origin}) is unknown; did you mean {nearest}?")
            }
            Self::Unknown { name, origin, nearest: None } => write!(f, "{name} ({origin}) is unknown"),
        }
    }
}

const DEFAULT: &str = "default";
const ENVIRONMENT: &str = "environment";
const FLAG: &str = "flag";

/// Values of one origin, by key.
#[derive(Clone, Debug, Default)]
struct Layer(Map<String, Value>);

impl Layer {
    fn put(&mut self, key: &Key, text: impl Into<String>, origin: String) {
        self.0.insert(key.name.to_owned(), Value::new(Some(&origin), ValueKind::String(text.into())));
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// Reads the settings. `flags` are keys with what the command line gave; `environment` is the process's.
pub fn load(
    flags: &[(&'static Key, String)],
    environment: &BTreeMap<String, String>,
) -> Result<Configuration, Refused> {
    let mut notes = Vec::new();
    let given = |name: &str| environment.get(name).filter(|value| !value.is_empty());

    let (mut defaults, mut aliases, mut variables, mut options) = <(Layer, Layer, Layer, Layer)>::default();
    for key in KEYS {
        if let Some(value) = default_of(key) {
            defaults.put(key, value, DEFAULT.into());
        }
        if let Some((alias, value)) = key.alias.as_ref().and_then(|alias| Some((alias, given(alias.variable)?))) {
            let value = alias.template.replace("{}", value);
            match check_theirs(key.kind, &value) {
                Ok(()) => aliases.put(key, value, format!("{ENVIRONMENT} {}", alias.variable)),
                // These variables may be set for other programs: what we cannot serve is no fault of this start.
                Err(why) => notes.push(Note::Ignored { name: alias.variable.into(), why }),
            }
        }
        let variable = key.variable();
        if let Some(value) = given(&variable) {
            variables.put(key, value, format!("{ENVIRONMENT} {variable}"));
        }
    }
    for (key, value) in flags {
        options.put(key, value, format!("{FLAG} --{}", key.flag()));
    }
    let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
    for name in environment.keys().filter(|name| name.starts_with(PREFIX) && !known.contains(name)) {
        let nearest = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
        notes.push(Note::Unknown { name: name.clone(), origin: ENVIRONMENT.into(), nearest });
    }

    let path = |layer: &Layer| layer.0.get("config").and_then(|value| value.clone().into_string().ok());
    let mut builder = Config::builder().add_source(defaults);
    let file = path(&options).or_else(|| path(&variables));
    if let Some(path) = &file {
        if !Path::new(path).is_file() {
            let fault = format!("config: found {path}, which is no file");
            return Err(Refused::one(fault, "name a TOML file with --config or SUTAZAI_CONFIG"));
        }
        builder = builder.add_source(File::new(path, FileFormat::Toml));
    }
    let config = builder.add_source(aliases).add_source(variables).add_source(options).build();
    let config = config.map_err(|error| {
        let fault = explain(file.as_deref().unwrap_or_default(), error);
        Refused::one(fault, "the file given with --config must be TOML: key = \"text\" or key = number")
    })?;
    let table = config.cache.into_table().unwrap_or_default();
    typed(table, notes)
}

/// Checks every value, names all that are wrong, and makes the settings of them.
fn typed(mut table: Map<String, Value>, mut notes: Vec<Note>) -> Result<Configuration, Refused> {
    let (mut entries, mut faults, mut values) = (Vec::new(), Vec::new(), Map::new());
    for key in KEYS {
        let Some(value) = table.remove(key.name) else { continue };
        let origin = origin(&value).unwrap_or(DEFAULT).to_owned();
        let text = match &value.kind {
            ValueKind::Array(parts) if key.kind == Kind::List => {
                let parts: Result<Vec<_>, _> = parts.iter().cloned().map(Value::into_string).collect();
                parts.map(|parts| parts.join(","))
            }
            ValueKind::Table(_) if matches!(key.kind, Kind::Tenants | Kind::Limits | Kind::Budgets) => {
                value.try_deserialize::<serde_json::Value>().map(|table| table.to_string())
            }
            _ => value.into_string(),
        };
        let Ok(text) = text else {
            faults.push(format!("{}: found a table or a list (from {origin}); allowed is one value", key.name));
            continue;
        };
        if key.kind == Kind::NotBuilt {
            let name = origin.strip_prefix(ENVIRONMENT).map_or(key.name, str::trim).to_owned();
            notes.push(Note::Ignored { name, why: not_built(key.help) });
            continue;
        }
        let shown = masked(key, &text);
        match check(key.kind, &text) {
            Checked::Value(kind) => {
                values.insert(key.name.to_owned(), Value::new(Some(&origin), kind));
                entries.push(Entry { key, shown, origin });
            }
            Checked::Allowed(what) => {
                faults.push(format!("{}: found {shown:?} (from {origin}); allowed is {what}", key.name));
            }
            Checked::NotBuilt(part) => {
                let default = key.default;
                faults.push(format!(
                    "{}: found {shown:?} (from {origin}); {part} is not built yet, allowed is {default}",
                    key.name
                ));
            }
        }
    }
    for (name, value) in table {
        let origin = value.origin().unwrap_or_default().to_owned();
        let nearest = nearest(&name, KEYS.iter().map(|key| key.name)).map(str::to_owned);
        notes.push(Note::Unknown { name, origin, nearest });
    }
    if !faults.is_empty() {
        return Err(Refused::new(faults));
    }
    let settings = Value::new(None, ValueKind::Table(values)).try_deserialize();
    let settings = settings.map_err(|error| {
        let hint = "without a home directory, set SUTAZAI_DATA_DIR and SUTAZAI_MODELS_DIR";
        Refused::one(one_line(&error.to_string()), hint)
    })?;
    Ok(Configuration { settings, entries, notes })
}

/// Where a value comes from. Of a table only what stands in it knows.
fn origin(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::Table(table) if value.origin().is_none() => table.values().find_map(origin),
        _ => value.origin(),
    }
}

/// The value of a key that nobody gave one for.
fn default_of(key: &Key) -> Option<String> {
    let strategy = || etcetera::choose_base_strategy().ok();
    let path = match key.name {
        "data_dir" => strategy()?.data_dir().join("sutazai"),
        "models_dir" => strategy()?.cache_dir().join("sutazai").join("models"),
        _ => return Some(key.default.to_owned()).filter(|text| !text.is_empty()),
    };
    path.to_str().map(str::to_owned)
}

/// The value as it may be shown: nothing of a secret, no password of a URL.
fn masked(key: &Key, text: &str) -> String {
    match text.split_once("://") {
        _ if key.kind == Kind::Secret => "***".into(),
        Some((scheme, _)) if key.is_secret() => format!("{scheme}://***"),
        None if key.is_secret() && key.default != text => "***".into(),
        _ if key.kind == Kind::Url => masked_url(text),
        _ => text.into(),
    }
}

/// A URL, or what somebody took for one, without its name and password.
pub(crate) fn masked_url(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (&text[..scheme.len() + 3], rest));
    // Only in a real URL is it certain where the password ends.
    let end = reqwest::Url::parse(text).ok().and_then(|_| rest.find(['/', '?', '#'])).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((_, host)) => format!("{scheme}***@{host}{}", &rest[end..]),
        None => text.into(),
    }
}

/// `text` with every run of white space as one blank.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The environment as text. Names that are not text are none of ours; in a value U+FFFD stands for what is not, and no setting is let in with it.
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    let text = |value: OsString| value.into_string().unwrap_or_else(|value| value.to_string_lossy().into_owned());
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, text(value)))).collect()
}

#[cfg(test)]
mod tests;
