//! Answers that are away, by a clock that is set.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use sutazai_core::{
    clock::Timestamp,
    model::{ChatEvent, ChatRequest, ModelInfo},
};

use super::*;
use crate::gateway::cache::MemoryAnswers;

/// Answers that fail while they are told to, and how often they were asked.
struct Moody {
    inner: MemoryAnswers,
    away: AtomicBool,
    full: AtomicBool,
    gets: AtomicUsize,
    puts: AtomicUsize,
}

impl Moody {
    fn check(&self, keeping: bool) -> Result<()> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "away").with_code("cache_unavailable"));
        }
        if keeping && self.full.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Full, "full").with_code("cache_full"));
        }
        Ok(())
    }

    /// How often it was asked for an answer, and to keep one, since the last look.
    fn asked(&self) -> (usize, usize) {
        (self.gets.swap(0, Ordering::SeqCst), self.puts.swap(0, Ordering::SeqCst))
    }
}

#[async_trait]
impl AnswerCache for Moody {
    async fn ready(&self) -> Result<()> {
        self.check(false)
    }

    async fn get(&self, key: &AnswerKey) -> Result<Option<Arc<CachedAnswer>>> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.check(false)?;
        self.inner.get(key).await
    }

    async fn put(&self, key: AnswerKey, answer: CachedAnswer) -> Result<()> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.check(true)?;
        self.inner.put(key, answer).await
    }

    async fn invalidate(&self, model: &str) -> Result<()> {
        self.check(false)?;
        self.inner.invalidate(model).await
    }

    async fn clear(&self) -> Result<()> {
        self.check(false)?;
        self.inner.clear().await
    }
}

/// Milliseconds since it began.
#[derive(Debug, Default)]
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    fn random(&self) -> u64 {
        0
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

struct Bench {
    moody: Arc<Moody>,
    spared: SparedAnswers,
    clock: Arc<SetClock>,
}

fn bench() -> Bench {
    let moody = Arc::new(Moody {
        inner: MemoryAnswers::default(),
        away: AtomicBool::new(false),
        full: AtomicBool::new(false),
        gets: AtomicUsize::new(0),
        puts: AtomicUsize::new(0),
    });
    let clock = Arc::new(SetClock::default());
    let inner: Arc<dyn AnswerCache> = Arc::<Moody>::clone(&moody);
    let by: Arc<dyn Clock> = Arc::<SetClock>::clone(&clock);
    Bench { spared: SparedAnswers::new(inner, SparedAnswersConfig::default()).with_clock(by), moody, clock }
}

impl Bench {
    fn away(&self, away: bool) {
        self.moody.away.store(away, Ordering::SeqCst);
    }

    fn full(&self, full: bool) {
        self.moody.full.store(full, Ordering::SeqCst);
    }

    fn pass(&self, millis: u64) {
        self.clock.0.fetch_add(millis, Ordering::SeqCst);
    }

    async fn put(&self, question: &str) {
        self.spared.put(key(question), answer()).await.unwrap();
    }

    async fn has(&self, question: &str) -> bool {
        self.spared.get(&key(question)).await.unwrap().is_some()
    }
}

fn key(question: &str) -> AnswerKey {
    AnswerKey::of(&ModelInfo::new("actor", "scripted", 8192), &ChatRequest::ask(question)).unwrap()
}

fn answer() -> CachedAnswer {
    CachedAnswer {
        served_model: "actor".into(),
        served_backend: "scripted".into(),
        events: vec![ChatEvent::Text("a".into())],
        created: Timestamp::default(),
    }
}

sutazai_core::answer_conformance!(Box::new(SparedAnswers::new(
    Arc::new(MemoryAnswers::default()),
    SparedAnswersConfig::default()
)));

#[tokio::test]
async fn one_that_is_away_is_asked_once_a_pause() {
    let bench = bench();
    bench.put("a").await;
    assert!(bench.has("a").await);
    assert_eq!(bench.moody.asked(), (1, 1));
    bench.away(true);
    for _ in 0..5 {
        assert!(!bench.has("a").await);
        bench.put("b").await;
    }
    assert_eq!(bench.moody.asked(), (1, 1), "each failed once and is left alone");
    // Pauses of 1, 2, 4 … 30 s, each from the try before.
    for (pass, tries) in
        [(999, 0), (1, 1), (1_999, 0), (1, 1), (4_000, 1), (8_000, 1), (16_000, 1), (29_999, 0), (1, 1), (30_000, 1)]
    {
        bench.pass(pass);
        for _ in 0..3 {
            assert!(!bench.has("a").await);
        }
        assert_eq!(bench.moody.asked(), (tries, 0), "after {pass} ms");
    }
    bench.away(false);
    assert!(!bench.has("a").await, "nobody knows yet");
    bench.pass(30_000);
    assert!(bench.has("a").await && bench.has("a").await);
    assert!(!bench.has("b").await, "it was not kept");
    assert_eq!(bench.moody.asked(), (3, 0));
    bench.away(true);
    assert!(!bench.has("a").await);
    bench.away(false);
    bench.pass(1_000);
    assert!(bench.has("a").await, "the first pause again");
}

#[tokio::test]
async fn one_that_is_full_is_still_read() {
    let bench = bench();
    bench.put("a").await;
    bench.full(true);
    bench.put("b").await;
    bench.put("b").await;
    assert!(bench.has("a").await && !bench.has("b").await);
    assert_eq!(bench.moody.asked(), (2, 2));
    let error = bench.spared.ready().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Full, "cache_full"));
    assert_eq!(error.to_string(), "answers cannot be kept: full");
    bench.full(false);
    bench.pass(1_000);
    bench.put("b").await;
    assert!(bench.has("b").await);
    bench.spared.ready().await.unwrap();
}

#[tokio::test]
async fn whether_it_is_ready_is_asked_of_it() {
    let bench = bench();
    bench.spared.ready().await.unwrap();
    bench.away(true);
    assert_eq!(bench.spared.ready().await.unwrap_err().to_string(), "away");
    assert!(!bench.has("a").await);
    bench.put("a").await;
    assert_eq!(bench.moody.asked(), (0, 0), "who asks after that does not wait for it");
    for error in [bench.spared.invalidate("actor").await.unwrap_err(), bench.spared.clear().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "that something stays has to be known");
    }
    bench.away(false);
    bench.spared.ready().await.unwrap();
    bench.put("a").await;
    assert!(bench.has("a").await, "no pause is waited for once it has answered");
}

#[tokio::test]
async fn calls_that_fail_together_are_one_failure() {
    let bench = bench();
    bench.away(true);
    let turns =
        [bench.spared.reading.turn(Duration::ZERO).unwrap(), bench.spared.reading.turn(Duration::ZERO).unwrap()];
    for turn in turns {
        let failed: Option<()> = bench.spared.noted(&bench.spared.reading, turn, bench.moody.check(false));
        assert_eq!(failed, None);
    }
    bench.away(false);
    bench.pass(1_000);
    // A try whose caller has gone says nothing: the next one is made a pause later.
    assert_eq!(bench.spared.reading.turn(bench.clock.elapsed()), Some(Turn::Try));
    assert_eq!(bench.spared.reading.turn(bench.clock.elapsed()), None);
    bench.put("a").await;
    assert!(!bench.has("a").await);
    bench.pass(1_000);
    assert!(bench.has("a").await);
}
