-- Children of tasks that have ended are looked for among those that live.
UPDATE meta SET value = 3 WHERE key = 'schema_version';

CREATE INDEX tasks_dependents ON tasks (parent_id)
    WHERE parent_id IS NOT NULL AND detached IS NULL AND state IN ('created', 'assigned', 'running', 'waiting');
