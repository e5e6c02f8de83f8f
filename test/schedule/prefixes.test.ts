/** What sequences take over of others, over the schedule's own functions; that answers stay the same is tested with them all. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ExtentPool } from "../../src/core/extent-pool.ts";
import { endingOf, endSequence } from "../../src/schedule/retire.ts";
import { createScheduleTable, type ScheduleTable } from "../../src/schedule/schedule-table.ts";
import type { Sequence } from "../../src/schedule/sequence.ts";
import { pagesFor } from "../../src/kv/page-table.ts";
import { composeStep } from "../../src/schedule/compose-step.ts";
import { type Asked, checkTable, compute, grantAll, limitsWith, stepOnce, submit, tableWith } from "../helpers/schedule.ts";

const sharing = (numPages = 64): ScheduleTable => tableWith({ sharesPrefixes: true }, numPages);

/** Runs one request to its end. @returns tokens that it found */
function run(table: ScheduleTable, asked: Asked): number {
  const sequence = submit(table, asked);
  finish(table, sequence);
  return sequence.numCached;
}

function finish(table: ScheduleTable, sequence: Sequence): void {
  for (let step = 0; sequence.phase !== "ended"; step++) {
    if (step > 200) throw new Error("it does not end");
    grantAll(table);
    stepOnce(table);
    checkTable(table);
  }
}

// Pages of four; prompts count up from 0, and every answer is of sevens.
describe("a prefix", () => {
  test("is found in whole pages, but for the newest token", () => {
    const table = sharing();
    expect(run(table, { prompt: 10 })).toBe(0);
    expect([run(table, { prompt: 10 }), run(table, { prompt: 8 }), run(table, { prompt: 9 }), run(table, { prompt: 3 })]).toEqual([8, 4, 8, 0]);
    expect([table.pool.numHeld, table.counters.prefixQueries, table.counters.prefixHits]).toEqual([0, 10 + 10 + 8 + 9 + 3, 20]);
  });

  test("is one of the very same tokens, whatever bit they differ in", () => {
    const token = fc.integer({ min: 0, max: 2 ** 31 - 1 });
    fc.assert(
      fc.property(fc.array(token, { minLength: 9, maxLength: 9 }), fc.nat(8), fc.nat(30), (tokens, at, bit) => {
        const table = sharing();
        run(table, { tokens, maxTokens: 1 });
        const other = tokens.with(at, tokens[at]! ^ (1 << bit));
        expect([run(table, { tokens: other, maxTokens: 1 }), run(table, { tokens, maxTokens: 1 })]).toEqual([at - (at % 4), 8]);
      }),
      { numRuns: 500 },
    );
  });

  test("is not computed again: the first step has the rest only, and only that is charged", () => {
    const table = sharing();
    run(table, { prompt: 10, maxTokens: 1 });
    const served = (): number => [...table.rememberedTenants.values()][0]!;
    const before = served();
    submit(table, { id: "again", prompt: 10, maxTokens: 1 });
    const { plan } = stepOnce(table);
    expect(plan.entries.map(({ position, numRows }) => [position, numRows])).toEqual([[8, 2]]);
    expect(served() - before).toBe(2);
  });

  test("goes on through the answer", () => {
    const table = sharing();
    // Seven tokens 0 to 6, then sevens: as if the prompt had gone on.
    run(table, { prompt: 7, maxTokens: 3 });
    expect(run(table, { prompt: 8, maxTokens: 1 })).toBe(4);
    expect(run(table, { tokens: [0, 1, 2, 3, 4, 5, 6, 7, 7, 9], maxTokens: 1 })).toBe(8);
  });

  test("is shared while its first reader still runs", () => {
    const table = sharing();
    const first = submit(table, { prompt: 9, maxTokens: 20 });
    stepOnce(table);
    const second = submit(table, { prompt: 9, maxTokens: 20 });
    stepOnce(table);
    expect(second.numCached).toBe(8);
    expect(second.pages.slice(0, 2)).toEqual(first.pages.slice(0, 2));
    expect(second.pages[2]).not.toBe(first.pages[2]!);
    checkTable(table);
    finish(table, first);
    finish(table, second);
    expect(table.pool.numHeld).toBe(0);
  });

  test.each<[string, Asked, Asked, number]>([
    ["another adapter's", { adapter: 1 }, { adapter: 2 }, 0],
    ["an adapter's of the base model", {}, { adapter: 1 }, 0],
    ["the base model's of an adapter", { adapter: 1 }, {}, 0],
    ["another tenant's", { tenant: "a" }, { tenant: "b" }, 0],
    ["one of another salt", { cacheSalt: "a" }, { cacheSalt: "b" }, 0],
    ["one of a salt without one", { cacheSalt: "a" }, {}, 0],
    ["one whose tenant and salt read alike", { tenant: "a", cacheSalt: "b" }, { tenant: "ab" }, 0],
    ["its own adapter's", { adapter: 1 }, { adapter: 1 }, 12],
    ["one of its own salt", { cacheSalt: "a" }, { cacheSalt: "a" }, 12],
    ["an adapter's of equal content", { adapter: 80 }, { adapter: 81 }, 12],
    // The invocation of 90 is token 6.
    ["what the base model computed before an invocation", {}, { adapter: 90 }, 4],
    ["what the base model computed where there is no invocation", {}, { adapter: 92 }, 12],
    ["for the base model, what came before an invocation", { adapter: 90 }, {}, 4],
    ["for another adapter, what came before both invocations", { adapter: 90 }, { adapter: 93 }, 4],
    ["its own behind its invocation", { adapter: 90 }, { adapter: 90 }, 12],
  ])("%s: found as far as it is the same", (_, first, second, expected) => {
    const table = sharing();
    run(table, { prompt: 14, ...first });
    expect(run(table, { prompt: 14, ...second })).toBe(expected);
  });

  test("of equal tokens is another where the adapter acts from another row of the page on", () => {
    const table = sharing();
    // 94 acts from the last "3 4": in the first prompt from position 1, in the second from position 3, across the page's end.
    expect(run(table, { adapter: 94, tokens: [0, 3, 4, 3, 0, 0] })).toBe(0);
    expect(run(table, { adapter: 94, tokens: [0, 3, 4, 3, 4, 0] })).toBe(0);
    expect(run(table, { adapter: 94, tokens: [0, 3, 4, 3, 0, 1] })).toBe(4);
  });

  test("does not hide rows that are to be scored", () => {
    const table = sharing();
    run(table, { prompt: 14 });
    expect(run(table, { prompt: 14, isScored: true })).toBe(0);
  });

  test("is not left by a sequence that failed", () => {
    const table = sharing();
    const sequence = submit(table, { prompt: 14 });
    const plan = composeStep(table, 0);
    sequence.ending = { reason: "error", stopReason: null, error: new Error("no numbers") as never };
    compute(table, plan);
    expect([run(table, { prompt: 14 }), table.pool.numHeld]).toEqual([0, 0]);
  });

  test("is not left by a sequence that has ended, whose adapter may have been unloaded since", () => {
    const loaded = new Set([1]);
    const contentOf: ScheduleTable["contentOf"] = (adapter) => {
      if (!loaded.has(adapter)) throw new Error("it is unloaded");
      return { digest: "d", invocation: null };
    };
    const table = createScheduleTable(limitsWith({ sharesPrefixes: true }), { extents: new ExtentPool(8), pageTokens: 4, numPages: 8 }, contentOf);
    const sequence = submit(table, { adapter: 1, prompt: 3 });
    grantAll(table);
    const plans = [composeStep(table, 0), composeStep(table, 0)];
    endSequence(table, sequence.id, endingOf("cancelled"), 0);
    loaded.clear();
    // The second fills a page.
    for (const plan of plans) compute(table, plan);
    expect([sequence.computed, sequence.phase, table.pool.numHeld, table.pool.numIdle]).toEqual([4, "ended", 0, 0]);
  });

  test("gives way to sequences that need its pages, the longest unused first", () => {
    const table = sharing(8);
    run(table, { tenant: "a", prompt: 14, maxTokens: 1 });
    run(table, { tenant: "b", prompt: 14, maxTokens: 1 });
    // Six pages are kept. Four of eight are wanted: two are unused, and the end of the first prefix goes.
    run(table, { tenant: "c", prompt: 14, maxTokens: 1 });
    expect(run(table, { tenant: "b", prompt: 14, maxTokens: 1 })).toBe(12);
    expect(table.pool.numHeld).toBe(0);
  });

  test("costs a newcomer nothing where others hold it, so that it starts beside them", () => {
    expect(pagesFor(18, 4)).toBe(5);
    const table = sharing(7);
    const first = submit(table, { prompt: 17, maxTokens: 2 });
    stepOnce(table);
    // Five pages are held, and two are left: enough for what is new in the second.
    const second = submit(table, { prompt: 17, maxTokens: 2 });
    stepOnce(table);
    expect([first.phase, second.phase, second.numCached]).toEqual(["running", "running", 16]);
  });

  test("is found again by a sequence that was preempted, and counted once", () => {
    const table = sharing(4);
    submit(table, { id: "first", prompt: 7, maxTokens: 6 });
    const late = submit(table, { id: "late", tenant: "b", prompt: 7, maxTokens: 6 });
    while (late.numPreemptions === 0) stepOnce(table);
    finish(table, late);
    expect([late.length, late.numCached, table.counters.prefixQueries]).toEqual([13, 0, 14]);
  });

  test("is not looked for where sharing is off", () => {
    const table = tableWith();
    run(table, { prompt: 14 });
    expect([run(table, { prompt: 14 }), table.counters.prefixQueries, table.pool.numIdle]).toEqual([0, 0, 0]);
  });
});
