//! What was taken from budgets, in the file of the tasks. One connection writes, so what is read in a transaction holds until its end.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::{Arguments, AssertSqlSafe, sqlite::SqliteRow};
use sutazai_core::{
    store::{Account, Amounts, BudgetStore, Day, Draw, Drawn},
    task::TaskId,
};

use super::{
    SqliteStore,
    error::Result,
    read::Readers,
    row::Columns,
    text::{self, MOST, Text},
    write::{alone, arguments, limit, rows, run},
};
use crate::sqlite::writer::{Lease, Writer};

/// Accounts that are looked at together, and forgotten in one transaction, so that writers wait little.
const FORGET: usize = 500;

#[async_trait]
impl BudgetStore for SqliteStore {
    async fn draw(&self, draws: &[Draw], today: Day) -> sutazai_core::Result<Vec<Drawn>> {
        let drawn = draw(&self.writer, draws, today).await.map_err(self.during("draw on budgets"))?;
        self.upkeep.committed();
        Ok(drawn)
    }

    async fn give_back(&self, unused: &[(Account, Amounts)]) -> sutazai_core::Result<()> {
        give_back(&self.writer, unused).await.map_err(self.during("give budgets back"))?;
        self.upkeep.committed();
        Ok(())
    }

    async fn taken(&self, accounts: &[Account]) -> sutazai_core::Result<Vec<Amounts>> {
        self.readers.taken(accounts).await.map_err(self.during("read budgets"))
    }

    async fn forget(&self, before: Day) -> sutazai_core::Result<u64> {
        let forgotten = forget(&self.writer, &self.readers, before).await.map_err(self.during("forget budgets"))?;
        self.upkeep.committed();
        Ok(forgotten)
    }
}

/// A row as it is stored.
struct Row {
    key: String,
    task: Option<TaskId>,
    used: Day,
    taken: Amounts,
}

async fn draw(writer: &Writer, draws: &[Draw], today: Day) -> Result<Vec<Drawn>> {
    let mut drawn = Vec::with_capacity(draws.len());
    for draws in draws.chunks(MOST) {
        let mut lease = writer.lease().await?;
        match draw_some(&mut lease, draws, today).await {
            Ok(some) => drawn.extend(some),
            Err(fault) => {
                lease.roll_back().await;
                return Err(fault);
            }
        }
    }
    Ok(drawn)
}

async fn draw_some(lease: &mut Lease, draws: &[Draw], today: Day) -> Result<Vec<Drawn>> {
    let keys: Vec<String> = draws.iter().map(|draw| draw.account.key()).collect();
    lease.begin().await?;
    let stored = look_up(lease, &keys).await?;
    let (mut drawn, mut changed) = (Vec::with_capacity(draws.len()), Vec::new());
    for (draw, key) in draws.iter().zip(keys) {
        let (taken, used) = stored.get(&key).copied().unwrap_or((Amounts::ZERO, today));
        let outcome = draw.grant(taken);
        if let Drawn::Granted(granted) = outcome
            && !granted.is_zero()
        {
            let task = draw.account.task();
            changed.push(Row { key, task, used: used.max(today), taken: taken.plus(granted) });
        }
        drawn.push(outcome);
    }
    store(lease, &changed).await?;
    Ok(drawn)
}

async fn give_back(writer: &Writer, unused: &[(Account, Amounts)]) -> Result<()> {
    for unused in unused.chunks(MOST) {
        let mut lease = writer.lease().await?;
        if let Err(fault) = give_some_back(&mut lease, unused).await {
            lease.roll_back().await;
            return Err(fault);
        }
    }
    Ok(())
}

async fn give_some_back(lease: &mut Lease, unused: &[(Account, Amounts)]) -> Result<()> {
    let keys: Vec<String> = unused.iter().map(|(account, _)| account.key()).collect();
    lease.begin().await?;
    let stored = look_up(lease, &keys).await?;
    let changed = unused.iter().zip(keys).filter_map(|((account, unused), key)| {
        let (taken, used) = *stored.get(&key)?;
        Some(Row { key, task: account.task(), used, taken: taken.minus(*unused) })
    });
    store(lease, &changed.collect::<Vec<_>>()).await
}

/// What is taken from accounts, and when they were last used.
async fn look_up(lease: &mut Lease, keys: &[String]) -> Result<HashMap<String, (Amounts, Day)>> {
    let (list, arguments) = text::name_list(keys)?;
    rows(lease, AssertSqlSafe(selecting(&list)), arguments).await?.iter().map(decode).collect()
}

fn selecting(list: &str) -> String {
    format!("SELECT account, used_on, tokens, calls, millis, micros FROM budgets WHERE account IN {list}")
}

fn decode(row: &SqliteRow) -> Result<(String, (Amounts, Day))> {
    let mut row = Columns::of(row);
    let (key, used) = (row.get()?, Day::from_number(row.get()?));
    let taken = Amounts { tokens: row.number()?, calls: row.number()?, millis: row.number()?, micros: row.number()? };
    Ok((key, (taken, used)))
}

/// Stores rows and ends the transaction.
async fn store(lease: &mut Lease, changed: &[Row]) -> Result<()> {
    if changed.is_empty() {
        lease.roll_back().await;
        return Ok(());
    }
    let mut text = Text::new();
    let insert = "INSERT OR REPLACE INTO budgets (account, task_id, used_on, tokens, calls, millis, micros)";
    text.rows(insert, 7, changed, |row, Row { key, task, used, taken }| {
        row.add(key.as_str())?;
        row.add(task.as_ref().map(|id| &id.as_bytes()[..]))?;
        row.add(used.number())?;
        [taken.tokens, taken.calls, taken.millis, taken.micros].into_iter().try_for_each(|amount| row.add(kept(amount)))
    })?;
    run(lease, vec![text.end()]).await?;
    Ok(lease.commit().await?)
}

/// An amount as the file keeps it.
fn kept(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// Goes through all that were not used for long, page by page: those that stay are looked at once.
async fn forget(writer: &Writer, readers: &Readers, before: Day) -> Result<u64> {
    let (mut forgotten, mut last) = (0, (i64::MIN, String::new()));
    loop {
        let arguments = arguments(|arguments| {
            arguments.add(before.number())?;
            arguments.add(last.0)?;
            arguments.add(last.1.as_str())?;
            arguments.add(limit(FORGET))
        })?;
        let page = readers.long_rows(OLD, arguments).await?;
        let mut gone = Vec::with_capacity(page.len());
        for row in &page {
            let mut row = Columns::of(row);
            last = (row.get()?, row.get()?);
            if row.get::<i64>()? != 0 {
                gone.push(last.1.clone());
            }
        }
        forgotten += forget_some(writer, &gone, before).await?;
        if page.len() < FORGET {
            return Ok(forgotten);
        }
    }
}

/// The next accounts that were not used for long, and whether they are not those of stored tasks.
const OLD: &str = "SELECT b.used_on, b.account, NOT EXISTS (SELECT 1 FROM tasks AS t INDEXED BY tasks_id WHERE t.id = b.task_id) \
    FROM budgets AS b INDEXED BY budgets_used WHERE b.used_on < ?1 AND (b.used_on, b.account) > (?2, ?3) ORDER BY b.used_on, b.account LIMIT ?4";

/// Forgets these, unless they were used meanwhile.
async fn forget_some(writer: &Writer, keys: &[String], before: Day) -> Result<u64> {
    if keys.is_empty() {
        return Ok(0);
    }
    let arguments = arguments(|arguments| {
        arguments.add(before.number())?;
        keys.iter().try_for_each(|key| arguments.add(key.as_str()))
    })?;
    let list = text::placeholders(keys.len().next_power_of_two(), 1);
    let sql = format!("DELETE FROM budgets WHERE +used_on < ? AND account IN {list} RETURNING 1");
    Ok(alone(writer, AssertSqlSafe(sql), arguments).await?.len() as u64)
}

impl Readers {
    async fn taken(&self, accounts: &[Account]) -> Result<Vec<Amounts>> {
        let keys: Vec<String> = accounts.iter().map(Account::key).collect();
        let mut stored = HashMap::with_capacity(keys.len());
        for keys in keys.chunks(MOST) {
            let (list, arguments) = text::name_list(keys)?;
            for row in self.rows(AssertSqlSafe(selecting(&list)), arguments).await? {
                let (key, (taken, _)) = decode(&row)?;
                stored.insert(key, taken);
            }
        }
        Ok(keys.iter().map(|key| stored.get(key).copied().unwrap_or_default()).collect())
    }
}
