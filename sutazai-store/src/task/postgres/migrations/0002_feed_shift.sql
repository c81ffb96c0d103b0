-- What is added to the ids of transactions where events are numbered: above 0 once the store was restored into a cluster that had not come as far.
INSERT INTO meta VALUES ('feed_shift', 0);
UPDATE meta SET value = 2 WHERE key = 'schema_version';
