import { createHash, timingSafeEqual } from "node:crypto";
import { Problem } from "./problem.ts";

/** Routes without authorization, because load balancers do not have the key. */
const PUBLIC_ROUTES = ["/", "/health", "/ready"];

/**
 * @returns a function that throws a `Problem` with status 401 for a request without the API key. It checks the matched route, not
 *   the path of the URL, which has several spellings
 */
export function createAuth(apiKey: string | undefined): (request: Request, route: string) => void {
  if (apiKey === undefined) return () => {};
  // Compare digests in constant time, so that the response time reveals neither the key nor its length.
  const digest = (text: string) => createHash("sha256").update(text).digest();
  const expected = digest(apiKey);
  return (request, route) => {
    if (PUBLIC_ROUTES.includes(route)) return;
    const key = keyOf(request.headers.get("authorization") ?? "");
    if (key !== undefined && timingSafeEqual(digest(key), expected)) return;
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
