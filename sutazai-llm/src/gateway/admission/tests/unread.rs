//! Answers that are kept and not read, and those that are read slowly.

use super::*;

/// What becomes of an answer before its caller stops reading it.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    OnePiece,
    /// One that was 20 s in coming.
    LatePiece,
    /// Its caller begins to wait for a piece, and does not come back.
    AWait,
}

/// An answer that is kept and not read gives its place to the next call at `bound`, and says so.
async fn kept_unread(config: &AdmissionConfig, left: Option<Duration>, bound: Duration, before: Before) {
    let world = world(1, config.clone());
    world.models[0].complete(ask()).await.unwrap();
    let deadline = left.map(|left| SystemClock.now().plus(left));
    let caller = Caller { deadline, ..Caller::default() };
    let usual = *world.fakes[0].manner.lock().unwrap();
    if matches!(before, Before::LatePiece) {
        world.fakes[0].manner.lock().unwrap().between = Duration::from_secs(20);
    }
    let mut answer = world.models[0].chat(ChatRequest { caller, ..ask() }).await.unwrap();
    *world.fakes[0].manner.lock().unwrap() = usual;
    match before {
        Before::Nothing => {}
        Before::OnePiece | Before::LatePiece => drop(answer.next().await.unwrap().unwrap()),
        Before::AWait => assert!(timeout(Duration::from_millis(10), answer.next()).await.is_err()),
    }
    let next = tokio::spawn({
        let model = Arc::clone(&world.models[0]);
        async move { model.complete(ask()).await }
    });
    sleep(bound - Duration::from_millis(500)).await;
    let status = world.admission.status();
    assert_eq!((status.waiting, status.running), (1, 1));
    sleep(Duration::from_secs(1)).await;
    next.await.unwrap().unwrap();
    world.at_rest();
    let error = answer.next().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Timeout, "model_timeout"));
    assert!(error.to_string().contains("not read"), "{error}");
    assert!(answer.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_gives_its_place_back() {
    let seconds = Duration::from_secs;
    // The others are patient enough.
    let config = AdmissionConfig { queue_timeout: seconds(200), ..AdmissionConfig::default() };
    let named = AdmissionConfig { unread: Some(seconds(7)), ..config.clone() };
    for before in [Before::Nothing, Before::OnePiece] {
        kept_unread(&config, None, seconds(60), before).await;
        kept_unread(&config, Some(seconds(500)), seconds(60), before).await;
        kept_unread(&config, Some(seconds(5)), seconds(5), before).await;
        kept_unread(&named, None, seconds(7), before).await;
    }
    kept_unread(&named, None, seconds(7), Before::LatePiece).await;
    // Whoever waits is woken when the silence is over, after 30 s.
    kept_unread(&named, None, seconds(37), Before::AWait).await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_or_waits_long_is_answered() {
    let config = AdmissionConfig { unread: Some(Duration::from_secs(2)), ..AdmissionConfig::default() };
    let world = world(1, config);
    world.models[0].complete(ask()).await.unwrap();
    for (between, pause) in [(0, 1_900), (29_000, 0), (1_000, 1_900)] {
        let between = Duration::from_millis(between);
        *world.fakes[0].manner.lock().unwrap() = Manner { between, ..Manner::default() };
        let mut answer = world.models[0].chat(ask()).await.unwrap();
        let mut events = 0;
        loop {
            sleep(Duration::from_millis(pause)).await;
            let Some(event) = answer.next().await else { break };
            event.unwrap();
            events += 1;
        }
        assert_eq!(events, 3);
        world.at_rest();
    }
    let none = AdmissionConfig { unread: Some(Duration::ZERO), ..AdmissionConfig::default() };
    let error = Admission::new("test", none, Arc::new(Unobserved)).unwrap_err();
    assert_eq!(error.faults()[0].path, "/unread");
}
