/**
 * The body with its `as_of`, or 304 where the client has the same body of another moment: a weak tag, since the bytes of
 * the two differ. Saves the transfer and the client's parsing; the store is read either way.
 */
export function unlessKnown<T extends object, A extends object>(
  headers: Record<string, string | undefined>,
  set: { headers: Record<string, string | number> },
  body: T,
  asOf: A,
): T & A {
  const etag = `W/"${Bun.hash(JSON.stringify(body)).toString(36)}"`;
  set.headers.etag = etag;
  // Private: with a key it is nobody else's. To be asked for again each time.
  set.headers["cache-control"] = "private, no-cache";
  const known = headers["if-none-match"]?.split(/\s*,\s*/).includes(etag);
  // The answer's type is that of a client that has nothing yet.
  return known ? (notModified(set.headers) as never) : { ...body, ...asOf };
}

/** 304 without a body (RFC 9110, section 15.4.5). */
export function notModified({ etag, "cache-control": cacheControl }: Record<string, string | number>): Response {
  return new Response(null, { status: 304, headers: { etag: `${etag}`, "cache-control": `${cacheControl}` } });
}
