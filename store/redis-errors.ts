import { messageOf } from "../errors.ts";

/** A healthy Redis replies within milliseconds. A server that has not replied after five seconds hangs. */
export const COMMAND_TIMEOUT_MS = 5_000;
export const NO_RESPONSE = `no response within ${COMMAND_TIMEOUT_MS / 1000} s`;
export const CLUSTER_NODE = "it is a node of a Redis Cluster. Use REDIS_CLUSTER_NODES instead of REDIS_URL";
export const NOT_READY = `the cluster was not ready within ${COMMAND_TIMEOUT_MS / 1000} s. Check cluster_state in CLUSTER INFO, and that this host can reach the addresses in CLUSTER NODES`;
export const WITHOUT_TLS = "; if the port does not expect TLS, use redis instead of rediss";
export const CLOSED =
  "it closed the connection. Check the address; if the port expects TLS, use rediss instead of redis";

/** Errors of Redis and ioredis by a part of their text, each with the cause and what an operator can do. */
const EXPLANATIONS: [RegExp, string][] = [
  [/ECONNREFUSED/, "connection refused. Check the address, and that the server is running"],
  [/ENOTFOUND|EAI_AGAIN|getaddrinfo/, "the host name cannot be resolved. Check the address"],
  [/EHOSTUNREACH|ENETUNREACH/, "there is no route to the host. Check the address"],
  [/cluster support disabled/, "it is a single Redis. Use REDIS_URL instead of REDIS_CLUSTER_NODES"],
  [/unknown command '?cluster/i, "it is not a node of a Redis Cluster. Use REDIS_URL for a single Redis or Sentinels"],
  [/SELECT is not allowed in cluster mode/, CLUSTER_NODE],
  [/DB index/, "the database number does not exist. Check the end of the URL, and the setting `databases` of Redis"],
  [/NOAUTH/, "it requires a password. Add user and password to the URL: redis://user:password@host:port"],
  [
    /WRONGPASS|invalid password/,
    "user or password is wrong. Check both in the URL, where special characters are percent-encoded",
  ],
  [/without any password configured/, "it has no password, but the URL contains one. Remove it from the URL"],
  [/No such master/, "it does not monitor a master of this name. Check the name after the /"],
  [/unknown command '?sentinel/i, "it is not a Sentinel. Use redis://host:port for a single Redis"],
  [
    /CERTIFICATE_REQUIRED/,
    "it requires a client certificate, which this program does not support. Set tls-auth-clients no",
  ],
  [/altnames/, "its certificate is for another host name. Use a name that is in the certificate"],
  [
    /self.signed|unable to (get|verify)/,
    "its certificate is not trusted. Set NODE_EXTRA_CA_CERTS to the file of its CA",
  ],
  [
    /SSL routines|WRONG_VERSION_NUMBER|ERR_SSL/,
    "this port does not accept TLS. Use redis instead of rediss, or the TLS port",
  ],
  [
    /Unknown RESP type/,
    "the response is not in the Redis protocol. Check the address; if the port expects TLS, use rediss instead of redis",
  ],
  [/ECONNRESET|EPIPE/, CLOSED],
  [/isn't writeable|Connection is closed|max retries/i, "not connected"],
  [
    /READONLY|MASTERDOWN/,
    "it is a replica, which does not accept writes. If this persists, set the address of the master",
  ],
  [/Command timed out|Socket timeout|ETIMEDOUT/, NO_RESPONSE],
];

/** @returns the cause of an error and what an operator can do, or else the message of the error */
export function describeRedisError(error: unknown): string {
  // Remove what Redis adds to the text of an error in a script: the line and the script, in 6.2 also the function.
  const message = messageOf(error)
    .replace(/^ERR (Error running script \(call to f_\w+\): )?(@?user_script: ?\d+: )+-?(ERR )?/, "")
    .replace(/ script: [\da-f]{40}, on @user_script:\d+\.$/, "")
    .trim();
  return EXPLANATIONS.find(([pattern]) => pattern.test(message))?.[1] ?? message;
}
