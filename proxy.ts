/**
 * Exempts loopback from the proxy of HTTP_PROXY, which would get the requests to the embedded queue too. Bun's `fetch` and with it
 * the AWS SDK read NO_PROXY for every request; a worker must call this as well, because Bun notices a change per thread only.
 */
export function bypassProxyForLoopback(env: Record<string, string | undefined> = process.env) {
  // If both are set, Bun reads the lower-case one only.
  const name = env.no_proxy ? "no_proxy" : "NO_PROXY";
  env[name] = [env[name], "localhost", "127.0.0.0/8", "::1"].filter(Boolean).join();
}
