export const integer = new Intl.NumberFormat();
export const amount = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
export const signed = new Intl.NumberFormat(undefined, {
  minimumFractionDigits: 2,
  maximumFractionDigits: 2,
  signDisplay: "exceptZero",
});
export const rate = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
export const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});

/** The Swedish format is that of ISO 8601: 2026-11-27 10:00:05. */
export const dateAndClock = new Intl.DateTimeFormat("sv", { dateStyle: "short", timeStyle: "medium" });
/** @returns the date in UTC as YYYY-MM-DD */
export const dateOf = (ms: number) => new Date(ms).toISOString().slice(0, 10);
/** @returns for example `1 order` or `2,000 orders` */
export const count = (value: number, noun: string) => `${integer.format(value)} ${noun}${value === 1 ? "" : "s"}`;

/** @returns the element with this id, which must exist */
export const byId = (id: string) => document.getElementById(id) as HTMLElement;

/** Sets the text of an element. Data of others, such as user ids, must only be inserted as text, never as HTML. */
export const show = (id: string, text: string) => {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
};

/** @returns a new element. Strings among the children become text nodes */
export function make(tag: string, className = "", ...children: (string | Node)[]): HTMLElement {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

/** @returns a new row of a table */
export const row = (...cells: HTMLElement[]) => make("tr", "", ...cells);
/** @returns a new cell of a table */
export const cell = (text: string | Node, className = "") => make("td", className, text);
/** @returns a new cell of a table, aligned to the right */
export const number = (text: string) => cell(text, "number");

/** Replaces the rows of the table with this id. */
export const fill = (table: string, rows: HTMLElement[]) =>
  byId(table)
    .querySelector("tbody")
    ?.replaceChildren(...rows);

/** Shows the link with this id, to `path`. */
export function link(id: string, path: string) {
  byId(id).setAttribute("href", path);
  byId(id).hidden = false;
}

/** The service or its store cannot be reached. */
export class Unavailable extends Error {}

/**
 * Reads JSON from the API.
 *
 * @throws an Error with the `detail` of the API's error response, for the user of the page
 */
export async function read<T>(path: string): Promise<T> {
  const response = await fetch(path).catch(() => undefined);
  if (!response) throw new Unavailable("The service cannot be reached");
  if (response.ok) return await response.json();
  const detail = (await response.json().catch(() => undefined))?.detail ?? `HTTP status ${response.status}`;
  throw response.status === 503 ? new Unavailable(detail) : new Error(detail);
}
