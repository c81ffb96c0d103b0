-- Journals, signals, nodes, schedules and the outbox; claims by queue and tenant; one order of all events.
-- An older binary would leave out queues and count no wake-ups.
UPDATE meta SET value = 2 WHERE key IN ('schema_version', 'min_reader');

-- The agent and its line of versions, `coder@1`. NULL for what can never run again: completed or cancelled when it was first stored.
-- What older versions stored gets its queue in the same transaction, by the rule that only the program knows.
ALTER TABLE tasks ADD COLUMN queue TEXT;
-- What is the same for nearly every task is NULL or 0 then, and left out of the statements that write.
ALTER TABLE tasks ADD COLUMN wakes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN wait TEXT;
-- [era, length, attempt_epoch] as JSON; NULL for [0, 0, 1], and before the first attempt for [0, 0, 0].
ALTER TABLE tasks ADD COLUMN journal_mark TEXT;
ALTER TABLE tasks ADD COLUMN detached INTEGER;
ALTER TABLE tasks ADD COLUMN webhook TEXT;
ALTER TABLE tasks ADD COLUMN discarded INTEGER;

UPDATE tasks INDEXED BY tasks_state SET wait = 'retry' WHERE state = 'waiting' AND state <> 'completed';

-- A sub-queue is a queue, a priority and a tenant.
DROP INDEX tasks_runnable;
CREATE INDEX tasks_runnable ON tasks (queue, priority, tenant, due_at, id) WHERE state IN ('created', 'waiting');
CREATE INDEX tasks_timer ON tasks (due_at) WHERE state = 'waiting' AND due_at < 9223372036854775807;
-- Who holds what, and how many of each agent and tenant run, without a look at the tasks.
DROP INDEX tasks_node;
CREATE INDEX tasks_node ON tasks (node, agent, tenant) WHERE node IS NOT NULL;

-- The number of a row never comes twice, whatever is purged: the order of all events goes by it.
CREATE TABLE numbered_events (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id   BLOB NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq  INTEGER NOT NULL,
    events    TEXT NOT NULL
);
INSERT INTO numbered_events SELECT rowid, task_id, first_seq, last_seq, events FROM task_events ORDER BY rowid;
DROP TABLE task_events;
ALTER TABLE numbered_events RENAME TO task_events;
CREATE UNIQUE INDEX task_events_task ON task_events (task_id, last_seq);

-- `expires_at`: not forgotten before. `answer`: of a request that belongs to no task; `task_id` is x'' then.
ALTER TABLE idempotency_keys ADD COLUMN expires_at INTEGER;
ALTER TABLE idempotency_keys ADD COLUMN answer TEXT;
CREATE INDEX idempotency_keys_answer ON idempotency_keys (expires_at) WHERE answer IS NOT NULL;

CREATE TABLE journal_entries (
    task_id    BLOB NOT NULL,
    era        INTEGER NOT NULL,
    idx        INTEGER NOT NULL,
    path       TEXT NOT NULL,
    name       TEXT NOT NULL,
    occurrence INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    stage      TEXT NOT NULL,
    body       TEXT NOT NULL
);
CREATE UNIQUE INDEX journal_entries_place ON journal_entries (task_id, era, idx);

CREATE TABLE signals (
    task_id BLOB NOT NULL,
    name    TEXT NOT NULL,
    number  INTEGER NOT NULL,
    payload TEXT NOT NULL,
    at      INTEGER NOT NULL
);
CREATE UNIQUE INDEX signals_number ON signals (task_id, name, number);

CREATE TABLE nodes (
    id          TEXT PRIMARY KEY NOT NULL,
    name        TEXT NOT NULL,
    role        TEXT NOT NULL,
    version     TEXT NOT NULL,
    address     TEXT,
    started_at  INTEGER NOT NULL,
    seen_at     INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    running     INTEGER NOT NULL,
    dead        INTEGER NOT NULL
) WITHOUT ROWID;

-- `record` is all of it as JSON; what is looked for stands beside.
CREATE TABLE schedules (
    name     TEXT PRIMARY KEY NOT NULL,
    revision INTEGER NOT NULL,
    next     INTEGER,
    record   TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX schedules_next ON schedules (next) WHERE next IS NOT NULL;

-- One row a task with a webhook. `due_at` is NULL while nothing is left to post.
CREATE TABLE deliveries (
    task_id  BLOB PRIMARY KEY NOT NULL,
    posted   INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    due_at   INTEGER,
    given_up TEXT
) WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_given_up ON deliveries (task_id) WHERE given_up IS NOT NULL;

-- By agent, the theoretical arrival time of its rate limit, in microseconds since 1970.
CREATE TABLE rates (
    agent TEXT PRIMARY KEY NOT NULL,
    tat   INTEGER NOT NULL
) WITHOUT ROWID;
