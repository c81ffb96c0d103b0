//! How fast a model reads and writes.

use sutazai_core::{Result, clock::Clock, model::ChatModel};

use super::ask::{Timed, ask, request};

/// Tokens of an answer that is timed.
const ANSWER: u32 = 128;

/// Paragraphs of the prompt, some 60 tokens each.
const PARAGRAPHS: usize = 6;

const PARAGRAPH: &str = "The keeper of the lighthouse writes down what the day has brought: the wind from the west, the height of the waves, the \
                         ships that passed, and the birds that rested on the railing. In the evening he trims the lamp, winds the clockwork, and \
                         listens for the bell of the buoy beyond the reef.";

/// What was measured; medians over the runs that told it.
#[derive(Debug, PartialEq)]
pub(super) struct Speed {
    pub(super) prompt_tokens_per_s: Option<f64>,
    pub(super) generation_tokens_per_s: Option<f64>,
    pub(super) first_token_ms: Option<f64>,
}

/// Times so many answers, after one that does not count.
///
/// Each prompt begins with words of its own, so that nothing of it can come from what the backend keeps of an earlier one.
pub(super) async fn measure(
    model: &dyn ChatModel,
    clock: &dyn Clock,
    runs: usize,
    tell: &(dyn Fn(usize, usize) + Send + Sync),
) -> Result<Speed> {
    tell(0, runs);
    ask(model, request(model.info(), "Say hello.", 8), clock).await?;
    let report = clock.random() % 1_000_000;
    let (mut prompt, mut generation, mut first) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        tell(run, runs);
        let timed = ask(model, request(model.info(), text(report, run), ANSWER), clock).await?;
        prompt.extend(prompt_rate(&timed));
        generation.extend(generation_rate(&timed));
        first.extend(timed.first.map(|first| first.as_secs_f64() * 1e3));
    }
    Ok(Speed {
        prompt_tokens_per_s: median(prompt),
        generation_tokens_per_s: median(generation),
        first_token_ms: median(first),
    })
}

fn text(report: u64, run: usize) -> String {
    let notes: String = (1..=PARAGRAPHS).map(|number| format!("{number}. {PARAGRAPH}\n")).collect();
    format!(
        "Report {report}-{run}.\n{notes}Write a long story about this keeper, who finds a letter in a bottle. Begin with the morning on which he finds \
         it, and leave nothing out."
    )
}

/// Tokens of the prompt by the time that the backend took for them, or else by the time to the first piece.
fn prompt_rate(timed: &Timed) -> Option<f64> {
    let told = timed.finish.prompt_ms.filter(|ms| *ms > 0).map(|ms| ms as f64 / 1e3);
    rate(timed.finish.usage.prompt_tokens, told.or(timed.first.map(|first| first.as_secs_f64()))?)
}

/// Tokens of the answer by the time that the backend took for them, or else those after the first by the time after it.
fn generation_rate(timed: &Timed) -> Option<f64> {
    let tokens = timed.finish.usage.completion_tokens;
    match timed.finish.completion_ms.filter(|ms| *ms > 0) {
        Some(ms) => rate(tokens, ms as f64 / 1e3),
        None => rate(tokens.saturating_sub(1), timed.whole.saturating_sub(timed.first?).as_secs_f64()),
    }
}

/// Tokens in a second, if there were any and it took any time.
fn rate(tokens: u32, seconds: f64) -> Option<f64> {
    (tokens > 0 && seconds > 0.0).then(|| f64::from(tokens) / seconds)
}

fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() % 2 {
        1 => numbers.get(middle).copied(),
        _ => Some((numbers.get(middle.checked_sub(1)?)? + numbers.get(middle)?) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sutazai_core::model::{Finish, StopReason, Usage};

    use super::*;

    fn timed(tokens: (u32, u32), told: (Option<u64>, Option<u64>), first: Option<u64>) -> Timed {
        let usage = Usage { prompt_tokens: tokens.0, completion_tokens: tokens.1 };
        Timed {
            text: String::new(),
            first: first.map(Duration::from_millis),
            whole: Duration::from_millis(1_500),
            finish: Finish { stop: StopReason::Length, usage, prompt_ms: told.0, completion_ms: told.1 },
        }
    }

    #[test]
    fn the_backend_s_own_times_come_first() {
        let told = timed((100, 11), (Some(200), Some(500)), Some(1_000));
        assert_eq!((prompt_rate(&told), generation_rate(&told)), (Some(500.0), Some(22.0)));
        let silent = timed((100, 11), (None, Some(0)), Some(1_000));
        assert_eq!((prompt_rate(&silent), generation_rate(&silent)), (Some(100.0), Some(20.0)));
    }

    #[test]
    fn what_cannot_be_told_is_left_out() {
        for unknown in [timed((0, 0), (Some(200), Some(500)), Some(1_000)), timed((100, 11), (None, None), None)] {
            assert_eq!((prompt_rate(&unknown), generation_rate(&unknown)), (None, None));
        }
        // One token, or all at once: there is no time after the first.
        assert_eq!(generation_rate(&timed((1, 1), (None, None), Some(10))), None);
        assert_eq!(generation_rate(&timed((1, 9), (None, None), Some(1_500))), None);
    }

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two() {
        for (numbers, middle) in
            [(vec![], None), (vec![3.0], Some(3.0)), (vec![9.0, 1.0, 2.0], Some(2.0)), (vec![4.0, 1.0], Some(2.5))]
        {
            assert_eq!(median(numbers), middle);
        }
    }

    #[test]
    fn every_prompt_has_its_own_beginning() {
        assert_ne!(text(7, 0)[..20], text(7, 1)[..20]);
        assert_ne!(text(7, 0)[..20], text(8, 0)[..20]);
        assert_eq!(text(7, 0).matches(PARAGRAPH).count(), PARAGRAPHS);
    }
}
