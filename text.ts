/** Text for people: counts, misspelt names, and lines that are safe to show on a terminal. */

/** @returns "1,204" for 1204 */
export const formatNumber = (number: number) => number.toLocaleString("en-US");

/** @returns "1 message", "1,204 messages" */
export const pluralize = (count: number, singular: string, plural = `${singular}s`) =>
  `${formatNumber(count)} ${count === 1 ? singular : plural}`;

/** @returns whether two names differ in at most two adjacent characters; upper and lower case, `_` and `-` are ignored */
export function areSimilar(one: string, other: string): boolean {
  const [a = "", b = ""] = [one, other].map((name) => name.toLowerCase().replace(/[_-]/g, ""));
  const shorter = Math.min(a.length, b.length);
  let [start, end] = [0, 0];
  while (start < shorter && a[start] === b[start]) start++;
  while (end < shorter - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  return start + end > 0 && Math.max(a.length, b.length) - start - end <= 2;
}

/** Control characters, invisible ones such as those that change the direction of text, half a surrogate pair, line separators. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/**
 * For everything that is written where a terminal may show it: ids, bodies and error messages of others must not control it.
 *
 * @returns one line. Line breaks and tabs become spaces, other unprintable characters \uXXXX: JSON keeps its value
 */
export const printable = (line: string) => line.replace(/[\t\r\n]+/g, " ").replace(UNPRINTABLE, escapeUnits);

const escapeUnits = (character: string) =>
  character.replace(/./gs, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
