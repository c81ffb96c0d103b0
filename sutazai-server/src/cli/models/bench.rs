//! `models bench`: measures models, and keeps what was found out.

use std::sync::Arc;

use serde_json::json;
use sutazai_core::{
    Result,
    clock::{Clock, SystemClock},
};
use sutazai_llm::{
    bench::{Bench, BenchResult, BenchResults, Marks},
    tier::Tier,
};

use super::{size, told};
use crate::{
    cli::{output::Output, progress::Spinner},
    compose::{Reach, Reached, model_store, reach},
    config::Settings,
    process::{Exit, Failure},
};

/// Measures the models of these names one after the other. A name that means none ends it before anything is measured; a model that fails does not stop
/// the others.
pub(super) async fn run(names: &[String], runs: u32, settings: &Settings, out: Output) -> Result<Exit, Failure> {
    let results = BenchResults::of(&model_store(settings));
    let reach = reach(settings).await?;
    let models = names.iter().map(|name| reach.find(name)).collect::<Result<Vec<_>>>()?;
    let (mut measured, mut failures) = (Vec::new(), Vec::new());
    for model in models {
        match measure(&reach, model, runs).await {
            Ok(result) => {
                // What took minutes to find out is shown even where it cannot be kept.
                failures.extend(results.put(result.clone()).await.err().map(Failure::from));
                measured.push(result);
            }
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    out.answer(&json!({ "items": measured }), |_| show(&measured, out))?;
    told(failures).map_or(Ok(Exit::Done), Err)
}

async fn measure(reach: &Reach, model: &Reached, runs: u32) -> Result<BenchResult> {
    let spinner = Arc::new(Spinner::new(&model.candidate.info.name));
    let bench = Bench::new()
        .with_runs(usize::try_from(runs).unwrap_or(usize::MAX))
        .with_memory(model.memory().await)
        .with_progress(spinner);
    let measured = bench.run(&**model.model()?).await?;
    Ok(BenchResult::new(model.key(&reach.machine), SystemClock.now(), measured))
}

fn show(results: &[BenchResult], out: Output) -> Result<(), Failure> {
    let rate = |rate: Option<f64>| rate.map_or_else(unknown, |rate| format!("{rate:.0}"));
    let marks = |marks: Marks| format!("{}/{}", marks.right, marks.asked);
    let row = |result: &BenchResult| {
        let measured = &result.measured;
        let mut cells = vec![
            result.key.model.clone(),
            result.key.backend.clone(),
            rate(measured.prompt_tokens_per_s),
            rate(measured.generation_tokens_per_s),
            measured.first_token_ms.map_or_else(unknown, |ms| format!("{ms:.0} ms")),
            measured.memory_bytes.map_or_else(unknown, size),
            marks(measured.json),
        ];
        cells.extend(Tier::ALL.map(|tier| marks(measured.marks(tier))));
        cells
    };
    let mut head = vec!["name", "backend", "prompt/s", "answer/s", "first token", "memory", "json"];
    head.extend(Tier::ALL.map(Tier::as_str));
    out.table(&head, results.iter().map(row))
}

fn unknown() -> String {
    "?".into()
}
