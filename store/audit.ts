import { boardsOf, isDay } from "./periods.ts";
import { bySpend, MAX_TOP, type Totals, type UserTotals, type WholeStore } from "./store.ts";

export type Audit = Awaited<ReturnType<typeof auditStore>>;

/** More tell a person nothing new, and a store that lost a board has as many as it had users. */
const MAX_DIFFERENCES = 20;
const NOTHING: Totals = { orders: 0, cents: 0 };

/**
 * Proves, in orders and in cents, that the days and the users add up to the total, every board to its days, and the year
 * boards to each user's own totals; and that each board's first users are the first. Answers the first differences, and whether orders were counted meanwhile (`moved`):
 * what was read is then of no one moment. `onOrders` hears the orders of each page of a board, four times the total in all.
 */
export async function auditStore(store: WholeStore, onOrders: (orders: number) => void) {
  const differences: { what: string; expected: string; found: string }[] = [];
  function compare(what: string, expected: string, found: string) {
    const known = differences.length === MAX_DIFFERENCES || differences.some((difference) => difference.what === what);
    if (expected !== found && !known) differences.push({ what, expected, found });
  }

  const global = await store.global();
  const days = await store.days();
  const totals = await store.daily(days);
  compare("sum of the days", inWords(global), inWords(totals.reduce(add, NOTHING)));

  const boards = new Map((await store.boards()).map((board) => [board, NOTHING]));
  for (const [index, day] of days.entries()) {
    compare(`day ${day}`, "a date", isDay(day) ? "a date" : "none");
    for (const board of isDay(day) ? boardsOf(day) : [])
      boards.set(board, add(boards.get(board) ?? NOTHING, totals[index] ?? NOTHING));
  }

  const years = [...boards.keys()].filter((board) => board.startsWith("y:"));
  let users = 0;
  let sumOfUsers = NOTHING;
  for (const [board, total] of boards) await auditBoard(board, total);
  for await (const userIds of store.userIds()) await auditUsers(userIds, -1);
  compare("sum of the users", inWords(global), inWords(sumOfUsers));

  const moved = inWords(await store.global()) !== inWords(global);
  return { ...global, users, days: days.length, boards: boards.size, moved, differences };

  async function auditBoard(board: string, total: Totals) {
    let [sum, idle, first]: [Totals, number, UserTotals[]] = [NOTHING, 0, []];
    for await (const page of store.userIds(board)) {
      const places = await store.places(board, page);
      const ofPage = places.reduce(add, NOTHING);
      sum = add(sum, ofPage);
      idle += places.filter(({ orders }) => orders === 0).length;
      const users = places.map((place, index) => ({ userId: page[index] as string, ...place }));
      first = [...first, ...users].sort(bySpend).slice(0, MAX_TOP);
      if (years.includes(board)) await auditUsers(page, years.indexOf(board));
      onOrders(ofPage.orders);
    }
    compare(`board ${board}`, inWords(total), inWords(sum));
    compare(`users without orders on board ${board}`, "0", `${idle}`);
    const top = await store.top(board, MAX_TOP);
    for (let rank = 0; rank < Math.max(first.length, top.length); rank++)
      compare(`rank ${rank + 1} of board ${board}`, asRank(first[rank]), asRank(top[rank]));
  }

  /**
   * Compares those of the users whose first year board is `first`: so each is added once, however many years have the
   * user. At the end those who are on none (-1), compared only: SCAN may repeat them.
   */
  async function auditUsers(userIds: string[], first: number) {
    const places = await Promise.all(years.map((year) => store.places(year, userIds)));
    const audits = userIds.map(async (userId, index) => {
      const ofUser = places.map((place) => place[index] ?? NOTHING);
      if (ofUser.findIndex(({ orders }) => orders > 0) !== first) return;
      const own = await store.user(userId);
      compare(`user ${userId}`, inWords(ofUser.reduce(add, NOTHING)), inWords(own));
      if (first === -1) return;
      users++;
      sumOfUsers = add(sumOfUsers, own);
    });
    await Promise.all(audits);
  }
}

const add = (a: Totals, b: Totals): Totals => ({ orders: a.orders + b.orders, cents: a.cents + b.cents });
const inWords = ({ orders, cents }: Totals) => `${orders} orders, ${(cents / 100).toFixed(2)}`;
const asRank = (user: UserTotals | undefined) => (user ? `${user.userId}, ${inWords(user)}` : "nobody");
