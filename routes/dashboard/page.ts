import type { App } from "../app.ts";
import type { State } from "../monitor.ts";
import { createPlot, LIVE_SECONDS } from "./plots.ts";

type Routes = App["~Routes"];
type Daily = Routes["stats"]["daily"]["get"]["response"][200];
type Top = Routes["top-users"]["get"]["response"][200];
type Recent = Routes["orders"]["recent"]["get"]["response"][200];
type User = Routes["users"][":user_id"]["stats"]["get"]["response"][200];
type Order = Routes["orders"][":order_id"]["get"]["response"][200];

/** An event comes at least every two seconds. */
const STALE_MS = 5_000;
/** Tables and days are read again this often while orders arrive, and now and then without. */
const REFRESH_MS = 5_000;
const IDLE_REFRESH_MS = 30_000;
/** How soon a stream that was refused is tried again. */
const RETRY_MS = 3_000;

const integer = new Intl.NumberFormat();
const amount = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const signed = new Intl.NumberFormat(undefined, {
  minimumFractionDigits: 2,
  maximumFractionDigits: 2,
  signDisplay: "exceptZero",
});
const rate = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});

const byId = (id: string) => document.getElementById(id) as HTMLElement;
/** Everything that others wrote, ids above all, goes into the page as text. */
const show = (id: string, text: string) => {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
};

function make(tag: string, className = "", ...children: (string | Node)[]): HTMLElement {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

const row = (...cells: HTMLElement[]) => make("tr", "", ...cells);
const cell = (text: string | Node, className = "") => make("td", className, text);
const number = (text: string) => cell(text, "number");

/** A problem of the API tells a person what to do; that is shown. */
async function read<T>(path: string): Promise<T> {
  const response = await fetch(path).catch(() => undefined);
  if (!response) throw new Error("The service cannot be reached");
  if (!response.ok)
    throw new Error((await response.json().catch(() => undefined))?.detail ?? `Answer ${response.status}`);
  return await response.json();
}

// The stream of numbers ---------------------------------------------------------------------------------------------

const live = createPlot("live", { name: "Orders per second", kind: "live", format: (value) => rate.format(value) });
let samples: [number, number][] = [];
let lastEventMs = 0;
let lastTotal = -1;
let changed = true;
let connected = false;

function connect() {
  const events = new EventSource("events");
  events.onmessage = ({ data }) => {
    connected = true;
    lastEventMs = Date.now();
    render(JSON.parse(data));
  };
  events.onerror = () => {
    connected = false;
    renderStatus();
    // A network error is tried again by the browser, an answer that is no stream only by us.
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS);
  };
}

let problems: string[] = [];

function render(state: State) {
  problems = state.problems;
  renderStatus();
  // A process that has not read its store yet knows no number at all.
  if (state.as_of.startsWith("1970")) return;
  changed ||= state.total_orders !== lastTotal;
  lastTotal = state.total_orders;
  byId("main").setAttribute("aria-busy", "false");
  byId("welcome").hidden = state.total_orders > 0;
  show("orders", integer.format(state.total_orders));
  show("rate", state.orders_per_second === null ? "–" : `${rate.format(state.orders_per_second)} a second`);
  show("revenue", amount.format(state.total_revenue));
  show("average", state.total_orders > 0 ? `${amount.format(state.total_revenue / state.total_orders)} an order` : "–");
  renderQueue(state.queue);
  renderOutcomes(state.outcomes);
  renderWorkers(state.workers);
  if (state.samples.length > 0) renderSamples(state.samples);
}

function renderQueue(queue: State["queue"]) {
  show("visible", queue ? integer.format(queue.visible) : "unknown");
  show("dead", queue ? integer.format(queue.dead_letter) : "unknown");
  show("flight", queue ? `${integer.format(queue.in_flight)} in flight` : "–");
  if (!queue) return show("drain", "the queue cannot be read");
  if (queue.visible === 0) return show("drain", "nothing waits");
  show("drain", queue.drain_seconds === null ? "nothing moves just now" : `empty in ${duration(queue.drain_seconds)}`);
}

function duration(seconds: number): string {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

const OUTCOME_COLORS = { counted: "--good", corrected: "--warn", duplicate: "--dim", rejected: "--bad" } as const;

function renderOutcomes(outcomes: State["outcomes"]) {
  const words = Object.keys(OUTCOME_COLORS) as (keyof typeof OUTCOME_COLORS)[];
  const rows = words.map((word) => {
    const dot = make("span", "dot");
    dot.style.setProperty("--c", `var(${OUTCOME_COLORS[word]})`);
    return make("div", "", make("dt", "", dot, word), make("dd", "", integer.format(outcomes[word])));
  });
  byId("outcomes").replaceChildren(...rows);
  const shares = words.map((word) => {
    const share = make("span");
    share.style.setProperty("--c", `var(${OUTCOME_COLORS[word]})`);
    share.style.flexGrow = `${outcomes[word]}`;
    return share;
  });
  byId("shares").replaceChildren(...shares);
}

const STATE_COLORS = { running: "--good", paused: "--warn", restarting: "--bad" } as const;
let shownWorkers = "";

function renderWorkers(workers: State["workers"]) {
  // Only when something is new: a screen reader in the list would lose its place.
  const text = JSON.stringify(workers.map(({ state, reason }) => [state, reason]));
  if (text === shownWorkers) return;
  shownWorkers = text;
  const rows = workers.map(({ state, reason }, index) => {
    const dot = make("span", "dot");
    dot.style.setProperty("--c", `var(${reason && state === "running" ? "--warn" : STATE_COLORS[state]})`);
    return make("li", "", dot, `${index + 1}`, make("span", "", reason ? `${state}: ${reason}` : state));
  });
  byId("workers").replaceChildren(
    ...(rows.length > 0 ? rows : [make("li", "", "None: this process only answers requests")]),
  );
}

function renderSamples(fresh: State["samples"]) {
  const first = fresh[0]?.[0] ?? 0;
  // A process that was restarted, or another one behind the proxy, sends its own past again.
  samples = [...samples.filter(([atMs]) => atMs < first), ...fresh];
  const oldest = (samples.at(-1)?.[0] ?? 0) - LIVE_SECONDS * 1000;
  samples = samples.filter(([atMs]) => atMs >= oldest);
  const rates = samples.map(([atMs, orders], index) => {
    const before = samples[index - 1];
    // Over a gap nothing is known.
    if (!before || atMs - before[0] > 3_500) return null;
    return Math.max(0, ((orders - before[1]) / (atMs - before[0])) * 1000);
  });
  const most = Math.max(0, ...rates.map((value) => value ?? 0));
  const now = rates.at(-1);
  const text = `Orders per second, last five minutes: now ${rate.format(now ?? 0)}, at most ${rate.format(most)}`;
  live.show(
    samples.map(([atMs]) => atMs / 1000),
    rates,
    text,
  );
}

function renderStatus() {
  const age = Math.round((Date.now() - lastEventMs) / 1000);
  const last = lastEventMs === 0 ? "" : `last update ${age} s ago`;
  const status = byId("status");
  if (lastEventMs === 0)
    [status.dataset.state, status.textContent] = connected ? ["loading", "Connecting…"] : broken("Connecting…");
  else if (!connected) [status.dataset.state, status.textContent] = broken(`Reconnecting, ${last}`);
  else if (age * 1000 >= STALE_MS) [status.dataset.state, status.textContent] = ["stale", `Stale, ${last}`];
  else if (problems.length > 0) [status.dataset.state, status.textContent] = broken("Not all is well");
  else if (status.dataset.state !== "live") [status.dataset.state, status.textContent] = ["live", "Live"];
  const element = byId("problems");
  const text = problems.join("\n");
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  element.hidden = problems.length === 0;
  element.replaceChildren(...problems.map((problem) => make("p", "", problem)));
}

const broken = (text: string): [string, string] => ["broken", text];

// What is read when asked for, and again while orders arrive -----------------------------------------------------------

/** Runs the newest of its calls to the end; what an older one brings is dropped. A failure is told in the note. */
function latest<T>(note: string, load: () => Promise<T>, render: (answer: T) => string | undefined) {
  let calls = 0;
  return async () => {
    const call = ++calls;
    const element = byId(note);
    try {
      const answer = await load();
      if (call !== calls) return;
      const words = render(answer);
      element.hidden = words === undefined;
      element.className = "note";
      element.textContent = words ?? "";
    } catch (error) {
      if (call !== calls) return;
      element.hidden = false;
      element.className = "note bad";
      element.textContent = (error as Error).message;
    }
  };
}

const range = byId("range") as HTMLFormElement;
const dateOf = (ms: number) => new Date(ms).toISOString().slice(0, 10);
const input = (name: string) => range.elements.namedItem(name) as HTMLInputElement;

/** The chosen number of days until today, which moves on at midnight; dates put in by hand stay. */
function setRange() {
  const { value } = range.elements.namedItem("days") as RadioNodeList;
  if (!value) return;
  input("from").value = dateOf(Date.now() - (Number(value) - 1) * 86_400_000);
  input("to").value = dateOf(Date.now());
}

const plots = {
  revenue: createPlot("revenue-days", {
    name: "Revenue",
    kind: "days",
    format: (value) => amount.format(value),
  }),
  orders: createPlot("orders-days", {
    name: "Orders",
    kind: "days",
    format: (value) => integer.format(value),
  }),
};

const loadDays = latest(
  "days-note",
  () => {
    setRange();
    return read<Daily>(`stats/daily?${new URLSearchParams({ from: input("from").value, to: input("to").value })}`);
  },
  ({ days, from, to }) => {
    const times = days.map(({ date }) => Date.parse(date) / 1000);
    const revenue = days.reduce((sum, day) => sum + day.total_revenue, 0);
    const orders = days.reduce((sum, day) => sum + day.total_orders, 0);
    plots.revenue.show(
      times,
      days.map((day) => day.total_revenue),
      `Revenue by day, ${from} to ${to}: ${amount.format(revenue)} in all`,
    );
    plots.orders.show(
      times,
      days.map((day) => day.total_orders),
      `Orders by day, ${from} to ${to}: ${integer.format(orders)} in all`,
    );
    show("revenue-sum", amount.format(revenue));
    show("orders-sum", integer.format(orders));
    const rows = [...days]
      .reverse()
      .map((day) =>
        row(cell(day.date), number(integer.format(day.total_orders)), number(amount.format(day.total_revenue))),
      );
    byId("days-table")
      .querySelector("tbody")
      ?.replaceChildren(...rows);
    return orders === 0 ? "No orders in this range" : undefined;
  },
);

const period = () => new FormData(byId("period") as HTMLFormElement).get("period");

const loadTop = latest(
  "top-note",
  () => read<Top>(`top-users?n=10&period=${period()}`),
  ({ date, top_users }) => {
    show("top-date", date);
    const rows = top_users.map(({ user_id, order_count, total_spend }, index) => {
      const button = make("button", "link", user_id);
      button.onclick = () => {
        (byId("find-user") as HTMLFormElement).querySelector("input")?.setAttribute("value", user_id);
        findUser(user_id);
      };
      return row(
        number(`${index + 1}`),
        cell(button, "id"),
        number(integer.format(order_count)),
        number(amount.format(total_spend)),
      );
    });
    fill("top", rows);
    return top_users.length === 0 ? "No orders in this period" : undefined;
  },
);

const timeOf = (at: string) => {
  const time = make("time", "", clock.format(new Date(at)));
  time.setAttribute("datetime", at);
  time.title = at;
  return cell(time, "time");
};
const fill = (table: string, rows: HTMLElement[]) =>
  byId(table)
    .querySelector("tbody")
    ?.replaceChildren(...rows);

const loadCorrected = latest(
  "corrected-note",
  () => read<Recent>("orders/recent?outcome=corrected"),
  ({ orders }) => {
    const rows = orders.map(({ at, order_id, user_id, declared, computed, difference }) => {
      const order = cell(order_id ?? "–", "id");
      order.title = `user ${user_id}`;
      return row(
        timeOf(at),
        order,
        number(amount.format(declared ?? 0)),
        number(amount.format(computed ?? 0)),
        number(signed.format(difference ?? 0)),
      );
    });
    fill("corrected", rows);
    return orders.length === 0 ? "No order had to be corrected yet" : undefined;
  },
);

const loadRejected = latest(
  "rejected-note",
  () => read<Recent>("orders/recent?outcome=rejected"),
  ({ orders }) => {
    const rows = orders.map(({ at, order_id, message_id, reason, errors = [] }) => {
      const order = cell(order_id ?? `message ${message_id}`, "id");
      order.title = `message ${message_id}`;
      const faults = errors.map(({ path, message }) => make("div", "", make("code", "", path || "/"), ` ${message}`));
      return row(timeOf(at), order, cell(reason ?? ""), cell(make("div", "", ...faults)));
    });
    fill("rejected", rows);
    return orders.length === 0 ? "No order was rejected yet" : undefined;
  },
);

let shownUser = "";
const loadUser = latest(
  "user",
  () => read<User>(`users/${encodeURIComponent(shownUser)}/stats`),
  ({ user_id, order_count, total_spend }) =>
    order_count === 0
      ? `${user_id} has no orders`
      : `${user_id}: ${integer.format(order_count)} orders, ${amount.format(total_spend)} spent, ${amount.format(total_spend / order_count)} an order`,
);

function findUser(id: string) {
  shownUser = id;
  void loadUser();
}

let shownOrder = "";
const loadOrder = latest(
  "order",
  () => read<Order>(`orders/${encodeURIComponent(shownOrder)}`),
  ({ order_id, state, window_days }) =>
    state === "counted" ? `${order_id} was counted` : `${order_id} was not counted within the last ${window_days} days`,
);

/** Calls `found` with what the form asks for. */
function onAsked(form: string, found: (id: string) => void) {
  byId(form).onsubmit = (event) => {
    event.preventDefault();
    found(`${new FormData(event.target as HTMLFormElement).get("id")}`);
  };
}

onAsked("find-user", findUser);
onAsked("find-order", (id) => {
  shownOrder = id;
  void loadOrder();
});
byId("period").onchange = loadTop;
range.onsubmit = (event) => event.preventDefault();
range.onchange = ({ target }) => {
  const { type } = target as HTMLInputElement;
  if (type === "date")
    for (const radio of range.querySelectorAll<HTMLInputElement>("[type=radio]")) radio.checked = false;
  if (range.checkValidity()) void loadDays();
};

let loadedMs = 0;

function refresh() {
  const due = changed ? REFRESH_MS : IDLE_REFRESH_MS;
  if (document.hidden || Date.now() - loadedMs < due) return;
  loadedMs = Date.now();
  changed = false;
  for (const load of [loadDays, loadTop, loadCorrected, loadRejected]) void load();
  if (shownUser) void loadUser();
}

connect();
refresh();
document.addEventListener("visibilitychange", refresh);
setInterval(() => {
  renderStatus();
  refresh();
}, 1_000);
