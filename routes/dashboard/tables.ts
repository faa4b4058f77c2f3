import type { App } from "../app.ts";
import {
  amount,
  byId,
  cell,
  clock,
  dateAndClock,
  fill,
  integer,
  link,
  make,
  number,
  read,
  row,
  show,
  signed,
} from "./dom.ts";
import { createPlot } from "./plots.ts";
import { today } from "./stream.ts";

type Routes = App["~Routes"];
type Daily = Routes["stats"]["daily"]["get"]["response"][200];
type Top = Routes["top-users"]["get"]["response"][200];
type Recent = Routes["orders"]["recent"]["get"]["response"][200];
type User = Routes["users"]["stats"]["get"]["response"][200];
type Order = Routes["orders"]["get"]["response"][200];

/**
 * @param note id of the element that shows what `render` returns, or the error
 * @returns a function that loads and renders. If it is called again before a load has finished, the older result is dropped
 */
function latest<T>(note: string, load: () => Promise<T>, render: (result: T) => string | undefined) {
  let calls = 0;
  return async () => {
    const call = ++calls;
    const element = byId(note);
    try {
      const result = await load();
      if (call !== calls) return;
      const text = render(result);
      element.hidden = text === undefined;
      element.className = "note";
      element.textContent = text ?? "";
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
const periods = (byId("period") as HTMLFormElement).elements.namedItem("period") as RadioNodeList;
const userId = (byId("find-user") as HTMLFormElement).elements.namedItem("id") as HTMLInputElement;
const input = (name: string) => range.elements.namedItem(name) as HTMLInputElement;

function uncheckDays() {
  for (const radio of range.querySelectorAll<HTMLInputElement>("[type=radio]")) radio.checked = false;
}

/** Sets the dates to the chosen number of days until today, also after midnight. Dates entered by hand are kept. */
function setRange() {
  const { value } = range.elements.namedItem("days") as RadioNodeList;
  const to = today();
  if (!value || !to) return;
  input("from").value = dateOf(Date.parse(to) - (Number(value) - 1) * 86_400_000);
  input("to").value = to;
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

const loadRange = latest(
  "days-note",
  () => read<Daily>(`stats/daily?${new URLSearchParams({ from: input("from").value, to: input("to").value })}`),
  ({ days, from, to }) => {
    const times = days.map(({ date }) => Date.parse(date) / 1000);
    const revenue = days.reduce((sum, day) => sum + day.total_revenue, 0);
    const orders = days.reduce((sum, day) => sum + day.total_orders, 0);
    plots.revenue.show(
      times,
      days.map((day) => day.total_revenue),
      `Revenue by day, ${from} to ${to}: ${amount.format(revenue)} in total`,
    );
    plots.orders.show(
      times,
      days.map((day) => day.total_orders),
      `Orders by day, ${from} to ${to}: ${integer.format(orders)} in total`,
    );
    show("revenue-sum", amount.format(revenue));
    show("orders-sum", integer.format(orders));
    const rows = [...days]
      .reverse()
      .map((day) =>
        row(cell(day.date), number(integer.format(day.total_orders)), number(amount.format(day.total_revenue))),
      );
    fill("days-table", rows);
    link("days-csv", `stats/daily?format=csv&from=${from}&to=${to}`);
    return orders === 0 ? "No orders in this range" : undefined;
  },
);

/** Loads the days of the range. Today, which most ranges end with, is known with the first event. */
export function loadDays() {
  setRange();
  if (range.checkValidity()) void loadRange();
}

const loadTop = latest(
  "top-note",
  () => read<Top>(`top-users?n=10&period=${periods.value}`),
  ({ period, date, top_users }) => {
    show("top-date", date);
    const rows = top_users.map(({ user_id, order_count, total_spend }, index) => {
      const button = make("button", "link", user_id);
      button.onclick = () => {
        userId.value = user_id;
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
    link("top-csv", `top-users?format=csv&period=${period}&date=${date}&n=1000`);
    return top_users.length === 0 ? "No orders in this period" : undefined;
  },
);

const timeOf = (at: string, format = clock) => {
  const time = make("time", "", format.format(new Date(at)));
  time.setAttribute("datetime", at);
  time.title = at;
  return time;
};
const errorLines = (errors: { path: string; message: string }[] = []) =>
  errors.map(({ path, message }) => make("div", "", make("code", "", path || "/"), ` ${message}`));

const loadCorrected = latest(
  "corrected-note",
  () => read<Recent>("orders/recent?outcome=corrected"),
  ({ orders }) => {
    const rows = orders.map(({ at, order_id, user_id, declared, computed, difference }) => {
      const order = cell(order_id ?? "–", "id");
      order.title = `user ${user_id}`;
      return row(
        cell(timeOf(at), "time"),
        order,
        number(amount.format(declared ?? 0)),
        number(amount.format(computed ?? 0)),
        number(signed.format(difference ?? 0)),
      );
    });
    fill("corrected", rows);
    return orders.length === 0 ? "No corrected orders yet" : undefined;
  },
);

const loadRejected = latest(
  "rejected-note",
  () => read<Recent>("orders/recent?outcome=rejected"),
  ({ orders }) => {
    const rows = orders.map(({ at, order_id, message_id, reason, errors }) => {
      const order = cell(order_id ?? `message ${message_id}`, "id");
      order.title = `message ${message_id}`;
      return row(cell(timeOf(at), "time"), order, cell(reason ?? ""), cell(make("div", "", ...errorLines(errors))));
    });
    fill("rejected", rows);
    return orders.length === 0 ? "No rejected orders yet" : undefined;
  },
);

let shownUser = "";
const loadUser = latest(
  "user",
  () => {
    const path = `users/stats?user_id=${encodeURIComponent(shownUser)}`;
    return Promise.all([read<User>(path), read<User>(`${path}&period=${periods.value}`)]);
  },
  ([allTime, inPeriod]) =>
    allTime.order_count === 0
      ? `${allTime.user_id} has no orders`
      : `${allTime.user_id}: ${describe(inPeriod)} (${inPeriod.date}); ${describe(allTime)} (all time)`,
);

function describe({ order_count, total_spend }: User): string {
  if (order_count === 0) return "no orders";
  const average = amount.format(total_spend / order_count);
  return `${integer.format(order_count)} orders, ${amount.format(total_spend)} spent, ${average} per order`;
}

function findUser(id: string) {
  shownUser = id;
  void loadUser();
  saveState();
}

let shownOrder = "";
const loadOrder = latest(
  "order",
  () => {
    byId("order-history").replaceChildren();
    return read<Order>(`orders?order_id=${encodeURIComponent(shownOrder)}`);
  },
  (order) => {
    byId("order-history").replaceChildren(...historyOf(order));
    return order.detail ? `${order.order_id} is unknown. ${order.detail}` : `${order.order_id} was ${order.state}`;
  },
);

/** @returns what is known about an order as items of a list, the newest first */
function historyOf({ state, at = "", declared = 0, computed = 0, rejections, duplicates }: Order) {
  const items = (rejections?.latest ?? []).map(({ at, reason, errors }) => ({
    at,
    text: make("div", "", `rejected: ${reason}`, ...errorLines(errors)),
  }));
  const values = `corrected: ${amount.format(declared)} declared, ${amount.format(computed)} counted`;
  if (state === "corrected") items.push({ at, text: make("div", "", values) });
  if (duplicates)
    items.push({ at: duplicates.last_at, text: make("div", "", `duplicates: ${integer.format(duplicates.count)}`) });
  items.sort((a, b) => (a.at < b.at ? 1 : -1));
  return items.map(({ at, text }) => make("li", "", timeOf(at, dateAndClock), text));
}

/** Calls `find` with the id of the form when it is submitted. */
function onSubmit(form: string, find: (id: string) => void) {
  byId(form).onsubmit = (event) => {
    event.preventDefault();
    find(`${new FormData(event.target as HTMLFormElement).get("id")}`);
  };
}

onSubmit("find-user", findUser);
onSubmit("find-order", (id) => {
  shownOrder = id;
  void loadOrder();
});
byId("period").onchange = () => {
  void loadTop();
  if (shownUser) void loadUser();
  saveState();
};
range.onsubmit = (event) => event.preventDefault();
range.onchange = ({ target }) => {
  const { type } = target as HTMLInputElement;
  if (type === "date") uncheckDays();
  loadDays();
  if (range.checkValidity()) saveState();
};

/** Keeps period, range and user in the URL, so that the page can be linked to and reloaded. */
function saveState() {
  const { days, from, to } = Object.fromEntries(new FormData(range)) as Record<string, string>;
  const dates = days ? { days } : { from: `${from}`, to: `${to}` };
  const state = new URLSearchParams({ period: periods.value, ...dates, ...(shownUser && { user: shownUser }) });
  history.replaceState(null, "", `?${state}`);
}

/** Sets the forms to the state in the URL. The browser ignores values that a form does not have. */
function restoreState() {
  const state = new URLSearchParams(location.search);
  const saved = (name: string) => state.get(name) ?? "";
  periods.value = saved("period");
  (range.elements.namedItem("days") as RadioNodeList).value = saved("days");
  for (const name of ["from", "to"]) input(name).value = saved(name);
  if (range.checkValidity()) uncheckDays();
  userId.value = shownUser = saved("user");
}

restoreState();

/** Loads all tables, and the user that was found last. */
export function loadTables() {
  loadDays();
  for (const load of [loadTop, loadCorrected, loadRejected]) void load();
  if (shownUser) void loadUser();
}
