import { Counter, type Registry } from "prom-client";
import type { OnRequest } from "./queue.ts";

/** Counts a thread's SQS requests in `registry`. */
export function countRequests(registry: Registry): OnRequest {
  const registers = [registry];
  const labelNames = ["action"];
  const requests = new Counter({
    name: "sqs_requests_total",
    help: "Requests sent to SQS",
    labelNames,
    registers,
  });
  const errors = new Counter({
    name: "sqs_errors_total",
    help: "Requests to SQS that failed",
    labelNames,
    registers,
  });
  return (action, failed) => {
    requests.inc({ action });
    errors.inc({ action }, failed ? 1 : 0);
  };
}
