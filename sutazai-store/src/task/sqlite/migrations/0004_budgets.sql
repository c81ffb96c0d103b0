-- What was taken from budgets. An older binary takes nothing from them, and forgets nothing.
UPDATE meta SET value = 4 WHERE key = 'schema_version';

-- `account` says whose budget it is, `task_id` which task's if it is one's, `used_on` when it was last used, in days since 1970.
CREATE TABLE budgets (
    account TEXT PRIMARY KEY NOT NULL,
    task_id BLOB,
    used_on INTEGER NOT NULL,
    tokens  INTEGER NOT NULL,
    calls   INTEGER NOT NULL,
    millis  INTEGER NOT NULL,
    micros  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX budgets_used ON budgets (used_on);
