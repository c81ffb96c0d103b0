//! The processes that share the store. Leases go by the database's clock alone.

use std::time::Duration;

use sutazai_core::{store::NodeRecord, task::NodeId};

use super::{
    error::Result,
    pool::{Lease, safe},
    row::Columns,
    text::{Text, escaped},
};

/// Milliseconds since 1970 on the database's clock, as it goes on within a transaction.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::int8";

fn millis(lease: Duration) -> i64 {
    i64::try_from(lease.as_millis()).unwrap_or(i64::MAX / 4)
}

pub(super) async fn join(connection: &mut Lease, node: &NodeRecord, lease: Duration) -> Result<()> {
    let mut text = Text::default();
    text.add(&*escaped(node.id.as_str()))?;
    text.add(&*escaped(&node.name))?;
    text.add(&*escaped(&node.role))?;
    text.add(&*escaped(&node.version))?;
    text.add(node.address.as_deref().map(escaped))?;
    text.add(node.started_at.as_millis())?;
    text.add(node.running.cast_signed())?;
    text.add(millis(lease))?;
    let sql = format!(
        "WITH old AS MATERIALIZED (SELECT id FROM nodes WHERE name = $2 AND id <> $1 ORDER BY id FOR UPDATE), \
         before AS (UPDATE nodes AS n SET dead = true FROM old WHERE n.id = old.id), at AS MATERIALIZED (SELECT {NOW} AS now) \
         INSERT INTO nodes (id, name, role, version, address, started_at, running, seen_at, lease_until, dead) \
         SELECT $1, $2, $3, $4, $5, $6, $7, at.now, at.now + $8, false FROM at \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, role = excluded.role, version = excluded.version, address = excluded.address, \
         started_at = excluded.started_at, running = excluded.running, seen_at = excluded.seen_at, lease_until = excluded.lease_until, dead = false"
    );
    connection.rows(safe(sql), text.arguments).await.map(|_| ())
}

pub(super) async fn renew(connection: &mut Lease, node: &NodeId, running: u64, lease: Duration) -> Result<bool> {
    let mut text = Text::default();
    text.add(&*escaped(node.as_str()))?;
    text.add(running.cast_signed())?;
    text.add(millis(lease))?;
    let sql = format!(
        "UPDATE nodes SET seen_at = {NOW}, lease_until = {NOW} + $3, running = $2 WHERE id = $1 AND NOT dead RETURNING 1"
    );
    Ok(!connection.rows(safe(sql), text.arguments).await?.is_empty())
}

/// The dead, save one that is just being renewed, and by steps over the index whoever holds tasks and is not on the list.
pub(super) async fn lapsed(connection: &mut Lease) -> Result<Vec<NodeId>> {
    let sql = format!(
        "WITH RECURSIVE late AS MATERIALIZED (SELECT id FROM nodes WHERE NOT dead AND lease_until < {NOW} ORDER BY id FOR UPDATE SKIP LOCKED), \
         now_dead AS (UPDATE nodes AS n SET dead = true FROM late WHERE n.id = late.id RETURNING n.id), \
         holder AS ((SELECT t.node FROM tasks AS t WHERE t.node IS NOT NULL ORDER BY t.node LIMIT 1) UNION ALL \
         SELECT n.node FROM holder AS h CROSS JOIN LATERAL \
         (SELECT t.node FROM tasks AS t WHERE t.node IS NOT NULL AND t.node > h.node ORDER BY t.node LIMIT 1) AS n) \
         SELECT id FROM nodes WHERE dead UNION SELECT id FROM now_dead \
         UNION SELECT h.node FROM holder AS h WHERE NOT EXISTS (SELECT 1 FROM nodes AS n WHERE n.id = h.node) ORDER BY 1"
    );
    let rows = connection.rows(safe(sql), Text::default().arguments).await?;
    rows.iter().map(|row| Ok(NodeId::new(Columns::of(row).shared()?))).collect()
}

pub(super) async fn part(connection: &mut Lease, node: &NodeId) -> Result<()> {
    let mut text = Text::default();
    text.add(&*escaped(node.as_str()))?;
    connection.rows("DELETE FROM nodes WHERE id = $1", text.arguments).await.map(|_| ())
}

pub(super) async fn nodes(connection: &mut Lease) -> Result<Vec<NodeRecord>> {
    let sql = "SELECT id, name, role, version, address, started_at, seen_at, lease_until, running, dead FROM nodes ORDER BY id";
    let node = |row: &sqlx::postgres::PgRow| {
        let mut row = Columns::of(row);
        Ok(NodeRecord {
            id: NodeId::new(row.shared()?),
            name: row.shared()?,
            role: row.shared()?,
            version: row.shared()?,
            address: row.maybe_text()?.map(Into::into),
            started_at: row.time()?,
            seen_at: row.time()?,
            lease_until: row.time()?,
            running: row.count()?,
            dead: row.flag()?,
        })
    };
    connection.rows(sql, Text::default().arguments).await?.iter().map(node).collect()
}
