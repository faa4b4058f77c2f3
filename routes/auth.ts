import { createHash, timingSafeEqual } from "node:crypto";
import { Problem } from "./problem.ts";
import { clientOf, createLimiter, type Server } from "./rate-limit.ts";

/** Routes without authorization, because load balancers do not have the key. */
const PUBLIC_ROUTES = ["/", "/health", "/ready"];
/** Enough for a person who mistypes the key, and too few to guess it. */
const WRONG_KEYS_PER_MINUTE = 20;

/**
 * @returns a function that throws a `Problem` with status 401 for a request without the API key, and with status 429 for any key
 *   of a client that has sent too many wrong ones. It checks the matched route, not the path of the URL, which has several spellings
 */
export function createAuth(apiKey: string | undefined): (request: Request, route: string, server: Server) => void {
  if (apiKey === undefined) return () => {};
  // Compare digests in constant time, so that the response time reveals neither the key nor its length.
  const digest = (text: string) => createHash("sha256").update(text).digest();
  const expected = digest(apiKey);
  const wrongKeys = createLimiter(
    WRONG_KEYS_PER_MINUTE,
    "Too many wrong keys were sent from this address. Wait for the time in Retry-After",
  );
  return (request, route, server) => {
    if (PUBLIC_ROUTES.includes(route)) return;
    const authorization = request.headers.get("authorization");
    if (authorization !== null) {
      const client = clientOf(request, server);
      // Also before the right key is accepted: otherwise it could still be found by guessing.
      wrongKeys.check(client);
      const key = keyOf(authorization);
      if (key !== undefined && timingSafeEqual(digest(key), expected)) return;
      wrongKeys.add(client);
    }
    throw new Problem(
      401,
      "Send the header Authorization: Bearer <API_KEY>. In a browser, enter the key as the password",
    );
  };
}

/** Accepts Bearer and Basic (RFC 7617). Ignores the user of Basic, which browsers ask for as well. */
function keyOf(authorization: string): string | undefined {
  const [, scheme, credentials = ""] = authorization.match(/^(bearer|basic) (.*)$/i) ?? [];
  if (scheme?.toLowerCase() !== "basic") return scheme && credentials;
  return Buffer.from(credentials, "base64")
    .toString()
    .replace(/^[^:]*:/, "");
}
