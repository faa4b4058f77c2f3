import { type Context, t } from "elysia";
import type { TObject } from "typebox";

/** Text that a spreadsheet would interpret as a formula: https://owasp.org/www-community/attacks/CSV_Injection */
const FORMULA = /^[=+\-@\t\r]/;

type Format = "json" | "ndjson" | "csv";
export type Row = Record<string, string | number>;

/**
 * @returns one line of CSV (RFC 4180), including the line end. Text that a spreadsheet would interpret as a formula gets a
 *   leading apostrophe; numbers do not
 */
export function csvRow(values: readonly (string | number)[]): string {
  return `${values.map((value) => (typeof value === "number" ? value : quote(value))).join()}\r\n`;
}

function quote(text: string): string {
  const safe = FORMULA.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** @returns rows as CSV, with a header. The columns are the properties of the schema of a row */
export function csvTable({ properties }: TObject, rows: readonly Row[]): string {
  const columns = Object.keys(properties);
  return [columns, ...rows.map((row) => columns.map((column) => row[column] ?? ""))].map(csvRow).join("");
}

export const csvHeaders = (file: string) => ({
  "content-type": "text/csv; charset=utf-8; header=present",
  "content-disposition": `attachment; filename="${file}"`,
});

/** Documents `orCsv`. */
export const AS_CSV =
  "With `?format=csv` or `Accept: text/csv` the rows are sent as CSV (RFC 4180), and `as_of` in the header `As-Of`.";

/** @returns the schema of the parameter `format` of a route whose response is a table */
export const formatParameter = <const F extends Format>(...formats: [F, F]) =>
  t.Optional(
    t.UnionEnum(formats, {
      error: () => `format must be ${formats.join(" or ")}`,
      default: undefined,
      description: "Overrides the Accept header",
    }),
  );

/** @returns whether a request asks for CSV: by its parameter `format`, otherwise by its Accept header */
export const wantsCsv = (format: Format | undefined, { headers }: Request) =>
  format ? format === "csv" : acceptsCsv(headers.get("accept"));

/** @returns whether an Accept header asks for CSV. It does if it names text/csv and does not prefer JSON by its q-values */
export function acceptsCsv(accept: string | null): boolean {
  let [csv, json] = [0, 0];
  for (const range of accept?.toLowerCase().split(",") ?? []) {
    const [type = "", ...parameters] = range.split(";").map((part) => part.trim());
    const quality = Number(parameters.find((parameter) => parameter.startsWith("q="))?.slice(2) ?? 1);
    if (type === "text/csv") csv = quality;
    else if (/^(application\/(json|x-ndjson|\*)|\*\/\*)$/.test(type)) json = Math.max(json, quality);
  }
  return csv > 0 && csv >= json;
}

/**
 * @param row schema of a row
 * @param table returns the rows and the name of the file for the body of the JSON response
 * @returns an `afterHandle` hook that sends the response as CSV, and `as_of` as a header, if the request asks for CSV
 */
export function orCsv<Body extends { as_of: string }>(
  row: TObject,
  table: (body: Body) => { rows: readonly Row[]; file: string },
) {
  type Handled = Pick<Context, "request" | "set"> & { query: { format?: Format }; responseValue: unknown };
  return ({ query, request, responseValue, set }: Handled) => {
    set.headers.vary = "accept";
    if (!wantsCsv(query.format, request)) return;
    const body = responseValue as Body;
    const { rows, file } = table(body);
    Object.assign(set.headers, csvHeaders(file), { "as-of": body.as_of });
    return csvTable(row, rows);
  };
}
