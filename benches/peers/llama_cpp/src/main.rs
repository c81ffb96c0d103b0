//! llama.cpp's speed on a prompt and on what follows it: `llama-cpp-bench MODEL THREADS PROMPT_TOKENS NEW_TOKENS RUNS`, where the prompt's
//! tokens are separated by commas. Prints the medians as JSON, in tokens per second.

use std::{error::Error, num::NonZeroU32, time::Instant};

use llama_cpp_2::{
    context::params::LlamaContextParams,
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
    token::LlamaToken,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, threads, prompt, new, runs] = arguments.as_slice() else {
        return Err("five arguments are needed".into());
    };
    let (threads, new, runs): (i32, i32, usize) = (threads.parse()?, new.parse()?, runs.parse()?);
    let prompt: Vec<i32> = prompt.split(',').map(str::parse).collect::<Result<_, _>>()?;

    let mut backend = LlamaBackend::init()?;
    backend.void_logs();
    let model = LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default())?;
    let (mut prompt_rates, mut new_rates) = (Vec::new(), Vec::new());
    for run in 0..=runs {
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(1024))
            .with_n_threads(threads)
            .with_n_threads_batch(threads);
        let mut context = model.new_context(&backend, params)?;
        let mut batch = LlamaBatch::new(512, 1);
        let length = i32::try_from(prompt.len())?;
        let began = Instant::now();
        for (position, token) in (0..).zip(&prompt) {
            batch.add(LlamaToken(*token), position, &[0], position + 1 == length)?;
        }
        context.decode(&mut batch)?;
        let mut next = best(context.get_logits_ith(length - 1));
        let prompt_seconds = began.elapsed().as_secs_f64();

        let began = Instant::now();
        for position in length..length + new {
            batch.clear();
            batch.add(LlamaToken(next), position, &[0], true)?;
            context.decode(&mut batch)?;
            next = best(context.get_logits_ith(0));
        }
        // The first run warms up.
        if run > 0 {
            prompt_rates.push(f64::from(length) / prompt_seconds);
            new_rates.push(f64::from(new) / began.elapsed().as_secs_f64());
        }
    }
    println!("{{\"prompt\":{:.1},\"generate\":{:.1}}}", median(prompt_rates), median(new_rates));
    Ok(())
}

fn best(logits: &[f32]) -> i32 {
    (0..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(token, _)| token)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
