//! Those outside who ask nodes for something, and what they are promised by an answer.

use std::{sync::Arc, time::Duration};

use sutazai_core::{
    ErrorKind, Orchestrator, Payload, Result,
    engine::{Requeue, Resolution, Submitted},
    prelude::*,
    schedule::{CatchUp, Overlap, Schedule, TaskTemplate, Timing},
    store::{Recalled, ScheduleRecord, TaskStore},
    task::{IdempotencyKey, TaskId},
};

use crate::{
    agents::retry,
    check::{ONCE, is_halted, now},
    program::ms,
    rule::Rule,
    world::{World, short},
};

/// Tasks that are submitted at least, beside those of schedules and those that tasks call for.
pub const TASKS: usize = 50;

/// Submits one task, or several, at some moment.
pub async fn submit(world: Arc<World>, number: usize, span: Duration) {
    tokio::time::sleep(span.mul_f64(world.draw(|rng| rng.f64()))).await;
    let keyed = world.draw(|rng| rng.u32(0..3)) == 0;
    let program = world.draw(|rng| rng.usize(0..world.programs.len()));
    let mut request = TaskRequest::new(world.programs[program].agent, Payload::of(&program).unwrap())
        .retry(retry(world.programs[program].attempts))
        .priority(Priority::new(world.draw(|rng| rng.u8(0..=9))).unwrap());
    if world.draw(|rng| rng.u32(0..4)) == 0 {
        request = request.tenant("small");
    }
    if world.draw(|rng| rng.u32(0..8)) == 0 {
        request = request.deadline(world.time().plus(ms(world.draw(|rng| rng.u64(50..6_000)))));
    }
    if !keyed {
        // Without a key nobody knows of what was not acknowledged, and who asks again asks for another task.
        let submit = |engine: Orchestrator| {
            let request = request.clone();
            async move { engine.submit_request(request).await }
        };
        let submitted = world.insist(submit, |answer| accepted(&world, answer)).await;
        return acknowledged(&world, &submitted).await;
    }
    let request = request.idempotency_key(format!("k{number}")).label(ONCE, format!("k{number}"));
    let again = world.draw(|rng| rng.bool()).then(|| tokio::spawn(submit_keyed(Arc::clone(&world), request.clone())));
    let first = submit_keyed(Arc::clone(&world), request).await;
    if let Some(again) = again {
        let second = again.await.unwrap();
        if second != first {
            world
                .checker()
                .violated(Rule::Unique, || format!("one key, and both {first} and {second} were acknowledged"));
        }
    }
}

async fn submit_keyed(world: Arc<World>, request: TaskRequest) -> TaskId {
    let submit = |engine: Orchestrator| {
        let request = request.clone();
        async move { engine.submit_request(request).await }
    };
    let submitted: Submitted = world.insist(submit, |answer| accepted(&world, answer)).await;
    acknowledged(&world, &submitted).await;
    submitted.task.id
}

/// An answer that is no fault of the way; others than that are violations.
fn accepted<T>(world: &World, answer: Result<T>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            if !error.is_temporary() {
                world.checker().violated(Rule::Consistent, || format!("a request was refused: {}", error.report()));
            }
            None
        }
    }
}

/// A task was promised: it is stored. Some who asked for it go on to cancel it, or to wait for it.
async fn acknowledged(world: &Arc<World>, submitted: &Submitted) {
    let id = submitted.task.id;
    if !world.checker().tasks.contains_key(&id) {
        world.checker().violated(Rule::Kept, || format!("{id} was acknowledged and is not stored"));
    }
    world.note(3, 0, || format!("{} is acknowledged", short(id)));
    match world.draw(|rng| rng.u32(0..8)) {
        0 => cancel(world, id).await,
        1 | 2 => {
            if let Some(Ok(task)) = world.ask(|engine| async move { engine.wait(id, ms(3_000)).await }).await
                && task.state.is_terminal()
                && !world
                    .checker()
                    .tasks
                    .get(&id)
                    .is_some_and(|known| known.generation > 0 || known.task.state == task.state)
            {
                world.checker().violated(Rule::Consistent, || format!("{id} was said to be {}", task.state));
            }
        }
        _ => {}
    }
}

async fn cancel(world: &Arc<World>, id: TaskId) {
    tokio::time::sleep(ms(world.draw(|rng| rng.u64(0..2_000)))).await;
    let cancel = |engine: Orchestrator| async move { engine.cancel(id).await };
    let settled = |answer: Result<Arc<Task>>| match answer {
        Err(error) if error.code() == "task_finished" => Some(false),
        answer => accepted(world, answer).map(|_| true),
    };
    let cancelled = world.insist(cancel, settled).await;
    world.note(4, 0, || format!("{} is cancelled: {cancelled}", short(id)));
    let state = world.checker().tasks[&id].task.state;
    if cancelled && state != TaskState::Cancelled {
        world.checker().violated(Rule::Fenced, || format!("{id} is {state} although its cancel was acknowledged"));
    }
}

/// Tells tasks as many things as their programs may wait for, at any time from their birth on.
pub async fn signal(world: Arc<World>) {
    loop {
        let untold = world.checker().untold();
        for (id, number) in untold {
            tokio::spawn(tell(Arc::clone(&world), id, number));
        }
        tokio::time::sleep(ms(150)).await;
    }
}

async fn tell(world: Arc<World>, id: TaskId, number: u64) {
    tokio::time::sleep(ms(world.draw(|rng| rng.u64(0..800)))).await;
    let key = IdempotencyKey::new("signals", format!("{id}/{number}"), "signal", &Payload::null()).unwrap();
    let tell = |engine: Orchestrator| {
        let key = key.clone();
        async move { engine.signal(id, "go", Payload::of(&number).unwrap(), Some(key)).await }
    };
    let settled = |answer: Result<bool>| match answer {
        Err(error) if error.code() == "task_finished" => Some(()),
        answer => accepted(&world, answer).map(drop),
    };
    world.insist(tell, settled).await;
    world.checker().told(id);
}

/// Decides what nobody else decides: about effects of which nobody knows whether they happened, and about dead letters.
pub async fn decide(world: Arc<World>) {
    loop {
        tokio::time::sleep(ms(200)).await;
        let halted = world.checker().which(is_halted);
        for id in halted {
            let Some(index) = world.checker().tasks.get(&id).and_then(|known| known.undecided()) else { continue };
            let how = match world.draw(|rng| rng.u32(0..4)) {
                0 => Resolution::Fail("by decision".to_owned()),
                1 => Resolution::Outcome(Payload::of(&7).unwrap()),
                _ => Resolution::Retry,
            };
            world.ask(|engine| async move { engine.resolve(id, index, &how, None).await.map(drop) }).await;
        }
    }
}

/// Starts dead letters again, or gives them up, as long as things go wrong.
pub async fn revive(world: Arc<World>) {
    loop {
        tokio::time::sleep(ms(300)).await;
        let dead = world.checker().which(|known| known.task.is_dead_letter() && known.generation < 2);
        for id in dead {
            // What a parent gets of a child that starts again with something else, nobody can foresee.
            let is_root = world.checker().tasks[&id].task.parent_id.is_none();
            let (choice, program) = world.draw(|rng| (rng.u32(0..6), rng.usize(0..world.programs.len())));
            match choice {
                0..3 => {
                    let input = (choice == 0 && is_root).then(|| Payload::of(&program).unwrap());
                    let how = Requeue { input, deadline: None };
                    world.ask(|engine| async move { engine.requeue(id, &how, None).await.map(drop) }).await;
                }
                3 => drop(world.ask(|engine| async move { engine.discard(id, None).await.map(drop) }).await),
                _ => {}
            }
        }
    }
}

/// Begins new tasks with a part of what others have recorded.
pub async fn fork(world: Arc<World>) {
    for _ in 0..world.draw(|rng| rng.u32(0..4)) {
        tokio::time::sleep(ms(world.draw(|rng| rng.u64(200..3_000)))).await;
        let ended = world.checker().which(|known| known.task.state.is_terminal());
        let Some(id) = ended.get(world.draw(|rng| rng.usize(0..ended.len().max(1)))).copied() else { continue };
        let from = world.draw(|rng| rng.u64(0..6));
        let fork = |engine: Orchestrator| async move { engine.fork(id, from, None, None).await };
        if let Some(Ok(submitted)) = world.ask(fork).await {
            acknowledged(&world, &submitted).await;
        }
    }
}

/// Reads the feed with a cursor, through whatever node answers.
pub async fn follow(world: Arc<World>) {
    let mut last = 0;
    loop {
        tokio::time::sleep(ms(400)).await;
        if let Some(Ok(page)) = world.ask(|engine| async move { engine.feed(last, 64).await }).await {
            let numbers: Vec<u64> = page.iter().map(|numbered| numbered.number).collect();
            world.checker().followed(last, &numbers);
            last = numbers.last().copied().unwrap_or(last);
        }
    }
}

/// The schedules of a simulation: the first makes up for all and lets its tasks queue, so that each moment has its task.
pub const SCHEDULES: [&str; 2] = ["all", "other"];

/// Makes the schedules, and stops one of them for a while.
pub async fn schedule(world: Arc<World>) {
    for name in SCHEDULES {
        let (every_ms, other) = world.draw(|rng| (rng.u64(300..3_000), rng.u32(0..3)));
        let program = Payload::of(&0).unwrap();
        let mut schedule = Schedule::new(
            name,
            Timing::Every { every_ms },
            TaskTemplate {
                retry: retry(world.programs[0].attempts),
                ..TaskTemplate::new(world.programs[0].agent, program)
            },
        );
        (schedule.catch_up, schedule.overlap) = match (name, other) {
            ("all", _) => (CatchUp::All, Overlap::Queue),
            (_, 0) => (CatchUp::Last, Overlap::Skip),
            (_, 1) => (CatchUp::None, Overlap::Queue),
            _ => (CatchUp::Last, Overlap::Cancel),
        };
        let put = |engine: Orchestrator, key| {
            let schedule = schedule.clone();
            async move { engine.put_schedule_keyed(schedule, false, Some(key), answer).await }
        };
        change(&world, name, "put", put, |record| record.schedule == schedule).await;
    }
    for (operation, paused) in [("pause", true), ("resume", false)] {
        tokio::time::sleep(ms(world.draw(|rng| rng.u64(0..2_000)))).await;
        let pause = |engine: Orchestrator, key| async move {
            engine.pause_schedule_keyed("other", paused, Some(key), answer).await
        };
        change(&world, "other", operation, pause, |record| record.paused == paused).await;
    }
}

fn answer(record: &ScheduleRecord) -> Result<Payload> {
    Payload::of(&record.schedule.name)
}

/// Asks for a change of a schedule until it is acknowledged: then the schedule `is_so`, and the answer is stored under the key.
async fn change<F>(
    world: &World,
    name: &str,
    operation: &str,
    ask: impl Fn(Orchestrator, IdempotencyKey) -> F,
    is_so: impl Fn(&ScheduleRecord) -> bool,
) where
    F: Future<Output = Result<ScheduleRecord>> + Send + 'static,
{
    let key = IdempotencyKey::new("schedules", format!("{operation} {name}"), operation, &Payload::null()).unwrap();
    // Who asks again is told so.
    let settled = |answer: Result<ScheduleRecord>| match answer {
        Err(error) if ["schedule_exists", "idempotency_conflict"].contains(&error.code()) => Some(()),
        answer => accepted(world, answer).map(drop),
    };
    world.insist(|engine| ask(engine, key.clone()), settled).await;
    let kept = Recalled::Answered(Payload::of(&name).unwrap());
    if now(world.memory.recall(&key)) != kept || !now(world.memory.schedule(name)).is_some_and(|record| is_so(&record))
    {
        let found = || format!("the {operation} of {name} was acknowledged, and is not stored with its answer");
        world.checker().violated(Rule::Kept, found);
    }
}

/// Removes the schedules, and looks whether each moment had its task.
pub async fn unschedule(world: Arc<World>) {
    for name in SCHEDULES {
        let record = now(world.memory.schedule(name));
        let remove = |engine: Orchestrator| async move { engine.remove_schedule(name).await };
        let settled = |answer: Result<()>| match answer {
            Err(error) if error.kind() == ErrorKind::NotFound => Some(()),
            answer => accepted(&world, answer),
        };
        world.insist(remove, settled).await;
        if let Some(record) = record.filter(|record| record.schedule.catch_up == CatchUp::All) {
            world.checker().schedule_ended(&record);
        }
    }
}
