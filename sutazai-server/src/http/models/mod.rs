//! What OpenAI's and Ollama's formats share: finding a model, asking it, and sending on what it answers as it comes.

mod agent;
mod answer;
mod ask;
mod find;
mod headers;
mod images;
mod sampling;
mod send;
mod texts;
mod tools;

pub(super) use self::{
    answer::Whole,
    ask::{AGENT, Begun, ask, ask_model, check_dimensions, embed, refuse_agent},
    find::{info, infos, named},
    headers::TASK_ID,
    images::{of_base64, of_url},
    sampling::{max_tokens, sampling},
    send::{Wire, line, reply},
    texts::Texts,
    tools::{ToolBody, tools},
};
