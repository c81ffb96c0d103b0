//! Grants tasks, by the policy that all stores share.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use sqlx::postgres::PgRow;
use sutazai_core::{
    engine::{self, Ask, Candidate, ClaimPolicy, Command, Head, Rate, Running, Selection},
    store::{Claim, Granted, TaskWrite},
    task::{Priority, Task, TaskId, TaskState},
};

use super::{
    error::Result,
    order::BASE,
    pool::{Lease, safe},
    row::{Columns, TASK, WIDTH, decode_task},
    statement::store,
    text::{Column, Fill, Kind, Table, Text, escaped},
};
use crate::task::shared::plan::plan;

/// The first of each sub-queue, by steps from one to the next over the index.
const HEADS: &str = "WITH RECURSIVE head AS (\
     SELECT q.queue, h.priority, h.tenant, h.due_at FROM unnest($1::text[]) AS q(queue) CROSS JOIN LATERAL \
     (SELECT t.priority, t.tenant, t.due_at FROM tasks AS t WHERE t.state IN ('created', 'waiting') AND t.queue = q.queue \
     ORDER BY t.priority, t.tenant, t.due_at, t.id LIMIT 1) AS h \
     UNION ALL \
     SELECT p.queue, h.priority, h.tenant, h.due_at FROM head AS p CROSS JOIN LATERAL \
     (SELECT t.priority, t.tenant, t.due_at FROM tasks AS t WHERE t.state IN ('created', 'waiting') AND t.queue = p.queue \
     AND (t.priority, t.tenant) > (p.priority, p.tenant) ORDER BY t.priority, t.tenant, t.due_at, t.id LIMIT 1) AS h\
     ) SELECT queue, priority, tenant, due_at FROM head WHERE due_at <= $2";

/// Held until the commit by whoever claims under limits, so that what runs and what the rates remember stays as it was read.
const TURN: &str = "SELECT pg_advisory_xact_lock(hashtextextended('sutazai claims ' || current_schema(), 0))";

const ASKS: [Column; 8] = [
    ("nth", Kind::Int, Fill::Own),
    ("queue", Kind::Text, Fill::Own),
    ("priority", Kind::Int, Fill::Own),
    ("tenant", Kind::Text, Fill::Own),
    ("due_by", Kind::Int, Fill::Own),
    ("most", Kind::Int, Fill::Own),
    ("after_due", Kind::Int, Fill::Own),
    ("after_id", Kind::Id, Fill::Own),
];

const RATES: [Column; 2] = [("agent", Kind::Text, Fill::Own), ("tat", Kind::Int, Fill::Own)];

pub(super) async fn claim(lease: &mut Lease, schema: &str, claim: &Claim) -> Result<Granted> {
    if claim.limit == 0 || claim.policy.queues.is_empty() {
        return Ok(Granted::default());
    }
    // Most looks find nothing: these cost no transaction.
    let heads = heads(lease, claim).await?;
    if heads.is_empty() {
        return Ok(Granted::default());
    }
    lease.begin().await?;
    match claim_under(lease, schema, claim, heads).await {
        Ok(granted) => {
            lease.commit().await?;
            Ok(granted)
        }
        Err(fault) => {
            lease.roll_back().await;
            Err(fault)
        }
    }
}

/// What limits there are on what can be granted.
struct Limits {
    concurrency: bool,
    rates: bool,
}

impl Limits {
    /// Those of the queues and tenants that have something to grant: others do not matter now.
    fn of(policy: &ClaimPolicy, heads: &[Head]) -> Self {
        let rules = || heads.iter().filter_map(|head| policy.queues.get(&head.queue));
        let tenants = heads.iter().any(|head| policy.tenant(&head.tenant).concurrency.is_some());
        Self {
            concurrency: tenants || rules().any(|rule| rule.concurrency.is_some()),
            rates: rules().any(|rule| rule.rate.is_some()),
        }
    }
}

async fn claim_under(lease: &mut Lease, schema: &str, claim: &Claim, heads: Vec<Head>) -> Result<Granted> {
    let (mut running_now, mut rates_now) = (Vec::new(), Vec::new());
    let limits = Limits::of(&claim.policy, &heads);
    if limits.concurrency || limits.rates {
        lease.rows(TURN, Text::default().arguments).await?;
        if limits.concurrency {
            running_now = running(lease).await?;
        }
        if limits.rates {
            rates_now = rates(lease, &claim.policy, &heads).await?;
        }
    }
    let mut selection = Selection::new(&claim.policy, claim.now, claim.limit, heads, &running_now, &rates_now);
    let mut found: HashMap<TaskId, Task> = HashMap::new();
    loop {
        let asks = selection.asks();
        if asks.is_empty() {
            break;
        }
        for (ask, tasks) in answer(lease, &asks).await?.into_iter().enumerate() {
            let candidates = tasks.iter().map(|task| Candidate { due_at: task.due_at, id: task.id }).collect();
            selection.offer(ask, candidates);
            found.extend(tasks.into_iter().map(|task| (task.id, task)));
        }
    }
    let selected = selection.finish();
    let mut from_created = 0;
    let mut batch = Vec::with_capacity(selected.picks.len());
    for task in selected.picks.iter().filter_map(|id| found.get(id)) {
        if let Ok(step) = engine::apply(task, Command::Claim { node: claim.node.clone() }, claim.now) {
            from_created += usize::from(task.state == TaskState::Created);
            let task_after = Arc::new(step.task);
            batch.push(TaskWrite::Update {
                task: task_after,
                expected: task.revision,
                events: step.events,
                entries: Vec::new(),
                key: None,
            });
        }
    }
    if let Some((sql, arguments)) = store(&plan(&batch, None), true, schema)? {
        lease.rows(sql, arguments).await?;
    }
    keep_rates(lease, &selected.rates).await?;
    let tasks = batch.iter().filter_map(TaskWrite::image).map(|task| Task::clone(task)).collect();
    Ok(Granted { tasks, from_created, again_at: selected.again_at, held_back: selected.held_back })
}

async fn heads(lease: &mut Lease, claim: &Claim) -> Result<Vec<Head>> {
    let mut text = Text::default();
    text.add(claim.policy.queues.keys().map(|queue| escaped(queue)).collect::<Vec<_>>())?;
    text.add(claim.now.as_millis())?;
    lease.rows(HEADS, text.arguments).await?.iter().map(head).collect()
}

fn head(row: &PgRow) -> Result<Head> {
    let mut row = Columns::of(row);
    let queue = row.shared()?;
    let priority = u8::try_from(row.get::<i16>()?).ok().and_then(Priority::new).unwrap_or_default();
    Ok(Head { queue, priority, tenant: row.shared()?, due_at: row.time()? })
}

async fn running(lease: &mut Lease) -> Result<Vec<Running>> {
    let sql = "SELECT agent, tenant, count(*) FROM tasks WHERE node IS NOT NULL GROUP BY agent, tenant";
    let running = |row: &PgRow| {
        let mut row = Columns::of(row);
        Ok(Running { agent: row.shared()?, tenant: row.shared()?, count: row.number()? })
    };
    lease.rows(sql, Text::default().arguments).await?.iter().map(running).collect()
}

async fn rates(lease: &mut Lease, policy: &ClaimPolicy, heads: &[Head]) -> Result<Vec<Rate>> {
    let limited = heads.iter().filter_map(|head| policy.queues.get(&head.queue)).filter(|rule| rule.rate.is_some());
    let agents: BTreeSet<_> = limited.map(|rule| escaped(&rule.agent)).collect();
    let agents: Vec<_> = agents.into_iter().collect();
    let mut text = Text::default();
    text.add(agents)?;
    let rate = |row: &PgRow| {
        let mut row = Columns::of(row);
        Ok(Rate { agent: row.shared()?, tat: row.get()? })
    };
    lease.rows("SELECT agent, tat FROM rates WHERE agent = ANY($1)", text.arguments).await?.iter().map(rate).collect()
}

async fn keep_rates(lease: &mut Lease, rates: &[Rate]) -> Result<()> {
    if rates.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&RATES, rates.len());
    for rate in rates {
        table.text(&*rate.agent);
        table.int(rate.tat);
    }
    let mut text = Text::default();
    text.sql.push_str("INSERT INTO rates (agent, tat) SELECT v.agent, v.tat FROM ");
    table.source(&mut text)?;
    text.sql.push_str(" ON CONFLICT (agent) DO UPDATE SET tat = excluded.tat");
    lease.rows(safe(text.sql), text.arguments).await.map(|_| ())
}

/// What each ask asks for, locked; what others hold is passed over.
async fn answer(lease: &mut Lease, asks: &[Ask]) -> Result<Vec<Vec<Task>>> {
    let mut table = Table::new(&ASKS, asks.len());
    for (nth, ask) in asks.iter().enumerate() {
        table.int(super::text::limit(nth));
        table.text(&*ask.queue);
        table.int(i64::from(ask.priority.get()));
        table.text(&*ask.tenant);
        table.time(ask.due_by);
        table.int(super::text::limit(ask.limit));
        table.int(ask.after.map_or(i64::MIN, |(due_at, _)| due_at.as_millis()));
        table.id(ask.after.map_or(TaskId::from_bytes([0; 16]), |(_, id)| id));
    }
    let mut text = Text::default();
    text.sql.push_str(&format!("SELECT {TASK}, v.nth, t.feed <= {BASE} FROM "));
    table.source(&mut text)?;
    text.sql.push_str(
        " CROSS JOIN LATERAL (SELECT * FROM tasks AS c WHERE c.state IN ('created', 'waiting') AND c.queue = v.queue AND c.priority = v.priority \
         AND c.tenant = v.tenant AND c.due_at <= v.due_by AND (c.due_at, c.id) > (v.after_due, v.after_id) \
         ORDER BY c.due_at, c.id LIMIT v.most FOR UPDATE SKIP LOCKED) AS t",
    );
    let mut answers: Vec<Vec<Task>> = asks.iter().map(|_| Vec::new()).collect();
    for row in lease.rows(safe(text.sql), text.arguments).await? {
        let mut more = Columns::from(&row, WIDTH);
        let nth: usize = more.number()?;
        // A transaction with a greater number has written this task while this one was under way: what happens to it now would come before that in the
        // feed. The next claim takes it.
        let in_order: bool = more.get()?;
        if let Some(answer) = answers.get_mut(nth).filter(|_| in_order) {
            answer.push(decode_task(&row)?);
        }
    }
    for answer in &mut answers {
        answer.sort_unstable_by_key(|task| (task.due_at, task.id));
    }
    Ok(answers)
}
