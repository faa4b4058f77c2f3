import type { Redis } from "ioredis";

/**
 * What to change in this Redis before trusting it with money, a sentence each. What a managed Redis does not tell
 * is passed over.
 */
export async function adviseOn(redis: Redis): Promise<string[]> {
  const info = await redis.info().catch(() => "");
  const setting = (name: string) => info.match(new RegExp(`^${name}:(\\S+)`, "m"))?.[1];
  const advice: string[] = [];
  const policy = setting("maxmemory_policy");
  if (policy && policy !== "noeviction") {
    advice.push(`maxmemory-policy is ${policy}: a full Redis forgets orders instead of refusing them. Set noeviction`);
  }
  if (setting("aof_enabled") === "0") {
    advice.push(
      "appendonly is off: what is counted since the last snapshot is lost when Redis dies. Set appendonly yes",
    );
    return advice;
  }
  const [, fsync] = (await redis.config("GET", "appendfsync").catch(() => [])) as string[];
  if (fsync === "no" || fsync === "everysec") {
    advice.push(
      `appendfsync is ${fsync}: a power cut may lose the last ${fsync === "no" ? "half minute" : "second"} of orders. Set always`,
    );
  }
  return advice;
}
