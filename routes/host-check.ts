import { isLoopback } from "../loopback.ts";
import { Problem } from "./problem.ts";

/**
 * Stops DNS rebinding: a web page whose name resolves to 127.0.0.1 could otherwise read the API, but its requests have that name
 * as their Host. A request without Host, as some probes send it, comes from no browser.
 *
 * @param host the address that the API listens on; if it is not loopback, any Host is accepted
 * @returns a function that throws a `Problem` with status 421 (RFC 9110) for a request with another Host
 */
export function createHostCheck(host: string): (request: Request) => void {
  if (!isLoopback(host)) return () => {};
  // A Host is parsed only if it differs from the last accepted one: nearly all requests have the same.
  let accepted = host;
  return ({ headers }) => {
    const requested = headers.get("host") ?? host;
    if (requested !== accepted && !isLoopback(requested))
      throw new Problem(
        421,
        `This server listens on ${host} and accepts only a loopback Host header, such as localhost. A proxy must send that, or set HOST`,
      );
    accepted = requested;
  };
}
