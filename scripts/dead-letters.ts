/** Receives the messages of a dead-letter queue, lists or moves those that are selected, and releases the others. */

import { isFifo } from "../queue/client.ts";
import { type Failure, type Message, originalIdOf } from "../queue/message.ts";
import type { Queue } from "../queue/queue.ts";
import { describeQueueError } from "../queue/request.ts";
import { pluralize } from "../text.ts";

/** After a kill, received messages stay in flight for as long. Listing 100,000 messages takes minutes. */
export const VISIBILITY_TIMEOUT_SECONDS = 30 * 60;
/** AWS allows 120,000 messages in flight, and other consumers may have some. */
const MAX_IN_FLIGHT = 110_000;
/** Characters of a line shown on a terminal. */
const MAX_SHOWN = 160;
/** Parallel requests: eight hide the latency of a real queue. */
const LOOPS = 8;

/** Copies at most ten messages. @returns those whose copy may not exist */
export type Copy = (batch: Message[]) => Promise<Failure[]>;

interface Options {
  /** Undefined: messages are only listed. */
  copy: Copy | undefined;
  list(message: Message): Promise<void>;
  isSelected(message: Message): boolean;
  /** The most messages to list or move. */
  limit: number;
  signal: AbortSignal;
  onProgress(counts: State["counts"]): void;
}

interface State extends Options {
  deadLetters: Queue;
  counts: { received: number; matched: number; reasons: Record<string, number>; moved: number };
  problems: Set<string>;
  /** Received and not moved, by id, without bodies and attributes. */
  inFlight: Map<string, Message>;
}

/**
 * Lists or moves messages until all are received, `limit` is reached or `signal` aborts.
 *
 * @returns what was done, and every problem: it does not reject
 */
export async function sweep(deadLetters: Queue, options: Options): Promise<Pick<State, "counts" | "problems">> {
  // Without a prototype: another program may give a message the reason "constructor".
  const counts = { received: 0, matched: 0, reasons: Object.create(null), moved: 0 };
  const state: State = { ...options, deadLetters, counts, problems: new Set(), inFlight: new Map() };
  const { problems, inFlight, limit } = state;
  const loops = Array.from({ length: Math.min(LOOPS, Math.ceil(limit / 10)) });
  await Promise.all(loops.map(() => repeat(receiveBatch, state)));
  if (inFlight.size >= MAX_IN_FLIGHT)
    problems.add("Stopped: SQS allows no more messages in flight. There may be others");
  if (isFifo(deadLetters.address.url) && counts.matched < limit) await repeat(checkGroups, state);
  await Promise.all(loops.map(() => repeat(releaseBatch, state)));
  return state;
}

/** Repeats a step until it returns false. An error is a problem, and ends the loop. */
async function repeat(step: (state: State) => Promise<boolean>, state: State) {
  try {
    while (await step(state));
  } catch (error) {
    state.problems.add(describeQueueError(error));
  }
}

/** @returns whether to receive again */
async function receiveBatch(state: State): Promise<boolean> {
  const { deadLetters, counts, inFlight, limit, signal } = state;
  if (signal.aborted || counts.matched >= limit || inFlight.size >= MAX_IN_FLIGHT) return false;
  // With a wait time, SQS queries all of its servers. Not aborted by `signal`: the messages would stay in flight.
  const received = await deadLetters.receive(1, new AbortController().signal, VISIBILITY_TIMEOUT_SECONDS);
  // SQS may deliver a message twice, and does so when the command outlasts the visibility timeout.
  const fresh = received.filter(({ id }) => !inFlight.has(id));
  for (const message of received) inFlight.set(message.id, { ...message, body: "", attributes: {} });
  const matched = fresh.filter(state.isSelected).slice(0, Math.max(0, limit - counts.matched));
  counts.received += fresh.length;
  counts.matched += matched.length;
  for (const { reason } of matched.map(describe)) counts.reasons[reason] = (counts.reasons[reason] ?? 0) + 1;
  state.onProgress(counts);
  if (state.copy && matched.length > 0) return await moveBatch(matched, state.copy, state);
  if (!state.copy) for (const message of matched) await state.list(message);
  return received.length > 0;
}

/** Copies before it deletes: a kill in between leaves a message in both places. @returns whether any message was moved */
async function moveBatch(batch: Message[], copy: Copy, state: State): Promise<boolean> {
  const failures = await copy(batch);
  failures.push(...(await state.deadLetters.delete(without(batch, failures))));
  const moved = without(batch, failures);
  for (const { id } of moved) state.inFlight.delete(id);
  state.counts.moved += moved.length;
  state.onProgress(state.counts);
  for (const { reason } of failures) state.problems.add(`Cannot move a message: ${reason}`);
  return moved.length > 0;
}

const without = (batch: Message[], failures: Failure[]) =>
  batch.filter((message) => !failures.some((failure) => failure.message === message));

/** SQS returns no more of a message group while a message of it is in flight; after a release it returns the same ones again. */
async function checkGroups({ deadLetters, problems }: State): Promise<boolean> {
  const { visible } = await deadLetters.depth();
  const reason = "SQS returns them only when the messages before them are deleted";
  if (visible > 0) problems.add(`Not received: about ${pluralize(visible, "message")} in the same groups. ${reason}`);
  return false;
}

/** @returns whether there were messages to release */
async function releaseBatch({ deadLetters, problems, inFlight }: State): Promise<boolean> {
  const batch = [...inFlight.values().take(10)];
  for (const { id } of batch) inFlight.delete(id);
  const failures = await deadLetters.changeVisibility(batch, 0);
  for (const { reason } of failures) problems.add(`Cannot release a message: ${reason}`);
  return batch.length > 0;
}

/** @returns a message for JSON, with reason and errors as the program attaches them, and the id that the log shows */
export function describe(message: Message) {
  const { RejectReason, RejectErrors } = message.attributes;
  const errors = RejectErrors ? parseErrors(RejectErrors.StringValue ?? `${RejectErrors.DataType}`) : [];
  const sent_at = new Date(message.sentAtMs).toISOString();
  const reason = RejectReason?.StringValue ?? "none";
  return { message_id: originalIdOf(message), reason, errors, body: message.body, sent_at };
}

/** Another program may use the attribute for something else: that must not end the command. */
function parseErrors(text: string): { path: string; message: string }[] {
  const unreadable = [{ path: "RejectErrors", message: `unreadable: ${text}` }];
  try {
    const errors: typeof unreadable = JSON.parse(text);
    const isList = errors.every(({ path, message }) => typeof path === "string" && typeof message === "string");
    return isList ? errors : unreadable;
  } catch {
    return unreadable;
  }
}

/** @returns a message for a terminal: its reason, its errors and the start of its body, a line each */
export function format(message: Message): string[] {
  const { message_id, reason, errors, body, sent_at } = describe(message);
  const details = [...errors.map(({ path, message }) => `${path || "/"}: ${message}`), body];
  return [`${sent_at}  ${message_id}  ${shorten(reason)}`, ...details.map((text) => `  ${shorten(text)}`)];
}

/** @returns the start of a text as one line */
export function shorten(text: string): string {
  const line = text.replace(/\s+/g, " ");
  return line.length > MAX_SHOWN ? `${line.slice(0, MAX_SHOWN).toWellFormed()}…` : line;
}
