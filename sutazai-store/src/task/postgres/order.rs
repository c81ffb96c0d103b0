//! The one order of all events: that of their transactions' ids.
//!
//! Ids belong to a cluster. A store that is restored into one that has not come as far holds numbers that no transaction reaches for a long time: what is
//! new would be hidden behind them, and tasks would not be granted. So the store keeps what is added to the ids, and each new connection looks whether it
//! is still enough.

use super::{
    error::Result,
    pool::{Lease, safe},
    row::Columns,
    text::Text,
};

/// Numbers of events that one transaction has.
pub(super) const PLACES: i64 = 1 << 14;

/// The number of the transaction's first event, less one.
pub(super) const BASE: &str = "(SELECT (pg_current_xact_id()::text::int8 + coalesce((SELECT value FROM meta WHERE key = 'feed_shift'), 0)) << 14)";

/// Whoever has written below this has committed or is gone.
pub(super) const SETTLED: &str = "(SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::int8 + coalesce((SELECT value FROM meta WHERE key = 'feed_shift'), 0)) << 14)";

/// How far the stored numbers are ahead of this cluster; NULL or below 1 where they are not. What is visible was written before the snapshot's end.
const AHEAD: &str = "(SELECT (number >> 14) + 1 FROM task_events ORDER BY number DESC LIMIT 1)";

/// Adds what is missing where the stored numbers are ahead of what this cluster gives.
pub(super) async fn mend(lease: &mut Lease) -> Result<()> {
    let ahead = format!(
        "SELECT coalesce({AHEAD} > pg_snapshot_xmax(pg_current_snapshot())::text::int8 \
         + coalesce((SELECT value FROM meta WHERE key = 'feed_shift'), 0), false)"
    );
    let rows = lease.rows(safe(ahead.clone()), Text::default().arguments).await?;
    if !rows.first().map_or(Ok(false), |row| Columns::of(row).get())? {
        return Ok(());
    }
    lease.begin().await?;
    let mended = async {
        // Nobody writes events meanwhile, and whoever waits here sees what the first has done.
        lease.run("LOCK TABLE task_events IN SHARE ROW EXCLUSIVE MODE").await?;
        // From the oldest transaction that may still write. Programs that do not know of this must not write any more.
        let shift = format!(
            "WITH shift AS (INSERT INTO meta AS m (key, value) SELECT 'feed_shift', {AHEAD} - pg_snapshot_xmin(pg_current_snapshot())::text::int8 \
             WHERE ({ahead}) ON CONFLICT (key) DO UPDATE SET value = excluded.value RETURNING m.value AS added) \
             UPDATE meta AS m SET value = greatest(m.value, 2) FROM shift WHERE m.key = 'min_reader' RETURNING shift.added"
        );
        lease.rows(safe(shift), Text::default().arguments).await
    };
    match mended.await {
        Ok(rows) => {
            lease.commit().await?;
            if let Some(row) = rows.first() {
                let shift: i64 = Columns::of(row).get()?;
                tracing::warn!(
                    shift,
                    "the store was restored into another cluster; its events are numbered on from where they were"
                );
            }
            Ok(())
        }
        Err(fault) => {
            lease.roll_back().await;
            Err(fault)
        }
    }
}
