//! What may be spent on models: a table in a file, JSON in a variable or a flag.

use std::collections::BTreeMap;

use serde::Deserialize;
use sutazai_core::{Error, store::Limits};
use sutazai_llm::gateway::budget::{BudgetConfig, Price};

use crate::object::Object;

/// The name that stands for every agent or tenant without a part of its own.
const OTHERS: &str = "*";

/// What such a table looks like.
const EXAMPLE: &str = r#"{"task": {"tokens": 100000}, "agent": {"*": {"calls": 500}, "NAME": {"time_ms": 600000}}, "tenant": {"NAME": {"cost": 2.5}}, "prices": {"MODEL": {"prompt": 0.15, "completion": 0.6}}}"#;

/// The largest cost that can be a limit.
const DEAREST: f64 = 1e12;

/// What tasks, agents and tenants may spend, and what models cost.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Budgets(BudgetConfig);

impl Budgets {
    /// As the gateway takes them.
    #[must_use]
    pub fn config(&self) -> &BudgetConfig {
        &self.0
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Table {
    task: Object<Part>,
    agent: BTreeMap<String, Object<Part>>,
    tenant: BTreeMap<String, Object<Part>>,
    prices: BTreeMap<String, Object<Prices>>,
}

/// What one of them may spend; what is not said is not limited.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Part {
    tokens: Option<u64>,
    calls: Option<u64>,
    time_ms: Option<u64>,
    cost: Option<f64>,
}

/// For a million tokens.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Prices {
    prompt: f64,
    completion: f64,
}

impl Part {
    fn limits(self, place: &str) -> Result<Limits, String> {
        let micros = self
            .cost
            .map(|cost| micros(cost).ok_or_else(|| format!("{place}.cost: {cost} is not from 0 to {DEAREST}")));
        Ok(Limits { tokens: self.tokens, calls: self.calls, millis: self.time_ms, micros: micros.transpose()? })
    }
}

/// A sum in millionths.
fn micros(cost: f64) -> Option<u64> {
    if !(0.0..=DEAREST).contains(&cost) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 10^18")]
    let micros = (cost * 1e6).round() as u64;
    Some(micros)
}

/// The limits by name, and those of all others.
fn by_name(place: &str, parts: BTreeMap<String, Object<Part>>) -> Result<(BTreeMap<String, Limits>, Limits), String> {
    let (mut named, mut others) = (BTreeMap::new(), Limits::NONE);
    for (name, Object(part)) in parts {
        let limits = part.limits(&format!("{place}.{name}"))?;
        if name == OTHERS {
            others = limits;
        } else {
            named.insert(name, limits);
        }
    }
    Ok((named, others))
}

impl Table {
    fn config(self) -> Result<BudgetConfig, String> {
        let mut config = BudgetConfig::default();
        config.task = self.task.0.limits("task")?;
        (config.agents, config.other_agents) = by_name("agent", self.agent)?;
        (config.tenants, config.other_tenants) = by_name("tenant", self.tenant)?;
        for (model, Object(prices)) in self.prices {
            let price = Price::per_million(prices.prompt, prices.completion);
            let price = price.map_err(|error| wrong_price(&model, &error))?;
            config.prices.insert(model, price);
        }
        Ok(config)
    }
}

fn wrong_price(model: &str, error: &Error) -> String {
    let faults = error.faults().iter().map(|fault| {
        let field = fault.path.trim_start_matches('/');
        format!("prices.{model}.{field}: {}", fault.message)
    });
    faults.collect::<Vec<_>>().join(", ")
}

impl TryFrom<String> for Budgets {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut json = serde_json::Deserializer::from_str(&text);
        let read = serde_path_to_error::deserialize::<_, Object<Table>>(&mut json).map_err(|error| {
            let (place, why) = (error.path().to_string(), error.inner().to_string());
            if matches!(&*place, "." | "?") { why } else { format!("{place}: {why}") }
        });
        let read = read.and_then(|table| json.end().map(|()| table.0).map_err(|error| error.to_string()));
        let config = read.and_then(Table::config);
        config.map(Self).map_err(|why| format!("a table such as {EXAMPLE} ({why})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BudgetConfig, String> {
        Budgets::try_from(text.to_owned()).map(|budgets| budgets.0)
    }

    #[test]
    fn the_example_is_one() {
        let config = read(EXAMPLE).unwrap();
        assert_eq!(config.task, Limits { tokens: Some(100_000), ..Limits::NONE });
        assert_eq!(config.other_agents, Limits { calls: Some(500), ..Limits::NONE });
        assert_eq!(config.agents["NAME"], Limits { millis: Some(600_000), ..Limits::NONE });
        assert_eq!(config.tenants["NAME"], Limits { micros: Some(2_500_000), ..Limits::NONE });
        assert_eq!((config.agents.len(), config.tenants.len(), config.other_tenants), (1, 1, Limits::NONE));
        assert_eq!(config.prices["MODEL"], Price::per_million(0.15, 0.6).unwrap());
        assert!(config.limits_anything() && !Budgets::default().config().limits_anything());
        assert_eq!(read("{}").unwrap(), BudgetConfig::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (wrong, place) in [
            (r#"{"task": {"tokens": -1}}"#, "(task.tokens: invalid value"),
            (r#"{"agent": {"coder": {"tokns": 1}}}"#, "(agent.coder.tokns: unknown field `tokns`"),
            (r#"{"tenants": {}}"#, "(tenants: unknown field `tenants`"),
            (r#"{"tenant": {"*": {"cost": -0.5}}}"#, "(tenant.*.cost: -0.5 is not from 0 to"),
            (r#"{"tenant": {"a": 3}}"#, "(tenant.a: invalid type"),
            (r#"{"prices": {"m:1b": {"prompt": -1, "completion": 1e9}}}"#, "(prices.m:1b.prompt: -1 is not a price"),
            ("tokens=1", "(expected"),
            ("[]", "(invalid type: sequence, expected an object"),
            (r#"{"agent": {"coder": [1]}}"#, "(agent.coder: invalid type: sequence, expected an object"),
            ("{", "(EOF"),
            ("{} {}", "(trailing characters"),
        ] {
            let why = read(wrong).unwrap_err();
            assert!(why.contains(place), "{wrong}: {why}");
        }
    }
}
