//! The processes that share the file. Their leases go by this machine's clock, which all of them have.

use std::time::Duration;

use sqlx::{Arguments, sqlite::SqliteArguments};
use sutazai_core::{
    clock::{Clock, SystemClock, Timestamp},
    store::NodeRecord,
    task::NodeId,
};

use super::{
    error::Result,
    read::Readers,
    row::Columns,
    text::{Text, begin, commit},
    write::{alone, arguments, run},
};
use crate::sqlite::writer::Writer;

pub(super) async fn join(writer: &Writer, node: &NodeRecord, lease: Duration) -> Result<()> {
    let now = SystemClock.now();
    let mut others = Text::new();
    others.sql(format_args!("UPDATE nodes SET dead = 1 WHERE name = ? AND id <> ?"));
    others.add(&*node.name)?;
    others.add(node.id.as_str())?;
    let mut own = Text::new();
    own.sql(format_args!(
        "INSERT OR REPLACE INTO nodes (id, name, role, version, address, started_at, seen_at, lease_until, running, dead) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
    ));
    own.add(node.id.as_str())?;
    own.add(&*node.name)?;
    own.add(&*node.role)?;
    own.add(&*node.version)?;
    own.add(node.address.as_deref())?;
    own.add(node.started_at.as_millis())?;
    own.add(now.as_millis())?;
    own.add(now.plus(lease).as_millis())?;
    own.add(node.running.cast_signed())?;
    let mut statements = vec![others.end(), own.end()];
    begin(&mut statements);
    commit(&mut statements);
    let mut lease = writer.lease().await?;
    match run(&mut lease, statements).await {
        Ok(()) => {
            lease.committed();
            Ok(())
        }
        Err(fault) => {
            lease.roll_back().await;
            Err(fault)
        }
    }
}

pub(super) async fn renew(writer: &Writer, node: &NodeId, running: u64, lease: Duration) -> Result<bool> {
    let now = SystemClock.now();
    let arguments = arguments(|arguments| {
        arguments.add(now.as_millis())?;
        arguments.add(now.plus(lease).as_millis())?;
        arguments.add(running.cast_signed())?;
        arguments.add(node.as_str())
    })?;
    let sql = "UPDATE nodes SET seen_at = ?, lease_until = ?, running = ? WHERE id = ? AND dead = 0 RETURNING 1";
    Ok(!alone(writer, sql, arguments).await?.is_empty())
}

/// Declares dead whose lease has passed.
pub(super) async fn declare(writer: &Writer) -> Result<()> {
    let arguments = arguments(|arguments| arguments.add(SystemClock.now().as_millis()))?;
    alone(writer, "UPDATE nodes SET dead = 1 WHERE dead = 0 AND lease_until < ?", arguments).await.map(drop)
}

pub(super) async fn part(writer: &Writer, node: &NodeId) -> Result<()> {
    let arguments = arguments(|arguments| arguments.add(node.as_str()))?;
    alone(writer, "DELETE FROM nodes WHERE id = ?", arguments).await.map(drop)
}

impl Readers {
    /// The dead, and holders of tasks that are not of the list: one step into the index for each.
    pub(super) async fn gone(&self) -> Result<Vec<NodeId>> {
        let sql = "WITH RECURSIVE holder (id) AS (\
                   SELECT min(node) FROM tasks INDEXED BY tasks_node WHERE node IS NOT NULL \
                   UNION ALL \
                   SELECT (SELECT min(node) FROM tasks INDEXED BY tasks_node WHERE node IS NOT NULL AND node > holder.id) \
                   FROM holder WHERE id IS NOT NULL\
                   ) SELECT id FROM nodes WHERE dead = 1 \
                   UNION SELECT id FROM holder WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM nodes)";
        let rows = self.rows(sql, SqliteArguments::default()).await?;
        rows.iter().map(|row| Columns::of(row).get::<&str>().map(NodeId::new)).collect()
    }

    pub(super) async fn nodes(&self) -> Result<Vec<NodeRecord>> {
        let sql = "SELECT id, name, role, version, address, started_at, seen_at, lease_until, running, dead FROM nodes ORDER BY id";
        let rows = self.rows(sql, SqliteArguments::default()).await?;
        rows.iter()
            .map(|row| {
                let mut row = Columns::of(row);
                Ok(NodeRecord {
                    id: NodeId::new(row.get::<&str>()?),
                    name: row.shared()?,
                    role: row.shared()?,
                    version: row.shared()?,
                    address: row.get::<Option<&str>>()?.map(Into::into),
                    started_at: Timestamp::from_millis(row.get()?),
                    seen_at: Timestamp::from_millis(row.get()?),
                    lease_until: Timestamp::from_millis(row.get()?),
                    running: row.number()?,
                    dead: row.get()?,
                })
            })
            .collect()
    }
}
