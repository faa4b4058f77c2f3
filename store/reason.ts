/** A healthy Redis answers in milliseconds; a command without an answer for five seconds meets a hung server. */
export const COMMAND_TIMEOUT_MS = 5_000;

/** What an operator can act on, where ioredis speaks of its own insides. */
export function reasonOf(error: unknown): string {
  const said = error instanceof Error ? error.message : String(error);
  // Of a script: "ERR user_script:21: ERR closed: … script: 1eb3…, on @user_script:21."
  const message = said
    .replace(/^ERR user_script:\d+: (ERR )?/, "")
    .replace(/ script: [\da-f]{40}, on @user_script:\d+\.$/, "");
  if (/ECONNREFUSED|Failed to connect/.test(message)) return "connection refused. Start it, or check its address";
  if (/isn't writeable|Connection is closed|max retries/i.test(message)) return "not connected";
  if (/Command timed out|Socket timeout/.test(message)) return `no answer within ${COMMAND_TIMEOUT_MS / 1000} s`;
  return message;
}
