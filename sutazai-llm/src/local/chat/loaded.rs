//! Everything of a loaded model that an answer needs, and what becomes of a request before the model reads it.

use std::sync::{Arc, OnceLock};

use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatRequest, ResponseFormat},
};

use super::{
    gguf::Gguf,
    grammar::{Grammar, Grammars},
    network::{Network, Sessions},
    prompt::Prompts,
    tokenizer::Tokenizer,
};

/// A loaded model.
pub(crate) struct Loaded {
    network: Box<dyn Network>,
    prompts: Arc<Prompts>,
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
        let prompts = Prompts::from_gguf(&gguf)?;
        let network = build(&mut gguf, prompts.tokenizer().len())?;
        let context = network.context().min(context);
        Ok(Self { network, prompts: Arc::new(prompts), grammars: OnceLock::new(), context })
    }

    /// Tokens of prompt and answer together.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        self.prompts.tokenizer()
    }

    pub(crate) fn prompts(&self) -> &Arc<Prompts> {
        &self.prompts
    }

    /// So many conversations, each with room for the whole context.
    pub(crate) fn sessions(&self, count: usize) -> Result<Box<dyn Sessions + '_>> {
        self.network.sessions(count, self.context)
    }

    /// The tokens of a request's prompt: at least one, and fewer than the context has.
    pub(crate) fn prompt(&self, request: &ChatRequest) -> Result<Vec<u32>> {
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
        let text = self.prompts.text(&request.messages)?;
        // A text far too long is refused before the work of splitting it.
        if self.tokenizer().at_least(&text) >= self.context {
            return Err(too_long(format!("more than {}", self.context - 1)));
        }
        let tokens = self.prompts.tokens(&text)?;
        if tokens.len() >= self.context {
            return Err(too_long(tokens.len().to_string()));
        }
        Ok(tokens)
    }

    /// The rules that a request's answer keeps to, if any.
    pub(crate) fn grammar(&self, request: &ChatRequest) -> Result<Option<Grammar>> {
        if request.response_format == ResponseFormat::Text {
            return Ok(None);
        }
        let grammars = match self.grammars.get() {
            Some(grammars) => grammars,
            None => {
                let made = Grammars::new(self.tokenizer())?;
                self.grammars.get_or_init(|| made)
            }
        };
        grammars.compile(&request.response_format)
    }
}
