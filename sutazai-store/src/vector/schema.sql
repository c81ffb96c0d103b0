-- Vectors by collection. A record's key is its collection's number, shifted, plus a sequence that only grows: what has
-- been written under a key never changes, so the index files are right about every key that they hold.
CREATE TABLE collections (
    collection INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    dimension INTEGER NOT NULL,
    -- Drawn at creation: an index file of another database is not taken for this one's.
    stamp INTEGER NOT NULL,
    -- The sequence number that the next record gets.
    next INTEGER NOT NULL DEFAULT 1
) STRICT;

CREATE TABLE records (
    key INTEGER PRIMARY KEY,
    collection INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
    id TEXT NOT NULL,
    payload TEXT NOT NULL,
    -- As it was upserted: 32-bit floats, little-endian.
    vector BLOB NOT NULL,
    UNIQUE (collection, id)
) STRICT;
