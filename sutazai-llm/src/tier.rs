//! What a model is wanted for, and which models the users' documents have for that.

use serde::{Deserialize, Serialize};

/// What a model is wanted for.
///
/// The users' documents have a model for each of these, under "Model Hierarchy": `tinyllama:latest` as the "default for all agents",
/// `mistral:7b-q4_K_M` for "complex reasoning tasks", `deepseek-coder:6.7b` for "code generation" and `qwen3:8b` for "advanced analysis".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Whatever an agent asks.
    #[default]
    General,
    /// What takes several steps of thought.
    Reasoning,
    /// Reading and writing programs.
    Code,
    /// Reading figures and texts, and saying what they show.
    Analysis,
}

/// A model of the users' documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TierModel {
    /// Its name there.
    pub name: &'static str,
    /// Bytes of memory that it takes, as it says there.
    pub memory_bytes: u64,
    /// What tags of the same size begin with.
    #[serde(skip)]
    size: &'static str,
}

const TINYLLAMA: TierModel = TierModel { name: "tinyllama:latest", memory_bytes: 1_000_000_000, size: "1.1b" };
const MISTRAL: TierModel = TierModel { name: "mistral:7b-q4_K_M", memory_bytes: 4_200_000_000, size: "7b" };
const DEEPSEEK_CODER: TierModel = TierModel { name: "deepseek-coder:6.7b", memory_bytes: 4_000_000_000, size: "6.7b" };
const QWEN3: TierModel = TierModel { name: "qwen3:8b", memory_bytes: 5_000_000_000, size: "8b" };

/// How a model stands in a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which of the tier's models it is, the first being 0.
    pub place: usize,
    /// Whether it is that model, in whatever quantisation; otherwise it is of the same family and another size.
    pub same_size: bool,
}

impl Tier {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::General, Self::Reasoning, Self::Code, Self::Analysis];

    /// Its name: `general`, `reasoning`, `code`, `analysis`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::General => "general",
            Self::Reasoning => "reasoning",
            Self::Code => "code",
            Self::Analysis => "analysis",
        }
    }

    /// The tier of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == name)
    }

    /// The models of the users' documents in the order in which this tier prefers them. Which one is first stands there; the order of the others is ours: the
    /// larger one first, and the model for programs last where no program is asked for, unless the rest is far smaller.
    #[must_use]
    pub fn models(self) -> [TierModel; 4] {
        match self {
            Self::General => [TINYLLAMA, QWEN3, MISTRAL, DEEPSEEK_CODER],
            Self::Reasoning => [MISTRAL, QWEN3, DEEPSEEK_CODER, TINYLLAMA],
            Self::Code => [DEEPSEEK_CODER, QWEN3, MISTRAL, TINYLLAMA],
            Self::Analysis => [QWEN3, MISTRAL, DEEPSEEK_CODER, TINYLLAMA],
        }
    }

    /// How the model called `name` stands in this tier, if the documents know its family.
    #[must_use]
    pub fn standing(self, name: &str) -> Option<Standing> {
        let models = self.models();
        let (place, model) = models.iter().enumerate().find(|(_, model)| model.is_family(name))?;
        Some(Standing { place, same_size: model.is(name) })
    }
}

impl Standing {
    /// From 0 to 1: a quarter less for each place, and half of it for another size.
    #[must_use]
    pub fn value(self) -> f64 {
        let left = match self.place {
            0 => 1.0,
            1 => 0.75,
            2 => 0.5,
            _ => 0.25,
        };
        if self.same_size { left } else { left / 2.0 }
    }
}

impl TierModel {
    /// Whether `name` means this model, in whatever quantisation. A name without a tag does.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        let tag = parts(name).1;
        let sized = tag.strip_prefix(self.size).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        self.is_family(name) && (tag == "latest" || tag == parts(self.name).1 || sized)
    }

    fn is_family(&self, name: &str) -> bool {
        parts(self.name).0.eq_ignore_ascii_case(parts(name).0)
    }
}

/// Family and tag of a name; `latest` goes without saying.
fn parts(name: &str) -> (&str, &str) {
    name.split_once(':').unwrap_or((name, "latest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_has_the_model_of_the_documents_first() {
        let first = Tier::ALL.map(|tier| tier.models()[0].name);
        assert_eq!(first, ["tinyllama:latest", "mistral:7b-q4_K_M", "deepseek-coder:6.7b", "qwen3:8b"]);
        for tier in Tier::ALL {
            assert_eq!(Tier::parse(tier.as_str()), Some(tier));
            assert_eq!(serde_json::to_value(tier).unwrap(), tier.as_str());
            let mut names = tier.models().map(|model| model.name);
            names.sort_unstable();
            assert_eq!(names, ["deepseek-coder:6.7b", "mistral:7b-q4_K_M", "qwen3:8b", "tinyllama:latest"]);
        }
        assert_eq!((Tier::default(), Tier::parse("Code")), (Tier::General, None));
    }

    #[test]
    fn a_model_is_known_by_its_family_and_size() {
        for (name, standing) in [
            ("mistral", Some((0, true))),
            ("Mistral:7b", Some((0, true))),
            ("mistral:7b-instruct-q4_K_M", Some((0, true))),
            ("mistral:7b-q4_K_M", Some((0, true))),
            ("mistral:70b", Some((0, false))),
            ("qwen3:8b", Some((1, true))),
            ("qwen3:0.6b", Some((1, false))),
            ("deepseek-coder:6.7b-base", Some((2, true))),
            ("tinyllama:1.1b-chat", Some((3, true))),
            ("mistral-nemo:12b", None),
            ("smollm2:135m", None),
            ("", None),
        ] {
            let found = Tier::Reasoning.standing(name).map(|standing| (standing.place, standing.same_size));
            assert_eq!(found, standing, "{name}");
        }
    }

    #[test]
    fn what_is_nearer_is_worth_more() {
        let value = |name| Tier::Code.standing(name).map_or(0.0, Standing::value);
        let values =
            ["deepseek-coder:6.7b", "qwen3:8b", "mistral:7b", "qwen3:32b", "tinyllama", "tinyllama:7b", "llama3"];
        let values = values.map(value);
        assert!(values.windows(2).all(|pair| pair[0] > pair[1]), "{values:?}");
        assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
    }
}
