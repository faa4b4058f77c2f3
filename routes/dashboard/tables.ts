import type { App } from "../app.ts";
import {
  amount,
  byId,
  cell,
  clock,
  count,
  dateAndClock,
  dateOf,
  fill,
  integer,
  link,
  make,
  number,
  read,
  row,
  show,
  signed,
  Unavailable,
} from "./dom.ts";
import { createPlot } from "./plots.ts";
import { today, totalOrders } from "./stream.ts";

type Routes = App["~Routes"];
type Daily = Routes["stats"]["daily"]["get"]["response"][200];
type Top = Routes["top-users"]["get"]["response"][200];
type Recent = Routes["orders"]["recent"]["get"]["response"][200];
type User = Routes["users"]["stats"]["get"]["response"][200];
type Order = Routes["orders"]["get"]["response"][200];

/**
 * @param note id of the element that shows what `render` returns, or the error. While it is visible, it replaces the data
 * @returns a function that loads and renders. If it is called again before a load has finished, the older result is dropped
 */
function latest<T>(note: string, load: () => Promise<T>, render: (result: T) => string | Node | undefined) {
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
      element.replaceChildren(text ?? "");
    } catch (error) {
      if (call !== calls) return;
      const isUnavailable = error instanceof Unavailable;
      // The banner has the reason.
      if (isUnavailable && element.classList.contains("initial")) return;
      element.hidden = false;
      element.className = isUnavailable ? "note bad unavailable" : "note bad";
      element.textContent = (error as Error).message;
    }
  };
}

const range = byId("range") as HTMLFormElement;
const periods = (byId("period") as HTMLFormElement).elements.namedItem("period") as RadioNodeList;
const userId = (byId("find-user") as HTMLFormElement).elements.namedItem("id") as HTMLInputElement;
const orderId = (byId("find-order") as HTMLFormElement).elements.namedItem("id") as HTMLInputElement;
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
  ({ days, from, to, as_of }) => {
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
    show("revenue-sum", `${amount.format(revenue)} in this range, as of ${clock.format(new Date(as_of))}`);
    show("orders-sum", `${integer.format(orders)} in this range`);
    const rows = [...days]
      .reverse()
      .map((day) =>
        row(cell(day.date), number(integer.format(day.total_orders)), number(amount.format(day.total_revenue))),
      );
    fill("days-table", rows);
    link("days-csv", `stats/daily?format=csv&from=${from}&to=${to}`);
    return orders === 0 ? noOrders("range", range, "days", "365", "the last year") : undefined;
  },
);

/** Loads the days of the range. Today, which most ranges end with, is known with the first event. */
function loadDays() {
  setRange();
  if (today() || range.checkValidity()) void loadRange();
}

/** @returns a note that there are no orders, with a button that widens the range if there are orders of other days */
function noOrders(scope: string, form: HTMLFormElement, name: string, widest: string, label: string): Node {
  const radios = form.elements.namedItem(name) as RadioNodeList;
  const note = make("span", "", `No orders in this ${scope}`);
  if (totalOrders() <= 0) return note;
  if (radios.value === widest) note.append(". There are orders of other days");
  else {
    const button = make("button", "link", `Show ${label}`);
    button.onclick = () => {
      radios.value = widest;
      form.dispatchEvent(new Event("change"));
    };
    note.append(". ", button);
  }
  return note;
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
    return top_users.length === 0
      ? noOrders("period", byId("period") as HTMLFormElement, "period", "y", "this year")
      : undefined;
  },
);

const timeOf = (at: string) => {
  // Breaks lines between date and time only.
  const parts = dateAndClock.format(new Date(at)).split(" ");
  const time = make("time", "", ...parts.flatMap((part) => [make("span", "", part), " "]));
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
      return row(cell(timeOf(at), "time"), order, cell(make("div", "", reason ?? "", ...errorLines(errors))));
    });
    fill("rejected", rows);
    return orders.length === 0 ? "No rejected orders yet" : undefined;
  },
);

let shownUser = "";
const loadUser = latest(
  "user",
  async () => {
    if (!shownUser) return undefined;
    const path = `users/stats?user_id=${encodeURIComponent(shownUser)}`;
    return Promise.all([read<User>(path), read<User>(`${path}&period=${periods.value}`)]);
  },
  (found) => {
    if (!found) return undefined;
    const [allTime, inPeriod] = found;
    if (allTime.order_count === 0) return `${allTime.user_id} has no orders`;
    return `${allTime.user_id}: ${describe(inPeriod)} (${inPeriod.date}); ${describe(allTime)} (all time)`;
  },
);

function describe({ order_count, total_spend }: User): string {
  if (order_count === 0) return "no orders";
  const average = amount.format(total_spend / order_count);
  return `${count(order_count, "order")}, ${amount.format(total_spend)} spent, ${average} per order`;
}

function findUser(id: string) {
  shownUser = id;
  void loadUser();
  saveState();
}

let shownOrder = "";
const loadOrder = latest(
  "order",
  async () => {
    byId("order-history").replaceChildren();
    if (!shownOrder) return undefined;
    return await read<Order>(`orders?order_id=${encodeURIComponent(shownOrder)}`);
  },
  (order) => {
    if (!order) return undefined;
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
  return items.map(({ at, text }) => make("li", "", timeOf(at), text));
}

/** Calls `find` with the id of the form when it is submitted, and with an empty id, which clears the result, when it is emptied. */
function onSubmit(form: string, find: (id: string) => void) {
  const id = () => `${new FormData(byId(form) as HTMLFormElement).get("id")}`;
  byId(form).onsubmit = (event) => {
    event.preventDefault();
    find(id());
  };
  byId(form).oninput = () => {
    if (!id()) find("");
  };
}

onSubmit("find-user", findUser);
onSubmit("find-order", (id) => {
  shownOrder = id;
  void loadOrder();
  saveState();
});
byId("period").onchange = () => {
  void loadTop();
  void loadUser();
  saveState();
};
range.onsubmit = (event) => event.preventDefault();
range.onchange = ({ target }) => {
  const { type } = target as HTMLInputElement;
  if (type === "date") uncheckDays();
  loadDays();
  if (range.checkValidity()) saveState();
};

/** Keeps period, range, user and order in the URL, so that the page can be linked to and reloaded. */
function saveState() {
  const { days, from, to } = Object.fromEntries(new FormData(range)) as Record<string, string>;
  const dates = days ? { days } : { from: `${from}`, to: `${to}` };
  const ids = { ...(shownUser && { user: shownUser }), ...(shownOrder && { order: shownOrder }) };
  const state = new URLSearchParams({ period: periods.value, ...dates, ...ids });
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
  orderId.value = shownOrder = saved("order");
  void loadOrder();
}

restoreState();

/** Loads all tables, and the user that was found last. */
export function loadTables() {
  loadDays();
  for (const load of [loadTop, loadCorrected, loadRejected]) void load();
  void loadUser();
}
