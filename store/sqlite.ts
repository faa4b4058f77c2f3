import { Database } from "bun:sqlite";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { boardsOf } from "./periods.ts";
import { toLines, toRecent } from "./recent.ts";
import schema from "./schema.sql" with { type: "text" };
import {
  MARKER_WINDOW_SECONDS,
  MAX_RECENT,
  MAX_TOTAL_CENTS,
  type Order,
  type RecentOrder,
  type Recorded,
  type Totals,
  type UserTotals,
  type WholeStore,
} from "./store.ts";

/** The longest a writer waits for another one; a batch takes a millisecond, so this is met only by a stuck process. */
const BUSY_TIMEOUT_MS = 5_000;
/** Markers whose time is over are removed with each batch, a few at a time, so that no batch pays for many. */
const PRUNED_PER_BATCH = 20;
const PRUNED = "SELECT order_id FROM markers WHERE expires_at <= ? LIMIT ?";
/** `scope` of the overall totals. */
const GLOBAL = "";
/** Rows that an audit reads at a time. */
const PAGE = 1_000;
const NOTHING: Totals = { orders: 0, cents: 0 };

/** The embedded store: one SQLite file that several threads and processes may share. */
export function openSqliteStore({ path }: { path: string }): WholeStore {
  const db = openDatabase(path);
  const write = prepareWrites(db);
  const oneTotal = db.prepare<Totals, [string]>("SELECT orders, cents FROM totals WHERE scope = ?");
  const oneUser = db.prepare<Totals, [string]>("SELECT orders, cents FROM users WHERE user_id = ?");
  const topOfBoard = db.prepare<UserTotals, [string, number]>(
    "SELECT user_id AS userId, orders, cents FROM boards WHERE board = ? ORDER BY cents DESC, user_id LIMIT ?",
  );
  const allDays = db.prepare<{ day: string }, [string]>("SELECT scope AS day FROM totals WHERE scope <> ?");
  const allBoards = db.prepare<{ board: string }, []>("SELECT DISTINCT board FROM boards");
  const usersOfBoard = db.prepare<{ user_id: string }, [string, string, number]>(
    "SELECT user_id FROM boards WHERE board = ? AND user_id >= ? ORDER BY user_id LIMIT ?",
  );
  const allUsers = db.prepare<{ user_id: string }, [string, number]>(
    "SELECT user_id FROM users WHERE user_id >= ? ORDER BY user_id LIMIT ?",
  );
  const onePlace = db.prepare<Totals, [string, string]>(
    "SELECT orders, cents FROM boards WHERE board = ? AND user_id = ?",
  );
  const marker = db.prepare(`SELECT 1 FROM markers WHERE order_id = ? AND order_id NOT IN (${PRUNED})`);
  const latest = db.prepare<{ line: string }, [string]>(
    "SELECT line FROM recent WHERE outcome = ? ORDER BY number DESC",
  );
  const onePart = db.prepare<{ text: string }, [string, number, number]>(
    "SELECT text FROM listings WHERE id = ? AND part = ? AND expires_at_ms > ?",
  );

  function recordOne(order: Order, now: number): Recorded {
    const { id, userId, cents, day } = order;
    if (write.marker.run(id, now + MARKER_WINDOW_SECONDS).changes === 0) return "duplicate";
    for (const board of boardsOf(day)) write.board.run(board, userId, cents);
    write.user.run(userId, cents);
    write.total.run(day, cents);
    write.total.run(GLOBAL, cents);
    return "recorded";
  }

  const recordAll = db.transaction((orders: readonly Order[]) => {
    const now = Math.floor(Date.now() / 1000);
    write.prune.run(now, PRUNED_PER_BATCH);
    const outcomes = orders.map((order) => recordOne(order, now));
    // Throwing rolls the whole batch back.
    if ((oneTotal.get(GLOBAL)?.cents ?? 0) > MAX_TOTAL_CENTS)
      throw new RangeError("Total revenue would pass the most that is exact");
    return outcomes;
  });

  // IMMEDIATE takes the write lock before the first read: two workers that hold one order cannot both find it new.
  const record = async (orders: readonly Order[]) => recordAll.immediate(orders);
  const global = async () => oneTotal.get(GLOBAL) ?? NOTHING;
  const user = async (userId: string) => oneUser.get(userId) ?? NOTHING;
  const top = async (board: string, n: number) => topOfBoard.all(board, n);
  const daily = async (days: readonly string[]) => days.map((day) => oneTotal.get(day) ?? NOTHING);
  // As record() would find it: a batch prunes first.
  const knows = async (orderId: string) =>
    marker.get(orderId, Math.floor(Date.now() / 1000), PRUNED_PER_BATCH) !== null;

  const rememberAll = db.transaction((orders: readonly RecentOrder[]) => {
    for (const [outcome, lines] of toLines(orders)) {
      for (const line of lines) write.recent.run(outcome, line);
      write.pruneRecent.run(outcome);
    }
  });
  const remember = async (orders: readonly RecentOrder[]) => {
    if (orders.length > 0) rememberAll.immediate(orders);
  };
  async function recent(outcome: RecentOrder["outcome"], n: number) {
    const lines = latest.all(outcome).map(({ line }) => line);
    return toRecent(outcome, lines).slice(0, n);
  }

  /** The smallest write there is: a full disk still answers reads. A lock held by another writer is a good sign. */
  async function check() {
    db.run("PRAGMA busy_timeout = 0");
    try {
      db.run("PRAGMA user_version = 1");
    } catch (error) {
      if ((error as { code?: string }).code !== "SQLITE_BUSY") throw error;
    } finally {
      db.run(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_MS}`);
    }
  }
  const advice = async () => [];
  const close = async () => db.close();

  const days = async () => allDays.all(GLOBAL).map(({ day }) => day);
  const boards = async () => allBoards.all().map(({ board }) => board);

  async function* userIds(board?: string) {
    // Page by page: a reading left open between them would hold an old state, and this connection could not write.
    for (let from = ""; ; ) {
      const rows = board === undefined ? allUsers.all(from, PAGE) : usersOfBoard.all(board, from, PAGE);
      yield rows.map(({ user_id }) => user_id);
      if (rows.length < PAGE) return;
      from = `${rows.at(-1)?.user_id}\0`; // the next that there can be
    }
  }

  const places = async (board: string, userIds: readonly string[]) =>
    userIds.map((userId) => onePlace.get(board, userId) ?? NOTHING);

  const keepAll = db.transaction((id: string, parts: readonly string[], seconds: number) => {
    const nowMs = Date.now();
    write.pruneListings.run(nowMs);
    for (const [index, part] of parts.entries()) write.listing.run(id, index, nowMs + seconds * 1000, part);
  });
  const keepListing = async (...listing: Parameters<WholeStore["keepListing"]>) => keepAll.immediate(...listing);
  const listingPart = async (id: string, index: number) => onePart.get(id, index, Date.now())?.text;

  const reads = { global, user, top, daily, knows, recent, listingPart, days, boards, userIds, places };
  return { record, remember, keepListing, ...reads, advice, check, close };
}

function openDatabase(path: string): Database {
  try {
    mkdirSync(dirname(path), { recursive: true });
    const db = new Database(path, { create: true, strict: true });
    db.run(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_MS}`);
    db.run("PRAGMA journal_mode = WAL");
    // Survives kill -9. A power cut may undo the last moments, and their messages are gone from the queue:
    // a developer's machine can live with that, a shop uses Redis.
    db.run("PRAGMA synchronous = NORMAL");
    db.run(schema);
    return db;
  } catch (error) {
    throw new Error(`Cannot open the store ${path}: ${(error as Error).message}`, { cause: error });
  }
}

function prepareWrites(db: Database) {
  const add = "ON CONFLICT DO UPDATE SET orders = orders + 1, cents = cents + excluded.cents";
  return {
    marker: db.prepare("INSERT INTO markers (order_id, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING"),
    board: db.prepare(`INSERT INTO boards (board, user_id, orders, cents) VALUES (?, ?, 1, ?) ${add}`),
    user: db.prepare(`INSERT INTO users (user_id, orders, cents) VALUES (?, 1, ?) ${add}`),
    total: db.prepare(`INSERT INTO totals (scope, orders, cents) VALUES (?, 1, ?) ${add}`),
    prune: db.prepare(`DELETE FROM markers WHERE order_id IN (${PRUNED})`),
    recent: db.prepare("INSERT INTO recent (outcome, line) VALUES (?, ?)"),
    pruneRecent: db.prepare(
      `DELETE FROM recent WHERE outcome = ?1 AND number NOT IN
        (SELECT number FROM recent WHERE outcome = ?1 ORDER BY number DESC LIMIT ${MAX_RECENT})`,
    ),
    listing: db.prepare("INSERT INTO listings (id, part, expires_at_ms, text) VALUES (?, ?, ?, ?)"),
    pruneListings: db.prepare("DELETE FROM listings WHERE expires_at_ms <= ?"),
  };
}
