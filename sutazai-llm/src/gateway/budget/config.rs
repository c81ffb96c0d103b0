//! What may be spent, and what models cost.

use std::{collections::BTreeMap, sync::Arc};

use sutazai_core::{
    Error, Fault, Result,
    store::{Account, Day, Limits},
};

/// What a model costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Millionths of the currency for a million tokens of prompts.
    prompt: u64,
    /// The same for answers.
    completion: u64,
}

/// A million, of tokens and of the currency.
const MILLION: f64 = 1e6;

/// No model costs more for a million tokens.
const DEAREST: f64 = 1e6;

impl Price {
    /// So much of the currency for a million tokens of prompts, and for a million tokens of answers; kept to a millionth. Kind `Invalid` if that is below 0
    /// or above a million.
    pub fn per_million(prompt: f64, completion: f64) -> Result<Self> {
        let mut faults = Vec::new();
        let mut price = |path: &str, price: f64| {
            if !(0.0..=DEAREST).contains(&price) {
                faults.push(Fault::new(path, format!("{price} is not a price from 0 to {DEAREST}")));
                return 0;
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 10^12")]
            let millionths = (price * MILLION).round() as u64;
            millionths
        };
        let (prompt, completion) = (price("/prompt", prompt), price("/completion", completion));
        if faults.is_empty() {
            Ok(Self { prompt, completion })
        } else {
            Err(Error::invalid("the price is wrong", faults))
        }
    }

    /// Millionths of the currency for so many tokens, rounded up.
    pub(super) fn of(self, prompt: u64, completion: u64) -> u64 {
        let for_prompt = u128::from(self.prompt) * u128::from(prompt);
        let for_completion = u128::from(self.completion) * u128::from(completion);
        let together = for_prompt.saturating_add(for_completion).div_ceil(1_000_000);
        u64::try_from(together).unwrap_or(u64::MAX)
    }
}

/// What may be spent on chat models. Without limits nothing is counted, and nothing asked of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BudgetConfig {
    /// Of each task that nobody called for, with everything it calls for.
    pub task: Limits,
    /// Of agents by name, each for a day.
    pub agents: BTreeMap<String, Limits>,
    /// Of every other agent, each for a day.
    pub other_agents: Limits,
    /// Of tenants by name, each for a day.
    pub tenants: BTreeMap<String, Limits>,
    /// Of every other tenant, each for a day.
    pub other_tenants: Limits,
    /// What models cost, by name; others cost nothing.
    pub prices: BTreeMap<String, Price>,
    /// Tokens that are reserved for an answer whose request says no `max_tokens`; what is left of the model's context if that is less. Where tokens or cost
    /// are limited, the answer has no more. Default 1,024.
    pub answer_tokens: u32,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            task: Limits::NONE,
            agents: BTreeMap::new(),
            other_agents: Limits::NONE,
            tenants: BTreeMap::new(),
            other_tenants: Limits::NONE,
            prices: BTreeMap::new(),
            answer_tokens: 1_024,
        }
    }
}

impl BudgetConfig {
    /// Whether anything is limited.
    #[must_use]
    pub fn limits_anything(&self) -> bool {
        let fixed = [self.task, self.other_agents, self.other_tenants];
        let named = self.agents.values().chain(self.tenants.values()).copied();
        !fixed.into_iter().chain(named).all(|limits| limits.is_none())
    }

    pub(super) fn price(&self, model: &str) -> Price {
        self.prices.get(model).copied().unwrap_or_default()
    }

    pub(super) fn agent(&self, name: &Arc<str>, day: Day) -> Option<Want> {
        let limits = self.agents.get(&**name).copied().unwrap_or(self.other_agents);
        Want::of(Account::Agent { name: Arc::clone(name), day }, limits)
    }

    pub(super) fn tenant(&self, name: Arc<str>, day: Day) -> Option<Want> {
        let limits = self.tenants.get(&*name).copied().unwrap_or(self.other_tenants);
        Want::of(Account::Tenant { name, day }, limits)
    }
}

/// An account that a call draws on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) account: Account,
    pub(super) limits: Limits,
}

/// All accounts that a call draws on, each once.
pub(super) type Wants = Arc<[Want]>;

impl Want {
    /// None where nothing is limited.
    pub(super) fn of(account: Account, limits: Limits) -> Option<Self> {
        (!limits.is_none()).then_some(Self { account, limits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_for_a_million_tokens_and_rounded_up() {
        let price = Price::per_million(0.15, 0.6).unwrap();
        assert_eq!(price.of(1_000_000, 0), 150_000);
        assert_eq!((price.of(1, 0), price.of(10, 10), price.of(0, 0)), (1, 8, 0));
        assert_eq!(price.of(u64::MAX, u64::MAX), 13_835_058_055_282_163_712);
        assert_eq!(Price::per_million(1e6, 1e6).unwrap().of(u64::MAX, u64::MAX), u64::MAX);
        let faults = Price::per_million(-0.1, f64::NAN).unwrap_err().faults().to_vec();
        assert_eq!(faults.iter().map(|fault| fault.path.as_str()).collect::<Vec<_>>(), ["/prompt", "/completion"]);
        assert!(Price::per_million(0.0, 1e7).is_err());
    }

    #[test]
    fn a_name_of_its_own_goes_before_all_others() {
        let of = |tokens| Limits { tokens: Some(tokens), ..Limits::NONE };
        let mut config = BudgetConfig { other_agents: of(1), ..BudgetConfig::default() };
        config.agents.insert("coder".into(), Limits { calls: Some(2), ..Limits::NONE });
        config.agents.insert("free".into(), Limits::NONE);
        let limits = |name: &str| config.agent(&name.into(), Day::from_number(0)).map(|want| want.limits);
        assert_eq!(limits("coder"), Some(Limits { calls: Some(2), ..Limits::NONE }));
        assert_eq!((limits("other"), limits("free")), (Some(of(1)), None));
        assert_eq!(config.tenant("t".into(), Day::from_number(0)), None);
        assert!(config.limits_anything() && !BudgetConfig::default().limits_anything());
    }
}
