-- The first schema of the task store. `application_id` tells our files from those of other programs: "Suta".
PRAGMA application_id = 1400206433;

-- `schema_version` is the newest migration in this file, `min_reader` the oldest schema version that a binary must know to use it.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY NOT NULL,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES ('schema_version', 1), ('min_reader', 1);

-- One row a task. Times are milliseconds since 1970, ids the 16 bytes of a UUIDv7, payloads the JSON text as it was given.
CREATE TABLE tasks (
    id                BLOB NOT NULL,
    agent             TEXT NOT NULL,
    agent_version     TEXT NOT NULL,
    tenant            TEXT NOT NULL,
    state             TEXT NOT NULL,
    priority          INTEGER NOT NULL,
    due_at            INTEGER NOT NULL,
    deadline          INTEGER,
    node              TEXT,
    parent_id         BLOB,
    epoch             INTEGER NOT NULL,
    seq               INTEGER NOT NULL,
    attempt           INTEGER NOT NULL,
    max_attempts      INTEGER NOT NULL,
    retry_initial_ms  INTEGER NOT NULL,
    retry_max_ms      INTEGER NOT NULL,
    recoveries        INTEGER NOT NULL,
    created_at        INTEGER NOT NULL,
    started_at        INTEGER,
    finished_at       INTEGER,
    progress_fraction REAL,
    progress_message  TEXT,
    error_code        TEXT,
    error_message     TEXT,
    labels            TEXT,
    input             TEXT NOT NULL,
    output            TEXT
);

CREATE UNIQUE INDEX tasks_id ON tasks (id);
CREATE INDEX tasks_agent ON tasks (agent, id);
-- Everything below is partial, so that a task which has completed stands in no index but those two.
CREATE INDEX tasks_runnable ON tasks (agent, priority, due_at, id) WHERE state IN ('created', 'waiting');
CREATE INDEX tasks_state ON tasks (state, id) WHERE state <> 'completed';
CREATE INDEX tasks_node ON tasks (node, id) WHERE node IS NOT NULL;
CREATE INDEX tasks_deadline ON tasks (deadline, id)
    WHERE deadline IS NOT NULL AND state IN ('created', 'assigned', 'running', 'waiting');
CREATE INDEX tasks_parent ON tasks (parent_id, id) WHERE parent_id IS NOT NULL;
CREATE INDEX tasks_tenant ON tasks (tenant, id) WHERE tenant <> 'default';

-- The events of one write are one row: a JSON array of {"seq", "at", "event"}.
CREATE TABLE task_events (
    task_id   BLOB NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq  INTEGER NOT NULL,
    events    TEXT NOT NULL
);
CREATE UNIQUE INDEX task_events_task ON task_events (task_id, last_seq);

CREATE TABLE task_labels (
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,
    task_id BLOB NOT NULL,
    PRIMARY KEY (key, value, task_id)
) WITHOUT ROWID;

-- Kept until a day after the end of the task.
CREATE TABLE idempotency_keys (
    tenant      TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    task_id     BLOB NOT NULL
);
CREATE UNIQUE INDEX idempotency_keys_key ON idempotency_keys (tenant, key);
CREATE INDEX idempotency_keys_task ON idempotency_keys (task_id);
