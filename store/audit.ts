import { pluralize } from "../text.ts";
import { isDay, leaderboardsOf } from "./periods.ts";
import {
  addTotals,
  bySpend,
  ForeignKeyError,
  type FullStore,
  MAX_TOP,
  NO_ORDERS,
  PAGE_SIZE,
  type Totals,
  type UserTotals,
} from "./store.ts";

export type Audit = Awaited<ReturnType<typeof auditStore>>;

/** The first few are enough to find the cause. A store that has lost a leaderboard can have one difference per user. */
const MAX_DIFFERENCES = 20;
/** Users whose totals are in memory at a time, some 100 MB. The year leaderboards are read once for each so many users. */
const USERS_AT_ONCE = 500_000;

/**
 * Checks the store, in orders and in cents:
 *
 * - The days and the users add up to the overall total.
 * - Every leaderboard adds up to its days, and its first users are sorted correctly.
 * - The year leaderboards add up to the totals of each user.
 * - No key holds data of another program.
 *
 * @param onOrders is called with the number of orders on each page of a leaderboard. Every order is on a leaderboard of each period
 * @param usersAtOnce lower in tests
 * @returns the first differences, and in `moved` whether orders were counted during the audit, which can cause differences
 */
export async function auditStore(store: FullStore, onOrders: (orders: number) => void, usersAtOnce = USERS_AT_ONCE) {
  const { differences, compare, readOrReport } = createDifferences();
  const global = await readOrReport("total", NO_ORDERS, store.global);
  const days = await readOrReport("days", [], store.days);
  const totals = await store.daily(days);
  compare("sum of the days", describe(global), describe(totals.reduce(addTotals, NO_ORDERS)));

  const boards = new Map((await store.leaderboards()).map((board) => [board, NO_ORDERS]));
  for (const [index, day] of days.entries()) {
    compare(`day ${day}`, "a date", isDay(day) ? "a date" : "none");
    for (const board of isDay(day) ? leaderboardsOf(day) : [])
      boards.set(board, addTotals(boards.get(board) ?? NO_ORDERS, totals[index] ?? NO_ORDERS));
  }

  let mostUsers = 0;
  for (const [board, total] of boards)
    await readOrReport(`leaderboard ${board}`, undefined, () => auditBoard(board, total));

  let users = 0;
  let sumOfUsers = NO_ORDERS;
  const years = [...boards.keys()].filter((board) => board.startsWith("y:"));
  const listed = await readOrReport("list of users", undefined, countListedUsers);
  const parts = Math.ceil(Math.max(mostUsers, listed ?? 0, 1) / usersAtOnce);
  for (let part = 0; part < parts; part++) await auditUsers((userId) => Bun.hash.crc32(userId) % parts === part);
  compare("sum of the users", describe(global), describe(sumOfUsers));
  compare("users missing from the list of users", "0", `${Math.max(0, users - (listed ?? users))}`);

  const moved = describe(await readOrReport("total", NO_ORDERS, store.global)) !== describe(global);
  return { ...global, users, days: days.length, boards: boards.size, moved, differences };

  async function auditBoard(board: string, total: Totals) {
    let [sum, entries, withoutOrders, first]: [Totals, number, number, UserTotals[]] = [NO_ORDERS, 0, 0, []];
    for await (const page of store.usersOn(board)) {
      const pageTotal = page.reduce<Totals>(addTotals, NO_ORDERS);
      sum = addTotals(sum, pageTotal);
      entries += page.length;
      withoutOrders += page.filter(({ orders }) => orders === 0).length;
      first = [...first, ...page].sort(bySpend).slice(0, MAX_TOP);
      onOrders(pageTotal.orders);
    }
    mostUsers = Math.max(mostUsers, entries);
    compare(`leaderboard ${board}`, describe(total), describe(sum));
    compare(`users without orders on leaderboard ${board}`, "0", `${withoutOrders}`);
    const top = await store.top(board, MAX_TOP);
    for (let rank = 0; rank < Math.max(first.length, top.length); rank++)
      compare(`rank ${rank + 1} of leaderboard ${board}`, describeRank(first[rank]), describeRank(top[rank]));
  }

  /**
   * Compares the own totals of the users of one part with their sums on the year leaderboards. Users on none of them should not
   * have orders, and their keys may hold data of another program.
   */
  async function auditUsers(isInPart: (userId: string) => boolean) {
    const sums = new Map<string, Totals>();

    async function addYear(year: string) {
      for await (const page of store.usersOn(year))
        for (const user of page.filter(({ userId }) => isInPart(userId)))
          sums.set(user.userId, addTotals(sums.get(user.userId) ?? NO_ORDERS, user));
    }

    async function auditUser(userId: string) {
      const sum = sums.get(userId) ?? NO_ORDERS;
      const own = await readOrReport(`user ${userId}`, NO_ORDERS, () => store.user(userId));
      compare(`user ${userId}`, describe(sum), describe(own));
      if (sum.orders <= 0) return;
      users++;
      sumOfUsers = addTotals(sumOfUsers, own);
    }

    for (const year of years) await readOrReport(`leaderboard ${year}`, undefined, () => addYear(year));
    const userIds = [...sums.keys()];
    for (let at = 0; at < userIds.length; at += PAGE_SIZE)
      await Promise.all(userIds.slice(at, at + PAGE_SIZE).map(auditUser));
    for await (const stored of store.storedUserIds())
      await Promise.all(stored.filter((userId) => isInPart(userId) && !sums.has(userId)).map(auditUser));
  }

  async function countListedUsers(): Promise<number> {
    let count = 0;
    for await (const page of store.users()) count += page.length;
    return count;
  }
}

/** Collects the first differences, one for each `what`. */
function createDifferences() {
  const differences: { what: string; expected: string; found: string }[] = [];

  function compare(what: string, expected: string, found: string) {
    const skip = differences.length === MAX_DIFFERENCES || differences.some((difference) => difference.what === what);
    if (expected !== found && !skip) differences.push({ what, expected, found });
  }

  /** Reports a key with data of another program as a difference, so that the audit can go on. @returns `fallback` then */
  async function readOrReport<T>(what: string, fallback: T, read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      if (!(error instanceof ForeignKeyError)) throw error;
      compare(what, "data of this program", error.message);
      return fallback;
    }
  }

  return { differences, compare, readOrReport };
}

/**
 * Restores a lost overall total from the days. Does not change an existing total.
 *
 * @returns whether anything was restored
 */
export async function repairTotal(store: FullStore): Promise<boolean> {
  const days = await store.days();
  if (days.length === 0) return false;
  return await store.restoreTotal((await store.daily(days)).reduce(addTotals, NO_ORDERS));
}

const describe = ({ orders, cents }: Totals) => `${pluralize(orders, "order")}, ${(cents / 100).toFixed(2)}`;
const describeRank = (user: UserTotals | undefined) => (user ? `${user.userId}, ${describe(user)}` : "nobody");
