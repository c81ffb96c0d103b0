//! What callers see of a real server that is killed, hangs, loses a model or has two gateways, and that every place comes back.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all},
};
use libtest_mimic::Failed;
use sutazai_core::{
    Error, ErrorKind,
    model::{ChatEvent, ChatModel, ChatModelExt, ChatStream},
};
use sutazai_llm::{
    gateway::{
        Gateway, Unobserved,
        admission::{Admission, AdmissionConfig},
    },
    ollama::{OllamaChat, OllamaClient},
};
use sutazai_testing::{Ollama, Proxy};

use super::{CONTEXT, MODEL, Outcome, TEMPLATE, TWIN, client, greedy, read};

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
const STORY: &str = "Write a very long story about a ship.";

/// As the server sets it up: one answer at a time, and a place is kept for a moment after a call was cancelled, since Ollama reports no stop.
fn admission(silence: Duration) -> Result<Admission, Error> {
    let mut config = AdmissionConfig::default();
    config.silence = silence;
    config.settle = Duration::from_millis(500);
    Admission::new("ollama", config, Arc::new(Unobserved))
}

async fn connect(client: OllamaClient, model: &str) -> Result<Arc<dyn ChatModel>, Error> {
    Ok(Arc::new(OllamaChat::connect(client, model, Some(CONTEXT)).await?))
}

/// An answer of which the first piece has come.
async fn begin(model: &dyn ChatModel) -> Result<ChatStream, Error> {
    let mut answer = model.chat(greedy(STORY, 800)).await?;
    assert!(matches!(answer.next().await, Some(Ok(ChatEvent::Text(_)))));
    Ok(answer)
}

/// The error that ends an answer.
async fn broken(mut answer: ChatStream) -> Result<Error, Failed> {
    loop {
        match answer.next().await {
            Some(Ok(ChatEvent::Text(_))) => {}
            Some(Err(error)) => return Ok(error),
            other => return Err(format!("the answer ended without an error: {other:?}").into()),
        }
    }
}

/// Waits until every place is back.
async fn rest(admission: &Admission) {
    let began = Instant::now();
    loop {
        let status = admission.status();
        if (status.waiting, status.running) == (0, 0) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "a place is lost: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// With a server of its own, since nobody else would have one after it.
pub(super) async fn killed(weights: &Path) -> Outcome {
    let mut server = Ollama::start_with(&Ollama::find()?)?;
    server.create_model(MODEL, &read(weights)?, Some(TEMPLATE))?;
    let admission = admission(PATIENCE)?;
    let model = admission.chat(connect(client(&server), MODEL).await?);
    let answer = begin(&model).await?;
    assert_eq!(admission.status().running, 1);
    server.kill();
    let in_the_middle = broken(answer).await?;
    assert_eq!(admission.status().running, 0, "who is dead is at nothing any more");
    let afterwards = model.complete(greedy("Hi", 1)).await.unwrap_err();
    for error in [in_the_middle, afterwards] {
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "model_unavailable"), "{error:?}");
        assert!(error.is_temporary());
    }
    server.start_again();
    model.complete(greedy("Hi", 1)).await?;
    rest(&admission).await;
    Ok(())
}

pub(super) fn hung(server: &'static Ollama) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let proxy = Proxy::start(server.address());
        let client = OllamaClient::new(&format!("http://{}", proxy.address()))?;
        let admission = admission(Duration::from_secs(3))?;
        let model = admission.chat(connect(client, MODEL).await?);
        // Loaded, and measured.
        model.complete(greedy("Hi", 1)).await?;
        for in_the_middle in [true, false] {
            let error = if in_the_middle {
                let answer = begin(&model).await?;
                proxy.stall(true);
                broken(answer).await?
            } else {
                proxy.stall(true);
                model.chat(greedy(STORY, 800)).await.err().ok_or("whoever is silent answers")?
            };
            assert_eq!((error.kind(), error.code()), (ErrorKind::Timeout, "model_timeout"), "{error:?}");
            assert_eq!(admission.status().running, 1, "the server may still be at it");
            proxy.stall(false);
            rest(&admission).await;
            model.complete(greedy("Hi", 1)).await?;
        }
        Ok(())
    })
}

pub(super) fn deleted(server: &'static Ollama) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        const COPY: &str = "smollm2:meanwhile";
        server.copy_model(MODEL, COPY)?;
        let client = client(server);
        let admission = admission(PATIENCE)?;
        let backend = admission.chat(connect(client.clone(), COPY).await?);
        let model = Gateway::new(Arc::new(Unobserved)).resilient().model(vec![Arc::new(backend)], None)?;
        let answer = model.chat(greedy("Tell me a story.", 32)).await?;
        client.delete(COPY).await?;
        // What was begun may go on: its weights are in memory.
        let end = answer.collect::<Vec<_>>().await.pop();
        let ended = match &end {
            Some(Ok(event)) => matches!(event, ChatEvent::Finish(_)),
            Some(Err(error)) => ["model_unavailable", "model_not_found"].contains(&error.code()),
            None => false,
        };
        assert!(ended, "{end:?}");
        let error = model.complete(greedy("Hi", 1)).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, "model_not_found"), "{error:?}");
        rest(&admission).await;
        server.copy_model(MODEL, COPY)?;
        model.complete(greedy("Hi", 1)).await?;
        client.delete(COPY).await?;
        Ok(())
    })
}

/// Each gateway thinks that it alone says what is in memory, where there is room for one model.
pub(super) fn shared(server: &'static Ollama) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let admissions = [admission(PATIENCE)?, admission(PATIENCE)?];
        let mut calls = Vec::new();
        for admission in &admissions {
            let gateway = Gateway::new(Arc::new(Unobserved)).resilient();
            for name in [MODEL, TWIN] {
                let backend = admission.chat(connect(client(server), name).await?);
                let model = gateway.model(vec![Arc::new(backend)], None)?;
                for number in 0..3 {
                    let model = Arc::clone(&model);
                    calls.push(async move { model.complete(greedy(&format!("Count to {number}."), 8)).await });
                }
            }
        }
        for reply in join_all(calls).await {
            assert!(reply?.finish.usage.completion_tokens > 0);
        }
        for admission in &admissions {
            rest(admission).await;
        }
        Ok(())
    })
}
