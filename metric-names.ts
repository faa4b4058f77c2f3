/** Metrics that one module counts and another one reads. */
export const ORDERS_TOTAL = "orders_total";
export const SQS_REQUESTS_TOTAL = "sqs_requests_total";
