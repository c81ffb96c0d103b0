//! The backend for OpenAI's format against the servers of llama.cpp: its own, which keeps to the format, and the one in Python of `llama-cpp-python`, which does in
//! part. Both have the weights of SmolLM2; where one of the three is not on this machine, the tests are ignored with the reason. `llama_cpp` in the names is
//! what `.ci/run` knows them by.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test without libtest, which clippy does not know for one"
)]

mod in_python;
mod own;
#[path = "../smollm2/mod.rs"]
mod smollm2;

use std::{path::PathBuf, sync::Arc};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use smollm2::{MODEL, cancelled, greedy};
use sutazai_core::{
    conformance::chat,
    model::{ChatModel, ChatModelExt},
};
use sutazai_llm::openai::{OpenAiChat, OpenAiChatConfig, OpenAiClient};
use sutazai_testing::{LlamaCpp, trial};

/// What the servers read at once.
const CONTEXT: usize = 2048;

type Outcome = Result<(), Failed>;

/// What a server is started with.
#[derive(Clone)]
struct Found {
    program: PathBuf,
    weights: PathBuf,
}

fn main() {
    let mut arguments = Arguments::from_args();
    // The servers answer one at a time, and some tests are about how soon.
    arguments.test_threads = Some(1);
    let find = |program: fn() -> Result<PathBuf, String>| {
        let weights = if arguments.list { Err("only listed".to_owned()) } else { smollm2::weights() };
        weights.and_then(|weights| Ok(Found { program: program()?, weights }))
    };
    let mut trials = own::trials(&find(LlamaCpp::find));
    trials.extend(in_python::trials(&find(LlamaCpp::find_in_python)));
    libtest_mimic::run(&arguments, trials).exit();
}

/// A test of what was found.
fn case<F: Future<Output = Outcome>>(
    name: &str,
    found: &Result<Found, String>,
    run: impl FnOnce(Found) -> F + Send + 'static,
) -> Trial {
    trial(name, found.clone(), move |found| block_on(run(found)))
}

/// The suite for chat models against what `model` connects to; the cases that its server is known to break are ignored with the reason.
fn conformance(
    group: &str,
    found: &Result<Found, String>,
    model: fn(&Found) -> Result<OpenAiChat, Failed>,
    broken: &'static [(&'static str, &'static str)],
) -> Vec<Trial> {
    let trial = |(name, case): chat::Case| {
        let test = format!("{group}::conformance::{name}");
        if let Some((_, why)) = broken.iter().find(|(broken, _)| *broken == name) {
            return Trial::ignorable_test(test, move || Ok(Completion::ignored_with(*why)));
        }
        trial(test, found.clone(), move |found| {
            let model = Arc::new(model(&found)?);
            block_on(async move { Ok(case(model).await.map_err(|error| error.report())?) })
        })
    };
    chat::cases().into_iter().map(trial).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

fn client(server: &LlamaCpp) -> OpenAiClient {
    OpenAiClient::new(&format!("{}/v1", server.url())).unwrap()
}

/// What a server's model can do.
fn config(name: &str) -> OpenAiChatConfig {
    let mut config = OpenAiChatConfig::new(name, CONTEXT);
    config.capabilities.schema = true;
    config.capabilities.seed = true;
    config
}

/// A server answers under whatever name it is asked.
async fn misnamed(server: &LlamaCpp) -> Outcome {
    let client = client(server);
    assert_eq!(client.models().await?, [MODEL]);
    let nobody = OpenAiChat::new(client, config("nobody"));
    assert!(!nobody.complete(greedy("Hi", 4)).await?.text.is_empty());
    // So it takes the list to find a wrong name.
    let error = nobody.ready().await.unwrap_err();
    assert_eq!((error.code(), error.subject()), ("model_not_found", "nobody"));
    Ok(())
}
