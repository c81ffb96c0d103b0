//! One answer, from the request to its last piece.

use std::{sync::OnceLock, time::Instant};

use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatEvent, ChatRequest, Finish, StopReason, Usage},
};
use tokio::sync::mpsc;

use super::{
    gguf::Gguf,
    grammar::{Grammar, Grammars},
    network::Network,
    sampler::Sampler,
    template::Template,
    text::TextStream,
    tokenizer::Tokenizer,
};

/// Tokens of prompt between two looks at whether somebody still listens.
pub(crate) const CHUNK: usize = 64;

/// Everything a loaded model needs to answer.
pub(crate) struct Loaded {
    network: Box<dyn Network>,
    tokenizer: Tokenizer,
    template: Template,
    /// Made when the first schema comes.
    grammars: OnceLock<Grammars>,
    context: usize,
}

impl Loaded {
    /// A model whose file is `gguf`; the network is what `build` makes of the file and the size of its vocabulary. The context
    /// is the model's, or `context` where that is less.
    pub(crate) fn new(
        mut gguf: Gguf,
        context: usize,
        build: impl FnOnce(&mut Gguf, usize) -> Result<Box<dyn Network>>,
    ) -> Result<Self> {
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let template = Template::from_gguf(&gguf, &tokenizer)?;
        let network = build(&mut gguf, tokenizer.len())?;
        let context = network.context().min(context);
        Ok(Self { network, tokenizer, template, grammars: OnceLock::new(), context })
    }

    /// Tokens of prompt and answer together.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// Answers `request` into `events`, and stops early when nobody listens any more.
    pub(crate) fn answer(&self, request: &ChatRequest, events: &mpsc::Sender<Result<ChatEvent>>) -> Result<()> {
        let began = Instant::now();
        let prompt = self.prompt(request)?;
        let mut grammar = self.grammar(request)?;
        let left = self.context - prompt.len();
        let most = request.max_tokens.and_then(|most| usize::try_from(most).ok()).map_or(left, |most| most.min(left));

        let mut session = self.network.session(prompt.len() + most)?;
        let (last, chunks) = last_chunk(&prompt);
        for chunk in chunks {
            if events.is_closed() {
                return Ok(());
            }
            session.feed(chunk, false)?;
        }
        let mut logits = session.feed(last, true)?;
        let prompt_ms = millis(began);

        let began = Instant::now();
        let mut sampler = Sampler::new(request.sampling);
        let mut text = TextStream::new(&request.stop);
        let mut made = 0;
        let stop = loop {
            if events.is_closed() {
                return Ok(());
            }
            if let Some(grammar) = &mut grammar {
                grammar.prepare()?;
            }
            let allowed = |token| grammar.as_ref().is_none_or(|grammar| grammar.allows(token));
            let token = sampler.choose(logits, allowed).ok_or_else(|| {
                Error::new(ErrorKind::Internal, "the model gave no number for any token").with_code("model_failed")
            })?;
            if self.tokenizer.is_end(token) {
                break StopReason::Stop;
            }
            made += 1;
            let complete = grammar.as_mut().map_or(Ok(false), |grammar| grammar.take(token))?;
            send(events, text.push(self.tokenizer.bytes(token)));
            if complete || text.stopped() {
                break StopReason::Stop;
            }
            if made == most {
                break StopReason::Length;
            }
            logits = session.feed(&[token], true)?;
        };
        if !text.stopped() {
            send(events, text.finish());
        }
        let usage = Usage { prompt_tokens: count(prompt.len()), completion_tokens: count(made) };
        let completion_ms = Some(millis(began));
        let finish = Finish { stop, usage, prompt_ms: Some(prompt_ms), completion_ms };
        // Refused only where nobody listens.
        let _ = events.try_send(Ok(ChatEvent::Finish(finish)));
        Ok(())
    }

    fn prompt(&self, request: &ChatRequest) -> Result<Vec<u32>> {
        let too_long = |tokens: String| {
            Error::new(
                ErrorKind::Invalid,
                format!(
                    "the prompt has {tokens} tokens, and {} are the most with room for an answer",
                    self.context - 1
                ),
            )
            .with_code("context_length_exceeded")
        };
        let text = self.template.render(&request.messages)?;
        // A text far too long is refused before the work of splitting it.
        if self.tokenizer.at_least(&text) >= self.context {
            return Err(too_long(format!("more than {}", self.context - 1)));
        }
        let mut tokens = self.tokenizer.encode(&text)?;
        if let Some(bos) = self.tokenizer.bos.filter(|bos| self.tokenizer.add_bos && tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        if tokens.is_empty() {
            return Err(Error::invalid("the prompt is empty", Vec::new()));
        }
        if tokens.len() >= self.context {
            return Err(too_long(tokens.len().to_string()));
        }
        Ok(tokens)
    }

    fn grammar(&self, request: &ChatRequest) -> Result<Option<Grammar>> {
        if request.response_format == sutazai_core::model::ResponseFormat::Text {
            return Ok(None);
        }
        let grammars = match self.grammars.get() {
            Some(grammars) => grammars,
            None => {
                let made = Grammars::new(&self.tokenizer)?;
                self.grammars.get_or_init(|| made)
            }
        };
        grammars.compile(&request.response_format)
    }
}

/// The end of the prompt, whose logits are wanted, and the chunks before it.
fn last_chunk(prompt: &[u32]) -> (&[u32], std::slice::Chunks<'_, u32>) {
    let (before, last) = prompt.split_at((prompt.len() - 1) / CHUNK * CHUNK);
    (last, before.chunks(CHUNK))
}

/// Sends a piece; the channel has room for as many as the context has tokens, so only a lost listener refuses it.
fn send(events: &mpsc::Sender<Result<ChatEvent>>, piece: String) {
    if !piece.is_empty() {
        let _ = events.try_send(Ok(ChatEvent::Text(piece)));
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
