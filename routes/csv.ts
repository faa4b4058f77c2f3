/** Text that a spreadsheet would interpret as a formula: https://owasp.org/www-community/attacks/CSV_Injection */
const FORMULA = /^[=+\-@\t\r]/;

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
