//! `models explain`: which model is the right one, and why.

use serde_json::{Value, json};
use sutazai_core::model::ModelCapabilities;
use sutazai_llm::{
    selection::{Judgement, Need, Selection, Verdict, select},
    tier::Tier,
};

use crate::{
    cli::{grammar::Explain, output::Output},
    compose::{Reach, reach},
    config::Settings,
    process::Failure,
};

/// Says what became of every model that these settings reach.
pub(super) async fn run(arguments: &Explain, settings: &Settings, out: Output) -> Result<(), Failure> {
    let reach = reach(settings).await?;
    let need = need(arguments, reach.memory);
    let selection = select(&need, &reach.candidates());
    out.answer(&document(&reach, &selection), |_| show(&selection, out))
}

fn need(arguments: &Explain, memory: Option<u64>) -> Need {
    let asked = |ability: &str| arguments.needs.iter().any(|need| need == ability);
    Need {
        capabilities: ModelCapabilities {
            chat: true,
            tools: asked("tools"),
            schema: asked("schema"),
            seed: asked("seed"),
            vision: asked("vision"),
            thinking: asked("thinking"),
            ..ModelCapabilities::NONE
        },
        context_tokens: arguments.context,
        memory,
        ..Need::new(Tier::parse(&arguments.tier).unwrap_or_default())
    }
}

fn document(reach: &Reach, selection: &Selection) -> Value {
    let items: Vec<Value> = selection.verdicts.iter().map(item).collect();
    let chosen = selection.chosen().map(|candidate| &candidate.info.name);
    json!({ "chosen": chosen, "need": selection.need, "machine": reach.machine, "items": items })
}

fn item(verdict: &Verdict) -> Value {
    let candidate = &verdict.candidate;
    let mut excluded = Vec::new();
    if let Judgement::Excluded(reasons) = &verdict.judgement {
        for reason in reasons {
            let mut told = json!(reason);
            told["message"] = reason.to_string().into();
            excluded.push(told);
        }
    }
    let score = verdict.score();
    json!({
        "model": candidate.info.name,
        "backend": candidate.info.backend,
        "runs": candidate.runs,
        "presence": candidate.presence,
        "memory_bytes": candidate.memory(),
        "context_length": candidate.info.context_length,
        "measured": candidate.measured,
        "points": score.map(|score| score.points),
        "parts": score.map(|score| &score.parts),
        "excluded": excluded,
    })
}

fn show(selection: &Selection, out: Output) -> Result<(), Failure> {
    let Need { tier, context_tokens, memory, .. } = &selection.need;
    let memory =
        memory.map_or_else(|| "memory that is not known".into(), |bytes| format!("{} MB of memory", bytes / 1_000_000));
    out.line(&format!("For {}, {context_tokens} tokens of context at least, {memory}:", tier.as_str()))?;
    for (index, verdict) in selection.verdicts.iter().enumerate() {
        let info = &verdict.candidate.info;
        match &verdict.judgement {
            Judgement::Usable(score) => {
                out.line(&format!("\n{}. {} ({}): {} points", index + 1, info.name, info.backend, score.points))?;
                for part in &score.parts {
                    out.line(&format!("   {:<9}  {:>3} of {:>3}  {}", part.name, part.points, part.of, part.why))?;
                }
            }
            Judgement::Excluded(reasons) => {
                let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
                out.line(&format!("\n-  {} ({}): {}", info.name, info.backend, reasons.join("; ")))?;
            }
        }
    }
    match selection.chosen() {
        Some(chosen) => out.line(&format!("\nThe right one is {}.", chosen.info.name)),
        None => out.line("\nNone of them will do."),
    }
}

#[cfg(test)]
mod tests {
    use sutazai_core::model::ModelInfo;
    use sutazai_llm::selection::{Candidate, Presence};

    use super::*;

    #[test]
    fn the_document_has_points_for_some_and_reasons_for_the_others() {
        let model = |name: &str, presence| {
            let capabilities = ModelCapabilities { chat: true, tools: true, ..ModelCapabilities::NONE };
            Candidate::new(ModelInfo { capabilities, ..ModelInfo::new(name, "ollama", 4096) }, presence)
        };
        let arguments = Explain { tier: "code".into(), needs: vec!["tools".into()], context: 100 };
        let need = need(&arguments, Some(7));
        assert_eq!((need.tier, need.context_tokens, need.memory), (Tier::Code, 100, Some(7)));
        assert!(need.capabilities.tools && need.capabilities.chat && !need.capabilities.schema);
        let selection = select(&need, &[model("mistral:7b", Presence::Absent), model("qwen3:8b", Presence::Ready)]);
        let items: Vec<_> = selection.verdicts.iter().map(item).collect();
        assert_eq!((&items[0]["model"], &items[0]["excluded"]), (&json!("qwen3:8b"), &json!([])));
        let sum: u64 = items[0]["parts"].as_array().unwrap().iter().map(|part| part["points"].as_u64().unwrap()).sum();
        assert_eq!(items[0]["points"], sum);
        assert_eq!(items[1]["points"], Value::Null);
        assert_eq!(items[1]["excluded"], json!([{ "code": "absent", "message": "it is not here" }]));
    }
}
