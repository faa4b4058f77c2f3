/** `bun scripts/populate.ts`: sends generated orders to the queue and prints what they add to the totals. */

import { readConfig } from "../config.ts";
import { describeQueueError } from "../queue/request.ts";
import { formatNumber, pluralize } from "../text.ts";
import { type CommandResult, type Context, createCommand, UsageError, type Values } from "./cli.ts";
import { ENVELOPE_OPTIONS } from "./envelopes.ts";
import { generate } from "./generator.ts";
import { formatCents, formatRate } from "./progress.ts";
import { describeGrowth, openConfiguredQueue, type SendResult, sendMessages, totalsOf } from "./sender.ts";

const PERCENT = { type: "decimal", min: 0, max: 100, default: 0 } as const;
const OPTIONS = {
  orders: { type: "integer", max: 100_000_000, default: 100, help: "messages to send, of every kind" },
  users: {
    type: "integer",
    max: 10_000_000,
    default: 1000,
    help: "number of users; a tenth of them sends half of the orders",
  },
  rate: { ...PERCENT, max: 1_000_000, help: "messages per second; 0 sends as fast as the queue accepts them" },
  mismatch: { ...PERCENT, help: "% whose order_value is not the total of the items" },
  invalid: { ...PERCENT, help: "% that are not valid orders" },
  duplicates: { ...PERCENT, help: "% that are copies of an order sent before" },
  days: { type: "integer", max: 3_650, default: 1, help: "days in TIME_ZONE to spread the orders over, ending today" },
  envelope: { type: ENVELOPE_OPTIONS, help: "sns, eventbridge, sns+eventbridge, or mixed: each and none in turn" },
  seed: { type: "integer", min: 0, max: 2 ** 32 - 1, help: "seed of the random generator; random if not given" },
} as const;

export const populate = createCommand({
  description:
    "Sends generated orders to the queue that `bun run start` reads, and prints what they add to the totals.",
  usage: "bun scripts/populate.ts [options]",
  options: OPTIONS,
  notes: `The same seed, options and day generate the same order ids: sent again, the orders count as duplicates. Percentages
are of all messages, drawn for each message. The queue is found by the environment variables of the program.`,
  examples: [
    "bun scripts/populate.ts --orders 5000 --days 30",
    "bun scripts/populate.ts --orders 100000 --mismatch 5 --invalid 2 --duplicates 10",
    "bun scripts/populate.ts --orders 600 --rate 10 --seed 42 --json",
  ],
  finishesOnInterrupt: true,
  run,
});

async function run(options: Values<typeof OPTIONS>, context: Context): Promise<CommandResult> {
  const { env, signal, printToStderr, progress } = context;
  // Rounded: 33.3 + 33.3 + 33.4 is a little more than 100 in floating point.
  const percent = Number((options.mismatch + options.invalid + options.duplicates).toFixed(6));
  if (percent > 100) throw new UsageError([`--mismatch, --invalid and --duplicates add up to ${percent}: at most 100`]);
  if (env.NODE_ENV === "production")
    throw new Error("NODE_ENV=production: generated orders would be counted as real ones");
  const { queue: config, consumer, timeZone } = readConfig(env);
  const queue = await openConfiguredQueue(config);
  const seed = options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
  await printToStderr(`Sending ${pluralize(options.orders, "message")} to ${queue.address.url}, seed ${seed}`);
  const { onValueMismatch } = consumer;
  const messages = generate({ ...options, seed, nowMs: Date.now(), timeZone, onValueMismatch });
  const result = await sendMessages(queue, messages, options, signal, progress(options.orders, "message"));
  queue.close();
  return report(result, options.orders, seed);
}

function report({ totals, seconds, uncertain, error }: SendResult, wanted: number, seed: number): CommandResult {
  const { messages } = totals;
  const growth = describeGrowth(totals);
  const sent = (messages < wanted ? `${formatNumber(messages)} of ` : "") + pluralize(wanted, "message");
  const rate = formatRate(messages, seconds * 1000);
  const summary = `Sent ${sent} in ${seconds.toFixed(1)} s (${rate} messages/s), seed ${seed}.`;
  const lines = [summary, "The totals grow by:", ...growth.table];
  const json = { seed, messages, seconds: Number(seconds.toFixed(3)), ...growth.json };
  if (!error) return { lines, json };
  const most = totalsOf(uncertain);
  const more = `${pluralize(most.counted + most.corrected, "order")} and ${formatCents(most.cents)}`;
  const problem = `Cannot send: ${describeQueueError(error)}. Up to ${pluralize(uncertain.length, "more message")} may be in the queue: the totals may grow by up to ${more} more`;
  return { lines, json: { ...json, uncertain: uncertain.length }, problems: [problem] };
}

if (import.meta.main) process.exit(await populate(process.argv.slice(2), Bun.env));
