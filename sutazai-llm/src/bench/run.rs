//! The bench of one model, from its loading to its marks.

use std::{fmt, sync::Arc};

use sutazai_core::{
    Result,
    clock::{Clock, SystemClock},
    model::ChatModel,
};

use super::{
    ask::{ask, request},
    form,
    measured::Measured,
    memory::MemoryProbe,
    progress::{BenchProgress, BenchStage, BenchUpdate},
    questions::QUESTIONS,
    speed,
};

/// Tokens that an answer to a question of the quality set may have. All of them ask for a few words.
const LONGEST: u32 = 128;

/// Answers that are timed, unless said otherwise.
const RUNS: usize = 3;

/// Measures models through [`ChatModel`]: whatever they are behind is measured with them.
///
/// ```
/// # use sutazai_core::memory::ScriptedChat;
/// # use sutazai_llm::{bench::Bench, tier::Tier};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> sutazai_core::Result<()> {
/// let model = ScriptedChat::new("actor").otherwise("Paris, of course.");
/// let measured = Bench::new().run(&model).await?;
/// assert_eq!((measured.marks(Tier::General).right, measured.marks(Tier::General).asked), (1, 5));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Bench {
    clock: Arc<dyn Clock>,
    memory: Arc<dyn MemoryProbe>,
    progress: Arc<dyn BenchProgress>,
    runs: usize,
}

impl Default for Bench {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), memory: Arc::new(()), progress: Arc::new(()), runs: RUNS }
    }
}

impl Bench {
    /// A bench that times three answers, tells nobody how it goes, and does not know what a model takes of the memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Measures by this clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Asks this what the model takes of the memory.
    #[must_use]
    pub fn with_memory(self, memory: Arc<dyn MemoryProbe>) -> Self {
        Self { memory, ..self }
    }

    /// Tells this how it goes.
    #[must_use]
    pub fn with_progress(self, progress: Arc<dyn BenchProgress>) -> Self {
        Self { progress, ..self }
    }

    /// Times so many answers, one at least.
    #[must_use]
    pub fn with_runs(self, runs: usize) -> Self {
        Self { runs: runs.max(1), ..self }
    }

    /// Measures a model, which is loaded afterwards. Nothing else should ask it, or keep the machine busy, meanwhile.
    ///
    /// Kind `Unsupported` if it does not chat. An answer that fails ends the bench with its error: half a result would be taken for a whole one.
    pub async fn run(&self, model: &dyn ChatModel) -> Result<Measured> {
        let name = model.info().name.clone();
        let tell = |stage, done, total| self.progress.update(&BenchUpdate { model: name.as_str(), stage, done, total });
        request(model.info(), "Does it chat?", 1).check(model.info())?;
        tell(BenchStage::Loading, 0, 1);
        model.load().await?;
        let clock = &*self.clock;
        let speed =
            speed::measure(model, clock, self.runs, &|done, total| tell(BenchStage::Speed, done, total)).await?;
        let mut measured = Measured {
            prompt_tokens_per_s: speed.prompt_tokens_per_s,
            generation_tokens_per_s: speed.generation_tokens_per_s,
            first_token_ms: speed.first_token_ms,
            memory_bytes: self.memory.resident().await,
            json: form::measure(model, clock, &|done, total| tell(BenchStage::Json, done, total)).await?,
            ..Measured::default()
        };
        for (done, question) in QUESTIONS.iter().enumerate() {
            tell(BenchStage::Quality, done, QUESTIONS.len());
            let answer = ask(model, request(model.info(), question.text, LONGEST), clock).await?;
            let right = question.check.passes(&answer.text);
            measured.quality.entry(question.tier).or_default().note(right);
            if !right {
                measured.wrong.push(question.name.to_owned());
            }
        }
        tell(BenchStage::Quality, QUESTIONS.len(), QUESTIONS.len());
        Ok(measured)
    }
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("runs", &self.runs).finish_non_exhaustive()
    }
}
