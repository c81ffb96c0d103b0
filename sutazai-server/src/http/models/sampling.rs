//! How tokens are chosen and how many, as both formats say it.

use sutazai_core::{Fault, model::Sampling};

use crate::http::problem::Problem;

/// The sampling of a request whose fields stand at `at`; what it leaves open is the house's.
pub(in crate::http) fn sampling(
    at: &str,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<u64>,
) -> Result<Sampling, Problem> {
    let mut faults = Vec::new();
    let mut check = |name: &str, value: Option<f32>, most: f32| {
        if let Some(value) = value.filter(|value| !(0.0..=most).contains(value)) {
            faults.push(Fault::new(format!("{at}/{name}"), format!("{value} is not in 0 to {most}")));
        }
    };
    check("temperature", temperature, 2.0);
    check("top_p", top_p, 1.0);
    if !faults.is_empty() {
        return Err(Problem::invalid("the request is wrong", faults));
    }
    let open = Sampling::default();
    Ok(Sampling {
        temperature: temperature.unwrap_or(open.temperature),
        // Clients write 0 for the least there is, which is the most likely token.
        top_p: top_p.unwrap_or(open.top_p).max(f32::MIN_POSITIVE),
        seed,
    })
}

/// The most tokens that an answer may have, from the field at `at`.
pub(in crate::http) fn max_tokens(at: &str, most: Option<u32>) -> Result<Option<u32>, Problem> {
    if most == Some(0) { Err(Problem::field(at, "at least 1 token is needed")) } else { Ok(most) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_open_is_the_houses_and_what_is_wrong_is_named() {
        assert_eq!(sampling("", None, None, None).unwrap(), Sampling::default());
        let said = sampling("", Some(0.0), Some(0.0), Some(7)).unwrap();
        assert!(said.temperature == 0.0 && said.top_p > 0.0 && said.seed == Some(7));
        let wrong = sampling("/options", Some(-3.0), Some(1.5), None).unwrap_err();
        let paths: Vec<_> = wrong.faults().iter().map(|fault| &*fault.path).collect();
        assert_eq!(paths, ["/options/temperature", "/options/top_p"]);
        assert_eq!(max_tokens("/max_tokens", Some(0)).unwrap_err().faults()[0].path, "/max_tokens");
        assert_eq!(max_tokens("", Some(1)).unwrap(), Some(1));
    }
}
