/** `bun scripts/populate.ts`: sends generated orders to the queue and says what the totals grow by. */

import { readConfig } from "../config.ts";
import { openQueue, reasonOf } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { type Context, createCommand, grouped, money, perSecond, type Result, type Values } from "./command.ts";
import { generate } from "./generator.ts";
import { addMessage, createTotals, type Sent, sendMessages } from "./sender.ts";

const PERCENT = { takes: "decimal", min: 0, max: 100, fallback: 0 } as const;
const OPTIONS = {
  orders: { takes: "integer", max: 100_000_000, fallback: 100, about: "messages to send, of every kind" },
  users: { takes: "integer", max: 10_000_000, fallback: 1000, about: "to draw from; a tenth of them buys half" },
  rate: { ...PERCENT, max: 1_000_000, about: "a second; 0 is as fast as the queue takes them" },
  mismatch: { ...PERCENT, about: "% whose order_value is not the total of the items" },
  invalid: { ...PERCENT, about: "% that are not valid orders" },
  duplicates: { ...PERCENT, about: "% that are copies of an order sent earlier" },
  days: { takes: "integer", max: 3_650, fallback: 1, about: "UTC days to spread the orders over, today the last" },
  seed: { takes: "integer", min: 0, max: 2 ** 32 - 1, about: "for the same orders again; random where not given" },
} as const;

export const populate = createCommand({
  about: "Sends generated orders to the queue that `bun run start` reads and says what the totals grow by.",
  usage: "bun scripts/populate.ts [options]",
  options: OPTIONS,
  notes: `The same seed, options and UTC day send the same order ids again: those count as duplicates. Percentages are of
all messages, drawn for each of them. The queue is found by the environment variables that the program reads.`,
  examples: [
    "bun scripts/populate.ts --orders 5000 --days 30",
    "bun scripts/populate.ts --orders 100000 --mismatch 5 --invalid 2 --duplicates 10",
    "bun scripts/populate.ts --orders 600 --rate 10 --seed 42 --json",
  ],
  check({ mismatch, invalid, duplicates }) {
    // Decimals may add up to a hair more than they should.
    const percent = Number((mismatch + invalid + duplicates).toFixed(6));
    return percent > 100 ? [`--mismatch, --invalid and --duplicates add up to ${percent}: at most 100`] : [];
  },
  settles: true,
  run,
});

async function run(options: Values<typeof OPTIONS>, { env, signal, note, progress }: Context): Promise<Result> {
  if (env.NODE_ENV === "production") throw new Error("NODE_ENV=production: made-up orders would count as real ones");
  const { queue: wanted, consumer } = readConfig(env);
  const { name } = wanted;
  const embedded = wanted.kind === "embedded" && { name, endpoint: `http://127.0.0.1:${wanted.port}`, embedded: true };
  const queue = openQueue(await locateQueue(embedded || { ...wanted, embedded: false }));
  const seed = options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
  void note(`Sending ${grouped(options.orders)} messages to ${queue.address.url}, seed ${seed}`);
  const messages = generate({ ...options, seed, nowMs: Date.now(), onValueMismatch: consumer.onValueMismatch });
  const sent = await sendMessages(queue, messages, options, signal, progress(options.orders, "messages"));
  queue.close();
  return report(sent, options.orders, seed);
}

/** `orders` are those that count, corrected ones included. */
function report({ totals, seconds, uncertain, error }: Sent, wanted: number, seed: number): Result {
  const { messages, cents, counted, corrected, rejected, duplicate: duplicates } = totals;
  const orders = counted + corrected;
  const sent = messages < wanted ? `${grouped(messages)} of ${grouped(wanted)}` : grouped(messages);
  const text = `Sent ${sent} messages in ${seconds.toFixed(1)} s (${perSecond(messages, seconds * 1000)} orders/s), seed ${seed}.
The totals grow by:
  orders      ${grouped(orders)} (${grouped(counted)} counted, ${grouped(corrected)} corrected)
  revenue     ${money(cents)}
  rejected    ${grouped(rejected)}
  duplicates  ${grouped(duplicates)}`;
  const sums = { orders, revenue: cents / 100, counted, corrected, rejected, duplicates };
  const json = { seed, messages, seconds: Number(seconds.toFixed(3)), ...sums };
  if (!error) return { text, json };
  const most = createTotals();
  for (const message of uncertain) addMessage(most, message);
  const more = `by up to ${most.counted + most.corrected} orders and ${money(most.cents)} more`;
  const left = `${uncertain.length} further messages may be in the queue: the totals may grow ${more}`;
  return {
    text,
    json: { ...json, uncertain: uncertain.length },
    problems: [`Cannot send: ${reasonOf(error)}. ${left}`],
  };
}

if (import.meta.main) process.exit(await populate(process.argv.slice(2), Bun.env));
