import { Database } from "bun:sqlite";
import { describe, expect, setDefaultTimeout, setSystemTime, test } from "bun:test";
import { closeSync, existsSync, openSync, renameSync, statSync, unlinkSync, writeSync } from "node:fs";
import { join } from "node:path";
import { auditStore, repairTotal } from "../store/audit.ts";
import { openStore } from "../store/open.ts";
import { MAX_RECENT, MAX_TOTAL_CENTS, LONGEST_WINDOW_SECONDS as WINDOW } from "../store/store.ts";
import { duplicate, duplicateEntry, order } from "./support/orders.ts";
import { temporaryFolder } from "./support/program.ts";

// Real files on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

/** A store on a fresh file, and a second connection to it. */
async function open() {
  const path = join(temporaryFolder(), "orders.db");
  const store = await openStore({ kind: "sqlite", path, windowSeconds: WINDOW });
  const db = new Database(path);
  const age = (seconds: number) => db.run("UPDATE generations SET opened_at = opened_at - ?", [seconds]);
  const dispose = async () => {
    db.close();
    await store.close();
  };
  return { store, db, path, age, [Symbol.asyncDispose]: dispose };
}

describe("markers", () => {
  test("an order id is known until a whole window after its generation has ended", async () => {
    await using opened = await open();
    const { store, age } = opened;
    const [old, next] = [order(), order()];
    await store.record([old]);
    age(WINDOW);
    expect(await store.record([old, next])).toEqual(["duplicate", "recorded"]);
    age(WINDOW - 5);
    expect(await store.record([old, next])).toEqual(["duplicate", "duplicate"]);
    expect(await store.isCounted(old.id)).toBeTrue();
    age(5);
    expect(await store.record([next, old])).toEqual(["duplicate", "recorded"]);
  });

  test("an expired generation is removed some markers at a time, and no other", async () => {
    await using opened = await open();
    const { store, db, age } = opened;
    const left = () => db.query("SELECT generation, count(*) AS markers FROM markers GROUP BY 1").values();
    await store.record(Array.from({ length: 100 }, () => order()));
    age(WINDOW);
    const kept = Array.from({ length: 50 }, () => order());
    await store.record(kept);
    age(WINDOW);
    await store.record([order()]);
    expect(left()).toEqual([
      [1, 78],
      [2, 50],
      [3, 1],
    ]);
    for (let batch = 0; batch < 5; batch++) await store.record([order()]);
    expect(left()).toEqual([
      [2, 50],
      [3, 6],
    ]);
    expect(db.query("SELECT number FROM generations").values()).toEqual([[2], [3]]);
    expect(await store.record(kept)).toEqual(Array(50).fill("duplicate"));
  });

  test("a clock that jumps 40 days ahead and back makes no copy count again", async () => {
    await using opened = await open();
    const orders = Array.from({ length: 500 }, () => order());
    try {
      await opened.store.record(orders);
      // In the older of two generations: that one would expire.
      opened.age(WINDOW);
      await opened.store.record([order()]);
      setSystemTime(new Date(Date.now() + 40 * 86_400_000));
      for (let batch = 0; batch < 50; batch++) await opened.store.record([order()]);
      expect(await opened.store.record(orders)).toEqual(Array(500).fill("duplicate"));
      setSystemTime();
      for (let batch = 0; batch < 50; batch++) await opened.store.record([order()]);
      expect(await opened.store.record(orders)).toEqual(Array(500).fill("duplicate"));
    } finally {
      setSystemTime();
    }
  });
});

describe("a file in trouble", () => {
  test("a lock that lasts makes record() fail within two seconds, and is no problem for check()", async () => {
    await using opened = await open();
    const { store, db } = opened;
    await store.record([order()]);
    db.run("BEGIN IMMEDIATE");
    const before = performance.now();
    await expect(store.record([order()])).rejects.toThrow("database is locked");
    expect(performance.now() - before).toBeWithin(500, 2_500);
    await store.check();
    db.run("ROLLBACK");
    expect(await store.record([order()])).toEqual(["recorded"]);
  });

  test("a file that is deleted or replaced while it is open is seen by check(), and takes no more orders", async () => {
    for (const harm of ["delete", "replace"]) {
      await using opened = await open();
      const { store, path } = opened;
      await store.record([order()]);
      await store.check();
      renameSync(path, `${path}.moved`);
      if (harm === "replace") await Bun.write(path, "another file");
      await expect(store.check()).rejects.toThrow(`${path}: it was deleted or replaced`);
      await expect(store.record([order()])).rejects.toThrow("was deleted or replaced");
      if (existsSync(path)) unlinkSync(path);
      renameSync(`${path}.moved`, path);
      await store.check();
      expect(await store.record([order()])).toEqual(["recorded"]);
    }
  });

  test.each([
    ["its beginning", 0, 100],
    ["all of it", 0, undefined],
  ])("a file of which %s is overwritten while it is open is seen by check()", async (_, start, end) => {
    await using opened = await open();
    const { store, db, path } = opened;
    await store.record(Array.from({ length: 500 }, (_, index) => order({ userId: `U${index}` })));
    db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    overwrite(path, start, end ?? statSync(path).size);
    await expect(store.check()).rejects.toThrow(`${path}: `);
  });

  test("checkThoroughly() sees damage in the middle of a file, which check() may not", async () => {
    await using opened = await open();
    const { store, db, path } = opened;
    for (let batch = 0; batch < 20; batch++)
      await store.record(Array.from({ length: 500 }, (_, index) => order({ userId: `U${batch}-${index}` })));
    await store.checkThoroughly();
    db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    overwrite(path, 100 * 4096, 200 * 4096);
    const again = await openStore({ kind: "sqlite", path });
    await expect(again.checkThoroughly()).rejects.toThrow(/corrupt|malformed/);
    await again.close();
  });

  function overwrite(path: string, from: number, to: number) {
    const file = openSync(path, "r+");
    writeSync(file, new Uint8Array(to - from).fill(0x5a), 0, to - from, from);
    closeSync(file);
  }

  test("the overall total: lost it is refused and made again from the days; at its limit check() rejects", async () => {
    await using opened = await open();
    const { store, db } = opened;
    await store.record([order(), order({ cents: 1999, day: "2024-12-14" })]);
    db.run("DELETE FROM totals WHERE scope = ''");
    await expect(store.check()).rejects.toThrow("the overall total is lost: `bun scripts/audit.ts --repair`");
    await expect(store.record([order()])).rejects.toThrow("the overall total is lost");
    expect([await repairTotal(store), await repairTotal(store)]).toEqual([true, false]);
    expect(await store.global()).toEqual({ orders: 2, cents: 2999 });
    expect((await auditStore(store, () => {})).differences).toEqual([]);
    await store.record([order({ cents: MAX_TOTAL_CENTS - 3_000 })]);
    await expect(store.check()).rejects.toThrow("no room for one more order");
  });

  test("markers that are lost are refused, rather than counted again", async () => {
    await using opened = await open();
    await opened.store.record([order()]);
    opened.db.run("DELETE FROM generations");
    await expect(opened.store.check()).rejects.toThrow("the markers of counted orders are lost");
    await expect(opened.store.record([order()])).rejects.toThrow("are lost");
  });
});

test("the write-ahead log stays bounded while readers overlap", async () => {
  await using opened = await open();
  const { store, path } = opened;
  // The next reader begins before the last one ends, in a process of their own: there is always one, as in a busy program.
  const script = `import { Database } from "bun:sqlite";
    const readers = [1, 2].map(() => new Database(${JSON.stringify(path)}, { readwrite: true }));
    for (let turn = 0; ; turn++) {
      const [starting, ending] = turn % 2 === 0 ? readers : readers.toReversed();
      starting.run("BEGIN");
      starting.query("SELECT * FROM totals").all();
      await Bun.sleep(2);
      if (turn > 0) ending.run("COMMIT");
    }`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "ignore", stderr: "inherit" });
  let most = 0;
  for (let batch = 0; batch < 200; batch++) {
    const users = Array.from({ length: 100 }, (_, index) => (batch * 100 + index * 7919) % 20_000);
    await store.record(users.map((user) => order({ userId: `U${user}` })));
    most = Math.max(most, statSync(`${path}-wal`).size);
    if (batch % 5 === 0) await Bun.sleep(5); // the readers' turn on a busy machine
  }
  expect(child.exitCode).toBeNull();
  child.kill();
  await child.exited;
  // 389 MB without emptying it.
  expect(most).toBeWithin(10_000_000, 128_000_000);
});

test("no more recent orders are written than are kept, and what is damaged is skipped", async () => {
  await using opened = await open();
  const { store, db } = opened;
  await store.addRecent(Array.from({ length: 1000 }, (_, index) => duplicate(`d${index}`)));
  const count = "SELECT count(*) AS rows, max(number) AS written FROM recent";
  expect(db.query(count).get()).toEqual({ rows: MAX_RECENT, written: MAX_RECENT });
  for (const line of ["", '{"outcome":"dupl', "null", "[]", '{"v":2}'])
    db.run("INSERT INTO recent (outcome, line) VALUES ('duplicate', ?)", [line]);
  expect(await store.recent("duplicate", 2)).toEqual(["d999", "d998"].map(duplicate));
  for (let round = 0; round < 3; round++) await store.addRecent(Array(60).fill(duplicate("more")));
  expect(db.query(count).get()).toMatchObject({ rows: MAX_RECENT });
});

test("a file from before there was an order history is opened, and gets one", async () => {
  const path = join(temporaryFolder(), "orders.db");
  const counted = order();
  const before = await openStore({ kind: "sqlite", path });
  await before.record([counted]);
  await before.close();
  using db = new Database(path);
  db.run("DROP TABLE history");
  const store = await openStore({ kind: "sqlite", path });
  const entry = duplicateEntry("o");
  await store.addHistory([entry]);
  expect(await store.history("o")).toEqual({ duplicate: entry });
  expect(await store.isCounted(counted.id)).toBeTrue();
  await store.close();
});

test("a file of an earlier version is refused with one sentence, and is not changed", async () => {
  const path = join(temporaryFolder(), "orders.db");
  using db = new Database(path);
  db.run("CREATE TABLE markers (order_id TEXT PRIMARY KEY, expires_at INTEGER NOT NULL) WITHOUT ROWID, STRICT");
  db.run("PRAGMA user_version = 1");
  await expect(openStore({ kind: "sqlite", path })).rejects.toThrow(
    `Cannot open the store ${path}: it was written by another version of this program`,
  );
  expect(db.query("SELECT name FROM sqlite_schema").values()).toEqual([["markers"]]);
});

test("opening rejects with one sentence when the file cannot be made", async () => {
  await expect(openStore({ kind: "sqlite", path: "/proc/nowhere/orders.db" })).rejects.toThrow(
    /^Cannot open the store \/proc\/nowhere\/orders\.db: /,
  );
});
