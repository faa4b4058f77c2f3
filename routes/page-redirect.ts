/**
 * A page loads its files by relative paths, so that it works below a path prefix of a proxy. Below a slash at the end they are wrong.
 *
 * @returns a redirect to the page without the slash at the end; undefined if there is none
 */
export function redirectSlash({ url }: Request): Response | undefined {
  const { pathname, search } = new URL(url);
  const [, page] = /([^/]+)\/$/.exec(pathname) ?? [];
  return page ? new Response(null, { status: 308, headers: { location: `../${page}${search}` } }) : undefined;
}
