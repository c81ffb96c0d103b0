//! What a real server holds and has in memory.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::BoxFuture};
use sutazai_core::{
    ErrorKind,
    clock::{Clock, SystemClock},
    model::{ChatModel, ChatRequest},
};
use sutazai_llm::ollama::{GenerateRequest, OllamaChat, OllamaClient, OllamaEmbedding, Running};
use sutazai_testing::Ollama;

use super::{CONTEXT, MODEL, Outcome, TWIN, client, greedy, model};

/// How long a server may take to give memory back.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn list(server: &'static Ollama) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let client = client(server);
        assert!(client.version().await?.starts_with(|c: char| c.is_ascii_digit()));
        server.copy_model(MODEL, "smollm2:copy")?;
        let tags = client.tags().await?;
        let of = |name: &str| tags.iter().find(|tag| tag.is(name)).unwrap_or_else(|| panic!("no {name} in {tags:?}"));
        assert_eq!(tags.len(), 3, "{tags:?}");
        assert!(of(MODEL).digest != of(TWIN).digest && of(MODEL).size > 90_000_000);
        let shown = client.show("smollm2:copy").await?;
        assert!(shown.capabilities.iter().any(|can| can == "completion"), "{:?}", shown.capabilities);

        let model = model(server).await?;
        let info = model.info();
        assert_eq!((info.digest.as_deref(), info.context_length), (Some(of(MODEL).digest.as_str()), CONTEXT));
        let can = info.capabilities;
        assert!(can.chat && !can.embedding && !can.tools && !can.vision && !can.thinking, "{can:?}");
        let refused = OllamaEmbedding::connect(client.clone(), MODEL).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);

        client.delete("smollm2:copy").await?;
        assert!(client.tags().await?.iter().all(|tag| !tag.is("smollm2:copy")));
        // The weights that it shared are still there.
        model.ready().await?;
        Ok(())
    })
}

pub(super) fn missing(server: &'static Ollama) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let client = client(server);
        server.copy_model(MODEL, "smollm2:gone")?;
        let gone = OllamaChat::connect(client.clone(), "smollm2:gone", Some(CONTEXT)).await?;
        client.delete("smollm2:gone").await?;
        for error in [
            gone.ready().await.unwrap_err(),
            gone.load().await.unwrap_err(),
            gone.unload().await.unwrap_err(),
            gone.chat(ChatRequest::ask("Hi")).await.err().unwrap(),
            client.generate(GenerateRequest::new("smollm2:gone", "Hi")).await.err().unwrap(),
            client.delete("smollm2:gone").await.unwrap_err(),
            client.show("smollm2:gone").await.unwrap_err(),
        ] {
            assert_eq!((error.code(), error.subject()), ("model_not_found", "smollm2:gone"), "{error:?}");
        }
        Ok(())
    })
}

pub(super) fn load(server: &'static Ollama) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let client = client(server);
        let (first, twin) = (model(server).await?, OllamaChat::connect(client.clone(), TWIN, Some(CONTEXT)).await?);
        first.unload().await?;
        twin.unload().await?;
        until(&client, "nothing is loaded", <[Running]>::is_empty).await;
        let on_disk = first_memory(server).await?;

        first.load().await?;
        let running = client.ps().await?;
        assert!(running.len() == 1 && running[0].is(MODEL) && running[0].size > 0, "{running:?}");
        let left = SystemClock.now().until(running[0].expires_at.expect("it says when it goes"));
        assert!(left > Duration::from_secs(25 * 60) && left <= Duration::from_secs(30 * 60), "{left:?}");
        // Who connects now is told what it takes.
        assert_eq!(first_memory(server).await?, Some(running[0].size));
        assert!(on_disk.is_some_and(|bytes| bytes > 90_000_000), "{on_disk:?}");

        // There is room for one.
        twin.load().await?;
        until(&client, "the twin is loaded alone", |running| running.len() == 1 && running[0].is(TWIN)).await;

        // What is being answered is answered first.
        let stream = twin.chat(greedy("Tell me a story.", 16)).await?;
        twin.unload().await?;
        let events: Vec<_> = stream.collect().await;
        assert!(events.iter().all(Result::is_ok), "{events:?}");
        Ok(())
    })
}

async fn first_memory(server: &Ollama) -> Result<Option<u64>, libtest_mimic::Failed> {
    Ok(model(server).await?.info().memory)
}

/// Waits until what is in memory is so.
async fn until(client: &OllamaClient, what: &str, holds: impl Fn(&[Running]) -> bool) {
    let began = Instant::now();
    loop {
        let running = client.ps().await.unwrap();
        if holds(&running) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "waited for: {what}; {running:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) fn pull(server: &'static Ollama) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        // Where nobody listens.
        let mut pull = client(server).pull("127.0.0.1:9/library/nothing:latest").await?;
        assert_eq!(pull.next().await.expect("it begins")?.status, "pulling manifest");
        let error = pull.next().await.expect("it fails").unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "model_unavailable"), "{error:?}");
        assert!(pull.next().await.is_none());
        Ok(())
    })
}
