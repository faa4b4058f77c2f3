/**
 * @param host a name or an address, with or without a port
 * @returns whether it always means this machine: `localhost`, names below it (RFC 6761), 127.0.0.0/8 and ::1
 */
export function isLoopback(host: string): boolean {
  const url = URL.parse(`http://${host}`) ?? URL.parse(`http://[${host}]`);
  return /^((.+\.)?localhost\.?|127(\.\d+){3}|\[::1\])$/.test(url?.hostname ?? "");
}
