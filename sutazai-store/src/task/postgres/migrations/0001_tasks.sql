-- The first schema of the task store. Everything in it is found by the search path, so the schema may have any name.

-- `schema_version` is the newest migration in this schema, `min_reader` the oldest version of it that a program must know to use it.
CREATE TABLE meta (
    key   text COLLATE "C" PRIMARY KEY,
    value int8 NOT NULL
);
INSERT INTO meta VALUES ('schema_version', 1), ('min_reader', 1);

-- One row a task. Times are milliseconds since 1970, payloads the JSON text as it was given; what most tasks lack is NULL.
-- `feed` is the number of its newest event in the order of all events.
CREATE TABLE tasks (
    id                uuid NOT NULL,
    feed              int8 NOT NULL,
    due_at            int8 NOT NULL,
    epoch             int8 NOT NULL,
    seq               int8 NOT NULL,
    created_at        int8 NOT NULL,
    retry_initial_ms  int8 NOT NULL,
    retry_max_ms      int8 NOT NULL,
    wakes             int8 NOT NULL DEFAULT 0,
    attempt_epoch     int8 NOT NULL,
    started_at        int8,
    finished_at       int8,
    deadline          int8,
    attempt           int8 NOT NULL,
    max_attempts      int8 NOT NULL,
    priority          int2 NOT NULL,
    state             text COLLATE "C" NOT NULL,
    queue             text COLLATE "C" NOT NULL,
    agent             text COLLATE "C" NOT NULL,
    agent_version     text COLLATE "C" NOT NULL,
    tenant            text COLLATE "C" NOT NULL,
    node              text COLLATE "C",
    input             text COLLATE "C" NOT NULL,
    output            text COLLATE "C",
    wait              text COLLATE "C",
    parent_id         uuid,
    detached          bool,
    discarded         bool,
    recoveries        int8,
    journal_era       int8,
    journal_length    int8,
    progress_fraction float8,
    progress_message  text COLLATE "C",
    error_code        text COLLATE "C",
    error_message     text COLLATE "C",
    labels            text COLLATE "C",
    webhook           text COLLATE "C"
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05
);
CREATE UNIQUE INDEX tasks_id ON tasks (id);
CREATE INDEX tasks_agent ON tasks (agent, id);
-- Everything below is partial, so that a task which has completed stands in no index but those two.
CREATE INDEX tasks_runnable ON tasks (queue, priority, tenant, due_at, id) WHERE state IN ('created', 'waiting');
CREATE INDEX tasks_timer ON tasks (due_at) WHERE state = 'waiting' AND due_at < 9223372036854775807;
CREATE INDEX tasks_state ON tasks (state, id) WHERE state IN ('created', 'waiting', 'failed', 'cancelled');
CREATE INDEX tasks_node ON tasks (node, id) WHERE node IS NOT NULL;
CREATE INDEX tasks_deadline ON tasks (deadline, id)
    WHERE deadline IS NOT NULL AND state IN ('created', 'assigned', 'running', 'waiting');
CREATE INDEX tasks_parent ON tasks (parent_id, id) WHERE parent_id IS NOT NULL;
CREATE INDEX tasks_tenant ON tasks (tenant, id) WHERE tenant <> 'default';

-- The events of one write are one row: a JSON array of {"seq", "at", "event"}. `number` is that of the last of them: 16,384 for each
-- transaction id, and the event's place in its transaction.
CREATE TABLE task_events (
    number    int8 NOT NULL,
    task_id   uuid NOT NULL,
    first_seq int8 NOT NULL,
    last_seq  int8 NOT NULL,
    events    text COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX task_events_number ON task_events (number);
CREATE UNIQUE INDEX task_events_task ON task_events (task_id, last_seq);

CREATE TABLE task_labels (
    key     text COLLATE "C" NOT NULL,
    value   text COLLATE "C" NOT NULL,
    task_id uuid NOT NULL
);
CREATE UNIQUE INDEX task_labels_place ON task_labels (key, value, task_id);

CREATE TABLE journal_entries (
    task_id    uuid NOT NULL,
    epoch      int8 NOT NULL,
    at         int8 NOT NULL,
    era        int8 NOT NULL,
    idx        int8 NOT NULL,
    occurrence int8 NOT NULL,
    path       text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    kind       text COLLATE "C" NOT NULL,
    stage      text COLLATE "C" NOT NULL,
    body       text COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX journal_entries_place ON journal_entries (task_id, era, idx);

CREATE TABLE signals (
    task_id uuid NOT NULL,
    number  int8 NOT NULL,
    at      int8 NOT NULL,
    name    text COLLATE "C" NOT NULL,
    payload text COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX signals_number ON signals (task_id, name, number);

-- Kept until a day after the end of the task, and until `expires_at`. `answer` is that of a request that belongs to no task.
CREATE TABLE idempotency_keys (
    task_id     uuid,
    expires_at  int8,
    tenant      text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    answer      text COLLATE "C"
);
CREATE UNIQUE INDEX idempotency_keys_key ON idempotency_keys (tenant, key);
CREATE INDEX idempotency_keys_task ON idempotency_keys (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX idempotency_keys_answer ON idempotency_keys (expires_at) WHERE task_id IS NULL;

CREATE TABLE nodes (
    id          text COLLATE "C" PRIMARY KEY,
    name        text COLLATE "C" NOT NULL,
    role        text COLLATE "C" NOT NULL,
    version     text COLLATE "C" NOT NULL,
    address     text COLLATE "C",
    started_at  int8 NOT NULL,
    seen_at     int8 NOT NULL,
    lease_until int8 NOT NULL,
    running     int8 NOT NULL,
    dead        bool NOT NULL
) WITH (fillfactor = 50);

-- `record` is the schedule and what has become of it, as JSON.
CREATE TABLE schedules (
    name     text COLLATE "C" PRIMARY KEY,
    next     int8,
    revision int8 NOT NULL,
    record   text COLLATE "C" NOT NULL
);
CREATE INDEX schedules_next ON schedules (next) WHERE next IS NOT NULL;

-- The outbox: one row a task with a webhook. `due_at` is NULL while there is nothing to post.
CREATE TABLE deliveries (
    task_id  uuid PRIMARY KEY,
    posted   int8 NOT NULL,
    failures int8 NOT NULL,
    due_at   int8,
    url      text COLLATE "C" NOT NULL,
    given_up text COLLATE "C"
) WITH (fillfactor = 80);
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_given_up ON deliveries (task_id) WHERE given_up IS NOT NULL;

-- What the rate limit of an agent remembers, in microseconds since 1970.
CREATE TABLE rates (
    agent text COLLATE "C" PRIMARY KEY,
    tat   int8 NOT NULL
) WITH (fillfactor = 50);
