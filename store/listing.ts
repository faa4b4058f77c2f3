import { setImmediate } from "node:timers/promises";
import { bySpend, type UserTotals, type WholeStore } from "./store.ts";

/** Users per part: what a page reads at least, some 40 kB. */
const PART = 1_000;
/** As long as a person or a program may take from the first page to the last. */
const KEPT_SECONDS = 15 * 60;
/** A listing reads every user there is, so those who begin within half a minute get the same one. */
const SHARED_MS = 30_000;
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Every order counted before `asOfMs` is in it; of those counted while it was made, some are. */
interface Listing {
  id: string;
  asOfMs: number;
  users: number;
}

type Row = [userId: string, orders: number, cents: number];

/** All users of the store by their spend, in pages that neither skip nor repeat anybody while orders are counted. */
export function createListings(store: WholeStore) {
  let making: Promise<Listing> | undefined;
  let latest: Listing | undefined;

  /** A listing of at most 30 seconds ago, which `page` reads for 14 minutes at least, in any process of the store. */
  async function begin(): Promise<Listing> {
    if (making) return await making;
    // A clock that was set back makes the latest one look like one of the future.
    if (latest && Math.abs(Date.now() - latest.asOfMs) <= SHARED_MS) return latest;
    making = makeListing(store);
    try {
      latest = await making;
      return latest;
    } finally {
      making = undefined;
    }
  }

  /** The users from `offset` on, none past the end; undefined when the listing's time is over or there is none. */
  async function page(id: string, offset: number, limit: number): Promise<{ users: UserTotals[] } | undefined> {
    if (!ID.test(id)) return undefined;
    const users: UserTotals[] = [];
    for (let start = offset - (offset % PART); start < offset + limit; start += PART) {
      const part = await store.listingPart(id, start / PART);
      // Past the end, unless the first is gone too: a listing that ends between two parts must not look complete.
      if (part === undefined) return (await store.listingPart(id, 0)) === undefined ? undefined : { users };
      const rows: Row[] = JSON.parse(part).slice(Math.max(offset - start, 0), offset + limit - start);
      for (const [userId, orders, cents] of rows) users.push({ userId, orders, cents });
    }
    return { users };
  }

  return { begin, page };
}

const toRow = ({ userId, orders, cents }: UserTotals): Row => [userId, orders, cents];

async function makeListing(store: WholeStore): Promise<Listing> {
  const listing = { id: crypto.randomUUID(), asOfMs: Date.now() };
  const users = (await readUsers(store)).sort(bySpend);
  const parts: string[] = [];
  // One at least: without a part an empty listing is not told from one whose time is over.
  for (let start = 0; start === 0 || start < users.length; start += PART) {
    parts.push(JSON.stringify(users.slice(start, start + PART).map(toRow)));
    await setImmediate(); // Between parts, and below between pages, requests are heard.
  }
  await store.keepListing(listing.id, parts, KEPT_SECONDS);
  return { ...listing, users: users.length };
}

/** Everybody's orders and spend: what they have on the boards of all years. */
async function readUsers(store: WholeStore): Promise<UserTotals[]> {
  const users = new Map<string, UserTotals>();
  const years = new Set((await store.days()).map((day) => day.slice(0, 4)));
  for (const year of years) {
    for await (const userIds of store.userIds(`y:${year}`)) {
      const places = await store.places(`y:${year}`, userIds);
      for (const [index, { orders, cents }] of places.entries()) {
        const userId = userIds[index] as string;
        const held = users.get(userId) ?? { orders: 0, cents: 0 };
        users.set(userId, { userId, orders: held.orders + orders, cents: held.cents + cents });
      }
      await setImmediate();
    }
  }
  return [...users.values()];
}
