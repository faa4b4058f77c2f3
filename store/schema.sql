-- Amounts are integer cents. Board names begin with their period: d:2024-12-13, w:2024-W50, m:2024-12, y:2024.

CREATE TABLE IF NOT EXISTS markers (          -- every order id counted, until it can no longer be delivered again
  order_id TEXT PRIMARY KEY,
  expires_at INTEGER NOT NULL                 -- seconds since the epoch
) WITHOUT ROWID, STRICT;
CREATE INDEX IF NOT EXISTS markers_by_expiry ON markers (expires_at);

CREATE TABLE IF NOT EXISTS totals (           -- scope: '' overall, otherwise a day
  scope TEXT PRIMARY KEY,
  orders INTEGER NOT NULL,
  cents INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE IF NOT EXISTS users (
  user_id TEXT PRIMARY KEY,
  orders INTEGER NOT NULL,
  cents INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE IF NOT EXISTS boards (
  board TEXT NOT NULL,
  user_id TEXT NOT NULL,
  orders INTEGER NOT NULL,
  cents INTEGER NOT NULL,
  PRIMARY KEY (board, user_id)
) WITHOUT ROWID, STRICT;
-- Most spend first, ties by user id in byte order; covers the whole read
CREATE INDEX IF NOT EXISTS boards_by_rank ON boards (board, cents DESC, user_id, orders);

CREATE TABLE IF NOT EXISTS recent (           -- the latest orders that were not simply counted, each as JSON
  number INTEGER PRIMARY KEY,                 -- ascending: the newest is never removed
  outcome TEXT NOT NULL,
  line TEXT NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS listings (
  id TEXT NOT NULL,
  part INTEGER NOT NULL,                      -- from 0
  expires_at_ms INTEGER NOT NULL,             -- before the text, so that it is found without reading that
  text TEXT NOT NULL,
  PRIMARY KEY (id, part)
) STRICT;
