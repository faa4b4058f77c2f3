import type { GeneratedMessage } from "../../scripts/generator.ts";
import { boardsOf } from "../../store/periods.ts";
import type { Store, Totals } from "../../store/store.ts";

type Sums = Map<string, Totals>;

/** What the numbers must be: added up from what was sent, knowing nothing of how it is counted. */
export function createModel() {
  const global: Sums = new Map();
  const users: Sums = new Map();
  const days: Sums = new Map();
  const boards = new Map<string, Sums>();
  const rejects = new Set<string>();
  let duplicates = 0;

  function add(sums: Sums | undefined, key: string, cents: number) {
    const sum = sums?.get(key) ?? { orders: 0, cents: 0 };
    sums?.set(key, { orders: sum.orders + 1, cents: sum.cents + cents });
  }

  function expectMessage({ body, expected, userId, day, cents }: GeneratedMessage) {
    if (expected === "rejected") rejects.add(body);
    if (expected === "duplicate") duplicates++;
    if (expected === "rejected" || expected === "duplicate") return;
    add(global, "", cents);
    add(users, userId, cents);
    add(days, day, cents);
    for (const board of boardsOf(day)) {
      if (!boards.has(board)) boards.set(board, new Map());
      add(boards.get(board), userId, cents);
    }
  }

  /** Every user, day, board and total that differs, each in a line. */
  async function differences(store: Store): Promise<string[]> {
    const found: string[] = [];
    const compare = (what: string, is: Totals, should: Totals) => {
      if (is.orders === should.orders && is.cents === should.cents) return;
      found.push(`${what}: ${is.orders} orders, ${is.cents} cents instead of ${should.orders}, ${should.cents}`);
    };
    compare("global", await store.global(), global.get("") ?? { orders: 0, cents: 0 });
    for (const [user, sum] of users) compare(`user ${user}`, await store.user(user), sum);
    for (const [day, sum] of days) compare(`day ${day}`, (await store.daily([day]))[0] as Totals, sum);
    for (const [board, sums] of boards) {
      const top = await store.top(board, 1000);
      if (top.length !== sums.size) found.push(`board ${board}: ${top.length} users instead of ${sums.size}`);
      for (const entry of top) {
        compare(`board ${board}, user ${entry.userId}`, entry, sums.get(entry.userId) ?? { orders: 0, cents: 0 });
      }
    }
    return found;
  }

  return {
    expectMessage,
    differences,
    rejects,
    orders: () => global.get("")?.orders ?? 0,
    duplicates: () => duplicates,
  };
}
