import type { Database, SQLQueryBindings } from "bun:sqlite";
import { OVERALL } from "./sqlite-record.ts";
import { COPIED, type FullStore, PAGE_SIZE, type Store, type Totals, type UserTotals } from "./store.ts";

/** @returns the functions of `FullStore` that read all data page by page, and those for copies and repairs */
export function createFullAccess(db: Database): Omit<FullStore, keyof Store | "wholeHistory"> {
  const prepare = <Row, Args extends SQLQueryBindings[]>(sql: string) => db.prepare<Row, Args>(sql);
  const setSetting = db.prepare("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)");
  const deleteSetting = db.prepare("DELETE FROM settings WHERE name = ?");
  const generations = prepare<{ number: number }, []>("SELECT number FROM generations ORDER BY number");
  const dayRows = prepare<{ day: string }, [string]>("SELECT scope AS day FROM totals WHERE scope <> ?");
  const boardNames = prepare<{ board: string }, []>("SELECT DISTINCT board FROM boards");
  const userRows = prepare<UserTotals, [string, number]>(
    "SELECT user_id AS userId, orders, cents FROM users WHERE user_id >= ? ORDER BY user_id LIMIT ?",
  );
  const boardRows = prepare<UserTotals, [string, string, number]>(
    "SELECT user_id AS userId, orders, cents FROM boards WHERE board = ? AND user_id >= ? ORDER BY user_id LIMIT ?",
  );
  const markerRows = prepare<{ digest: Uint8Array }, [number, Uint8Array, number]>(
    "SELECT digest FROM markers WHERE generation = ? AND digest > ? ORDER BY digest LIMIT ?",
  );
  // The smallest user id after the last one of the page.
  const afterUser = (page: UserTotals[]) => `${page.at(-1)?.userId}\0`;

  async function* markers(): AsyncGenerator<Uint8Array[]> {
    for (const { number } of generations.all())
      yield* pages(
        (from) => markerRows.all(number, from, PAGE_SIZE).map(({ digest }) => digest),
        new Uint8Array() as Uint8Array,
        (page: Uint8Array[]) => page.at(-1) as Uint8Array,
      );
  }

  async function restoreTotal({ orders, cents }: Totals) {
    const sql = "INSERT INTO totals (scope, orders, cents) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
    return db.run(sql, [OVERALL, orders, cents]).changes > 0;
  }

  return {
    days: async () => dayRows.all(OVERALL).map(({ day }) => day),
    leaderboards: async () => boardNames.all().map(({ board }) => board),
    users: () => pages((from) => userRows.all(from, PAGE_SIZE), "", afterUser),
    usersOn: (board) => pages((from) => boardRows.all(board, from, PAGE_SIZE), "", afterUser),
    storedUserIds: () =>
      pages(
        (from) => userRows.all(from, PAGE_SIZE).map(({ userId }) => userId),
        "",
        (page) => `${page.at(-1)}\0`,
      ),
    markers,
    restoreTotal,
    closeForCopy: async () => void setSetting.run("closed", COPIED),
    reopen: async () => {
      if (deleteSetting.run("closed").changes === 0) throw new Error("The store is open");
    },
  };
}

/**
 * Reads a table page by page, with one query each. A query that stays open would keep a snapshot of the file, and this connection
 * could not write.
 */
export async function* pages<Row, Key>(read: (from: Key) => Row[], first: Key, after: (page: Row[]) => Key) {
  for (let from = first; ; ) {
    const page = read(from);
    if (page.length > 0) yield page;
    if (page.length < PAGE_SIZE) return;
    from = after(page);
  }
}
