import type { State } from "../live.ts";
import { amount, byId, integer, make, rate, show } from "./dom.ts";
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
let connected = false;

/** Opens the stream of events, and shows every event. Calls `onDay` with the first event and when a day begins. */
export function connect(onDay: () => void) {
  const events = new EventSource("events");
  events.onmessage = ({ data }) => {
    connected = true;
    lastEventMs = performance.now();
    const state: State = JSON.parse(data);
    render(state);
    if (state.today === day) return;
    day = state.today;
    onDay();
  };
  events.onerror = () => {
    connected = false;
    renderStatus();
    // The browser retries after a network error, but not after a response that is not a stream.
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS, onDay);
  };
}

/** @returns the current date in the time zone of the server; undefined before the first event */
export const today = () => day;

/** @returns whether orders were counted since `clearChange` was called */
export const hasChanged = () => changed;
/** Makes `hasChanged` return false until more orders are counted. */
export const clearChange = () => {
  changed = false;
};

let problems: string[] = [];

function render(state: State) {
  problems = state.problems;
  renderStatus();
  show("time-zone", state.time_zone);
  // The process has not read its store yet.
  if (state.as_of.startsWith("1970")) return;
  changed ||= state.total_orders !== lastTotal;
  lastTotal = state.total_orders;
  byId("main").setAttribute("aria-busy", "false");
  byId("welcome").hidden = state.total_orders > 0;
  show("orders", integer.format(state.total_orders));
  show("rate", state.orders_per_second === null ? "–" : `${rate.format(state.orders_per_second)} per second`);
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
  show("flight", queue ? `${integer.format(queue.in_flight)} in flight` : "–");
  if (!queue) return show("drain", "the queue cannot be read");
  if (queue.visible === 0) return show("drain", "queue is empty");
  show("drain", queue.drain_seconds === null ? "not draining" : `empty in ${formatDuration(queue.drain_seconds)}`);
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
    [status.dataset.state, status.textContent] = connected ? ["loading", "Connecting…"] : broken("Connecting…");
  else if (!connected) [status.dataset.state, status.textContent] = broken(`Reconnecting, ${last}`);
  else if (age * 1000 >= STALE_MS) [status.dataset.state, status.textContent] = ["stale", `Stale, ${last}`];
  else if (problems.length > 0) [status.dataset.state, status.textContent] = broken("Problems");
  else if (status.dataset.state !== "live") [status.dataset.state, status.textContent] = ["live", "Live"];
  const element = byId("problems");
  const text = problems.join("\n");
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  element.hidden = problems.length === 0;
  element.replaceChildren(...problems.map((problem) => make("p", "", problem)));
}

const broken = (text: string): [string, string] => ["broken", text];
