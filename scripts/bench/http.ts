/** How many requests per second the API serves, compared with a bare handler that reads the same keys. */

import { dayOf, PERIODS } from "../../store/periods.ts";
import type { Store } from "../../store/store.ts";
import { startEmulator, startProgram, startRedis } from "./fixtures.ts";
import { type Child, cpuMicros, spawn, waitFor } from "./processes.ts";
import { type Competitors, compare, type Measurement, type Options, type Table } from "./rounds.ts";

const [GLOBAL, USER] = ["/stats/global", "/users/{id}/stats"];
const TOP = PERIODS.map((period) => `/top-users?period=${period}&n=10`);
const RATIOS: [string, string][] = [
  [GLOBAL, `bare ${GLOBAL}`],
  [USER, `bare ${USER}`],
  [`${TOP.at(-1)}`, USER],
];

/** Measures all endpoints on one Redis, filled once, so that only servers and endpoints differ. @throws an Error without wrk */
export async function http({ "board-users": users = 1_000_000, seconds = 5, ...options }: Options): Promise<Table[]> {
  if (!Bun.which("wrk")) throw new Error("wrk is missing: apt-get install wrk");
  await using emulator = await startEmulator();
  await using redis = await startRedis();
  await recordUsers(redis.store, users);
  await using program = startProgram(["index.ts"], { emulator, redis, workers: 0 });
  await using bare = startProgram(["scripts/bench/competitors/http.ts"], { emulator, redis });
  for (const server of [program, bare]) {
    await waitFor(server, () => fetch(server.url));
    // Not measured: in the first second the code is compiled.
    await load(server, USER, users, 1);
  }
  const competitors: Competitors = {};
  for (const endpoint of [GLOBAL, USER, ...TOP]) {
    competitors[endpoint] = () => load(program, endpoint, users, seconds);
    if (!TOP.includes(endpoint)) competitors[`bare ${endpoint}`] = () => load(bare, endpoint, users, seconds);
  }
  return [await compare(`HTTP, ${users} users on the leaderboards`, competitors, options, RATIOS)];
}

/** Records one order of today for each of the users U1 to U`users`. */
async function recordUsers(store: Store, users: number) {
  const day = dayOf(Date.now());
  for (let first = 1; first <= users; first += 500) {
    const numbers = Array.from({ length: Math.min(500, users - first + 1) }, (_, index) => first + index);
    // Amounts in steps of a prime, so that neighbours in this list are far apart on the leaderboards.
    const cents = (number: number) => 100 + ((number * 7919) % 50_000);
    await store.record(
      numbers.map((number) => ({ id: `O-0-${number}`, userId: `U${number}`, cents: cents(number), day })),
    );
  }
}

/** One thread of wrk with 64 connections requests more than one server can serve. */
async function load(server: Child & { url: string }, endpoint: string, users: number, seconds: number) {
  const target =
    endpoint === USER ? [server.url, "-s", "scripts/bench/competitors/users.lua"] : [server.url + endpoint];
  const before = cpuMicros(server);
  const command = ["wrk", "-t1", "-c64", `-d${seconds}s`, "--latency", ...target, "--", `${users}`];
  await using wrk = spawn(command, {}, "pipe");
  return parseWrk(await new Response(wrk.stdout).text(), cpuMicros(server) - before);
}

/** @throws an Error if a response was not a 200 or a connection broke */
function parseWrk(text: string, cpu: number): Measurement {
  const [, p99 = "", unit = ""] = /99%\s+([\d.]+)(us|ms|s)/.exec(text) ?? [];
  const requests = Number(/(\d+) requests in/.exec(text)?.[1]);
  if (!requests || /Non-2xx|Socket errors/.test(text)) throw new Error(`wrk reports errors: ${text}`);
  return {
    requestsPerSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(text)?.[1]),
    p99Ms: Number(p99) * ({ us: 0.001, ms: 1 }[unit] ?? 1_000),
    cpuMicrosPerRequest: cpu / requests,
  };
}
