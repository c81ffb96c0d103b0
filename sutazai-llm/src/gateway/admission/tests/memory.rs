//! What is in memory, how it is told to leave, and what is known about it.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_unload_is_known_and_waits_for_what_runs() {
    let config =
        AdmissionConfig { max_parallel: 2, queue_timeout: Duration::from_secs(20), ..AdmissionConfig::default() };
    let world = world(1, config);
    let model = &world.models[0];
    let log = || world.log.lock().unwrap().clone();
    model.complete(ask()).await.unwrap();
    model.unload().await.unwrap();
    assert_eq!(log(), ["load a", "unload a"]);
    assert!(world.admission.status().loaded.is_empty(), "and the next call has it loaded again");

    let mut answer = model.chat(ask()).await.unwrap();
    assert_eq!(log().len(), 3);
    let unload = tokio::spawn({
        let model = Arc::clone(model);
        async move { model.unload().await }
    });
    tokio::task::yield_now().await;
    let next = tokio::spawn({
        let model = Arc::clone(model);
        async move { model.complete(ask()).await }
    });
    sleep(Duration::from_secs(5)).await;
    let status = world.admission.status();
    assert_eq!((status.waiting, status.running, log().len()), (0, 1, 3));
    next.await.unwrap().unwrap();
    while let Some(event) = answer.next().await {
        event.unwrap();
    }
    unload.await.unwrap().unwrap();
    assert_eq!(log(), ["load a", "unload a", "load a", "unload a"], "and nobody waited for it");
    world.at_rest();

    // Whoever gives up waiting, or waits too long, leaves everything as it was.
    let answer = model.chat(ask()).await.unwrap();
    assert!(timeout(Duration::from_secs(1), model.unload()).await.is_err());
    let error = model.unload().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Full, "queue_full"));
    assert_eq!(world.admission.status().loaded, ["a"]);
    timeout(Duration::from_secs(1), model.complete(ask())).await.unwrap().unwrap();
    drop(answer);
    let both = futures_util::future::join(model.unload(), model.unload()).await;
    assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
    assert!(world.admission.status().loaded.is_empty());
    assert_eq!(log().len(), 7);
    world.at_rest();
}

#[tokio::test(start_paused = true)]
async fn a_model_that_does_not_go_is_still_there() {
    /// Whoever is told to go stays.
    struct Stays(ModelInfo);

    #[async_trait]
    impl EmbeddingModel for Stays {
        fn info(&self) -> &ModelInfo {
            &self.0
        }

        async fn ready(&self) -> Result<()> {
            Ok(())
        }

        async fn embed(&self, texts: &[String]) -> Result<Embeddings> {
            Ok(Embeddings { vectors: vec![vec![1.0]; texts.len()], tokens: 0 })
        }

        async fn unload(&self) -> Result<()> {
            std::future::pending().await
        }
    }

    let admission = Admission::new("test", AdmissionConfig::default(), Arc::new(Unobserved)).unwrap();
    let model = admission.embedding(Arc::new(Stays(ModelInfo::new("a", "test", 100))));
    model.embed(&["x".to_owned()]).await.unwrap();
    assert_eq!(model.unload().await.unwrap_err().code(), "model_timeout");
    assert_eq!(admission.status().loaded, ["a"]);
    model.embed(&["x".to_owned()]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_in_memory_is_known_for_as_long_as_the_backend_keeps_it() {
    let keep = Duration::from_secs(60);
    let config = AdmissionConfig { max_loaded_models: 2, keep: Some(keep), ..AdmissionConfig::default() };
    let world = world(3, config);
    let held = || -> Vec<(String, Duration)> {
        world.admission.held().into_iter().map(|held| (held.info.name, held.left.unwrap())).collect()
    };
    assert!(held().is_empty());
    world.models[0].complete(ask()).await.unwrap();
    let answer = world.models[1].chat(ask()).await.unwrap();
    let names: Vec<_> = held().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b"]);
    // In use it stays.
    sleep(Duration::from_secs(50)).await;
    let two = held();
    let [a, b] = &two[..] else { panic!("{two:?}") };
    assert!(a.1 <= Duration::from_secs(10) && b.1 == keep, "{a:?} {b:?}");
    drop(answer);
    sleep(Duration::from_secs(20)).await;
    let one = held();
    let [(name, left)] = &one[..] else { panic!("{one:?}") };
    assert!(name == "b" && (39..=40).contains(&left.as_secs()), "{one:?}");
    world.models[2].complete(ask()).await.unwrap();
    assert_eq!(held().last().unwrap().0, "c");
    world.models[2].unload().await.unwrap();
    assert!(!held().iter().any(|(name, _)| name == "c"));
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_loaded_is_not_in_memory() {
    let admission = Admission::new("test", AdmissionConfig::default(), Arc::new(Unobserved)).unwrap();
    let capabilities = ModelCapabilities { chat: true, ..ModelCapabilities::NONE };
    let hung: Arc<dyn ChatModel> = Arc::new(Hung(ModelInfo { capabilities, ..ModelInfo::new("a", "test", 100) }));
    let hung = admission.chat(hung);
    assert_eq!(hung.chat(ask()).await.err().unwrap().code(), "model_timeout");
    assert!(admission.held().is_empty());
    let info = ModelInfo { capabilities, memory: Some(7), ..ModelInfo::new("b", "test", 100) };
    let manner = Mutex::default();
    let fake = Fake { info, manner, asked: Arc::default(), most: Arc::default(), log: Arc::default() };
    admission.chat(Arc::new(fake)).complete(ask()).await.unwrap();
    let held = admission.held();
    let [held] = &held[..] else { panic!("{held:?}") };
    assert_eq!((&*held.info.name, held.info.memory, held.left), ("b", Some(7), None));
}
