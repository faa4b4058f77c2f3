/** The values in Redis, and the replies that contain them. */
import type { ChainableCommander } from "ioredis";
import type { Connection } from "./redis-connection.ts";
import { ForeignKeyError, PAGE_SIZE, type Totals, type UserTotals } from "./store.ts";

/** @returns those of the user keys that hold data of another program */
export async function findForeignUserKeys(redis: Connection, userKeys: readonly string[]): Promise<string[]> {
  const amounts = await readAmounts(redis, userKeys);
  // A key without valid fields either does not exist or holds data of another program.
  const suspects = userKeys.filter(
    (_, index) => amounts[index]?.some((field) => !/^[\d.]+$/.test(field ?? "")) ?? true,
  );
  const exists = await Promise.all(suspects.map((key) => redis.exists(key)));
  return suspects.filter((_, index) => exists[index] === 1);
}

/**
 * Executes a pipeline.
 *
 * @returns the replies
 * @throws the first error among the replies
 */
export async function allOf<T>(pipeline: ChainableCommander): Promise<T[]> {
  const replies = (await pipeline.exec()) ?? [];
  for (const [error] of replies) if (error) throw error;
  return replies.map(([, reply]) => reply as T);
}

/** @returns `order_count` and `total_spend` of each user key (null if missing), or undefined if the key is not a hash */
async function readAmounts(redis: Connection, userKeys: readonly string[]) {
  const pipeline = redis.pipeline();
  for (const key of userKeys) pipeline.hmget(key, "order_count", "total_spend");
  return ((await pipeline.exec()) ?? []).map(([error, fields]) => {
    if (error && !isWrongType(error)) throw error;
    return error ? undefined : (fields as (string | null)[]);
  });
}

/** @returns the fields of a hash as flat lists: field, value, field, … A field may be repeated if the hash shrinks meanwhile */
export async function* hashPages(redis: Connection, key: string): AsyncGenerator<string[]> {
  for (let cursor = "0"; ; ) {
    const [next, fields] = await checkType(key, redis.hscan(key, cursor, "COUNT", PAGE_SIZE));
    yield fields;
    if (next === "0") return;
    cursor = next;
  }
}

const isWrongType = (error: unknown) => error instanceof Error && error.message.includes("WRONGTYPE");

/**
 * @param key is named in the error
 * @returns the reply
 * @throws a `ForeignKeyError` if the key has another type than the command expects
 */
export async function checkType<T>(key: string, reply: Promise<T>): Promise<T> {
  return await reply.catch((error) => {
    throw typeError(key, error);
  });
}

/** @returns a `ForeignKeyError` if the key has another type than the command expects, otherwise the error itself */
export const typeError = (key: string, error: Error) =>
  isWrongType(error) ? new ForeignKeyError(`${key} in Redis holds data of another program`) : error;

/** Parses "orders cents", the values of days and leaderboards. @returns zeros if there is no value */
export function parseTotals(text: string | null | undefined): Totals {
  const [orders, cents] = (text ?? "0 0").split(" ");
  return { orders: Number(orders), cents: Number(cents) };
}

/** Parses a flat list: user id, "orders cents", user id, … */
export const parseUserTotals = (fields: readonly string[]): UserTotals[] =>
  Array.from({ length: fields.length / 2 }, (_, index) => ({
    userId: fields[index * 2] ?? "",
    ...parseTotals(fields[index * 2 + 1]),
  }));

/** Parses count and decimal amount, the fields of the two public hashes. @returns zeros if both are null */
export function parseAmounts([orders, amount]: readonly (string | null)[]): Totals {
  // As text, because multiplying by 100 would round amounts near the limit.
  const [whole, fraction = ""] = (amount ?? "0").split(".");
  return { orders: Number(orders ?? 0), cents: Number(whole) * 100 + Number(fraction.padEnd(2, "0")) };
}

/** @returns cents as decimal text, "3200.75", as in the public hashes */
export const decimalOf = (cents: number) => `${Math.floor(cents / 100)}.${`${cents % 100}`.padStart(2, "0")}`;
