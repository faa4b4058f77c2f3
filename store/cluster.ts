import { Cluster, type Redis } from "ioredis";
import { beginLayout, LAYOUTS_KEY, type Layout, readLayout, shardOf } from "./layout.ts";
import { COMMAND_TIMEOUT_MS, reasonOf } from "./reason.ts";
import { CLIENT, CONNECTION, explained, retryPauseMs, scan } from "./redis.ts";
import { adviseOn } from "./redis-advice.ts";
import { createReplicate } from "./replicate.ts";
import { defineScripts, digestOf, type Shard } from "./shard.ts";
import { createShelf } from "./shelf.ts";
import { bySpend, type Order, type Recorded, type Totals, type WholeStore } from "./store.ts";

export interface ClusterAddress {
  /** Some of the cluster's nodes, `host:port`; it names the others itself. */
  nodes: string[];
  /** How many shards a new cluster begins with. */
  shards: number;
  waitReplicas: number;
  username?: string;
  password?: string;
  tls?: boolean;
}

const SLOTS_REFRESH_MS = 1_000;
const RETRY_MS = 50;
/** A move to another number of shards is noticed in this time by whoever only reads. */
const LAYOUT_MS = 1_000;

/**
 * The store on Redis Cluster. A user's orders lie in one shard, that is in one slot, so that `record` is one atomic step
 * in each; a batch of several users is several steps, each as good as the whole: after a rejection every order is
 * counted or not, and calling again counts the rest. Numbers of all shards are added up when they are read.
 */
export async function openClusterStore(address: ClusterAddress): Promise<WholeStore> {
  const { waitReplicas } = address;
  const cluster = await connectCluster(address);
  const replicate = createReplicate(cluster, waitReplicas);
  const read = () => readLayout(cluster, address.shards, replicate);
  const first = await read().catch((error) => {
    cluster.disconnect();
    throw error;
  });
  let known: Promise<Layout> = Promise.resolve(first);
  let readAt = performance.now();
  /** Answers of batches that failed in another shard: the order is counted, and asked for again. */
  const answered = new WeakMap<Order, Recorded>();

  async function layout(): Promise<Layout> {
    if (performance.now() - readAt < LAYOUT_MS) return await known;
    readAt = performance.now();
    const before = known;
    known = (async () => {
      const last = await before.catch(() => undefined);
      return last && ((await cluster.get(LAYOUTS_KEY)) ?? "") === last.text ? last : await read();
    })();
    // Whoever asks meanwhile waits for the same answer: an old one would be as good as none.
    return await known;
  }

  /** Only what writes makes a cluster one that orders are counted in. */
  async function layoutToWrite(): Promise<Layout> {
    if ((await layout()).text === "") {
      await beginLayout(cluster, address.shards);
      readAt = -LAYOUT_MS;
    }
    return await layout();
  }

  async function record(orders: readonly Order[]): Promise<Recorded[]> {
    for (const endsMs = performance.now() + 2 * SLOTS_REFRESH_MS; ; await Bun.sleep(RETRY_MS)) {
      try {
        return await recordOnce(orders);
      } catch (error) {
        // It is not the orders that are refused: the client does not know yet where slots are that have moved.
        if (
          performance.now() > endsMs ||
          !/same slots allocation group|^MOVED |non local key/.test((error as Error).message)
        )
          throw error;
      }
    }
  }

  async function recordOnce(orders: readonly Order[]): Promise<Recorded[]> {
    const { shards, earlier } = await layoutToWrite();
    const answers = orders.map((order) => answered.get(order));
    const open = () => [...orders.keys()].filter((index) => answers[index] === undefined);
    const at = (index: number) => orders[index] as Order;
    const place = (index: number) => shardOf(at(index).userId, shards.length);

    for (const { wasCounted } of earlier) {
      const counted = await Promise.all(open().map(async (index) => ({ index, counted: await wasCounted(at(index)) })));
      for (const { index, counted: duplicate } of counted) if (duplicate) answers[index] = "duplicate";
    }
    const homes = Map.groupBy(open(), (index) => digestOf(at(index).id).home % shards.length);
    await inEach(shards, homes, async (shard, indices) => {
      const claims = await shard.claim(indices.map((index) => ({ id: at(index).id, shard: place(index) })));
      for (const [row, mine] of claims.entries()) if (!mine) answers[indices[row] as number] = "duplicate";
    });
    await inEach(shards, Map.groupBy(open(), place), async (shard, indices) => {
      const recorded = await shard.record(indices.map(at));
      for (const [row, index] of indices.entries()) answers[index] = recorded[row];
    }).catch((error) => {
      for (const [index, answer] of answers.entries()) if (answer) answered.set(at(index), answer);
      throw error;
    });
    for (const order of orders) answered.delete(order);
    return answers as Recorded[];
  }

  const each = async <T>(ask: (shard: Shard) => Promise<T>) => await Promise.all((await layout()).shards.map(ask));

  const global = async () => (await each((shard) => shard.global())).reduce(add);

  async function user(userId: string): Promise<Totals> {
    const { shards } = await layout();
    return (await shards[shardOf(userId, shards.length)]?.user(userId)) ?? { orders: 0, cents: 0 };
  }

  const top: WholeStore["top"] = async (board, n) =>
    (await each((shard) => shard.top(board, n))).flat().sort(bySpend).slice(0, n);

  async function daily(days: readonly string[]): Promise<Totals[]> {
    const totals = await each((shard) => shard.daily(days));
    return days.map((_, index) => totals.map((ofShard) => ofShard[index] as Totals).reduce(add));
  }

  async function knows(orderId: string): Promise<boolean> {
    const { shards, earlier } = await layout();
    const found = [...shards, ...earlier].map((each) => each.knows(orderId));
    return (await Promise.all(found)).includes(true);
  }

  const days = async () => [...new Set((await each((shard) => shard.days())).flat())];

  async function boards(): Promise<string[]> {
    const names = new Set<string>();
    for (const kind of ["board", "top"])
      for await (const page of namesLike(`orders:${kind}:`)) for (const name of page) names.add(name);
    return [...names];
  }

  async function* userIds(board?: string): AsyncGenerator<string[]> {
    if (board === undefined) return yield* namesLike("user:");
    const { shards, text } = await layout();
    for (const shard of shards) {
      for await (const page of shard.usersOf(board)) {
        await sameLayout(text);
        yield page;
      }
    }
  }

  /** A move removes what this reads, some seconds after everybody can know of it: what is left would look whole. */
  async function sameLayout(text: string) {
    if ((await layout()).text !== text) throw new Error("The orders were moved to other shards meanwhile: ask again");
  }

  /** The names that there are keys of this kind for, in any shard of this layout. */
  async function* namesLike(kind: string): AsyncGenerator<string[]> {
    const { prefixes: all, text } = await layout();
    const prefixes = new Set(all);
    for (const master of cluster.nodes("master")) {
      for await (const keys of scan(master, `{*}${kind}*`)) {
        // An id may look like a key; what stands before the first } is the tag all the same.
        const own = keys.map((key) => ({ key, end: key.indexOf("}") + 1 }));
        const found = own.filter(({ key, end }) => prefixes.has(key.slice(0, end)) && key.startsWith(kind, end));
        await sameLayout(text);
        yield found.map(({ key, end }) => key.slice(end + kind.length));
      }
    }
  }

  async function places(board: string, userIds: readonly string[]): Promise<Totals[]> {
    const { shards } = await layout();
    const totals: Totals[] = [];
    const groups = Map.groupBy([...userIds.keys()], (index) => shardOf(userIds[index] as string, shards.length));
    await inEach(shards, groups, async (shard, indices) => {
      const held = await shard.places(
        board,
        indices.map((index) => userIds[index] as string),
      );
      for (const [row, index] of indices.entries()) totals[index] = held[row] as Totals;
    });
    return totals;
  }

  async function checkAll() {
    await Promise.all((await layoutToWrite()).shards.map((shard) => shard.check()));
  }

  const check = () => explained(checkAll());
  const advice = () => adviseOnAll(cluster.nodes("master"), waitReplicas);
  const close = async () => cluster.disconnect();

  const reads = { global, user, top, daily, knows, days, boards, userIds, places };
  return { record, ...reads, ...createShelf(cluster), check, advice, close };
}

const add = (a: Totals, b: Totals): Totals => ({ orders: a.orders + b.orders, cents: a.cents + b.cents });

/** Asks every shard that has rows, all at once; rejects, once all have answered, where one did. */
async function inEach(
  shards: Shard[],
  rows: Map<number, number[]>,
  ask: (shard: Shard, rows: number[]) => Promise<void>,
) {
  const asked = [...rows].map(([index, ofShard]) => ask(shards[index] as Shard, ofShard));
  const failed = (await Promise.allSettled(asked)).find((answer) => answer.status === "rejected");
  if (failed) throw failed.reason;
}

async function adviseOnAll(masters: Redis[], waitReplicas: number): Promise<string[]> {
  const advice = new Set((await Promise.all(masters.map(adviseOn))).flat());
  if (waitReplicas === 0)
    advice.add(
      "REDIS_WAIT_REPLICAS is 0: orders counted just before a master dies may be lost. Set 1 where masters have a replica",
    );
  return [...advice];
}

export async function connectCluster({ nodes, username, password, tls }: ClusterAddress): Promise<Cluster> {
  const cluster = new Cluster(nodes, {
    ...CLIENT,
    clusterRetryStrategy: retryPauseMs,
    // ioredis follows a slot that has moved only for a command alone or a pipeline that fails as one: not where two slots
    // have moved, nor behind WAIT. Without this it would go on asking the wrong node for ever.
    slotsRefreshInterval: SLOTS_REFRESH_MS,
    redisOptions: {
      ...CONNECTION,
      ...(username && { username }),
      ...(password && { password }),
      ...(tls && { tls: {} }),
    },
    // The names in a certificate are those that the nodes give themselves: not looked up here.
    ...(tls && { dnsLookup: (host, done) => done(null, host) }),
  });
  defineScripts(cluster);
  let reason: unknown;
  // Of "Failed to refresh slots cache" only the node knows why.
  cluster.on("error", (error: Error & { lastNodeError?: Error }) => {
    reason = error.lastNodeError ?? error;
  });
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error("it is not ready")), COMMAND_TIMEOUT_MS);
  try {
    await Promise.race([cluster.connect(), late]);
    return cluster;
  } catch (error) {
    cluster.disconnect();
    const said = reasonOf(reason ?? error);
    const why = said.includes("cluster support disabled") ? "it is a single Redis. Name it with REDIS_URL" : said;
    throw new Error(`Cannot reach the Redis cluster at ${nodes.join(", ")}: ${why}`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}
