//! From a request to the tokens that the model reads: its chat template and its tokenizer.

use sutazai_core::{
    Error, Result,
    model::{ChatRequest, Message},
};

use super::{gguf::Gguf, template::Template, tokenizer::Tokenizer};
use crate::gateway::TokenCounter;

/// How a model's prompts are written.
pub(crate) struct Prompts {
    tokenizer: Tokenizer,
    template: Template,
}

impl Prompts {
    /// As the header of `gguf` says.
    pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let tokenizer = Tokenizer::from_gguf(gguf)?;
        let template = Template::from_gguf(gguf, &tokenizer)?;
        Ok(Self { tokenizer, template })
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The text of a prompt for an answer to `messages`.
    pub(crate) fn text(&self, messages: &[Message]) -> Result<String> {
        self.template.render(messages)
    }

    /// The tokens of a prompt's text: at least one.
    pub(crate) fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.tokenizer.encode(text)?;
        if let Some(bos) = self.tokenizer.bos.filter(|bos| self.tokenizer.add_bos && tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        match tokens.is_empty() {
            true => Err(Error::invalid("the prompt is empty", Vec::new())),
            false => Ok(tokens),
        }
    }
}

impl TokenCounter for Prompts {
    fn count(&self, request: &ChatRequest) -> Option<u32> {
        // What the template refuses is for the model to say.
        let tokens = self.text(&request.messages).and_then(|text| self.tokens(&text)).ok()?;
        u32::try_from(tokens.len()).ok()
    }

    fn is_exact(&self) -> bool {
        true
    }
}
