//! What the ledger draws, gives back and writes down, and what waits for it.

use super::*;

#[test]
fn after_the_first_no_call_waits_for_the_store() {
    paused(async {
        let bench = bench(actor(), of_agents(Limits { calls: Some(10_000), ..tokens(1 << 20) }));
        *bench.store.delay.lock().unwrap() = Duration::from_secs(1);
        for call in 0..500 {
            let began = Instant::now();
            bench.ask(request(50)).await.unwrap();
            let expected = if call == 0 { Duration::from_secs(1) } else { Duration::ZERO };
            assert_eq!(began.elapsed(), expected, "call {call}");
            sleep(Duration::from_millis(50)).await;
        }
        let draws = bench.store.draws.load(Ordering::SeqCst);
        assert!(draws < 50, "{draws} draws for 500 calls");
    });
}

#[test]
fn calls_at_once_get_what_there_is() {
    paused(async {
        let script = Script::text("It is green.").after(Duration::from_secs(5));
        let bench = bench(ScriptedChat::new("actor").otherwise(script), of_agents(calls(10)));
        let done = join_all((0..40).map(|_| bench.ask(request(5)))).await;
        let refused: Vec<_> = done.into_iter().filter_map(Result::err).collect();
        assert_eq!((refused.len(), bench.model.requests().len()), (30, 10));
        assert!(refused.iter().all(|error| error.code() == "budget_exceeded" && error.kind() == ErrorKind::Full));
        bench.ledger.close().await;
        assert_eq!(bench.taken().await.calls, 10);
    });
}

#[test]
fn without_the_store_only_what_is_drawn_is_spent() {
    paused(async {
        let bench = bench(actor(), of_agents(Limits { calls: Some(640), ..tokens(1 << 20) }));
        bench.store.broken.store(true, Ordering::SeqCst);
        let error = bench.ask(request(5)).await.unwrap_err();
        assert_eq!(
            (error.code(), error.kind(), error.subject()),
            ("budget_unavailable", ErrorKind::Unavailable, "actor")
        );
        assert!(error.is_temporary() && error.report().contains("away"), "{error:?}");
        assert!(bench.model.requests().is_empty() && bench.refusals().is_empty());
        bench.store.broken.store(false, Ordering::SeqCst);
        bench.ask(request(5)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        bench.store.broken.store(true, Ordering::SeqCst);
        let done = join_all((0..40).map(|_| bench.ask(request(5)))).await;
        let failed: Vec<_> = done.into_iter().filter_map(Result::err).collect();
        assert!((1..40).contains(&failed.len()), "some of it was drawn: {}", failed.len());
        assert!(failed.iter().all(|error| error.code() == "budget_unavailable"));
    });
}

#[test]
fn a_store_that_hangs_is_not_waited_for() {
    paused(async {
        let bench = bench(actor(), of_agents(calls(10)));
        *bench.store.delay.lock().unwrap() = Duration::from_secs(60);
        let began = Instant::now();
        assert_eq!(bench.ask(request(5)).await.unwrap_err().code(), "budget_unavailable");
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        let mut hurried = request(5);
        hurried.caller.deadline = Some(bench.ledger.now().plus(Duration::from_secs(3)));
        assert_eq!(bench.ask(hurried).await.unwrap_err().code(), "budget_unavailable");
        assert_eq!(began.elapsed(), Duration::from_secs(13));
        sleep(Duration::from_secs(120)).await;
        *bench.store.delay.lock().unwrap() = Duration::ZERO;
        bench.ask(request(5)).await.unwrap();
        bench.ledger.close().await;
        assert_eq!(bench.taken().await.calls, 1, "what nobody waited for any more came back");
    });
}

#[test]
fn blocks_that_nobody_uses_go_back_and_a_crash_loses_no_more_than_one() {
    paused(async {
        let store = Arc::new(Shelf::default());
        let first = bench_over(actor(), of_agents(tokens(64_000)), Arc::clone(&store), None);
        first.ask(request(50)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let open = first.taken().await.tokens;
        assert!((1_000..3_000).contains(&open), "{open}");
        sleep(Duration::from_secs(90)).await;
        assert_eq!(first.taken().await.tokens, 6);
        first.ask(request(50)).await.unwrap();
        drop(first); // without a close
        let second = bench_over(actor(), of_agents(tokens(64_000)), Arc::clone(&store), None);
        second.ask(request(50)).await.unwrap();
        second.ledger.close().await;
        let lost = second.taken().await.tokens - 18;
        assert!((1..3_000).contains(&lost), "{lost}");
    });
}

#[test]
fn what_was_overspent_is_missing_afterwards() {
    paused(async {
        // It reserves 5 + 2 and takes 3 + 12 each time: a model that does not keep to its limit.
        let bench = bench(actor(), of_agents(tokens(60)));
        let budget = bench.before(Says::tokens(3, 12));
        let mut made = 0;
        while budget.complete(request(2)).await.is_ok() {
            made += 1;
        }
        assert_eq!(made, 4, "15 tokens each of 60");
        bench.ledger.close().await;
        assert_eq!(bench.taken().await.tokens, 60);
    });
}

#[test]
fn what_was_overspent_is_in_the_store_at_once() {
    paused(async {
        let bench = bench(actor(), of_agents(tokens(60)));
        bench.before(Says::tokens(3, 12)).complete(request(2)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert!(bench.taken().await.tokens >= 15, "{:?}", bench.taken().await);
    });
}

#[test]
fn what_may_be_written_down_is_not_written_again() {
    paused(async {
        let bench = bench(actor(), of_agents(tokens(60)));
        let budget = bench.before(Says::tokens(3, 12));
        let answer = budget.chat(request(2)).await.unwrap();
        bench.store.unheard.store(true, Ordering::SeqCst);
        answer.for_each(async |event| drop(event.unwrap())).await;
        sleep(Duration::from_secs(1)).await;
        bench.store.unheard.store(false, Ordering::SeqCst);
        sleep(Duration::from_secs(40)).await;
        bench.ledger.close().await;
        assert_eq!(bench.taken().await.tokens, 15);
    });
}

#[test]
fn what_a_block_in_use_does_not_need_goes_back() {
    paused(async {
        let bench = bench(
            ScriptedChat::new("actor").with_context_length(200_000).otherwise("It is green."),
            of_agents(tokens(100_000)),
        );
        bench.ask(request(50_000)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.taken().await.tokens, 6 + 100_000 / 8, "what it took, and what is drawn ahead");
    });
}

#[test]
fn at_midnight_nobody_waits() {
    paused(async {
        let bench = bench(actor(), of_agents(calls(640)));
        sleep(Duration::from_secs(24 * 3_600 - 40)).await;
        bench.ask(request(5)).await.unwrap();
        sleep(Duration::from_secs(30)).await;
        bench.store.broken.store(true, Ordering::SeqCst);
        sleep(Duration::from_secs(15)).await;
        bench.ask(request(5)).await.unwrap();
        bench.store.broken.store(false, Ordering::SeqCst);
        bench.ledger.close().await;
        let taken = bench.store.taken(&[coder(0), coder(1)]).await.unwrap();
        assert_eq!(taken.iter().map(|taken| taken.calls).collect::<Vec<_>>(), [1, 1]);
    });
}

#[test]
fn a_task_waits_for_what_another_process_holds() {
    paused(async {
        let config = || BudgetConfig { task: tokens(1_000), ..BudgetConfig::default() };
        let slow = ScriptedChat::new("actor").otherwise(Script::text("It is green.").after(Duration::from_secs(5)));
        let store = Arc::new(Shelf::default());
        let first = bench_over(slow, config(), Arc::clone(&store), None);
        let second = bench_over(actor(), config(), Arc::clone(&store), None);
        let of_task =
            |request: ChatRequest| ChatRequest { caller: Caller { task: Some(id(1)), ..Caller::default() }, ..request };
        let later = async {
            sleep(Duration::from_secs(1)).await;
            second.ask(of_task(request(500))).await
        };
        let (done, refused) = join(first.ask(of_task(request(900))), later).await;
        done.unwrap();
        let error = refused.unwrap_err();
        assert_eq!((error.code(), error.kind()), ("budget_exceeded", ErrorKind::Full), "{error}");
        sleep(error.delay().unwrap()).await;
        second.ask(of_task(request(500))).await.unwrap();
    });
}

#[test]
fn a_ledger_that_draws_without_end_is_closed_all_the_same() {
    paused(async {
        let bench = bench(actor(), BudgetConfig { task: calls(1_000), ..BudgetConfig::default() });
        *bench.store.delay.lock().unwrap() = Duration::from_secs(1);
        let (bench, tasks) = (&bench, &AtomicUsize::new(0));
        // The first call of each task waits for a draw, and begins while another is drawn for.
        let asking = join_all((0..3).map(|caller| async move {
            sleep(Duration::from_millis(300 * caller)).await;
            loop {
                let mut bytes = [1; 16];
                bytes[..8].copy_from_slice(&(tasks.fetch_add(1, Ordering::SeqCst) as u64).to_be_bytes());
                let caller = Caller { task: Some(TaskId::from_bytes(bytes)), ..Caller::default() };
                if let Err(error) = bench.ask(ChatRequest { caller, ..request(5) }).await {
                    return error;
                }
            }
        }));
        let closing = async {
            sleep(Duration::from_millis(5_500)).await;
            timeout(Duration::from_secs(60), bench.ledger.close()).await
        };
        let (refused, closed) = join(asking, closing).await;
        assert!(closed.is_ok() && refused.iter().all(|error| error.code() == "budget_unavailable"), "{refused:?}");
    });
}

#[test]
fn a_store_that_forgets_holds_nobody_up() {
    paused(async {
        let bench = bench(actor(), of_agents(calls(100)));
        *bench.store.forgetting.lock().unwrap() = Duration::from_secs(3_600);
        sleep(Duration::from_secs(6 * 60)).await;
        bench.ask(request(5)).await.unwrap();
        timeout(Duration::from_secs(60), bench.ledger.close()).await.unwrap();
        assert_eq!(bench.taken().await.calls, 1);
    });
}
