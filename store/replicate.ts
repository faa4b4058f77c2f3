import calculateSlot from "cluster-key-slot";
import type { ChainableCommander } from "ioredis";
import type { Connection } from "./shard.ts";

/** A replica answers in a millisecond or two; one that has not after a second is away. */
const REPLICAS_MS = 1_000;

/** Puts a command into a pipeline; a script whole, where the server has forgotten it. */
export type Send = (to: ChainableCommander, whole: boolean) => ChainableCommander;

/**
 * Sends a command and answers what it did, once the replicas of its master have it. Rejects where they have not in time, and
 * the command may have been done all the same. `key` is one that nobody reads, in the slot of the command.
 */
export type Replicate = (key: string, command: Send) => Promise<string>;

/**
 * A script for a pipeline with WAIT. One that the client has defined would not do: where the server has forgotten it, the
 * client sends it again by itself, behind the WAIT.
 */
export function scriptOf(lua: string, keys: number) {
  const sha = new Bun.CryptoHasher("sha1").update(lua).digest("hex");
  return (...args: (string | number)[]): Send =>
    (to, whole) =>
      whole ? to.eval(lua, keys, ...args) : to.evalsha(sha, keys, ...args);
}

interface Call {
  key: string;
  command: Send;
  resolve(answer: string): void;
  reject(error: unknown): void;
}

/** None where no replica must have it. What is sent to one master at one moment waits once. */
export function createReplicate(redis: Connection, replicas: number): Replicate | undefined {
  if (replicas === 0) return undefined;
  const waiting = new Map<string, Call[]>();

  async function send(calls: readonly Call[], whole = false) {
    const pipeline = redis.pipeline();
    for (const { command } of calls) command(pipeline, whole);
    // The write makes WAIT speak of this moment: after a reconnect duplicates alone would write nothing. All go over one
    // connection: behind a failover WAIT would speak of a master that has nothing of it.
    pipeline.set(calls[0]?.key ?? "", "", "EX", 60).wait(replicas, REPLICAS_MS);
    try {
      const answers = (await pipeline.exec()) ?? [];
      const own = answers.splice(0, calls.length);
      for (const [error] of answers) if (error) throw error;
      const having = Number(answers.at(-1)?.[1]);
      if (!(having >= replicas))
        throw new Error(`only ${having} of ${replicas} replicas have it after ${REPLICAS_MS / 1000} s`);
      const isForgotten = (index: number) => !whole && own[index]?.[0]?.message.startsWith("NOSCRIPT");
      for (const [index, [error, answer]] of own.entries()) {
        if (isForgotten(index)) continue;
        if (error) calls[index]?.reject(error);
        else calls[index]?.resolve(`${answer}`);
      }
      const forgotten = calls.filter((_, index) => isForgotten(index));
      if (forgotten.length > 0) await send(forgotten, true);
    } catch (error) {
      for (const { reject } of calls) reject(error);
    }
  }

  return (key, command) => {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const call = { key, command, resolve, reject };
    // As the client groups slots: a pipeline goes to one node.
    const master = "slots" in redis ? `${redis.slots[calculateSlot(key)]}` : "";
    const others = waiting.get(master);
    if (others) others.push(call);
    else {
      const calls = [call];
      waiting.set(master, calls);
      queueMicrotask(() => {
        waiting.delete(master);
        void send(calls);
      });
    }
    return promise;
  };
}
