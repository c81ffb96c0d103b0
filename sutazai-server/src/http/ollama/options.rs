//! What a request in Ollama's format asks for beside its question.

use serde::Deserialize;
use serde_json::{Number, Value};
use sutazai_core::model::{ChatRequest, ResponseFormat};

use crate::http::{
    models::{Texts, max_tokens, sampling},
    problem::Problem,
};

/// How tokens are chosen and how many. Other options, most of which are about Ollama's own engine, are ignored.
#[derive(Debug, Default, Deserialize)]
pub(super) struct OptionsBody {
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<Number>,
    num_predict: Option<Number>,
    stop: Option<Texts>,
}

impl OptionsBody {
    /// Says all this in `request`.
    pub(super) fn apply(self, request: &mut ChatRequest) -> Result<(), Problem> {
        // Of both numbers a negative one means none.
        let seed = self.seed.as_ref().map(whole).and_then(|seed| u64::try_from(seed).ok());
        let most = self.num_predict.as_ref().map(whole).filter(|most| *most >= 0);
        let most = most.map(|most| u32::try_from(most).unwrap_or(u32::MAX));
        request.sampling = sampling("/options", self.temperature, self.top_p, seed)?;
        request.max_tokens = max_tokens("/options/num_predict", most)?;
        request.stop = self.stop.unwrap_or_default().0;
        Ok(())
    }
}

/// A number without what is behind its point: Ollama's clients may write either.
fn whole(number: &Number) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "what is beyond is as good as the largest")]
    number.as_i64().unwrap_or_else(|| number.as_f64().unwrap_or_default() as i64)
}

/// The form of the answer.
pub(super) fn format(format: Option<Value>) -> Result<ResponseFormat, Problem> {
    match format {
        None => Ok(ResponseFormat::Text),
        Some(Value::String(name)) if name.is_empty() => Ok(ResponseFormat::Text),
        Some(Value::String(name)) if name == "json" => Ok(ResponseFormat::Json),
        Some(schema @ Value::Object(_)) => Ok(ResponseFormat::Schema(schema)),
        Some(_) => Err(Problem::field("/format", "\"json\" or a JSON schema is needed")),
    }
}

/// Whether the model thinks aloud. How much it does is its own affair.
pub(super) fn think(think: Option<&Value>) -> Result<Option<bool>, Problem> {
    match think {
        None => Ok(None),
        Some(Value::Bool(think)) => Ok(Some(*think)),
        Some(Value::String(level)) if matches!(&**level, "low" | "medium" | "high") => Ok(Some(true)),
        Some(_) => Err(Problem::field("/think", "true, false, \"low\", \"medium\" or \"high\" is needed")),
    }
}

/// Whether a model shall be kept no longer: `0` as a number of seconds or as a duration, such as `0s`.
pub(super) fn keeps_not(keep_alive: Option<&Value>) -> Result<bool, Problem> {
    let kept = match keep_alive {
        None => return Ok(false),
        // Ollama's own client for Python writes 0.0.
        Some(Value::Number(seconds)) => seconds.as_f64(),
        Some(Value::String(time)) => seconds(time),
        Some(_) => None,
    };
    let wrong = || Problem::field("/keep_alive", "seconds or a duration such as \"5m\" or \"1h30m\" is needed");
    kept.map(|seconds| seconds == 0.0).ok_or_else(wrong)
}

/// The seconds of a duration as Go writes it, or of a bare number.
fn seconds(time: &str) -> Option<f64> {
    if let Ok(seconds) = time.parse::<f64>() {
        return seconds.is_finite().then_some(seconds);
    }
    let (sign, mut rest) = match time.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, time.strip_prefix('+').unwrap_or(time)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, from_unit) = rest.split_at(unit);
        let end = from_unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(from_unit.len());
        let (unit, more) = from_unit.split_at(end);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * scale;
        rest = more;
    }
    Some(sign * sum)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sutazai_core::model::Sampling;

    use super::*;

    fn applied(options: Value) -> Result<ChatRequest, String> {
        let options: OptionsBody = serde_json::from_value(options).unwrap();
        let mut request = ChatRequest::ask("Hi");
        options.apply(&mut request).map_err(|problem| problem.faults()[0].path.clone())?;
        Ok(request)
    }

    #[test]
    fn options_are_taken_over() {
        let request = applied(
            json!({"temperature": 0, "top_p": 0.5, "seed": 7, "num_predict": 16, "stop": ["a", "b"], "num_ctx": 1}),
        )
        .unwrap();
        assert_eq!(request.sampling, Sampling { temperature: 0.0, top_p: 0.5, seed: Some(7) });
        assert_eq!((request.max_tokens, request.stop.len()), (Some(16), 2));
        let open = applied(json!({"seed": -1, "num_predict": -1})).unwrap();
        assert_eq!(open, ChatRequest::ask("Hi"));
        assert_eq!(applied(json!({"num_predict": i64::MAX})).unwrap().max_tokens, Some(u32::MAX));
        let floats = applied(json!({"seed": 7.0, "num_predict": 5.5})).unwrap();
        assert_eq!((floats.sampling.seed, floats.max_tokens), (Some(7), Some(5)));
        assert_eq!(applied(json!({"temperature": -1})).unwrap_err(), "/options/temperature");
        assert_eq!(applied(json!({"num_predict": 0})).unwrap_err(), "/options/num_predict");
    }

    #[test]
    fn forms_thoughts_and_leases_are_read() {
        assert_eq!(format(None).unwrap(), ResponseFormat::Text);
        assert_eq!(format(Some(json!(""))).unwrap(), ResponseFormat::Text);
        assert_eq!(format(Some(json!("json"))).unwrap(), ResponseFormat::Json);
        assert_eq!(format(Some(json!({}))).unwrap(), ResponseFormat::Schema(json!({})));
        assert!(format(Some(json!("xml"))).is_err() && format(Some(json!(1))).is_err());
        assert_eq!((think(None).unwrap(), think(Some(&json!(false))).unwrap()), (None, Some(false)));
        assert_eq!(think(Some(&json!("high"))).unwrap(), Some(true));
        assert!(think(Some(&json!("much"))).is_err());
        let goes = |time: Value| keeps_not(Some(&time)).map_err(|problem| problem.faults()[0].path.clone());
        for zero in [json!(0), json!(0.0), json!("0"), json!("0s"), json!("0ms"), json!("0m0s"), json!("-0h")] {
            assert_eq!(goes(zero.clone()), Ok(true), "{zero}");
        }
        for time in [json!(-1), json!(0.5), json!(300), json!("5m"), json!("-1"), json!("1h30m0.5s"), json!("-1ns")] {
            assert_eq!(goes(time.clone()), Ok(false), "{time}");
        }
        for wrong in
            [json!("abc"), json!(""), json!("-"), json!("5 m"), json!("m"), json!("5d"), json!("NaN"), json!({})]
        {
            assert_eq!(goes(wrong.clone()), Err("/keep_alive".to_owned()), "{wrong}");
        }
        assert!(!keeps_not(None).unwrap());
    }
}
