import type { Database } from "bun:sqlite";
import { leaderboardsOf } from "./periods.ts";
import { digestOf, MAX_TOP, MAX_TOTAL_CENTS, type Order, type Recorded, type Totals } from "./store.ts";

/** `scope` of the overall total. */
export const OVERALL = "";
/** Expired markers are deleted with every batch, somewhat more than it adds, so that no batch takes long. */
const REMOVED_PER_BATCH = 20;
/** Number of writes of a leaderboard after which rows that are no longer among the first MAX_TOP leave the index by rank. */
const WRITES_PER_RANKING = 64;
/** Adds to an existing row. */
const ON_CONFLICT_ADD = "ON CONFLICT DO UPDATE SET orders = orders + excluded.orders, cents = cents + excluded.cents";

/**
 * @param assertUsable throws while orders must not be recorded
 * @param window returns the marker window, seconds
 * @returns the transaction of `record`. If it throws, all of its changes are rolled back
 */
export function createRecordBatch(db: Database, assertUsable: () => void, window: () => number) {
  const openMarkers = createOpenMarkers(db, window);
  const addSums = createAddSums(db);
  const keepWindow = db.prepare(
    `INSERT INTO settings (name, value) VALUES ('window_seconds', ?)
      ON CONFLICT DO UPDATE SET value = excluded.value WHERE value < excluded.value`,
  );

  return db.transaction((orders: readonly Order[]): Recorded[] => {
    assertUsable();
    const addIfNew = openMarkers(REMOVED_PER_BATCH + 2 * orders.length);
    keepWindow.run(window());
    const isNew = orders.map(({ id }) => addIfNew(digestOf(id)));
    addSums(orders.filter((_, index) => isNew[index]));
    return isNew.map((one) => (one ? "recorded" : "duplicate"));
  });
}

/** As in record.lua. */
const [MAX_GAP_SECONDS, SEEN_EVERY_SECONDS] = [24 * 3600, 3600];

interface Generation {
  number: number;
  openedAt: number;
}

/**
 * @returns a function that prepares the generations of markers for one batch: it opens the next generation when that is due and
 *   deletes up to `removed` expired markers. It returns a function that adds a marker, and returns whether it is new
 */
function createOpenMarkers(db: Database, window: () => number) {
  const generations = db.prepare<Generation, []>(
    "SELECT number, opened_at AS openedAt FROM generations ORDER BY number",
  );
  const openGeneration = db.prepare("INSERT INTO generations (number, opened_at) VALUES (?, ?)");
  const removeGeneration = db.prepare("DELETE FROM generations WHERE number = ?");
  const removeMarkers = db.prepare(
    `DELETE FROM markers WHERE generation = ?1 AND digest IN
      (SELECT digest FROM markers WHERE generation = ?1 ORDER BY digest LIMIT ?2)`,
  );
  const marker = db.prepare("SELECT 1 FROM markers WHERE generation = ? AND digest = ?");
  const addMarker = db.prepare("INSERT INTO markers (generation, digest) VALUES (?, ?) ON CONFLICT DO NOTHING");

  const seen = db.prepare<{ value: number }, []>("SELECT value FROM settings WHERE name = 'seen_at'");
  const setSeen = db.prepare("INSERT OR REPLACE INTO settings (name, value) VALUES ('seen_at', ?)");
  const shift = db.prepare("UPDATE generations SET opened_at = opened_at + ?");

  /** Time without orders does not count towards the window: it may be a jump of the clock. */
  function skipGap(now: number) {
    const seenAt = seen.get()?.value;
    const gap = now - (seenAt ?? now);
    if (gap > MAX_GAP_SECONDS) shift.run(gap);
    if (seenAt === undefined || Math.abs(gap) > SEEN_EVERY_SECONDS) setSeen.run(now);
  }

  /** @returns the numbers of the generations that have not expired, the newest last */
  function liveGenerations(removed: number): number[] {
    const now = Math.floor(Date.now() / 1000);
    skipGap(now);
    const all = generations.all();
    const newest = all.at(-1);
    if (!newest || newest.openedAt + window() <= now) {
      // If the clock was set back, not earlier than the previous generation.
      const next = { number: (newest?.number ?? 0) + 1, openedAt: Math.max(now, newest?.openedAt ?? 0) };
      openGeneration.run(next.number, next.openedAt);
      all.push(next);
    }
    // A generation expires when the next one is one window old.
    const live = all.filter((_, index) => (all[index + 1]?.openedAt ?? now) + window() > now);
    const [oldest] = all;
    if (oldest && !live.includes(oldest) && removeMarkers.run(oldest.number, removed).changes === 0)
      removeGeneration.run(oldest.number);
    return live.map(({ number }) => number);
  }

  return (removed: number) => {
    const live = liveGenerations(removed);
    const newest = live.at(-1) as number;
    const older = live.slice(0, -1);
    return (digest: Uint8Array) =>
      older.every((generation) => marker.get(generation, digest) === null) &&
      addMarker.run(newest, digest).changes === 1;
  };
}

/** @returns a function that adds new orders to all totals. It throws a RangeError if the overall total gets too large */
function createAddSums(db: Database) {
  const addToTotal = db.prepare(`INSERT INTO totals (scope, orders, cents) VALUES (?, ?, ?) ${ON_CONFLICT_ADD}`);
  const addToUser = db.prepare(`INSERT INTO users (user_id, orders, cents) VALUES (?, ?, ?) ${ON_CONFLICT_ADD}`);
  const total = db.prepare<{ cents: number }, [string]>("SELECT cents FROM totals WHERE scope = ?");
  const addToBoard = createAddToBoard(db);

  return (orders: readonly Order[]) => {
    // Add up first: orders of the same user and day then need only one statement.
    const [totals, users, boards] = [new Sums(), new Sums(), new Map<string, Sums>()];
    for (const { userId, day, cents } of orders) {
      totals.add(OVERALL, cents);
      totals.add(day, cents);
      users.add(userId, cents);
      for (const name of leaderboardsOf(day)) {
        const board = boards.get(name) ?? new Sums();
        boards.set(name, board);
        board.add(userId, cents);
      }
    }
    for (const [scope, sum] of totals.sorted()) addToTotal.run(scope, sum.orders, sum.cents);
    for (const [userId, sum] of users.sorted()) addToUser.run(userId, sum.orders, sum.cents);
    for (const [name, board] of boards) addToBoard(name, board);
    if ((total.get(OVERALL)?.cents ?? 0) > MAX_TOTAL_CENTS)
      throw new RangeError("the total would exceed the limit up to which it is exact");
  };
}

/**
 * @returns a function that adds the sums of users to a leaderboard. Users with at least `leastCents` are in the index by rank.
 *   `leastCents` is the spend of the user at rank MAX_TOP when it was last read. Totals only grow, so it may be too low but never
 *   too high: the first MAX_TOP users are always in the index
 */
function createAddToBoard(db: Database) {
  const addRow = db.prepare(
    `INSERT INTO boards (board, user_id, orders, cents, ranked) VALUES (?1, ?2, ?3, ?4, ?4 >= ?5)
      ${ON_CONFLICT_ADD}, ranked = ranked OR cents + excluded.cents >= ?5`,
  );
  const lastOfTop = db.prepare<{ cents: number }, [string]>(
    `SELECT cents FROM boards WHERE board = ? AND ranked = 1 ORDER BY cents DESC LIMIT 1 OFFSET ${MAX_TOP - 1}`,
  );
  const unrank = db.prepare("UPDATE boards SET ranked = 0 WHERE board = ? AND ranked = 1 AND cents < ?");
  const ranking = new Map<string, { leastCents: number; writes: number }>();

  return (name: string, sums: Sums) => {
    const state = ranking.get(name) ?? { leastCents: 0, writes: 0 };
    ranking.set(name, state);
    if (state.writes++ % WRITES_PER_RANKING === 0) {
      state.leastCents = lastOfTop.get(name)?.cents ?? 0;
      unrank.run(name, state.leastCents);
    }
    for (const [userId, sum] of sums.sorted()) addRow.run(name, userId, sum.orders, sum.cents, state.leastCents);
  };
}

/** Totals by name. */
class Sums {
  readonly #byName = new Map<string, Totals>();

  add(name: string, cents: number) {
    const sum = this.#byName.get(name);
    if (sum === undefined) this.#byName.set(name, { orders: 1, cents });
    else {
      sum.orders += 1;
      sum.cents += cents;
    }
  }

  /** Sorted like the keys of the tables, because neighbouring rows share pages. */
  sorted = () => [...this.#byName].sort(([a], [b]) => (a < b ? -1 : 1));
}
