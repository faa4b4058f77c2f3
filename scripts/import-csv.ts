/** Makes orders of the rows of a CSV file: a row is an item, or an order with its items as JSON. */

import { isUtf8 } from "node:buffer";
import { Parser } from "csv-parse";
import type { OrderError } from "../consumer/order.ts";
import { shorten } from "./dead-letters.ts";
import { type FileOrder, MAX_LINE_BYTES } from "./import-files.ts";

const ORDER_FIELDS = ["order_id", "user_id", "order_timestamp", "order_value"];
const ITEM_FIELDS = ["product_id", "quantity", "price_per_unit"];
export const CSV_FIELDS = [...ORDER_FIELDS, "shipping_address", "payment_method", ...ITEM_FIELDS, "items"];
const NUMBERS = ["order_value", "quantity", "price_per_unit"];
/** More would not fit into a message of 1 MiB: each is 49 bytes or longer, or not valid. */
const MAX_ITEMS = 25_000;
const MAX_ERRORS = 20;

interface Header {
  /** Where each field is. */
  columns: Map<string, number>;
  width: number;
  rowIsItem: boolean;
}

interface CsvOrder {
  line: number;
  fields: Record<string, unknown>;
  /** A list if rows are items. */
  items: unknown;
  errors: OrderError[];
}

/**
 * Yields the orders of a CSV file with a header row. Without a column `items`, the rows of an order must be next to each other.
 *
 * @param columnOf the columns of fields that have another name in the header row
 * @throws an Error if the header row lacks a column, or if the quotes are wrong from a row on
 */
export async function* readCsv(
  chunks: AsyncIterable<Uint8Array>,
  columnOf: ReadonlyMap<string, string>,
): AsyncGenerator<FileOrder> {
  let header: Header | undefined;
  let order: CsvOrder | undefined;
  for await (const { cells, line } of readRows(chunks)) {
    if (cells.every((cell) => cell.trim() === "")) continue;
    if (!header) {
      header = readHeader(cells, columnOf);
      continue;
    }
    const next = toOrder(cells, line, header);
    const id = next.fields.order_id;
    if (order && header.rowIsItem && id !== undefined && id === order.fields.order_id) addRow(order, next);
    else {
      if (order) yield toFileOrder(order);
      order = next;
    }
  }
  if (!header) throw new Error("the file has no header row");
  if (order) yield toFileOrder(order);
}

type Row = { cells: string[]; line: number };

/**
 * The cells are in latin1, one character a byte: the parser would replace what is not UTF-8 in silence. Its line numbers count a
 * CRLF in quotes twice, so that the line breaks of each row are counted here.
 */
async function* readRows(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Row> {
  let nextLine = 1;
  let failure: Error | null | undefined;
  const rows: Row[] = [];
  function onRecord({ record, raw }: { record: string[]; raw: string }) {
    // Blank lines before the row are part of it.
    const [blank = ""] = /^[\r\n]*/.exec(raw) ?? [];
    rows.push({ cells: record, line: nextLine + countLineBreaks(blank) });
    nextLine += countLineBreaks(raw);
    return null;
  }
  const parser = new Parser({
    encoding: "latin1",
    raw: true,
    relax_column_count: true,
    skip_empty_lines: true,
    record_delimiter: ["\r\n", "\n", "\r"],
    max_record_size: MAX_LINE_BYTES,
    on_record: onRecord as never,
  });
  // Errors are passed to the callbacks too.
  parser.on("error", () => {});
  for await (const chunk of chunks) {
    failure = await new Promise((resolve) => parser.write(chunk, resolve));
    yield* rows.splice(0);
    if (failure) break;
  }
  failure ??= await new Promise((resolve) => parser.end(resolve));
  yield* rows.splice(0);
  const rule = "a quote is not closed, or not doubled inside a cell, or the row is longer than 8 MiB";
  if (failure) throw new Error(`the row that begins in line ${nextLine} is not CSV: ${rule}`, { cause: failure });
}

const countLineBreaks = (text: string) => text.match(/\r\n?|\n/g)?.length ?? 0;

/** @throws an Error that names every field without a column */
function readHeader(cells: string[], columnOf: ReadonlyMap<string, string>): Header {
  const names = cells.map((cell) => Buffer.from(cell, "latin1").toString().trim());
  const columns = new Map<string, number>();
  for (const field of CSV_FIELDS) {
    const name = columnOf.get(field) ?? field;
    const index = names.indexOf(name);
    if (index !== -1 && index === names.lastIndexOf(name)) columns.set(field, index);
  }
  const rowIsItem = !columns.has("items");
  const required = new Set([...ORDER_FIELDS, ...(rowIsItem ? ITEM_FIELDS : []), ...columnOf.keys()]);
  const missing = [...required].filter((field) => !columns.has(field)).join(", ");
  if (missing === "") return { columns, width: cells.length, rowIsItem };
  const found = shorten(names.join(", "));
  throw new Error(`the header row has no column, or several, for ${missing}: name it with --map. It has ${found}`);
}

function toOrder(cells: string[], line: number, { columns, width, rowIsItem }: Header): CsvOrder {
  const [errors, fields, item]: [OrderError[], CsvOrder["fields"], CsvOrder["fields"]] = [[], {}, {}];
  if (cells.length !== width)
    errors.push({ path: "", message: `line ${line} must have ${width} cells, has ${cells.length}` });
  for (const [field, index] of columns) {
    const bytes = Buffer.from(cells[index] ?? "", "latin1");
    if (!isUtf8(bytes)) errors.push({ path: `/${field}`, message: `must be UTF-8 in line ${line}` });
    const part = ITEM_FIELDS.includes(field) || field === "items" ? item : fields;
    part[field] = toValue(field, bytes.toString());
  }
  return { line, fields, items: rowIsItem ? [item] : item.items, errors };
}

/** @returns a value for JSON; validation describes texts that should be numbers or items. An empty cell is no value */
function toValue(field: string, cell: string): unknown {
  if (cell.trim() === "") return undefined;
  if (NUMBERS.includes(field) && /^\s*-?\d*\.?\d+\s*$/.test(cell)) return Number(cell);
  if (field !== "items") return cell;
  try {
    return JSON.parse(cell);
  } catch {
    return cell;
  }
}

/** Adds the item of another row. Fields of the order may be empty there, but not different. */
function addRow(order: CsvOrder, { line, fields, items, errors }: CsvOrder) {
  const all = order.items as unknown[];
  if (all.length < MAX_ITEMS) all.push(...(items as unknown[]));
  order.errors.push(...errors);
  for (const field of ORDER_FIELDS) {
    order.fields[field] ??= fields[field];
    const isSame = fields[field] === undefined || fields[field] === order.fields[field];
    if (!isSame)
      order.errors.push({ path: `/${field}`, message: `must be the same in all rows: line ${line} differs` });
  }
  order.errors.splice(MAX_ERRORS);
}

function toFileOrder({ line, fields, items, errors }: CsvOrder): FileOrder {
  const body = JSON.stringify({ ...fields, items });
  return errors.length > 0 ? { line, body, problem: { reason: "invalid_order", errors } } : { line, body };
}
