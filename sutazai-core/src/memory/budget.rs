//! Budgets in memory: the reference that other stores are compared with.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::{
    error::Result,
    store::{Account, Amounts, BudgetStore, Day, Draw, Drawn},
};

/// A [`BudgetStore`] in memory: complete, and gone with the process.
#[derive(Default)]
pub struct MemoryBudgetStore {
    rows: Mutex<HashMap<Account, Row>>,
}

/// What is known of an account.
struct Row {
    taken: Amounts,
    used: Day,
}

impl MemoryBudgetStore {
    /// A store from which nothing was taken yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<Account, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryBudgetStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryBudgetStore")
    }
}

#[async_trait]
impl BudgetStore for MemoryBudgetStore {
    async fn draw(&self, draws: &[Draw], today: Day) -> Result<Vec<Drawn>> {
        let mut rows = self.rows();
        let drawn = draws.iter().map(|draw| {
            let taken = rows.get(&draw.account).map_or(Amounts::ZERO, |row| row.taken);
            let drawn = draw.grant(taken);
            if let Drawn::Granted(granted) = drawn {
                let row = rows.entry(draw.account.clone()).or_insert(Row { taken, used: today });
                row.taken = row.taken.plus(granted);
                row.used = row.used.max(today);
            }
            drawn
        });
        Ok(drawn.collect())
    }

    async fn give_back(&self, unused: &[(Account, Amounts)]) -> Result<()> {
        let mut rows = self.rows();
        for (account, unused) in unused {
            if let Some(row) = rows.get_mut(account) {
                row.taken = row.taken.minus(*unused);
            }
        }
        Ok(())
    }

    async fn taken(&self, accounts: &[Account]) -> Result<Vec<Amounts>> {
        let rows = self.rows();
        let taken = accounts.iter().map(|account| rows.get(account).map_or(Amounts::ZERO, |row| row.taken));
        Ok(taken.collect())
    }

    async fn forget(&self, before: Day) -> Result<u64> {
        let mut rows = self.rows();
        let known = rows.len();
        rows.retain(|_, row| row.used >= before);
        Ok((known - rows.len()) as u64)
    }
}
