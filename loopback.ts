/**
 * @param host a name or an address, with or without a port
 * @returns whether it always means this machine: `localhost`, names below it (RFC 6761), 127.0.0.0/8 and ::1
 */
export function isLoopback(host: string): boolean {
  const url = URL.parse(`http://${host}`) ?? URL.parse(`http://[${host}]`);
  return /^((.+\.)?localhost\.?|127(\.\d+){3}|\[::1\])$/.test(url?.hostname ?? "");
}

/**
 * Makes requests to loopback bypass the proxy of HTTP_PROXY, which would get those to the embedded queue too. Bun reads NO_PROXY
 * for every request, but notices a change only in the thread that made it: each worker must call this as well.
 */
export function bypassProxyForLoopback(env: Record<string, string | undefined> = process.env) {
  // If both are set, Bun reads the lower-case one only.
  const name = env.no_proxy ? "no_proxy" : "NO_PROXY";
  env[name] = [env[name], "localhost", "127.0.0.0/8", "::1"].filter(Boolean).join();
}
