//! Both caches in front of a scripted model.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::StreamExt;
use sutazai_core::{
    ErrorKind,
    clock::Clock,
    memory::{HashedEmbedding, Script, ScriptedChat},
    model::{
        Caller, ChatModel, ChatModelExt, EmbeddingModel, Embeddings, Message, ModelInfo, ResponseFormat, Role,
        Sampling, ToolCall, ToolSpec,
    },
    task::Priority,
};

use super::*;
use crate::gateway::fake;

/// What the caches told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<CacheUse>>);

impl Told {
    fn take(&self) -> Vec<CacheUse> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl GatewayObserver for Told {
    fn cached(&self, model: &str, use_: CacheUse) {
        assert_eq!(model, "actor");
        self.0.lock().unwrap().push(use_);
    }
}

/// A clock that is set.
#[derive(Debug, Default)]
struct SetClock(AtomicI64);

impl SetClock {
    fn pass(&self, time: Duration) {
        self.0.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }

    fn random(&self) -> u64 {
        0
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

/// A script that never says the same twice.
fn counting() -> Script {
    let calls = AtomicUsize::new(0);
    Script::by(move |_| format!("answer number {}", calls.fetch_add(1, Ordering::SeqCst)))
}

fn actor() -> ScriptedChat {
    ScriptedChat::new("actor").otherwise(counting())
}

fn greedy(question: &str) -> ChatRequest {
    ChatRequest { sampling: Sampling::GREEDY, ..ChatRequest::ask(question) }
}

fn of_tenant(tenant: &str, request: ChatRequest) -> ChatRequest {
    let caller = Caller { tenant: Some(tenant.into()), ..request.caller };
    ChatRequest { caller, ..request }
}

/// What came, and from where.
async fn ask(model: &dyn ChatModel, request: ChatRequest) -> (CacheUse, Vec<ChatEvent>) {
    let answer = model.chat(request).await.unwrap();
    assert_eq!((answer.served().model.as_str(), answer.served().backend.as_str()), ("actor", "scripted"));
    (answer.served().cache, answer.map(Result::unwrap).collect().await)
}

async fn uses(model: &dyn ChatModel, requests: impl IntoIterator<Item = ChatRequest>) -> Vec<CacheUse> {
    let mut uses = Vec::new();
    for request in requests {
        uses.push(ask(model, request).await.0);
    }
    uses
}

mod exact {
    use super::*;

    struct Bench {
        model: Arc<ScriptedChat>,
        cache: Cache,
        told: Arc<Told>,
        clock: Arc<SetClock>,
    }

    fn bench(model: ScriptedChat) -> Bench {
        bench_with(model, Arc::new(MemoryAnswers::default()))
    }

    fn bench_with(model: ScriptedChat, answers: Arc<dyn AnswerCache>) -> Bench {
        let (model, told, clock) = (Arc::new(model), Arc::new(Told::default()), Arc::new(SetClock::default()));
        let inner: Arc<dyn ChatModel> = Arc::<ScriptedChat>::clone(&model);
        let observer: Arc<dyn GatewayObserver> = Arc::<Told>::clone(&told);
        let by: Arc<dyn Clock> = Arc::<SetClock>::clone(&clock);
        Bench { cache: Cache::new(inner, answers, observer).with_clock(by), model, told, clock }
    }

    sutazai_core::chat_conformance!(bench(fake::actor()).cache);

    #[tokio::test]
    async fn the_second_answer_is_the_first_one_piece_by_piece() {
        let call = ToolCall { id: "call_0".into(), name: "look".into(), arguments: serde_json::json!({"at": "it"}) };
        let bench = bench(ScriptedChat::new("actor").reply(Script::text("let me see").calling(call)));
        let (first, events) = ask(&bench.cache, greedy("x")).await;
        let (second, again) = ask(&bench.cache, greedy("x")).await;
        assert_eq!((first, second), (CacheUse::Miss, CacheUse::Hit));
        assert_eq!(events.len(), 5);
        assert_eq!(events, again);
        assert_eq!(bench.model.requests().len(), 1);
        assert_eq!(bench.told.take(), [CacheUse::Miss, CacheUse::Hit]);
    }

    #[tokio::test]
    async fn a_request_says_whether_an_old_answer_will_do() {
        let bench = bench(actor());
        let hour = Caching::MaxAge(Duration::from_secs(3600));
        let warm = || ChatRequest::ask("x");
        let (hit, miss, off) = (CacheUse::Hit, CacheUse::Miss, CacheUse::Off);
        assert_eq!(uses(&bench.cache, [warm(), warm()]).await, [off, off], "not always the same");
        let aged = || ChatRequest { caching: hour, ..warm() };
        assert_eq!(uses(&bench.cache, [aged(), aged()]).await, [miss, hit]);
        let bypassing = || ChatRequest { caching: Caching::Off, ..greedy("x") };
        assert_eq!(uses(&bench.cache, [bypassing(), greedy("x")]).await, [off, miss], "its answer is not kept");
        let (_, kept) = ask(&bench.cache, greedy("x")).await;
        assert_ne!(ask(&bench.cache, bypassing()).await.1, kept, "nor is a kept one given");
        assert_eq!(ask(&bench.cache, greedy("x")).await, (hit, kept));
        assert_eq!(bench.told.take(), [off, off, miss, hit, off, miss, hit, off, hit]);
    }

    #[tokio::test]
    async fn an_answer_is_no_older_than_asked_for() {
        let bench = bench(actor());
        let within = |seconds| ChatRequest { caching: Caching::MaxAge(Duration::from_secs(seconds)), ..greedy("x") };
        let (hit, miss) = (CacheUse::Hit, CacheUse::Miss);
        assert_eq!(uses(&bench.cache, [greedy("x")]).await, [miss]);
        bench.clock.pass(Duration::from_secs(10));
        assert_eq!(uses(&bench.cache, [within(10), within(9), within(1)]).await, [hit, miss, hit], "renewed");
        bench.clock.pass(Duration::from_secs(100_000));
        assert_eq!(uses(&bench.cache, [greedy("x")]).await, [hit], "any age will do");
    }

    #[tokio::test]
    async fn tenants_see_their_own_answers() {
        let bench = bench(actor());
        let asked = ["a", "b", "a", "b"].map(|tenant| of_tenant(tenant, greedy("x")));
        let (hit, miss) = (CacheUse::Hit, CacheUse::Miss);
        assert_eq!(uses(&bench.cache, asked).await, [miss, miss, hit, hit]);
        let caller = Caller { agent: Some("guide".into()), priority: Priority::MAX, ..Caller::default() };
        let other = of_tenant("a", ChatRequest { caller, ..greedy("x") });
        assert_eq!(uses(&bench.cache, [other]).await, [hit], "who asks for a tenant does not matter");
    }

    #[tokio::test]
    async fn half_an_answer_is_none() {
        let bench = bench(ScriptedChat::new("actor").reply("one two").reply("one two").reply("one two"));
        drop(bench.cache.chat(greedy("x")).await.unwrap());
        let mut answer = bench.cache.chat(greedy("x")).await.unwrap();
        assert!(answer.next().await.unwrap().is_ok() && answer.next().await.unwrap().is_ok());
        drop(answer);
        // Whoever has read the end need not ask whether there is more.
        let mut answer = bench.cache.chat(greedy("x")).await.unwrap();
        assert_eq!(answer.served().cache, CacheUse::Miss);
        while !matches!(answer.next().await, Some(Ok(ChatEvent::Finish(_)))) {}
        drop(answer);
        assert_eq!(uses(&bench.cache, [greedy("x")]).await, [CacheUse::Hit]);
    }

    #[tokio::test]
    async fn errors_are_not_kept() {
        let away = || Error::new(ErrorKind::Unavailable, "away").with_code("model_unavailable");
        let model = ScriptedChat::new("actor")
            .reply(Script::error(away))
            .reply(Script::text("one two").breaking_off(away))
            .reply("one two");
        let bench = bench(model);
        for _ in 0..2 {
            assert_eq!(bench.cache.complete(greedy("x")).await.unwrap_err().code(), "model_unavailable");
        }
        assert_eq!(uses(&bench.cache, [greedy("x"), greedy("x")]).await, [CacheUse::Miss, CacheUse::Hit]);
    }

    #[tokio::test]
    async fn a_cache_that_fails_makes_misses() {
        struct Broken;

        #[async_trait]
        impl AnswerCache for Broken {
            async fn get(&self, _: &AnswerKey) -> Result<Option<Arc<CachedAnswer>>> {
                Err(Error::new(ErrorKind::Unavailable, "away"))
            }

            async fn put(&self, _: AnswerKey, _: CachedAnswer) -> Result<()> {
                Err(Error::new(ErrorKind::Full, "full"))
            }

            async fn invalidate(&self, _: &str) -> Result<()> {
                Ok(())
            }

            async fn clear(&self) -> Result<()> {
                Ok(())
            }
        }

        let bench = bench_with(actor(), Arc::new(Broken));
        assert_eq!(uses(&bench.cache, [greedy("x"), greedy("x")]).await, [CacheUse::Miss, CacheUse::Miss]);
    }
}

mod semantic {
    use super::*;

    /// To it, everything means the same.
    struct Alike(ModelInfo, Mutex<Vec<Caller>>);

    impl Alike {
        fn new() -> Arc<Self> {
            let info = ModelInfo { dimension: 2, ..ModelInfo::new("alike", "fake", 64) };
            Arc::new(Self(info, Mutex::default()))
        }
    }

    #[async_trait]
    impl EmbeddingModel for Alike {
        fn info(&self) -> &ModelInfo {
            &self.0
        }

        async fn ready(&self) -> Result<()> {
            Ok(())
        }

        async fn embed(&self, texts: &[String]) -> Result<Embeddings> {
            if texts.iter().any(|text| text.contains("unspeakable")) {
                return Err(Error::new(ErrorKind::Unavailable, "away"));
            }
            Ok(Embeddings { vectors: texts.iter().map(|_| vec![0.6, 0.8]).collect(), tokens: 0 })
        }

        async fn embed_for(&self, caller: &Caller, texts: &[String]) -> Result<Embeddings> {
            self.1.lock().unwrap().push(caller.clone());
            self.embed(texts).await
        }
    }

    struct Bench {
        model: Arc<ScriptedChat>,
        cache: SemanticCache,
        told: Arc<Told>,
        clock: Arc<SetClock>,
    }

    fn bench(embedder: Arc<dyn EmbeddingModel>) -> Bench {
        let config = SemanticConfig { agents: BTreeSet::from(["guide".into()]), ..SemanticConfig::default() };
        let (model, told, clock) = (Arc::new(actor()), Arc::new(Told::default()), Arc::new(SetClock::default()));
        let inner: Arc<dyn ChatModel> = Arc::<ScriptedChat>::clone(&model);
        let observer: Arc<dyn GatewayObserver> = Arc::<Told>::clone(&told);
        let by: Arc<dyn Clock> = Arc::<SetClock>::clone(&clock);
        Bench { cache: SemanticCache::new(inner, embedder, config, observer).with_clock(by), model, told, clock }
    }

    fn guided(request: ChatRequest) -> ChatRequest {
        let caller = Caller { agent: Some("guide".into()), ..request.caller };
        ChatRequest { caller, ..request }
    }

    fn guide(question: &str) -> ChatRequest {
        guided(greedy(question))
    }

    const HIT: CacheUse = CacheUse::Hit;
    const MISS: CacheUse = CacheUse::Miss;
    const OFF: CacheUse = CacheUse::Off;

    sutazai_core::chat_conformance!(SemanticCache::new(
        Arc::new(fake::actor()),
        Alike::new(),
        SemanticConfig::default(),
        Arc::new(Told::default()),
    ));

    #[tokio::test]
    async fn a_question_that_means_the_same_has_the_same_answer() {
        let bench = bench(Arc::new(HashedEmbedding::default()));
        let (first, events) = ask(&bench.cache, guide("Where does the cat sit?")).await;
        let (second, again) = ask(&bench.cache, guide("where does THE CAT sit")).await;
        assert_eq!((first, second), (MISS, HIT));
        assert_eq!(events, again);
        assert_eq!(uses(&bench.cache, [guide("Where does the dog lie?")]).await, [MISS]);
        assert_eq!(bench.model.requests().len(), 2);
        assert_eq!(bench.told.take(), [MISS, HIT, MISS]);
    }

    #[tokio::test]
    async fn everything_else_has_to_be_equal() {
        let bench = bench(Alike::new());
        let messages = |messages: Vec<Message>| guided(ChatRequest { messages, ..greedy("") });
        let asked = [
            guide("How far is the moon?"),
            guide("What is the way to the moon?"),
            messages(vec![Message::system("In miles."), Message::user("How far is the moon?")]),
            messages(vec![Message::user("Hello."), Message::user("How far is the moon?")]),
            messages(vec![Message::user("How far is the moon?"), Message::new(Role::Assistant, "It is")]),
            guided(ChatRequest { max_tokens: Some(9), ..greedy("How far is the moon?") }),
            guided(ChatRequest { response_format: ResponseFormat::Json, ..greedy("How far is the moon?") }),
            of_tenant("other", guide("How far is the moon?")),
            guide("How far is the moon in 2026?"),
            guide("How far is the moon in 2027?"),
        ];
        let mut expected = vec![MISS; asked.len()];
        expected[1] = HIT;
        assert_eq!(uses(&bench.cache, asked.clone()).await, expected);
        assert_eq!(uses(&bench.cache, asked).await, [HIT; 10]);
    }

    #[tokio::test]
    async fn only_those_who_want_it_get_it() {
        let bench = bench(Alike::new());
        let tool = ToolSpec { name: "look".into(), description: String::new(), parameters: serde_json::json!({}) };
        let stranger = Caller { agent: Some("stranger".into()), ..Caller::default() };
        let asked = || {
            [
                greedy("x"),
                ChatRequest { caller: stranger.clone(), ..greedy("x") },
                guided(ChatRequest { tools: vec![tool.clone()], ..greedy("x") }),
                guided(ChatRequest { caching: Caching::Off, ..greedy("x") }),
                guided(ChatRequest::ask("at another temperature")),
                guide(" "),
                guide(&"too long to be embedded whole ".repeat(5)),
                guided(ChatRequest { messages: vec![Message::system("x")], ..greedy("") }),
            ]
        };
        assert_eq!(uses(&bench.cache, asked()).await, [OFF; 8]);
        assert_eq!(uses(&bench.cache, asked()).await, [OFF; 8]);
        assert!(bench.told.take().is_empty(), "whoever stands around it speaks for it");
        let old = guided(ChatRequest { caching: Caching::MaxAge(Duration::from_secs(9)), ..ChatRequest::ask("y") });
        assert_eq!(uses(&bench.cache, [old.clone(), old]).await, [MISS, HIT]);
    }

    #[tokio::test]
    async fn answers_age() {
        let bench = bench(Alike::new());
        let within = |seconds| ChatRequest { caching: Caching::MaxAge(Duration::from_secs(seconds)), ..guide("x") };
        assert_eq!(uses(&bench.cache, [guide("x")]).await, [MISS]);
        bench.clock.pass(Duration::from_secs(100));
        assert_eq!(uses(&bench.cache, [within(100), within(99), within(0)]).await, [HIT, MISS, HIT]);
        bench.clock.pass(Duration::from_secs(3_601));
        assert_eq!(uses(&bench.cache, [within(100_000), guide("x")]).await, [MISS, HIT]);
    }

    #[tokio::test]
    async fn a_question_is_embedded_for_who_asks_it() {
        let embedder = Alike::new();
        let bench = bench(Arc::<Alike>::clone(&embedder));
        let asked = of_tenant("other", guide("How far is the moon?"));
        assert_eq!(uses(&bench.cache, [asked.clone()]).await, [MISS]);
        assert_eq!(*embedder.1.lock().unwrap(), [asked.caller]);
    }

    #[tokio::test]
    async fn what_cannot_be_embedded_is_a_miss() {
        let bench = bench(Alike::new());
        assert_eq!(uses(&bench.cache, [guide("unspeakable"), guide("unspeakable")]).await, [MISS, MISS]);
        assert_eq!(uses(&bench.cache, [guide("x")]).await, [MISS], "and nothing was kept");
    }

    #[tokio::test]
    async fn around_it_the_exact_cache_counts_each_answer_once() {
        let Bench { cache, told, model, .. } = bench(Alike::new());
        let observer: Arc<dyn GatewayObserver> = Arc::<Told>::clone(&told);
        let both = Cache::new(Arc::new(cache), Arc::new(MemoryAnswers::default()), observer);
        let asked = [guide("a"), guide("b"), guide("a"), guide("b"), greedy("c"), greedy("c"), ChatRequest::ask("d")];
        assert_eq!(uses(&both, asked).await, [MISS, HIT, HIT, HIT, MISS, HIT, OFF]);
        assert_eq!(told.take(), [MISS, HIT, HIT, HIT, MISS, HIT, OFF]);
        assert_eq!(model.requests().len(), 3);
    }
}
