import type { Queue } from "../../queue/queue.ts";
import type { GeneratedMessage } from "../../scripts/generator.ts";
import { auditStore } from "../../store/audit.ts";
import { leaderboardsOf } from "../../store/periods.ts";
import type { FullStore, Store, Totals } from "../../store/store.ts";
import { deadLettersOf, takeAll } from "../support/queues.ts";

type Sums = Map<string, Totals>;
export type Model = ReturnType<typeof createModel>;

/** What is wrong when the queue is empty: nothing, where nothing was lost or counted twice. */
export interface Findings {
  /** Every number of the store that is not the model's. */
  differences: string[];
  /** What `bun scripts/audit.ts` finds in the store. */
  auditFindings: unknown[];
  /** Orders in the dead-letter queue that should have been counted. */
  goodOrdersDeadLettered: number;
  /** Rejected orders that are not in the dead-letter queue. */
  rejectsMissing: number;
}

export const isClean = (found: Findings) =>
  found.differences.length + found.auditFindings.length + found.goodOrdersDeadLettered + found.rejectsMissing === 0;

/** Compares the store and the dead-letter queue, which it empties, with what they must hold. */
export async function findProblems(
  model: Model,
  store: FullStore,
  queue: Queue,
  audit = auditStore,
): Promise<Findings> {
  const deadLetters = await takeAll(deadLettersOf(queue));
  const bodies = new Set(deadLetters.map(({ body }) => body));
  return {
    differences: await model.differences(store),
    auditFindings: (await audit(store, () => {})).differences,
    goodOrdersDeadLettered: [...bodies].filter((body) => !model.rejects.has(body)).length,
    rejectsMissing: [...model.rejects].filter((body) => !bodies.has(body)).length,
  };
}

/** Takes the next `count` messages, adds them to the model and sends them. */
export async function sendMessages(
  queue: Queue,
  model: Model,
  messages: Iterator<GeneratedMessage, never>,
  count: number,
) {
  const next = Array.from({ length: count }, () => messages.next().value);
  for (const message of next) model.expectMessage(message);
  const batches = next.flatMap((_, index) => (index % 10 === 0 ? [next.slice(index, index + 10)] : []));
  await Promise.all(batches.map((batch) => queue.send(batch.map(({ body }) => body))));
}

/** What the numbers must be: added up from what was sent, without the code that counts. */
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
    for (const board of leaderboardsOf(day)) {
      if (!boards.has(board)) boards.set(board, new Map());
      add(boards.get(board), userId, cents);
    }
  }

  /** Every total, user, day and leaderboard that differs, a line each. */
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
