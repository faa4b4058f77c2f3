import { setImmediate } from "node:timers/promises";

/**
 * Combines reads of one key each into fewer calls of `readAll`, because a command costs much more CPU time than one more key.
 * Reads that begin in the same turn of the event loop are one call. It does not wait for the call before, which may be slow.
 *
 * @param readAll returns for each key its value or the error of its read
 * @returns a function that reads one key
 */
export function createBatchReads<T>(readAll: (keys: readonly string[]) => Promise<readonly (T | Error)[]>) {
  let keys: string[] = [];
  let values: Promise<readonly (T | Error)[]> | undefined;

  async function readBatch() {
    await setImmediate();
    const batch = keys;
    [keys, values] = [[], undefined];
    return await readAll(batch);
  }

  return async (key: string): Promise<T> => {
    values ??= readBatch();
    const index = keys.push(key) - 1;
    const value = (await values)[index] as T | Error;
    if (value instanceof Error) throw value;
    return value;
  };
}
