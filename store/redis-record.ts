import type { ChainableCommander, Result } from "ioredis";
import { leaderboardsOf } from "./periods.ts";
import recordScript from "./record.lua" with { type: "text" };
import type { Connection } from "./redis-connection.ts";
import { describeRedisError } from "./redis-errors.ts";
import type { RedisKeys } from "./redis-keys.ts";
import { allOf } from "./redis-values.ts";
import { digestOf, MAX_ORDER_CENTS, MAX_TOP, MAX_TOTAL_CENTS, type Order, type Recorded } from "./store.ts";

/** A replica acknowledges within one or two milliseconds. One that has not after a second is down. */
const REPLICAS_MS = 1_000;
/** The digits that record.lua returns. */
const RESULTS: Record<string, Recorded> = { 0: "duplicate", 1: "recorded", 2: "refused" };

declare module "ioredis" {
  interface RedisCommander<Context> {
    recordOrders(...args: [...RecordArgs]): Result<string, Context>;
  }
}
type RecordArgs = [global: string, ...args: (string | number | Buffer)[]];

interface RecorderDeps {
  redis: Connection;
  keys: RedisKeys;
  windowSeconds: number;
  timeZone: string;
  waitReplicas: number;
}

/** @returns the functions of the store that run record.lua: `record`, and `checkDays`, which runs it without orders */
export function createRecorder({ redis, keys, windowSeconds, timeZone, waitReplicas }: RecorderDeps) {
  const script = createRunScript(redis, keys, waitReplicas);
  const runScript = (args: RecordArgs) =>
    script(args).catch((error) => {
      throw new Error(`Redis does not accept orders: ${describeRedisError(error)}`, { cause: error });
    });
  const fixedArgs = [keys.global, keys.prefix, windowSeconds, MAX_TOTAL_CENTS, MAX_ORDER_CENTS, MAX_TOP] as const;

  async function record(orders: readonly Order[]): Promise<Recorded[]> {
    if (orders.length === 0) return [];
    const days = [...new Set(orders.map(({ day }) => day))];
    const rows = orders.flatMap(({ userId, cents, day }) => [userId, cents, days.indexOf(day) + 1]);
    const markers = Buffer.concat(orders.map(({ id }) => digestOf(id)));
    const boards = JSON.stringify(days.map(leaderboardsOf));
    const digits = await runScript([...fixedArgs, boards, JSON.stringify(rows), markers, timeZone]);
    // Messages are deleted by these results, so do not accept anything but one known digit per order.
    if (digits.length !== orders.length || !/^[012]*$/.test(digits))
      throw new Error(`Redis returned ${JSON.stringify(digits.slice(0, 40))} for ${orders.length} orders`);
    return Array.from(digits, (digit) => RESULTS[digit] as Recorded);
  }

  /** PING is not enough: it succeeds on a replica, with a full memory, with a failed disk and without permissions. */
  async function checkDays(days: readonly string[]) {
    const boards = JSON.stringify(days.map(leaderboardsOf));
    await runScript([...fixedArgs, boards, "[]", "", timeZone]);
  }

  return { record, checkDays };
}

/** @returns a function that runs record.lua and, with `waitReplicas`, resolves when that many replicas have its writes */
function createRunScript(redis: Connection, keys: RedisKeys, waitReplicas: number) {
  redis.defineCommand("recordOrders", { lua: recordScript, numberOfKeys: 1 });
  if (waitReplicas === 0) return async (args: RecordArgs) => await redis.recordOrders(...args);
  const sha = new Bun.CryptoHasher("sha1").update(recordScript).digest("hex");

  /**
   * One pipeline, so that script and WAIT use the same connection: after a failover, WAIT could otherwise run on another master,
   * which does not have the writes. WAIT covers only earlier writes of its connection, so the SET is needed after a reconnect: a
   * batch of duplicates writes nothing.
   */
  async function send(script: (pipeline: ChainableCommander) => ChainableCommander): Promise<string> {
    const pipeline = script(redis.pipeline()).set(keys.check, "", "EX", 60).wait(waitReplicas, REPLICAS_MS);
    const [digits, , replicas] = await allOf<string | number>(pipeline);
    if (!(Number(replicas) >= waitReplicas)) throw new Error(await describeMissing(Number(replicas)));
    return `${digits}`;
  }

  async function describeMissing(replicas: number): Promise<string> {
    // In a pipeline with the key, so that a cluster sends INFO to the same master.
    const [, info] = await allOf<unknown>(redis.pipeline().exists(keys.check).info("replication")).catch(() => []);
    const connected = /connected_slaves:(\d+)/.exec(`${info}`)?.[1] ?? "unknown";
    return `only ${replicas} of ${waitReplicas} replicas have it after ${REPLICAS_MS / 1000} s: REDIS_WAIT_REPLICAS is ${waitReplicas}, replicas connected to Redis: ${connected}`;
  }

  return (args: RecordArgs) =>
    send((pipeline) => pipeline.evalsha(sha, 1, ...args)).catch((error) => {
      // ioredis handles NOSCRIPT of a defined command itself, but would then send the script after the WAIT.
      if (!error.message.startsWith("NOSCRIPT")) throw error;
      return send((pipeline) => pipeline.eval(recordScript, 1, ...args));
    });
}
