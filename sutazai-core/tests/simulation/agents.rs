//! The agents: they run programs and show each effect to the checker.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, FutureExt};
use sutazai_core::{
    agent::AgentLimits,
    context::{Child, Context},
    prelude::*,
};

use crate::{
    life::Life,
    program::{AGENTS, Kind, Op, fold, ms, value},
    world::World,
};

/// How many tasks of the agent `limited` may run at once, in the whole store.
pub const LIMIT: u32 = 2;

/// How the steps of a program try again by themselves.
const TRIES: RetryPolicy = RetryPolicy { max_attempts: 3, initial_ms: 5, max_ms: 20 };

/// All agents as one life of a node has them.
pub fn agents(world: &Arc<World>, life: &Arc<Life>) -> Vec<Arc<dyn Agent>> {
    let agent = |name: &str| {
        let descriptor =
            AgentDescriptor::new(name).effects(if name == "pure" { Effects::None } else { Effects::Keyed });
        let descriptor = match name {
            "limited" => descriptor.limits(AgentLimits { concurrency: Some(LIMIT), per_minute: None }),
            "rated" => descriptor.limits(AgentLimits { concurrency: None, per_minute: Some(600) }),
            _ => descriptor,
        };
        Arc::new(Interpreter { descriptor, world: Arc::clone(world), life: Arc::clone(life) }) as Arc<dyn Agent>
    };
    AGENTS.map(agent).into()
}

struct Interpreter {
    descriptor: AgentDescriptor,
    world: Arc<World>,
    life: Arc<Life>,
}

#[async_trait]
impl Agent for Interpreter {
    fn descriptor(&self) -> &AgentDescriptor {
        &self.descriptor
    }

    fn check(&self, input: &Payload) -> Result<()> {
        input.read::<usize>().map(drop)
    }

    async fn run(&self, context: Context, input: Payload) -> Result<Payload, AgentError> {
        let program: usize = input.read()?;
        let output = self.ops(context, &self.world.programs[program].ops).await?;
        Ok(Payload::of(&output)?)
    }
}

impl Interpreter {
    fn ops<'a>(&'a self, context: Context, ops: &'a [Op]) -> BoxFuture<'a, Result<u64, AgentError>> {
        async move {
            let mut values: Vec<Vec<u64>> = Vec::with_capacity(ops.len());
            let mut spawned: Option<(usize, Child<u64>)> = None;
            for (place, op) in ops.iter().enumerate() {
                let found = match op {
                    Op::Spawn { program, detached } => {
                        let child = self.spawn(&context, *program, *detached).await?;
                        if !detached && let Some((before, child)) = spawned.replace((place, child)) {
                            values[before] = vec![child.result().await?];
                        }
                        Vec::new()
                    }
                    other => self.op(&context, other).await?,
                };
                values.push(found);
                if let Some((before, child)) = spawned.take_if(|(before, _)| *before < place) {
                    values[before] = vec![child.result().await?];
                }
            }
            if let Some((before, child)) = spawned {
                values[before] = vec![child.result().await?];
            }
            Ok(values.into_iter().flatten().fold(0, fold))
        }
        .boxed()
    }

    async fn op(&self, context: &Context, op: &Op) -> Result<Vec<u64>, AgentError> {
        Ok(match op {
            Op::Step { name, work, fails, caught, kind } => {
                let fails = context.attempt() <= *fails;
                match self.step(context, *name, *work, fails, *kind).await {
                    Err(error) if *caught && error.task_error().code == "planned" => vec![0],
                    result => vec![result?],
                }
            }
            Op::Repeat { name, times } => {
                let mut values = Vec::new();
                for n in 0..*times {
                    let step = context.step(format!("s{name}"), || self.effect(context, *name, n, 0, None));
                    values.push(step.await?);
                }
                values
            }
            Op::Sleep { ms: millis } => {
                context.sleep(ms(*millis)).await;
                Vec::new()
            }
            Op::Wait { limit } => {
                let signal: Option<u64> = context.wait_for("go", limit.map(ms)).await?;
                vec![signal.unwrap_or(0)]
            }
            Op::Call { program } => {
                let child = self.spawn(context, *program, false).await?;
                vec![child.result().await?]
            }
            Op::Join(branches) => {
                let branches = branches.iter().map(|ops| move |branch: Context| self.ops(branch, ops));
                let results = context.join_all(branches).await;
                results.into_iter().collect::<Result<Vec<u64>, AgentError>>()?
            }
            Op::Race(branches) => {
                let branches = branches.iter().map(|ops| move |branch: Context| self.ops(branch, ops));
                vec![context.race(branches).await.1?]
            }
            Op::Draw { name } => {
                let drawn = (context.random().await, context.now().await.as_millis());
                let step = context.step(format!("s{name}"), || async {
                    self.effect(context, *name, 0, 0, None).await?;
                    Ok(drawn)
                });
                let seen: (u64, i64) = step.await?;
                if seen != drawn {
                    let message = format!("{drawn:?} were {seen:?} before");
                    return Err(AgentError::permanent("replay_differs", message));
                }
                Vec::new()
            }
            Op::Progress => {
                context.progress(Some(0.5), "half");
                Vec::new()
            }
            Op::Patched => {
                if !context.patched("p").await {
                    return Err(AgentError::permanent("not_patched", "this code was never another"));
                }
                Vec::new()
            }
            Op::Fail => return Err(AgentError::permanent("planned", "by the plan")),
            Op::Continue { program } => context.continue_as_new(program).await?,
            Op::Spawn { .. } => Vec::new(),
        })
    }

    async fn step(&self, context: &Context, name: u32, work: u64, fails: bool, kind: Kind) -> Result<u64, AgentError> {
        let mut runs = 0;
        let mut run = |key: Option<String>| {
            runs += 1;
            let fails = fails || (kind == Kind::Retried && runs == 1);
            async move {
                let value = self.effect(context, name, 0, work, key).await?;
                if fails { Err(AgentError::temporary("planned", "by the plan")) } else { Ok(value) }
            }
        };
        let title = format!("s{name}");
        match kind {
            Kind::Plain => context.step(title, || run(None)).await,
            Kind::Keyed => context.keyed_step(title, |key| run(Some(key))).await,
            Kind::Destructive => context.step(title, || run(None)).destructive().await,
            Kind::Retried => context.step(title, || run(None)).retry(TRIES).await,
        }
    }

    /// Something that the world outside sees.
    async fn effect(
        &self,
        context: &Context,
        name: u32,
        occurrence: u32,
        work: u64,
        key: Option<String>,
    ) -> Result<u64, AgentError> {
        let frozen = self.life.goes_on().await;
        let task = context.task();
        self.world.dies_in_effect(&self.life, false).await;
        let _busy = self.world.effect(&self.life, task, name, occurrence, key, frozen);
        if work > 0 {
            tokio::time::sleep(ms(work)).await;
        } else {
            self.world.breathe().await;
        }
        self.world.dies_in_effect(&self.life, true).await;
        self.life.goes_on().await;
        Ok(value(name, occurrence))
    }

    async fn spawn(&self, context: &Context, program: usize, detached: bool) -> Result<Child<u64>, AgentError> {
        let called = &self.world.programs[program];
        let mut request = TaskRequest::new(called.agent, Payload::of(&program)?).retry(retry(called.attempts));
        request.detached = detached;
        context.spawn_request(request).await
    }
}

/// How tasks of a simulation are tried again.
pub fn retry(attempts: u32) -> RetryPolicy {
    RetryPolicy { max_attempts: attempts, initial_ms: 50, max_ms: 400 }
}
