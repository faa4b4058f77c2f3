/** Errors of JSON.parse for producers: what is wrong and where. */

/** @returns the reason with a position, but without the text that the parser quotes: customer data must not appear in errors */
export function describeJsonError(error: unknown, body: string): string {
  const reason = String(error)
    .replace(/^SyntaxError: JSON Parse error: /, "")
    .replace(/(?<=identifier|token|character) .*/s, "")
    .replace(/".*"/s, '"..."')
    .slice(0, 100);
  const position = firstInvalidToken(body);
  return position === undefined ? reason : `${reason}, at character ${position + 1}`;
}

const STRING = String.raw`"[ !#-[\]-\uffff]*(?:\\(?:["\\/bfnrt]|u[\da-fA-F]{4})[ !#-[\]-\uffff]*)*"`;
const NUMBER = String.raw`-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])`;
const JSON_TOKEN = new RegExp(String.raw`[ \t\r\n]*(?:[{}[\]:,]|${STRING}|${NUMBER}|(?:true|false|null)\b|$)`, "y");

/** Matching a long text would take a second, in which the worker does nothing else. */
const MAX_SEARCHED = 64 * 1024;

/** @returns the position of the first text that is not a JSON token, undefined if there is none. The parser reports no position */
function firstInvalidToken(body: string): number | undefined {
  if (body.length > MAX_SEARCHED) return undefined;
  let end = 0;
  JSON_TOKEN.lastIndex = 0;
  while (end < body.length && JSON_TOKEN.test(body)) end = JSON_TOKEN.lastIndex;
  return end < body.length ? end + body.slice(end).search(/[^ \t\r\n]/) : undefined;
}
