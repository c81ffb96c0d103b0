//! Budgets as clients and tasks meet them.

use std::sync::Arc;

use serde_json::{Value, json};
use sutazai_core::{
    agent::agent_fn,
    clock::SystemClock,
    context::Context,
    memory::{MemoryBudgetStore, MemoryTaskStore, ScriptedChat},
    model::ChatRequest,
    store::TaskStore,
};
use sutazai_llm::gateway::{
    Unobserved,
    budget::{Budget, BudgetConfig, Ledger},
};
use sutazai_server::http::Options;

use crate::{
    models::question,
    server::{Server, server_with},
};

/// A server with a model that these budgets are before, and agents that ask it: `asks`; `delegates`, which lets `asks` ask twice and then asks itself; and
/// `heads`, which lets `delegates` work and then asks itself.
async fn server(model: &Arc<ScriptedChat>, limit: impl FnOnce(&mut BudgetConfig)) -> Server {
    let mut config = BudgetConfig::default();
    limit(&mut config);
    let tasks = Arc::new(MemoryTaskStore::new());
    let families: Arc<dyn TaskStore> = tasks.clone();
    let ledger = Ledger::start(Arc::new(MemoryBudgetStore::new()), Some(families), config, Arc::new(SystemClock));
    let budget = Budget::new(Arc::clone(model) as _, Arc::new(ledger), Arc::new(Unobserved));
    let asks = agent_fn("test.asks", |context: Context, (): ()| async move {
        context.chat(ChatRequest::ask("Your line?")).await?;
        Ok(())
    });
    let delegates = agent_fn("test.delegates", |context: Context, (): ()| async move {
        for _ in 0..2 {
            context.call::<_, ()>("test.asks", &()).await?;
        }
        context.chat(ChatRequest::ask("Your line?")).await?;
        Ok(())
    });
    let heads = agent_fn("test.heads", |context: Context, (): ()| async move {
        context.call::<_, ()>("test.delegates", &()).await?;
        context.chat(ChatRequest::ask("Your line?")).await?;
        Ok(())
    });
    let change = |builder: sutazai_core::engine::OrchestratorBuilder| {
        builder.shared_store(tasks).chat_model(Arc::new(budget)).agent(asks).agent(delegates).agent(heads)
    };
    server_with(Options::default(), change).await
}

#[tokio::test]
async fn a_call_beyond_a_budget_is_answered_with_when_to_come_back() {
    let model = Arc::new(ScriptedChat::new("actor").otherwise("To be."));
    let server = server(&model, |config| config.other_tenants.calls = Some(1)).await;
    server.post("/v1/chat/completions", question(json!({}))).await.expect(200);
    let answer = server.post("/v1/chat/completions", question(json!({}))).await.expect(429);
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=24 * 3_600).contains(&wait), "{wait}");
    let error = answer.json()["error"].take();
    assert_eq!((&error["code"], &error["type"]), (&json!("budget_exceeded"), &json!("insufficient_quota")));
    assert!(error["message"].as_str().unwrap().contains("the budget of tenant default on "), "{error}");
    let ollama = server.post("/api/chat", question(json!({"stream": false}))).await.expect(429);
    assert!(ollama.json()["error"].as_str().unwrap().contains("calls: 0 of 1 are left"), "{}", ollama.text());
    assert_eq!(model.requests().len(), 1);
}

#[tokio::test]
async fn a_task_spends_with_its_children_and_fails_at_the_end_of_its_budget() {
    let model = Arc::new(ScriptedChat::new("actor").otherwise("To be."));
    let server = server(&model, |config| config.task.calls = Some(2)).await;
    let id = server.submit("test.delegates", Value::Null).await;
    let task = server.finished(&id).await;
    assert_eq!((&task["state"], &task["error"]["code"]), (&json!("failed"), &json!("budget_exceeded")), "{task}");
    assert_eq!((&task["attempt"], model.requests().len()), (&json!(1), 2), "trying again would not help");
    assert!(task["error"]["message"].as_str().unwrap().contains(&format!("the budget of task {id}")), "{task}");
    let other = server.submit("test.asks", Value::Null).await;
    assert_eq!(server.finished(&other).await["state"], "completed");
}

#[tokio::test]
async fn grandchildren_spend_what_the_first_of_the_family_may_spend() {
    let model = Arc::new(ScriptedChat::new("actor").otherwise("To be."));
    let server = server(&model, |config| config.task.calls = Some(3)).await;
    let id = server.submit("test.heads", Value::Null).await;
    let task = server.finished(&id).await;
    assert_eq!((&task["state"], &task["error"]["code"]), (&json!("failed"), &json!("budget_exceeded")), "{task}");
    assert!(task["error"]["message"].as_str().unwrap().contains(&format!("the budget of task {id}")), "{task}");
    assert_eq!(model.requests().len(), 3, "two of its grandchildren and one of its child");
}

#[tokio::test]
async fn what_is_more_than_a_day_has_is_not_to_be_asked_for_again_today() {
    let model = Arc::new(ScriptedChat::new("actor").otherwise("To be."));
    let server = server(&model, |config| config.other_tenants.tokens = Some(20)).await;
    let answer = server.post("/v1/chat/completions", question(json!({"max_tokens": 500}))).await.expect(429);
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=24 * 3_600).contains(&wait), "{wait}");
    assert!(answer.text().contains("no call may take so much"), "{}", answer.text());
    assert!(model.requests().is_empty());
}
