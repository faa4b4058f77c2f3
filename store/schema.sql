-- Amounts are integer cents. Leaderboard names begin with their period: d:2024-12-13, w:2024-W50, m:2024-12, y:2024.

CREATE TABLE IF NOT EXISTS settings (         -- window_seconds, time_zone, and `closed` during and after a copy to another store
  name TEXT PRIMARY KEY,
  value ANY NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE IF NOT EXISTS generations (      -- of markers; only the newest is written, expired ones are deleted in small steps
  number INTEGER PRIMARY KEY,
  opened_at INTEGER NOT NULL                  -- seconds since the epoch
) STRICT;

CREATE TABLE IF NOT EXISTS markers (          -- 12 bytes of the SHA-256 of every order id counted
  generation INTEGER NOT NULL,
  digest BLOB NOT NULL,
  PRIMARY KEY (generation, digest)
) WITHOUT ROWID, STRICT;

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
  ranked INTEGER NOT NULL,                    -- 1 for the first 1000 users of the leaderboard and a few more
  PRIMARY KEY (board, user_id)
) WITHOUT ROWID, STRICT;
-- Higher spend first, equal spend by user id in byte order. A partial index: indexing all users would halve the recording rate
CREATE INDEX IF NOT EXISTS boards_by_rank ON boards (board, cents DESC, user_id, orders) WHERE ranked = 1;

CREATE TABLE IF NOT EXISTS recent (           -- the latest orders of each of RECENT_OUTCOMES, each as JSON
  number INTEGER PRIMARY KEY,                 -- ascending, because the newest row is never deleted
  outcome TEXT NOT NULL,
  line TEXT NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS history (          -- order history: the same by order id, and for longer
  outcome TEXT NOT NULL,
  order_id TEXT NOT NULL,
  at INTEGER NOT NULL,                        -- when the latest message was processed, ms since the epoch
  text TEXT NOT NULL,                         -- number of messages, then the latest of them as JSON, a line each
  PRIMARY KEY (outcome, order_id)
) STRICT;
CREATE INDEX IF NOT EXISTS history_by_time ON history (outcome, at);
