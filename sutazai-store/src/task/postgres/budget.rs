//! What was taken from budgets. A draw is one statement: each row is changed under its lock, from what is then in it.

use std::{collections::HashMap, sync::LazyLock};

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sutazai_core::store::{Account, Amounts, BudgetStore, Day, Draw, Drawn};

use super::{
    PostgresStore,
    error::Result,
    pool::{Lease, Purpose, safe},
    row::Columns,
    text::{Column, Fill, Kind, Table, Text, escaped, limit},
};

/// Accounts in one statement at most.
const MOST: usize = 200;

/// Accounts that are looked at together, and forgotten by one statement.
const FORGET: usize = 500;

/// The order in which every statement takes the locks of accounts. By bytes, as the column is sorted: what a statement brings along has the collation of
/// the database otherwise, and two that lock in different orders could wait for each other.
const IN_ORDER: &str = "account COLLATE \"C\"";

/// The columns of what is counted, in the order of [`Amounts`].
const MEASURES: [&str; 4] = ["tokens", "calls", "millis", "micros"];

#[async_trait]
impl BudgetStore for PostgresStore {
    async fn draw(&self, draws: &[Draw], today: Day) -> sutazai_core::Result<Vec<Drawn>> {
        let mut drawn = Vec::with_capacity(draws.len());
        for draws in draws.chunks(MOST) {
            let some =
                self.change("draw on budgets", |mut lease| async move { draw(&mut lease, draws, today).await }).await?;
            drawn.extend(some);
        }
        Ok(drawn)
    }

    async fn give_back(&self, unused: &[(Account, Amounts)]) -> sutazai_core::Result<()> {
        for unused in unused.chunks(MOST) {
            self.change("give budgets back", |mut lease| async move { give_back(&mut lease, unused).await }).await?;
        }
        Ok(())
    }

    async fn taken(&self, accounts: &[Account]) -> sutazai_core::Result<Vec<Amounts>> {
        let keys: Vec<String> = accounts.iter().map(Account::key).collect();
        let keys = keys.as_slice();
        let taken = self.ask(Purpose::Look, "read budgets", |mut lease| async move { taken(&mut lease, keys).await });
        let taken = taken.await?;
        Ok(keys.iter().map(|key| taken.get(key).copied().unwrap_or_default()).collect())
    }

    async fn forget(&self, before: Day) -> sutazai_core::Result<u64> {
        self.ask(Purpose::Search, "forget budgets", |mut lease| async move { forget(&mut lease, before).await }).await
    }
}

/// An amount as the database keeps it.
fn kept(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

fn each(amounts: Amounts) -> [i64; 4] {
    [amounts.tokens, amounts.calls, amounts.millis, amounts.micros].map(kept)
}

/// The account, and its amounts behind it.
fn decode(row: &PgRow) -> Result<(String, Amounts)> {
    let mut row = Columns::of(row);
    let key = row.text()?;
    Ok((key, Amounts { tokens: row.count()?, calls: row.count()?, millis: row.count()?, micros: row.count()? }))
}

/// A draw as a row: of each measure what is wanted, the least, and up to where it goes.
const DRAWS: [Column; 14] = [
    ("account", Kind::Text, Fill::Own),
    ("task_id", Kind::Id, Fill::Own),
    ("tokens", Kind::Int, Fill::Own),
    ("calls", Kind::Int, Fill::Own),
    ("millis", Kind::Int, Fill::Own),
    ("micros", Kind::Int, Fill::Own),
    ("least_tokens", Kind::Int, Fill::Own),
    ("least_calls", Kind::Int, Fill::Own),
    ("least_millis", Kind::Int, Fill::Own),
    ("least_micros", Kind::Int, Fill::Own),
    ("end_tokens", Kind::Int, Fill::Own),
    ("end_calls", Kind::Int, Fill::Own),
    ("end_millis", Kind::Int, Fill::Own),
    ("end_micros", Kind::Int, Fill::Own),
];

/// `write` for each measure, with `between` between them.
fn measures(between: &str, write: impl Fn(&str) -> String) -> String {
    MEASURES.map(write).join(between)
}

/// What follows the rows `v` and the day: takes as much as is wanted or left, if that is enough, and says what was granted. In order of the accounts, so
/// that no two statements wait for each other.
static DRAW: LazyLock<String> = LazyLock::new(|| {
    let columns = format!("{}, {}", MEASURES.join(", "), measures(", ", |m| format!("granted_{m}")));
    let first = measures(", ", |m| format!("least(v.{m}, v.end_{m})"));
    let enough_at_first = measures(" AND ", |m| format!("v.least_{m} <= v.end_{m}"));
    let left = |m: &str| format!("greatest(v.end_{m} - b.{m}, 0)");
    let granted = measures(", ", |m| format!("least(v.{m}, {}) AS {m}", left(m)));
    let sums = measures(", ", |m| format!("b.{m} + g.{m}"));
    let grants = measures(", ", |m| format!("g.{m}"));
    let enough = measures(" AND ", |m| format!("v.least_{m} <= {}", left(m)));
    let shown = measures(", ", |m| format!("granted_{m}"));
    format!(
        " SELECT v.account, v.task_id, day.today, {first}, {first} FROM v CROSS JOIN day WHERE {enough_at_first} ORDER BY v.{IN_ORDER} \
         ON CONFLICT (account) DO UPDATE SET used_on = greatest(b.used_on, excluded.used_on), \
         ({columns}) = (SELECT {sums}, {grants} FROM v CROSS JOIN LATERAL (SELECT {granted}) AS g WHERE v.account = b.account) \
         WHERE EXISTS (SELECT 1 FROM v WHERE v.account = b.account AND {enough}) RETURNING account, {shown}"
    )
});

static DRAW_INTO: LazyLock<String> = LazyLock::new(|| {
    let granted = measures(", ", |m| format!("granted_{m}"));
    format!("INSERT INTO budgets AS b (account, task_id, used_on, {}, {granted})", MEASURES.join(", "))
});

async fn draw(lease: &mut Lease, draws: &[Draw], today: Day) -> Result<Vec<Drawn>> {
    let keys: Vec<String> = draws.iter().map(|draw| draw.account.key()).collect();
    let mut table = Table::new(&DRAWS, draws.len());
    for (draw, key) in draws.iter().zip(&keys) {
        table.text(key.as_str());
        table.id(draw.account.task());
        for amounts in [draw.wanted.max(draw.least), draw.least, draw.limits.ends()] {
            each(amounts).into_iter().for_each(|amount| table.int(amount));
        }
    }
    let mut text = Text::default();
    text.sql.push_str("WITH v AS MATERIALIZED (SELECT * FROM ");
    table.source(&mut text)?;
    let place = text.add(today.number())?;
    text.sql.push_str(&format!("), day AS (SELECT ${place}::int8 AS today) {}{}", *DRAW_INTO, *DRAW));
    let granted = lease.rows(safe(text.sql), text.arguments).await?;
    let granted = granted.iter().map(decode).collect::<Result<HashMap<_, _>>>()?;
    let refused: Vec<String> = keys.iter().filter(|key| !granted.contains_key(*key)).cloned().collect();
    let taken = if refused.is_empty() { HashMap::new() } else { taken(lease, &refused).await? };
    let drawn = keys.iter().map(|key| match granted.get(key) {
        Some(granted) => Drawn::Granted(*granted),
        None => Drawn::Refused { taken: taken.get(key).copied().unwrap_or_default() },
    });
    Ok(drawn.collect())
}

const AMOUNTS: [Column; 5] = [
    ("account", Kind::Text, Fill::Own),
    ("tokens", Kind::Int, Fill::Own),
    ("calls", Kind::Int, Fill::Own),
    ("millis", Kind::Int, Fill::Own),
    ("micros", Kind::Int, Fill::Own),
];

async fn give_back(lease: &mut Lease, unused: &[(Account, Amounts)]) -> Result<()> {
    let keys: Vec<String> = unused.iter().map(|(account, _)| account.key()).collect();
    let mut table = Table::new(&AMOUNTS, unused.len());
    for (key, (_, amounts)) in keys.iter().zip(unused) {
        table.text(key.as_str());
        each(*amounts).into_iter().for_each(|amount| table.int(amount));
    }
    let mut text = Text::default();
    text.sql.push_str("WITH v AS MATERIALIZED (SELECT * FROM ");
    table.source(&mut text)?;
    let less = measures(", ", |m| format!("{m} = greatest(b.{m} - v.{m}, 0)"));
    // Locked in order of the accounts, as draws are.
    text.sql.push_str(&format!(
        "), own AS MATERIALIZED (SELECT b.account FROM budgets AS b JOIN v ON v.account = b.account ORDER BY b.{IN_ORDER} FOR UPDATE OF b) \
         UPDATE budgets AS b SET {less} FROM own JOIN v ON v.account = own.account WHERE b.account = own.account"
    ));
    lease.rows(safe(text.sql), text.arguments).await.map(|_| ())
}

/// What is taken from accounts, as far as somebody drew on them.
async fn taken(lease: &mut Lease, keys: &[String]) -> Result<HashMap<String, Amounts>> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let mut text = Text::default();
    text.add(keys.iter().map(|key| escaped(key).into_owned()).collect::<Vec<_>>())?;
    let sql = "SELECT account, tokens, calls, millis, micros FROM budgets WHERE account = ANY($1)";
    lease.rows(sql, text.arguments).await?.iter().map(decode).collect()
}

/// Goes through all that were not used for long, page by page: those that stay are looked at once.
async fn forget(lease: &mut Lease, before: Day) -> Result<u64> {
    let (mut forgotten, mut last) = (0, (i64::MIN, String::new()));
    loop {
        let mut text = Text::default();
        text.add(before.number())?;
        text.add(last.0)?;
        text.add(last.1.as_str())?;
        text.add(limit(FORGET))?;
        let page = lease.rows(OLD, text.arguments).await?;
        let mut gone = Vec::with_capacity(page.len());
        for row in &page {
            let mut row = Columns::of(row);
            // As the database keeps it: it goes back as it came.
            last = (row.get()?, row.get()?);
            if !row.flag()? {
                gone.push(last.1.clone());
            }
        }
        if !gone.is_empty() {
            let mut text = Text::default();
            text.add(before.number())?;
            text.add(gone)?;
            forgotten += lease.rows(FORGET_SOME, text.arguments).await?.len() as u64;
        }
        if page.len() < FORGET {
            return Ok(forgotten);
        }
    }
}

/// The next accounts that were not used for long, and whether they are those of stored tasks. Each task is looked up by its id: the planner could otherwise
/// read all of them.
const OLD: &str = "SELECT b.used_on, b.account, (SELECT true FROM tasks AS t WHERE t.id = b.task_id) FROM budgets AS b \
    WHERE b.used_on < $1 AND (b.used_on, b.account) > ($2, $3) ORDER BY b.used_on, b.account LIMIT $4";

/// Forgets these, unless they were used meanwhile or are being used.
const FORGET_SOME: &str = "WITH old AS MATERIALIZED (SELECT b.account FROM budgets AS b WHERE b.account = ANY($2) AND b.used_on < $1 \
    FOR UPDATE OF b SKIP LOCKED) DELETE FROM budgets AS b USING old WHERE b.account = old.account RETURNING 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_locks_accounts_does_so_in_the_order_of_the_column() {
        assert!(DRAW.contains("ORDER BY v.account COLLATE \"C\" ON CONFLICT"), "{}", *DRAW);
    }
}
