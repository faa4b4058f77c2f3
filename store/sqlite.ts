import { Database, type SQLQueryBindings } from "bun:sqlite";
import { mkdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { messageOf } from "../errors.ts";
import { toLines, toRecent } from "./recent-lines.ts";
import schema from "./schema.sql" with { type: "text" };
import { createFullAccess } from "./sqlite-full-access.ts";
import { createSqliteHistory } from "./sqlite-history.ts";
import { createRecordBatch, OVERALL } from "./sqlite-record.ts";
import {
  DEFAULT_TIME_ZONE,
  digestOf,
  type FullStore,
  LONGEST_WINDOW_SECONDS,
  MAX_ORDER_CENTS,
  MAX_RECENT,
  MAX_TOTAL_CENTS,
  NO_ORDERS,
  type Order,
  otherTimeZone,
  type RecentOrder,
  type Recorded,
  type Totals,
  type UserTotals,
} from "./store.ts";

/** `PRAGMA user_version` of this schema. Version 1 stored markers differently. */
const SCHEMA_VERSION = 2;
/** How long opening waits for other processes that create the same file. */
const OPEN_BUSY_TIMEOUT_MS = 5_000;
/**
 * How long a writer waits for another one. SQLite blocks the thread while it waits, so this must be well below the five seconds
 * after which a silent worker is replaced. A batch takes milliseconds; only a lock of another program is held longer.
 */
const BUSY_TIMEOUT_MS = 1_000;
/** Holds the pages of leaderboards that every batch changes. With SQLite's default of 2 MiB the rate falls to a fifth. */
const CACHE_KIB = 32 * 1024;
/** Every batch changes rows on hundreds of pages, and each is written whole: small pages double the rate. */
const PAGE_BYTES = 1024;
/** A large write-ahead log is copied to the file less often, and pages that changed repeatedly only once. */
const CHECKPOINT_PAGES = 64_000;
/** Overlapping readers can prevent SQLite from reusing its write-ahead log. Above this size, it is truncated. */
const MAX_WAL_BYTES = 96 * 1024 * 1024;
const WAL_PAUSE_MS = 200;

/**
 * Opens the embedded store: one SQLite file that threads and processes can share.
 *
 * @param windowSeconds how long an order id must be remembered. If the store was opened with a longer time before, that applies
 * @param timeZone as in `StoreAddress`
 * @throws an Error whose message an operator can act on if the file cannot be opened
 */
export function openSqliteStore(path: string, windowSeconds = LONGEST_WINDOW_SECONDS, timeZone?: string): FullStore {
  const db = openDatabase(path, timeZone);
  const file = statSync(path).ino;
  const prepare = <Row, Args extends SQLQueryBindings[]>(sql: string) => db.prepare<Row, Args>(sql);

  const setting = prepare<{ value: number | string }, [string]>("SELECT value FROM settings WHERE name = ?");
  const generations = prepare<{ number: number }, []>("SELECT number FROM generations ORDER BY number");
  const total = prepare<Totals, [string]>("SELECT orders, cents FROM totals WHERE scope = ?");
  const window = () => Math.max(windowSeconds, Number(setting.get("window_seconds")?.value ?? 0));

  /** Throws if the overall total is lost: zero would be wrong where orders are counted. */
  function readTotal(): Totals {
    const found = total.get(OVERALL);
    if (found || generations.all().length === 0) return found ?? NO_ORDERS;
    // The first order may have been recorded since the first read.
    const again = total.get(OVERALL);
    if (again) return again;
    throw new Error("the overall total is lost: `bun scripts/audit.ts --repair` restores it from the days");
  }

  /** Throws while orders must not be recorded. Does not detect what only a write would show, such as a full disk. */
  function assertUsable() {
    if (statSync(path, { throwIfNoEntry: false })?.ino !== file)
      throw new Error("it was deleted or replaced while the program runs. Put it back, or restart the program");
    const closed = setting.get("closed")?.value;
    if (closed) throw new Error(`the store is closed: ${closed}`);
    checkTimeZone(db, timeZone ?? DEFAULT_TIME_ZONE);
    const { orders } = readTotal();
    if (orders > 0 && generations.all().length === 0)
      throw new Error("the markers of counted orders are lost: restore the file, or begin with an empty one");
  }

  const recordBatch = createRecordBatch(db, assertUsable, window);
  let truncatedAt = 0;

  /** Waits only briefly for readers, so an attempt can fail. A later batch tries again. */
  function truncateWal() {
    if (sizeOf(`${path}-wal`) < MAX_WAL_BYTES || performance.now() - truncatedAt < WAL_PAUSE_MS) return;
    truncatedAt = performance.now();
    db.run(`PRAGMA busy_timeout = ${WAL_PAUSE_MS / 2}`);
    try {
      db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    } catch {
      // The batch before it is committed. A file that cannot be written makes the next batch fail.
    } finally {
      db.run(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_MS}`);
    }
  }

  async function record(orders: readonly Order[]): Promise<Recorded[]> {
    if (orders.length === 0) return [];
    // IMMEDIATE takes the write lock before the first read, so that two workers with the same order cannot both find it new.
    const results = recordBatch.immediate(orders);
    truncateWal();
    return results;
  }

  const user = prepare<Totals, [string]>("SELECT orders, cents FROM users WHERE user_id = ?");
  const userOnBoard = prepare<Totals, [string, string]>(
    "SELECT orders, cents FROM boards WHERE board = ? AND user_id = ?",
  );
  const topOf = prepare<UserTotals, [string, number]>(
    `SELECT user_id AS userId, orders, cents FROM boards WHERE board = ? AND ranked = 1
      ORDER BY cents DESC, user_id LIMIT ?`,
  );
  const marker = prepare<object, [number, Uint8Array]>("SELECT 1 FROM markers WHERE generation = ? AND digest = ?");

  async function isCounted(orderId: string) {
    const digest = digestOf(orderId);
    return generations.all().some(({ number }) => marker.get(number, digest) !== null);
  }

  const addLine = db.prepare("INSERT INTO recent (outcome, line) VALUES (?, ?)");
  const removeOldLines = db.prepare(
    `DELETE FROM recent WHERE outcome = ?1 AND number NOT IN
      (SELECT number FROM recent WHERE outcome = ?1 ORDER BY number DESC LIMIT ${MAX_RECENT})`,
  );
  const lines = prepare<{ line: string }, [string]>("SELECT line FROM recent WHERE outcome = ? ORDER BY number DESC");
  const addAllRecent = db.transaction((orders: readonly RecentOrder[]) => {
    for (const [outcome, added] of toLines(orders)) {
      for (const line of added) addLine.run(outcome, line);
      removeOldLines.run(outcome);
    }
  });

  async function addRecent(orders: readonly RecentOrder[]) {
    if (orders.length > 0) addAllRecent.immediate(orders);
  }

  async function recent(outcome: RecentOrder["outcome"], n: number) {
    const found = lines.all(outcome).map(({ line }) => line);
    return toRecent(outcome, found).slice(0, n);
  }

  /**
   * Reads through a new connection, because the cache of this one may contain pages that are no longer on the disk. Then does
   * the smallest possible write, because a full disk still allows reads.
   */
  async function check() {
    try {
      assertUsable();
      if ((total.get(OVERALL)?.cents ?? 0) + MAX_ORDER_CENTS > MAX_TOTAL_CENTS)
        throw new Error("the total has no room for one more order: larger sums would not be exact");
      using fresh = new Database(path, { readwrite: true, strict: true });
      for (const table of ["totals", "generations", "users", "boards"])
        fresh.query(`SELECT * FROM ${table} LIMIT 1`).get();
      fresh.run(`PRAGMA user_version = ${SCHEMA_VERSION}`);
    } catch (error) {
      // SQLITE_BUSY means that another process is writing, so the file accepts writes.
      if (codeOf(error) !== "SQLITE_BUSY") throw new Error(`${path}: ${messageOf(error)}`, { cause: error });
    }
  }

  async function checkThoroughly() {
    await check();
    const found = db.query<{ quick_check: string }, []>("PRAGMA quick_check(1)").get()?.quick_check;
    if (found !== "ok") throw new Error(`${path} is corrupt: ${found}. Restore it, or delete it to start from zero`);
  }

  return {
    record,
    check,
    checkThoroughly,
    addRecent,
    recent,
    isCounted,
    global: async () => readTotal(),
    user: async (userId) => user.get(userId) ?? NO_ORDERS,
    userOn: async (leaderboard, userId) => userOnBoard.get(leaderboard, userId) ?? NO_ORDERS,
    top: async (leaderboard, n) => topOf.all(leaderboard, n),
    daily: async (days) => days.map((day) => total.get(day) ?? NO_ORDERS),
    markerWindowSeconds: async () => window(),
    timeZone: async () => readTimeZone(db),
    configurationWarnings: async () => [],
    evictedKeys: async () => undefined,
    close: async () => db.close(),
    ...createSqliteHistory(db, () => Date.now() - window() * 1000),
    ...createFullAccess(db),
  };
}

const sizeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.size ?? 0;
const codeOf = (error: unknown) => (error as { code?: string }).code;

const readTimeZone = (db: Database) =>
  db.query<{ value: string }, []>("SELECT value FROM settings WHERE name = 'time_zone'").get()?.value ??
  DEFAULT_TIME_ZONE;

function checkTimeZone(db: Database, timeZone: string) {
  const stored = readTimeZone(db);
  if (stored !== timeZone) throw new Error(otherTimeZone(stored, timeZone));
}

/** Begins an empty store with the time zone. In one statement: of two programs that open an empty file, the first one decides. */
function keepTimeZone(db: Database, timeZone: string) {
  db.run("INSERT OR IGNORE INTO settings SELECT 'time_zone', iif(EXISTS (SELECT 1 FROM generations), ?, ?)", [
    DEFAULT_TIME_ZONE,
    timeZone,
  ]);
  checkTimeZone(db, timeZone);
}

/** In one transaction, because another program may be creating the tables. */
const isOfAnotherVersion = (db: Database) =>
  db
    .transaction(() => {
      const { user_version: version = 0 } = db.query<{ user_version: number }, []>("PRAGMA user_version").get() ?? {};
      const isUsed = db.query("SELECT 1 FROM sqlite_schema WHERE name = 'markers'").get() !== null;
      return isUsed && version !== SCHEMA_VERSION;
    })
    .deferred();

/** Retries: SQLite's busy timeout does not apply here while another process creates the same file. */
function useWriteAheadLog(db: Database) {
  const deadlineMs = performance.now() + OPEN_BUSY_TIMEOUT_MS;
  while (true) {
    try {
      db.run("PRAGMA journal_mode = WAL");
      return;
    } catch (error) {
      if (!codeOf(error)?.startsWith("SQLITE_BUSY") || performance.now() > deadlineMs) throw error;
    }
    Bun.sleepSync(5);
  }
}

function openDatabase(path: string, timeZone: string | undefined): Database {
  try {
    mkdirSync(dirname(path), { recursive: true });
    const db = new Database(path, { create: true, strict: true });
    db.run(`PRAGMA busy_timeout = ${OPEN_BUSY_TIMEOUT_MS}`);
    if (isOfAnotherVersion(db))
      throw new Error("it was written by another version of this program. Use that version, or set another DATA_DIR");
    db.run(`PRAGMA page_size = ${PAGE_BYTES}`);
    useWriteAheadLog(db);
    db.run(`PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES}`);
    // Data survives kill -9. A power failure can lose the last orders, whose messages are already deleted: acceptable for
    // development. Production uses Redis.
    db.run("PRAGMA synchronous = NORMAL");
    db.run(`PRAGMA cache_size = ${-CACHE_KIB}`);
    db.transaction(() => {
      db.run(schema);
      db.run(`PRAGMA user_version = ${SCHEMA_VERSION}`);
    }).immediate();
    if (timeZone !== undefined) keepTimeZone(db, timeZone);
    db.run(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_MS}`);
    return db;
  } catch (error) {
    throw new Error(`Cannot open the store ${path}: ${messageOf(error)}`, { cause: error });
  }
}
