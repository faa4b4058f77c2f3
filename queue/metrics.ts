import { Counter, type Registry } from "prom-client";
import { SQS_REQUESTS_TOTAL } from "../metric-names.ts";
import type { OnRequest } from "./request.ts";

/** Registers the counters of SQS requests. @returns a function that counts one request */
export function countRequests(registry: Registry): OnRequest {
  const registers = [registry];
  const labelNames = ["action"];
  const requests = new Counter({
    name: SQS_REQUESTS_TOTAL,
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
