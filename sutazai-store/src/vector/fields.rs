//! Which records have which values: conditions become sets of slots without a payload being read.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
};

use serde_json::{Map, Value};
use sutazai_core::store::Filter;

use super::bits::Bits;

/// Slots by field and value. A pair is kept as a keyed 64-bit hash, so that long texts cost nothing here.
#[derive(Default)]
pub(super) struct Fields {
    hashing: RandomState,
    slots: HashMap<u64, Vec<u32>>,
    len: usize,
}

impl Fields {
    /// Adds the payload of the next slot; one that cannot be read has no fields.
    pub(super) fn push(&mut self, payload: &str) {
        let slot = u32::try_from(self.len).unwrap_or(u32::MAX);
        for (field, value) in serde_json::from_str::<Map<String, Value>>(payload).unwrap_or_default() {
            self.slots.entry(self.pair(&field, &value)).or_default().push(slot);
        }
        self.len += 1;
    }

    /// The slots for which a condition holds.
    pub(super) fn matching(&self, filter: &Filter) -> Bits {
        match filter {
            Filter::Equals(field, value) => self.having(field, [value]),
            Filter::OneOf(field, values) => self.having(field, values),
            Filter::All(filters) => filters.iter().fold(Bits::of(self.len, true), |mut all, filter| {
                all.and(&self.matching(filter));
                all
            }),
            Filter::Any(filters) => filters.iter().fold(Bits::of(self.len, false), |mut any, filter| {
                any.or(&self.matching(filter));
                any
            }),
            Filter::Not(filter) => {
                let mut rest = self.matching(filter);
                rest.not();
                rest
            }
        }
    }

    fn having<'a>(&self, field: &str, values: impl IntoIterator<Item = &'a Value>) -> Bits {
        let mut bits = Bits::of(self.len, false);
        for value in values {
            let slots = self.slots.get(&self.pair(field, value)).into_iter().flatten();
            slots.for_each(|slot| bits.insert(*slot as usize));
        }
        bits
    }

    fn pair(&self, field: &str, value: &Value) -> u64 {
        let mut hasher = self.hashing.build_hasher();
        field.hash(&mut hasher);
        self.feed(value, &mut hasher);
        hasher.finish()
    }

    /// Equal values are fed equally: 0.0 like −0.0, and objects whatever the order of their fields.
    fn feed(&self, value: &Value, hasher: &mut impl Hasher) {
        match value {
            Value::Null => 0_u8.hash(hasher),
            Value::Bool(is) => (1_u8, is).hash(hasher),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), ..) => (2_u8, number).hash(hasher),
                (_, Some(number), _) => (3_u8, number).hash(hasher),
                (.., number) => (4_u8, number.map(|number| (number + 0.0).to_bits())).hash(hasher),
            },
            Value::String(text) => (5_u8, text).hash(hasher),
            Value::Array(values) => {
                (6_u8, values.len()).hash(hasher);
                values.iter().for_each(|value| self.feed(value, hasher));
            }
            Value::Object(fields) => {
                let sum = fields.iter().fold(0_u64, |sum, (field, value)| sum.wrapping_add(self.pair(field, value)));
                (7_u8, fields.len(), sum).hash(hasher);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_set_holds_exactly_what_matches() {
        let values = [
            json!(null),
            json!(true),
            json!(1),
            json!(1.0),
            json!(-1),
            json!(-0.0),
            json!(0.0),
            json!(0),
            json!("1"),
            json!(""),
            json!([1, 2]),
            json!([2, 1]),
            json!([[1], 2]),
            json!({"a": 1, "b": [2]}),
            json!({"b": [2], "a": 1}),
            json!({"a": 1}),
            json!({}),
        ];
        let payloads: Vec<_> = values.iter().map(|value| json!({"field": value, "other": 1})).collect();
        let mut fields = Fields::default();
        payloads.iter().for_each(|payload| fields.push(&payload.to_string()));
        for value in &values {
            let filter = Filter::Equals("field".into(), value.clone());
            let expected =
                payloads.iter().enumerate().filter(|(_, payload)| filter.matches(payload.as_object().unwrap()));
            assert_eq!(
                fields.matching(&filter).range(0..values.len()).collect::<Vec<_>>(),
                expected.map(|(slot, _)| slot).collect::<Vec<_>>(),
                "{value}"
            );
        }
        assert_eq!(fields.matching(&Filter::Equals("other".into(), json!(1))).count(), values.len());
        assert_eq!(fields.matching(&Filter::Equals("field".into(), json!(2))).count(), 0);
    }
}
