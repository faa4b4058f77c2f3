import type { State } from "../live.ts";
import { amount, byId, clock, integer, make, rate, show } from "./dom.ts";
import { createPlot, LIVE_SECONDS } from "./plots.ts";

/** The server sends an event at least every two seconds. */
const STALE_MS = 5_000;
/** Pause before a stream that the server rejected is opened again. */
const RETRY_MS = 3_000;

const live = createPlot("live", { name: "Orders per second", kind: "live", format: (value) => rate.format(value) });
let samples: [number, number][] = [];
let lastEventMs = 0;
let lastTotal = -1;
let changed = true;
let day: string | undefined;
/** Undefined until the first event or error. */
let connected: boolean | undefined;

/** Opens the stream of events, and shows every event. Calls `reload` with the first event, when a day begins, and when problems end. */
export function connect(reload: () => void) {
  const events = new EventSource("events");
  events.onmessage = ({ data }) => {
    connected = true;
    lastEventMs = performance.now();
    const state: State = JSON.parse(data);
    const hadProblems = !byId("problems").hidden;
    const isNewDay = state.today !== day;
    day = state.today;
    render(state);
    if (isNewDay || (hadProblems && state.problems.length === 0)) reload();
  };
  events.onerror = () => {
    connected = false;
    renderStatus();
    // The browser retries after a network error, but not after a response that is not a stream.
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS, reload);
  };
}

/** @returns the current date in the time zone of the server; undefined before the first event */
export const today = () => day;
/** @returns the number of orders of all days; -1 before the first event */
export const totalOrders = () => lastTotal;

/** @returns whether orders were counted since `clearChange` was called */
export const hasChanged = () => changed;
/** Makes `hasChanged` return false until more orders are counted. */
export const clearChange = () => {
  changed = false;
};

let problems: string[] = [];
let asOfMs = 0;
/** @returns whether the problem is that the store could not be read, so that the totals are older ones */
const isStoreProblem = (problem: string) => problem.startsWith("store: ");

function render(state: State) {
  problems = state.problems;
  asOfMs = Date.parse(state.as_of);
  renderStatus();
  show("time-zone", state.time_zone);
  // The process has not read its store yet.
  if (state.as_of.startsWith("1970")) return;
  changed ||= state.total_orders !== lastTotal;
  lastTotal = state.total_orders;
  byId("main").setAttribute("aria-busy", "false");
  byId("welcome").hidden = state.total_orders > 0;
  show("orders", integer.format(state.total_orders));
  show(
    "rate",
    state.orders_per_second === null ? "–" : `${rate.format(state.orders_per_second)} per second, last 10\u00a0s`,
  );
  show("revenue", amount.format(state.total_revenue));
  show(
    "average",
    state.total_orders > 0 ? `${amount.format(state.total_revenue / state.total_orders)} per order` : "–",
  );
  renderQueue(state.queue);
  renderOutcomes(state.outcomes);
  renderWorkers(state.workers);
  if (state.samples.length > 0) renderSamples(state.samples);
}

function renderQueue(queue: State["queue"]) {
  show("visible", queue ? integer.format(queue.visible) : "unknown");
  show("dead", queue?.dead_letter == null ? "unknown" : integer.format(queue.dead_letter));
  byId("dead").dataset.count = `${queue?.dead_letter ?? 0}`;
  show(
    "drain",
    queue ? `${integer.format(queue.in_flight)} in flight${describeDrain(queue)}` : "the queue cannot be read",
  );
}

function describeDrain({ visible, drain_seconds }: NonNullable<State["queue"]>): string {
  if (visible === 0) return "";
  return drain_seconds === null ? ", not draining" : `, empty in ${formatDuration(drain_seconds)}`;
}

function formatDuration(seconds: number): string {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

const OUTCOME_COLORS = { counted: "--good", corrected: "--warn", duplicate: "--dim", rejected: "--bad" } as const;

function renderOutcomes(outcomes: State["outcomes"]) {
  const names = Object.keys(OUTCOME_COLORS) as (keyof typeof OUTCOME_COLORS)[];
  const rows = names.map((name) => {
    const dot = make("span", "dot");
    dot.style.setProperty("--c", `var(${OUTCOME_COLORS[name]})`);
    return make("div", "", make("dt", "", dot, name), make("dd", "", integer.format(outcomes[name])));
  });
  byId("outcomes").replaceChildren(...rows);
  const shares = names.map((name) => {
    const share = make("span");
    share.style.setProperty("--c", `var(${OUTCOME_COLORS[name]})`);
    share.style.flexGrow = `${outcomes[name]}`;
    return share;
  });
  byId("shares").replaceChildren(...shares);
}

const STATE_COLORS = { running: "--good", paused: "--warn", restarting: "--bad" } as const;
let shownWorkers = "";

function renderWorkers(workers: State["workers"]) {
  // Replace the list only if it has changed, because a screen reader would lose its position in it.
  const text = JSON.stringify(workers.map(({ state, reason }) => [state, reason]));
  if (text === shownWorkers) return;
  shownWorkers = text;
  const rows = workers.map(({ state, reason }, index) => {
    const dot = make("span", "dot");
    dot.style.setProperty("--c", `var(${reason && state === "running" ? "--warn" : STATE_COLORS[state]})`);
    return make("li", "", dot, `${index + 1}`, make("span", "", reason ? `${state}: ${reason}` : state));
  });
  byId("workers").replaceChildren(
    ...(rows.length > 0 ? rows : [make("li", "", "None: this process only serves requests")]),
  );
}

function renderSamples(fresh: State["samples"]) {
  const first = fresh[0]?.[0] ?? 0;
  // A restarted process, or another one behind a proxy, sends its own samples: drop ours from its first one on.
  samples = [...samples.filter(([atMs]) => atMs < first), ...fresh];
  const oldest = (samples.at(-1)?.[0] ?? 0) - LIVE_SECONDS * 1000;
  samples = samples.filter(([atMs]) => atMs >= oldest);
  const rates = samples.map(([atMs, orders], index) => {
    const before = samples[index - 1];
    // No rate across a gap in the samples.
    if (!before || atMs - before[0] > 3_500) return null;
    return Math.max(0, ((orders - before[1]) / (atMs - before[0])) * 1000);
  });
  const highest = Math.max(0, ...rates.map((value) => value ?? 0));
  const now = rates.at(-1);
  const text = `Orders per second, last five minutes: now ${rate.format(now ?? 0)}, highest ${rate.format(highest)}`;
  live.show(
    samples.map(([atMs]) => atMs / 1000),
    rates,
    text,
  );
}

/** Shows the state of the connection and the problems; to be called every second. */
export function renderStatus() {
  const age = Math.round((performance.now() - lastEventMs) / 1000);
  const last = lastEventMs === 0 ? "" : `last update ${age} s ago`;
  const status = byId("status");
  if (lastEventMs === 0)
    [status.dataset.state, status.textContent] =
      connected === false ? broken("Connecting…") : ["loading", "Connecting…"];
  else if (!connected) [status.dataset.state, status.textContent] = broken(`Reconnecting, ${last}`);
  else if (age * 1000 >= STALE_MS) [status.dataset.state, status.textContent] = ["stale", `Stale, ${last}`];
  else if (problems.length > 0)
    [status.dataset.state, status.textContent] = [problems.some(isStoreProblem) ? "broken" : "degraded", "Degraded"];
  else if (status.dataset.state !== "live") [status.dataset.state, status.textContent] = ["live", "Live"];
  const element = byId("problems");
  const shown = connected === false ? [UNREACHABLE] : problems.map(withAdvice);
  const text = shown.join("\n");
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  element.hidden = shown.length === 0;
  element.replaceChildren(...shown.map((line) => make("p", "", line)));
}

const UNREACHABLE =
  "The service cannot be reached. Check that the program is running and that the network reaches it. The numbers are the last ones received. This page reconnects by itself.";
/** What a problem means and what to do, by the beginning of its text. */
const ADVICE: [string, string][] = [
  [
    "store: ",
    "Orders are kept in the queue and counted when the store is back. Check that it is running and that this process can reach it.",
  ],
  ["not counting: ", "Orders are kept in the queue until this is fixed."],
  ["queue ", "No orders are received. Check the queue, its URL and the credentials."],
  [
    "dead-letter queue ",
    "Valid orders are counted; rejected orders stay in the queue. Check that the dead-letter queue exists.",
  ],
];

function withAdvice(problem: string): string {
  const advice = ADVICE.find(([beginning]) => problem.startsWith(beginning))?.[1];
  const totals = isStoreProblem(problem) && asOfMs > 0 ? ` The totals are those of ${clock.format(asOfMs)}.` : "";
  return advice ? `${problem}. ${advice}${totals}` : problem;
}

const broken = (text: string): [string, string] => ["broken", text];
