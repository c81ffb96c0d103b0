//! Having a server get a model from its library.

use std::{collections::VecDeque, time::Duration};

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sutazai_core::{Error, Result};
use tokio::time::timeout;

use super::{
    client::{OllamaClient, SILENCE},
    ndjson::ReadLine,
    refusal::{broken, silent, unavailable, unreadable},
};

/// How long a server may say nothing of a pull; while bytes arrive it does so many times a second.
const QUIET: Duration = Duration::from_secs(60);
/// What a server says before it reads all the bytes again, which it does in silence.
const VERIFYING: &str = "verifying";
/// What it says at the end of a pull that went well.
const SUCCESS: &str = "success";

/// Where a pull stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PullProgress {
    /// What is happening, in Ollama's words; `success` at the end.
    pub status: String,
    /// The digest of the layer that is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Bytes of the layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Bytes of it that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<u64>,
}

type Pull = BoxStream<'static, Result<PullProgress>>;

impl OllamaClient {
    /// Has the server get a model from its library: where the pull stands, again and again, until the status `success` or an error ends it. Dropping the
    /// stream ends the pull as well; what has arrived is not fetched again. A model that is there already is brought up to date.
    ///
    /// Fails with code `model_not_found` if the library has no such model, `model_timeout` if the server says nothing for a minute (ten while it checks what
    /// it got), kind `Full` if its disk is, and as every call does.
    pub async fn pull(&self, model: &str) -> Result<BoxStream<'static, Result<PullProgress>>> {
        let request = self.post("api/pull", &json!({"model": model, "stream": true}))?;
        let begun = timeout(QUIET, self.lines(request, model, Reader { model: model.to_owned() })).await;
        let pull = begun.unwrap_or_else(|_| Err(quiet(model)))?;
        Ok(bounded(pull, model.to_owned(), QUIET))
    }
}

/// A pull that ends with an error if nothing comes for too long, the first time for `limit`.
fn bounded(pull: Pull, model: String, limit: Duration) -> Pull {
    stream::unfold(Some((pull, limit)), move |state| {
        let model = model.clone();
        async move {
            let (mut pull, limit) = state?;
            match timeout(limit, pull.next()).await {
                Ok(Some(Ok(progress))) => {
                    let limit = if progress.status.starts_with(VERIFYING) { SILENCE } else { QUIET };
                    Some((Ok(progress), Some((pull, limit))))
                }
                Ok(last) => Some((last?, None)),
                Err(_) => Some((Err(quiet(&model)), None)),
            }
        }
    })
    .fuse()
    .boxed()
}

fn quiet(model: &str) -> Error {
    silent("Ollama says nothing of the pull any more").during("pull").about(model)
}

/// Reads the lines of a pull.
struct Reader {
    model: String,
}

#[derive(Deserialize)]
struct Line {
    error: Option<Value>,
    status: Option<String>,
    digest: Option<String>,
    total: Option<u64>,
    completed: Option<u64>,
}

impl ReadLine for Reader {
    type Item = PullProgress;

    fn read(&mut self, line: &[u8], out: &mut VecDeque<PullProgress>) -> Result<bool> {
        let Line { error, status, digest, total, completed } =
            serde_json::from_slice(line).map_err(|error| unreadable().because(error))?;
        if let Some(error) = error {
            return Err(broken(&error, &self.model));
        }
        let status = status.unwrap_or_default();
        let more = status != SUCCESS;
        out.push_back(PullProgress { status, digest, total, completed });
        Ok(more)
    }

    fn broke_off(&self) -> Error {
        unavailable("the pull of Ollama broke off")
    }

    fn explained(&self, error: Error) -> Error {
        error.during("pull").about(&self.model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_pull_ends() {
        let mut pull = bounded(stream::pending().boxed(), "tinyllama".into(), Duration::from_millis(5));
        let error = pull.next().await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.subject(), error.is_temporary()), ("model_timeout", "tinyllama", true));
        assert!(pull.next().await.is_none());
    }
}
