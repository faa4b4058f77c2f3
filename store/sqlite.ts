import { Database } from "bun:sqlite";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { boardsOf } from "./periods.ts";
import schema from "./schema.sql" with { type: "text" };
import {
  MARKER_WINDOW_SECONDS,
  MAX_TOTAL_CENTS,
  type Order,
  type Recorded,
  type Totals,
  type UserTotals,
  type WholeStore,
} from "./store.ts";

/** The longest a writer waits for another one; a batch takes a millisecond, so this is met only by a stuck process. */
const BUSY_TIMEOUT_MS = 5_000;
/** Markers whose time is over are removed with each batch, a few at a time, so that no batch pays for many. */
const PRUNED_PER_BATCH = 20;
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
  const usersOfBoard = db.prepare<{ user_id: string }, [string]>("SELECT user_id FROM boards WHERE board = ?");
  const allUsers = db.prepare<{ user_id: string }, []>("SELECT user_id FROM users");
  const onePlace = db.prepare<Totals, [string, string]>(
    "SELECT orders, cents FROM boards WHERE board = ? AND user_id = ?",
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
    let page: string[] = [];
    for (const { user_id } of board === undefined ? allUsers.iterate() : usersOfBoard.iterate(board)) {
      if (page.push(user_id) < PAGE) continue;
      yield page;
      page = [];
    }
    yield page;
  }

  const places = async (board: string, userIds: readonly string[]) =>
    userIds.map((userId) => onePlace.get(board, userId) ?? NOTHING);

  return { record, global, user, top, daily, advice, check, close, days, boards, userIds, places };
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
    prune: db.prepare(
      "DELETE FROM markers WHERE order_id IN (SELECT order_id FROM markers WHERE expires_at <= ? LIMIT ?)",
    ),
  };
}
