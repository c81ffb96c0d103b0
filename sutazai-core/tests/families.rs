//! Children end with their parents, whoever ends them and whenever it goes away, in virtual time.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use kit::{BEGINNING, Virtual};
use sutazai_core::{
    clock::{Clock, SystemClock},
    engine::{self, Command},
    memory::{HashedEmbedding, MemoryTaskStore},
    model::{Caller, EmbeddingModel, Embeddings, ModelInfo},
    prelude::*,
    store::{TaskStore, TaskWrite, WriteOutcome},
    task::TaskId,
};

#[tokio::test(start_paused = true)]
async fn a_child_that_a_crash_left_behind_is_ended() {
    let (clock, store) = (Virtual::new(), Arc::new(MemoryTaskStore::new()));
    let insert = async |number: u8, parent: Option<TaskId>, detached: bool, command: Option<Command>| {
        let mut request = TaskRequest::new("elsewhere", Payload::null());
        (request.parent_id, request.detached) = (parent, detached);
        let id = TaskId::from_bytes([number; 16]);
        let mut step = engine::create(id, "elsewhere".into(), "1.0.0".into(), request, BEGINNING);
        command.into_iter().for_each(|command| step.apply(command, BEGINNING).unwrap());
        let write = TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key: None, journal: None };
        assert_eq!(store.write(&[write]).await.unwrap(), [WriteOutcome::Applied]);
        id
    };
    let parent = insert(1, None, false, Some(Command::Cancel)).await;
    let child = insert(2, Some(parent), false, None).await;
    let grandchild = insert(3, Some(child), false, None).await;
    let detached = insert(4, Some(parent), true, None).await;
    let gone = insert(5, Some(TaskId::from_bytes([9; 16])), false, None).await;
    let agent = agent_fn("other", |_context, (): ()| async move { Ok(()) });
    let engine = Orchestrator::builder().agent(agent).clock(clock).shared_store(store.clone()).start().await.unwrap();
    for id in [child, grandchild, gone] {
        let task = engine.wait(id, Duration::from_secs(120)).await.unwrap();
        assert_eq!(task.state, TaskState::Cancelled);
    }
    assert_eq!(engine.task(detached).await.unwrap().state, TaskState::Created);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_task_that_waits_ends_its_children_at_once() {
    let clock = Virtual::new();
    let sleep = agent_fn("sleep", |context: Context, ms: u64| async move {
        context.sleep(Duration::from_millis(ms)).await;
        Ok(())
    });
    let parent = agent_fn("parent", |context: Context, (): ()| async move {
        for _ in 0..3 {
            context.spawn::<_, ()>("sleep", &3_600_000).await?;
        }
        context.call::<_, ()>("sleep", &3_600_000).await
    });
    let engine = Orchestrator::builder().agent(sleep).agent(parent).clock(clock.clone()).start().await.unwrap();
    let request = TaskRequest::new("parent", Payload::null()).deadline(clock.now().plus(Duration::from_secs(1)));
    let id = engine.submit_request(request).await.unwrap().task.id;
    let task = engine.wait(id, Duration::from_secs(60)).await.unwrap();
    assert_eq!(task.error.as_ref().map(|error| &*error.code), Some("deadline_exceeded"), "{task:?}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let query = sutazai_core::store::TaskQuery { parent: Some(id), limit: 9, ..Default::default() };
    let children = engine.tasks(query).await.unwrap().items;
    let ended = children.iter().filter(|child| child.state.is_terminal()).count();
    assert_eq!((children.len(), ended), (4, 4), "{children:?}");
}

#[tokio::test]
async fn a_model_is_told_which_task_asks_and_which_one_called_for_that() {
    type Ids = [Option<String>; 2];
    let ids = |context: &Context| -> Ids {
        let caller = context.caller();
        [caller.task, caller.parent].map(|id| id.map(|id| id.to_string()))
    };
    let child = agent_fn("child", move |context: Context, (): ()| async move { Ok(ids(&context)) });
    let parent = agent_fn("parent", move |context: Context, (): ()| async move {
        let child: Ids = context.call("child", &()).await?;
        Ok([ids(&context), child])
    });
    let engine = Orchestrator::builder().agent(child).agent(parent).start().await.unwrap();
    let handle = engine.submit("parent", &()).await.unwrap();
    let id = Some(handle.id().to_string());
    let [parent, child]: [Ids; 2] = handle.output().await.unwrap();
    assert_eq!(parent, [id.clone(), None]);
    assert!(child[0].is_some() && child[0] != id && child[1] == id, "{child:?}");
}

/// An embedding model that notes who asks it.
struct Asked(HashedEmbedding, Mutex<Vec<Caller>>);

#[async_trait::async_trait]
impl EmbeddingModel for Asked {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    async fn ready(&self) -> sutazai_core::Result<()> {
        self.0.ready().await
    }

    async fn embed(&self, texts: &[String]) -> sutazai_core::Result<Embeddings> {
        self.embed_for(&Caller::default(), texts).await
    }

    async fn embed_for(&self, caller: &Caller, texts: &[String]) -> sutazai_core::Result<Embeddings> {
        self.1.lock().unwrap().push(caller.clone());
        self.0.embed(texts).await
    }
}

#[tokio::test]
async fn an_embedding_model_is_told_who_asks() {
    let model = Arc::new(Asked(HashedEmbedding::new(4), Mutex::default()));
    let agent = agent_fn("reader", |context: Context, (): ()| async move {
        context.embed(&["text".to_owned()]).await?;
        Ok(())
    });
    let engine = Orchestrator::builder().agent(agent).embedding_model(model.clone()).start().await.unwrap();
    let deadline = SystemClock.now().plus(Duration::from_secs(3_600));
    let request = TaskRequest::new("reader", Payload::null()).priority(Priority::MAX).deadline(deadline);
    let id = engine.submit_request(request).await.unwrap().task.id;
    assert_eq!(engine.wait(id, Duration::from_secs(60)).await.unwrap().state, TaskState::Completed);
    let asked = model.1.lock().unwrap().clone();
    let [caller] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((caller.task, caller.agent.as_deref()), (Some(id), Some("reader")));
    assert_eq!((caller.tenant(), caller.priority, caller.deadline), ("default", Priority::MAX, Some(deadline)));
}
