//! A backend of fakes behind an admission: turns, swaps, refusals, and every place coming back.

mod memory;
mod unread;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use sutazai_core::{
    ErrorKind,
    clock::{Clock, SystemClock},
    model::{ChatEvent, ChatModelExt, Finish, ModelCapabilities, StopReason, Usage},
    task::Priority,
};
use tokio::time::sleep;

use super::*;
use crate::gateway::observer::Unobserved;

/// What a fake does when it is asked.
#[derive(Clone, Copy, Default)]
struct Manner {
    /// Before the call returns.
    before: Duration,
    /// Before each of two pieces and the end.
    between: Duration,
    fails: bool,
    breaks: bool,
}

/// A model that counts what happens to it.
struct Fake {
    info: ModelInfo,
    manner: Mutex<Manner>,
    asked: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    log: Arc<Mutex<Vec<String>>>,
}

/// Counts a call for as long as it lives.
struct Asked(Arc<AtomicUsize>);

impl Asked {
    fn new(fake: &Fake) -> Self {
        let now = fake.asked.fetch_add(1, Ordering::SeqCst) + 1;
        fake.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(&fake.asked))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl ChatModel for Fake {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn chat(&self, _request: ChatRequest) -> Result<ChatStream> {
        let asked = Asked::new(self);
        let manner = *self.manner.lock().unwrap();
        sleep(manner.before).await;
        if manner.fails {
            return Err(Error::new(ErrorKind::Unavailable, "it is ill"));
        }
        let finish = Finish { stop: StopReason::Stop, usage: Usage::default(), prompt_ms: None, completion_ms: None };
        let last = if manner.breaks {
            Err(Error::new(ErrorKind::Unavailable, "it broke off"))
        } else {
            Ok(ChatEvent::Finish(finish))
        };
        let events = [Ok(ChatEvent::Text("a".into())), Ok(ChatEvent::Text("b".into())), last];
        let events = stream::iter(events).then(move |event| {
            let _asked = &asked;
            async move {
                sleep(manner.between).await;
                event
            }
        });
        Ok(ChatStream::new(&self.info, events))
    }

    async fn load(&self) -> Result<()> {
        self.log.lock().unwrap().push(format!("load {}", self.info.name));
        sleep(Duration::from_secs(5)).await;
        Ok(())
    }

    async fn unload(&self) -> Result<()> {
        assert_eq!(self.asked.load(Ordering::SeqCst), 0, "nothing in flight is killed by a swap");
        self.log.lock().unwrap().push(format!("unload {}", self.info.name));
        Ok(())
    }
}

/// A backend of fakes that share their counters.
struct World {
    admission: Admission,
    fakes: Vec<Arc<Fake>>,
    models: Vec<Arc<Admitted<dyn ChatModel>>>,
    log: Arc<Mutex<Vec<String>>>,
}

fn world(models: usize, config: AdmissionConfig) -> World {
    let admission = Admission::new("test", config, Arc::new(Unobserved)).unwrap();
    let (asked, most, log) = (Arc::default(), Arc::default(), Arc::<Mutex<Vec<String>>>::default());
    let fake = |n: usize| {
        let name = char::from(b'a' + u8::try_from(n).unwrap()).to_string();
        let capabilities = ModelCapabilities { chat: true, ..ModelCapabilities::NONE };
        let info = ModelInfo { capabilities, ..ModelInfo::new(name, "test", 100) };
        let manner = Manner { between: Duration::from_millis(100), ..Manner::default() };
        let (asked, most, log) = (Arc::clone(&asked), Arc::clone(&most), Arc::clone(&log));
        Arc::new(Fake { info, manner: Mutex::new(manner), asked, most, log })
    };
    let fakes: Vec<_> = (0..models).map(fake).collect();
    let models = fakes.iter().map(|fake| Arc::new(admission.chat(Arc::clone(fake) as _))).collect();
    World { admission, fakes, models, log }
}

fn ask() -> ChatRequest {
    ChatRequest::ask("x")
}

impl World {
    fn at_rest(&self) {
        let status = self.admission.status();
        assert_eq!((status.waiting, status.running), (0, 0));
        assert_eq!(self.fakes[0].asked.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_and_each_model_is_loaded_once() {
    let world = world(2, AdmissionConfig::default());
    let calls = (0..10).map(|n| {
        let model = Arc::clone(&world.models[n % 2]);
        tokio::spawn(async move { model.complete(ask()).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().text, "ab");
    }
    assert_eq!(world.fakes[0].most.load(Ordering::SeqCst), 1);
    assert_eq!(*world.log.lock().unwrap(), ["load a", "unload a", "load b"]);
    assert_eq!(world.admission.status().loaded, ["b"]);
    world.at_rest();
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_and_a_long_wait_are_refused() {
    let config =
        AdmissionConfig { max_waiting: 1, queue_timeout: Duration::from_secs(10), ..AdmissionConfig::default() };
    let world = world(1, config);
    world.models[0].complete(ask()).await.unwrap();
    world.fakes[0].manner.lock().unwrap().before = Duration::from_secs(20);
    let first = tokio::spawn({
        let model = Arc::clone(&world.models[0]);
        async move { model.complete(ask()).await }
    });
    tokio::task::yield_now().await;
    let second = tokio::spawn({
        let model = Arc::clone(&world.models[0]);
        async move { model.complete(ask()).await }
    });
    tokio::task::yield_now().await;
    let third = world.models[0].complete(ask()).await.unwrap_err();
    let second = second.await.unwrap().unwrap_err();
    for error in [third, second] {
        assert_eq!((error.kind(), error.code()), (ErrorKind::Full, "queue_full"));
        assert!(error.delay().is_some());
    }
    first.await.unwrap().unwrap();
    world.at_rest();
}

#[tokio::test(start_paused = true)]
async fn silence_and_deadlines_end_a_call() {
    let config = AdmissionConfig { settle: Duration::from_millis(500), ..AdmissionConfig::default() };
    let world = world(1, config);
    world.models[0].complete(ask()).await.unwrap();
    for (before, between) in [(60, 0), (0, 60)] {
        let (before, between) = (Duration::from_secs(before), Duration::from_secs(between));
        *world.fakes[0].manner.lock().unwrap() = Manner { before, between, ..Manner::default() };
        for left in [None, Some(Duration::from_secs(3))] {
            let began = Instant::now();
            let deadline = left.map(|left| SystemClock.now().plus(left));
            let request = ChatRequest { caller: Caller { deadline, ..Caller::default() }, ..ask() };
            let error = world.models[0].complete(request).await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Timeout, "model_timeout"));
            let took = began.elapsed();
            let (least, most) = if left.is_some() { (2, 4) } else { (29, 45) };
            assert!(took >= Duration::from_secs(least) && took <= Duration::from_secs(most), "{took:?}");
            assert_eq!(world.admission.status().running, 1, "the place is kept while the model may still be at it");
            sleep(Duration::from_millis(501)).await;
            world.at_rest();
        }
    }
    let past = Caller { deadline: Some(SystemClock.now().minus(Duration::from_secs(1))), ..Caller::default() };
    let error = world.models[0].complete(ChatRequest { caller: past, ..ask() }).await.unwrap_err();
    assert_eq!(error.code(), "model_timeout");
}

/// A backend that takes whatever it is asked and never says anything.
struct Hung(ModelInfo);

#[async_trait]
impl ChatModel for Hung {
    fn info(&self) -> &ModelInfo {
        &self.0
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn chat(&self, _request: ChatRequest) -> Result<ChatStream> {
        std::future::pending().await
    }

    async fn load(&self) -> Result<()> {
        std::future::pending().await
    }
}

#[async_trait]
impl EmbeddingModel for Hung {
    fn info(&self) -> &ModelInfo {
        &self.0
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn embed(&self, _texts: &[String]) -> Result<Embeddings> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_at_a_load_or_at_embedding_holds_no_place_for_ever() {
    let admission = Admission::new("test", AdmissionConfig::default(), Arc::new(Unobserved)).unwrap();
    let hung = |name: &str| {
        let capabilities = ModelCapabilities { chat: true, embedding: true, ..ModelCapabilities::NONE };
        Arc::new(Hung(ModelInfo { capabilities, ..ModelInfo::new(name, "test", 100) }))
    };
    let (embedding, chat) = (admission.embedding(hung("a")), admission.chat(hung("b")));
    let texts = ["word ".repeat(100)];
    let error = embedding.embed(&texts).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Timeout, "model_timeout"));
    for _ in 0..2 {
        assert_eq!(chat.load().await.unwrap_err().code(), "model_timeout");
        assert_eq!(chat.chat(ask()).await.err().unwrap().code(), "model_timeout");
    }
    sleep(AdmissionConfig::default().settle + Duration::from_millis(1)).await;
    let status = admission.status();
    assert_eq!((status.waiting, status.running), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_place_of_a_call_that_was_left_is_kept_until_the_backend_has_stopped() {
    let config = AdmissionConfig { settle: Duration::from_millis(500), ..AdmissionConfig::default() };
    let world = world(1, config);
    world.models[0].complete(ask()).await.unwrap();
    for before in [0, 10] {
        world.fakes[0].manner.lock().unwrap().before = Duration::from_secs(before);
        // With the answer that has begun, or with the call that waits for it.
        let begun = timeout(Duration::from_secs(1), world.models[0].chat(ask())).await;
        assert_eq!(begun.is_ok(), before == 0);
        drop(begun);
        let next = tokio::spawn({
            let model = Arc::clone(&world.models[0]);
            async move { model.chat(ask()).await.map(drop) }
        });
        sleep(Duration::from_millis(499)).await;
        let status = world.admission.status();
        assert_eq!((status.waiting, status.running), (1, 1));
        world.fakes[0].manner.lock().unwrap().before = Duration::ZERO;
        sleep(Duration::from_millis(2)).await;
        assert_eq!(world.admission.status().waiting, 0, "its turn has come");
        next.await.unwrap().unwrap();
        sleep(Duration::from_millis(501)).await;
        world.at_rest();
    }
}

#[tokio::test(start_paused = true)]
async fn urgent_requests_go_first() {
    let world = world(1, AdmissionConfig::default());
    world.models[0].complete(ask()).await.unwrap();
    let ended = Arc::new(Mutex::new(Vec::new()));
    let calls = [5, 1, 9, 5].into_iter().enumerate().map(|(n, priority)| {
        let (model, ended) = (Arc::clone(&world.models[0]), Arc::clone(&ended));
        let caller = Caller { priority: Priority::new(priority).unwrap(), ..Caller::default() };
        tokio::spawn(async move {
            model.complete(ChatRequest { caller, ..ask() }).await.unwrap();
            ended.lock().unwrap().push(n);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(*ended.lock().unwrap(), [0, 2, 3, 1], "the first had begun");
}

#[tokio::test(start_paused = true)]
async fn tenants_take_turns() {
    let world = world(1, AdmissionConfig::default());
    world.models[0].complete(ask()).await.unwrap();
    let ended = Arc::new(Mutex::new(Vec::new()));
    let calls = ["a", "a", "a", "a", "b", "b"].into_iter().map(|tenant| {
        let (model, ended) = (Arc::clone(&world.models[0]), Arc::clone(&ended));
        let caller = Caller { tenant: Some(tenant.into()), ..Caller::default() };
        tokio::spawn(async move {
            model.complete(ChatRequest { caller, ..ask() }).await.unwrap();
            ended.lock().unwrap().push(tenant);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(ended.lock().unwrap()[..4], ["a", "b", "a", "b"]);
}

/// A runtime that ends drops what it is given at once, loads too.
#[test]
fn a_runtime_may_end_while_calls_wait_for_another_model() {
    let (ended, has_ended) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let world = world(2, AdmissionConfig::default());
        runtime.block_on(async {
            world.models[0].complete(ask()).await.unwrap();
            for n in [0, 1, 1, 0] {
                let model = Arc::clone(&world.models[n]);
                tokio::spawn(async move { model.complete(ask()).await });
                tokio::task::yield_now().await;
            }
        });
        drop(runtime);
        ended.send(world.admission.status().waiting).unwrap();
    });
    let waiting = has_ended.recv_timeout(Duration::from_secs(60));
    assert_eq!(waiting, Ok(0), "the desk is free, and nobody waits at it");
}

#[tokio::test(start_paused = true)]
async fn every_place_comes_back_whatever_happens_to_calls() {
    let config = AdmissionConfig { max_parallel: 3, settle: Duration::from_millis(500), ..AdmissionConfig::default() };
    let world = world(3, config);
    let mut random = fastrand::Rng::with_seed(7);
    let mut calls = Vec::new();
    for _ in 0..2_000 {
        let n = random.usize(..3);
        *world.fakes[n].manner.lock().unwrap() = Manner {
            before: Duration::from_millis(random.u64(..300)),
            between: Duration::from_millis(random.u64(..300)),
            fails: random.u8(..10) == 0,
            breaks: random.u8(..10) == 0,
        };
        let model = Arc::clone(&world.models[n]);
        let patience = Duration::from_millis(random.u64(..200_000));
        let deadline = random.bool().then(|| SystemClock.now().plus(Duration::from_millis(random.u64(..200_000))));
        let caller = Caller { deadline, priority: Priority::new(random.u8(..10)).unwrap(), ..Caller::default() };
        let request = ChatRequest { caller, ..ask() };
        calls.push(tokio::spawn(async move { timeout(patience, model.complete(request)).await.is_ok() }));
        sleep(Duration::from_millis(random.u64(..200))).await;
    }
    let mut answered = 0;
    for call in calls {
        answered += usize::from(call.await.unwrap());
    }
    assert!(answered > 500, "{answered} were answered, or told why not");
    sleep(Duration::from_secs(1)).await;
    world.at_rest();
    assert!(world.fakes[0].most.load(Ordering::SeqCst) <= 3);
}

/// A model that takes ten seconds for whatever it embeds.
struct Reader(ModelInfo);

#[async_trait]
impl EmbeddingModel for Reader {
    fn info(&self) -> &ModelInfo {
        &self.0
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn embed(&self, texts: &[String]) -> Result<Embeddings> {
        sleep(Duration::from_secs(10)).await;
        Ok(Embeddings { vectors: vec![vec![1.0]; texts.len()], tokens: 0 })
    }
}

#[tokio::test(start_paused = true)]
async fn embeddings_have_the_turn_and_the_deadline_of_who_asks() {
    let admission = Admission::new("test", AdmissionConfig::default(), Arc::new(Unobserved)).unwrap();
    let capabilities = ModelCapabilities { embedding: true, ..ModelCapabilities::NONE };
    let info = ModelInfo { capabilities, ..ModelInfo::new("a", "test", 100) };
    let model = Arc::new(admission.embedding(Arc::new(Reader(info))));
    let texts = ["x".to_owned()];
    model.embed(&texts).await.unwrap();

    let ended = Arc::new(Mutex::new(Vec::new()));
    let calls = [5, 1, 9, 5].into_iter().enumerate().map(|(n, priority)| {
        let (model, ended, texts) = (Arc::clone(&model), Arc::clone(&ended), texts.clone());
        let caller = Caller { priority: Priority::new(priority).unwrap(), ..Caller::default() };
        tokio::spawn(async move {
            model.embed_for(&caller, &texts).await.unwrap();
            ended.lock().unwrap().push(n);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(*ended.lock().unwrap(), [0, 2, 3, 1], "the first had begun");

    let until = |left| Caller { deadline: Some(SystemClock.now().plus(left)), ..Caller::default() };
    let began = Instant::now();
    let error = model.embed_for(&until(Duration::from_secs(3)), &texts).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Timeout, "model_timeout"));
    assert!(error.to_string().contains("deadline") && began.elapsed() < Duration::from_secs(4), "{error}");
    model.embed_for(&until(Duration::from_secs(30)), &texts).await.unwrap();
    let status = admission.status();
    assert_eq!((status.waiting, status.running), (0, 0));
}
