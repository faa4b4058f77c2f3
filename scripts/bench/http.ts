/** What the API answers a second, beside a bare handler that reads the same keys. */

import { PERIODS } from "../../store/periods.ts";
import type { Options } from "../bench.ts";
import { recordMany } from "./orders.ts";
import { type Child, cpuMicros, requireProgram, spawn, waitFor } from "./processes.ts";
import { startEmulator, startProgram, startRedis } from "./rig.ts";
import { compare, type Measurement, type Sides, type Table, within } from "./rounds.ts";

const [GLOBAL, USER] = ["/stats/global", "/users/{id}/stats"];
const TOP = PERIODS.map((period) => `/top-users?period=${period}&n=10`);
const RATIOS: [string, string][] = [
  [GLOBAL, `bare ${GLOBAL}`],
  [USER, `bare ${USER}`],
  [`${TOP.at(-1)}`, USER],
];

/** All on the boards of one Redis, filled once, so that only servers and routes differ. */
export async function http({ "board-users": boardUsers, seconds = 5, ...options }: Options): Promise<Table[]> {
  requireProgram("wrk");
  await using emulator = await startEmulator();
  await using redis = await startRedis();
  const filling = recordMany(redis.store, boardUsers, (number) => `U${number + 1}`);
  await within("Filling the boards", filling);
  const setting = { emulator, redis, workers: 0 };
  await using program = startProgram(["index.ts"], setting);
  await using bare = startProgram(["scripts/bench/sides/http.ts"], setting);
  const sides: Sides = {};
  for (const server of [program, bare]) {
    await waitFor(server, () => fetch(server.url));
    // Unmeasured: the first second goes to compiling.
    await load(server, USER, boardUsers, 1);
  }
  for (const route of [GLOBAL, USER]) {
    sides[route] = () => load(program, route, boardUsers, seconds);
    sides[`bare ${route}`] = () => load(bare, route, boardUsers, seconds);
  }
  for (const route of TOP) sides[route] = () => load(program, route, boardUsers, seconds);
  return [await compare(`HTTP, ${boardUsers} users on the boards`, sides, options, RATIOS)];
}

/** One thread of wrk with 64 connections asks for more than one server can answer. */
async function load(server: Child & { url: string }, route: string, users: number, seconds: number) {
  const target = route === USER ? [server.url, "-s", "scripts/bench/sides/users.lua"] : [server.url + route];
  const before = cpuMicros(server);
  const command = ["wrk", "-t1", "-c64", `-d${seconds}s`, "--latency", ...target, "--", `${users}`];
  await using wrk = spawn(command, {}, "pipe");
  return readWrk(await wrk.output(), cpuMicros(server) - before);
}

/** The numbers in what wrk prints. Answers that are no 200 and connections that broke are an error. */
function readWrk(text: string, cpu: number): Measurement {
  const [, p99 = "", unit = ""] = /99%\s+([\d.]+)(us|ms|s)/.exec(text) ?? [];
  const requests = Number(/(\d+) requests in/.exec(text)?.[1]);
  if (!requests || /Non-2xx|Socket errors/.test(text)) throw new Error(`wrk met errors: ${text}`);
  return {
    requestsPerSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(text)?.[1]),
    p99Ms: Number(p99) * ({ us: 0.001, ms: 1 }[unit] ?? 1_000),
    cpuMicrosPerRequest: cpu / requests,
  };
}
