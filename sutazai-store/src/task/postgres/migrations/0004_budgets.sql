-- What was taken from budgets. An older program takes nothing from them, and forgets nothing.
UPDATE meta SET value = 4 WHERE key = 'schema_version';

-- `account` says whose budget it is, `task_id` which task's if it is one's, `used_on` when it was last used, in days since 1970.
-- The four that begin with `granted` are what the newest draw was granted: a statement that changes a row cannot tell what it was before.
CREATE TABLE budgets (
    task_id        uuid,
    used_on        int8 NOT NULL,
    tokens         int8 NOT NULL,
    calls          int8 NOT NULL,
    millis         int8 NOT NULL,
    micros         int8 NOT NULL,
    granted_tokens int8 NOT NULL,
    granted_calls  int8 NOT NULL,
    granted_millis int8 NOT NULL,
    granted_micros int8 NOT NULL,
    account        text COLLATE "C" PRIMARY KEY
) WITH (fillfactor = 50);
CREATE INDEX budgets_used ON budgets (used_on, account);
