//! Settings with a part for each tenant or agent: a table in a file, JSON in a variable or a flag.

use std::{collections::BTreeMap, num::NonZeroU32};

use serde::{Deserialize, de::DeserializeOwned};
use sutazai_core::{agent::AgentLimits, engine::TenantRule};

/// The name that stands for every tenant without a part of its own.
const OTHERS: &str = "*";

/// What tenants are entitled to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Tenants(BTreeMap<String, Tenant>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tenant {
    weight: Option<f64>,
    concurrency: Option<u32>,
}

impl Tenant {
    fn rule(self) -> TenantRule {
        TenantRule { weight: self.weight.unwrap_or(1.0), concurrency: self.concurrency }
    }
}

impl Tenants {
    /// Each tenant that has a rule of its own, by name.
    pub fn rules(&self) -> impl Iterator<Item = (&str, TenantRule)> {
        self.0.iter().filter(|(name, _)| *name != OTHERS).map(|(name, tenant)| (name.as_str(), tenant.rule()))
    }

    /// The rule of all others.
    #[must_use]
    pub fn others(&self) -> TenantRule {
        self.0.get(OTHERS).copied().unwrap_or_default().rule()
    }
}

impl TryFrom<String> for Tenants {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let tenants: BTreeMap<String, Tenant> = read(&text, r#"{"NAME": {"weight": 2.5, "concurrency": 10}}"#)?;
        let wrong = |tenant: &Tenant| !tenant.weight.is_none_or(|weight| (0.001..=1_000.0).contains(&weight));
        match tenants.iter().find(|(_, tenant)| wrong(tenant)) {
            Some((name, _)) => Err(format!("a weight from 0.001 to 1000 (that of {name} is not)")),
            None => Ok(Self(tenants)),
        }
    }
}

/// Limits of agents in place of those they declare.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct LimitTable(BTreeMap<String, Limits>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    concurrency: Option<Limit>,
    per_minute: Option<Limit>,
}

/// A number, or the word that lifts what the agent declares.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a whole number from 1 to 4294967295 or \"none\" is allowed")]
enum Limit {
    At(NonZeroU32),
    Lifted(Lifted),
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Lifted {
    None,
}

impl Limit {
    fn over(limit: Option<Self>, declared: Option<u32>) -> Option<u32> {
        match limit {
            None => declared,
            Some(Self::At(limit)) => Some(limit.get()),
            Some(Self::Lifted(Lifted::None)) => None,
        }
    }
}

impl LimitTable {
    /// The limits of `agent`, which declares `declared`.
    #[must_use]
    pub fn of(&self, agent: &str, declared: AgentLimits) -> AgentLimits {
        let Limits { concurrency, per_minute } = self.0.get(agent).copied().unwrap_or_default();
        AgentLimits {
            concurrency: Limit::over(concurrency, declared.concurrency),
            per_minute: Limit::over(per_minute, declared.per_minute),
        }
    }

    /// Each agent that has limits here.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl TryFrom<String> for LimitTable {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        read(&text, r#"{"AGENT": {"concurrency": 4, "per_minute": "none"}}, each a number from 1 or "none""#).map(Self)
    }
}

fn read<T: DeserializeOwned>(text: &str, example: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("a table such as {example} ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_have_their_rules_and_all_others_theirs() {
        let text = r#"{"big": {"weight": 2}, "Capped": {"concurrency": 0}, "*": {"concurrency": 9}}"#;
        let tenants = Tenants::try_from(text.to_owned()).unwrap();
        let rule = |weight, concurrency| TenantRule { weight, concurrency };
        assert_eq!(Vec::from_iter(tenants.rules()), [("Capped", rule(1.0, Some(0))), ("big", rule(2.0, None))]);
        assert_eq!(tenants.others(), rule(1.0, Some(9)));
        assert_eq!(Tenants::default().others(), TenantRule::default());
        for wrong in [r#"{"a": {"weight": 0}}"#, r#"{"a": {"wait": 1}}"#, r#"{"a": {"concurrency": -1}}"#, "a=1", "[]"]
        {
            assert!(Tenants::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_limit_takes_the_place_of_the_declared_one_or_lifts_it() {
        let text = r#"{"a": {"per_minute": "none"}, "b": {"concurrency": 3}}"#;
        let table = LimitTable::try_from(text.to_owned()).unwrap();
        let limits = |concurrency, per_minute| AgentLimits { concurrency, per_minute };
        assert_eq!(table.of("a", limits(Some(1), Some(1_000))), limits(Some(1), None));
        assert_eq!(table.of("b", limits(None, Some(1_000))), limits(Some(3), Some(1_000)));
        assert_eq!(table.of("c", limits(None, None)), limits(None, None));
        for wrong in [r#"{"a": {"per_minute": 0}}"#, r#"{"a": {"per_minute": "few"}}"#, r#"{"a": 3}"#] {
            assert!(LimitTable::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
