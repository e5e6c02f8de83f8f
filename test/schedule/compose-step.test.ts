import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { composeStep } from "../../src/schedule/compose-step.ts";
import { endAll, endingOf } from "../../src/schedule/retire.ts";
import { isScoring } from "../../src/schedule/sequence.ts";
import { asAdapterId } from "../../src/core/ids.ts";
import {
  type Asked,
  checkTable,
  compute,
  grantAll,
  shapeOf,
  slotsOf,
  stepOnce,
  submit,
  tableWith,
} from "../helpers/schedule.ts";

describe("composition of a step", () => {
  test("is empty when nothing waits", () => {
    expect(composeStep(tableWith(), 0)).toEqual({ entries: [], numRows: 0, numScores: 0 });
  });

  test("computes a short prompt whole and then one row per token", () => {
    const table = tableWith();
    submit(table, { id: "a", prompt: 5, maxTokens: 3 });
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:5"]);
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:1"]);
    const { plan, retired } = stepOnce(table);
    expect(shapeOf(plan)).toEqual(["a:1"]);
    expect(retired.map(({ finish }) => finish.usage)).toEqual([
      { promptTokens: 5, completionTokens: 3, cachedTokens: 0 },
    ]);
    expect(table.sequences.size).toBe(0);
    expect(table.pool.numHeld).toBe(0);
  });

  test("starts by priority, then in order of arrival, adapters of urgent requests first", () => {
    const table = tableWith({ maxSequences: 1 });
    submit(table, { id: "first", prompt: 4, maxTokens: 1 });
    submit(table, { id: "late", prompt: 4, priority: 5, maxTokens: 1 });
    submit(table, { id: "second", prompt: 4, maxTokens: 1 });
    submit(table, { id: "urgent", prompt: 4, priority: -1, maxTokens: 1 });
    submit(table, { id: "other", adapter: 1, prompt: 4, priority: -2, maxTokens: 1 });
    grantAll(table);
    const order = [];
    for (let i = 0; i < 5; i++) order.push(...shapeOf(stepOnce(table).plan));
    expect(order).toEqual(["other:4", "urgent:4", "first:4", "second:4", "late:4"]);
  });

  test("leaves out a sequence whose next tokens are not known yet, and nobody else", () => {
    const table = tableWith();
    let isReady = false;
    submit(table, { id: "late", prompt: 3, isReady: () => isReady, maxTokens: 9 });
    expect(shapeOf(stepOnce(table).plan)).toEqual([]);
    submit(table, { id: "a", adapter: 1, prompt: 5, maxTokens: 9 });
    grantAll(table);
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:5"]);
    isReady = true;
    expect(shapeOf(stepOnce(table).plan)).toEqual(["late:3", "a:1"]);
    isReady = false;
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:1"]);
    isReady = true;
    expect(shapeOf(stepOnce(table).plan)).toEqual(["late:1", "a:1"]);
  });

  test("splits a long prompt into chunks of the token budget", () => {
    const table = tableWith({ maxRows: 8 });
    submit(table, { id: "a", prompt: 20 });
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:8"]);
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:8"]);
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:4"]);
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:1"]);
  });

  test("puts decode rows before prompts, whatever is left goes to the prompt", () => {
    const table = tableWith({ maxRows: 8 });
    submit(table, { id: "a", prompt: 2, maxTokens: 9 });
    submit(table, { id: "b", prompt: 2, maxTokens: 9 });
    stepOnce(table);
    submit(table, { id: "c", prompt: 100 });
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:1", "b:1", "c:6"]);
  });

  test("a short prompt passes through beside a long one", () => {
    const table = tableWith({ maxRows: 16 });
    submit(table, { id: "long", prompt: 200 });
    stepOnce(table);
    submit(table, { id: "short", prompt: 3 });
    expect(shapeOf(stepOnce(table).plan)).toEqual(["long:13", "short:3"]);
  });

  test("sorts rows by slot, the base model first", () => {
    const table = tableWith();
    submit(table, { id: "x", adapter: 2, prompt: 1 });
    submit(table, { id: "y", adapter: 1, prompt: 1 });
    submit(table, { id: "z", prompt: 1 });
    submit(table, { id: "w", adapter: 2, prompt: 1 });
    grantAll(table);
    const { plan } = stepOnce(table);
    expect(plan.entries.map(({ slot }) => slot as number)).toEqual([-1, 1, 2, 2]);
    expect(shapeOf(plan)).toEqual(["z:1", "y:1", "x:1", "w:1"]);
  });

  test("leaves requests of adapters that are not on the device alone", () => {
    const table = tableWith();
    submit(table, { id: "x", adapter: 1 });
    submit(table, { id: "b" });
    expect(shapeOf(stepOnce(table).plan)).toEqual(["b:4"]);
  });

  test("runs no more sequences than the backend takes", () => {
    const table = tableWith({ maxSequences: 2 });
    for (const id of ["a", "b", "c"]) submit(table, { id, prompt: 1, maxTokens: 2 });
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:1", "b:1"]);
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:1", "b:1"]);
    expect(shapeOf(stepOnce(table).plan)).toEqual(["c:1"]);
  });

  test("starts nothing whose prompt would not fit beside what running prompts still need", () => {
    const table = tableWith({ maxRows: 4 }, 6);
    submit(table, { id: "a", prompt: 15 });
    stepOnce(table);
    submit(table, { id: "b", prompt: 8 });
    expect(table.pool.numFree).toBe(5);
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:4"]);
  });
});

test("two newcomers of one step are not promised the same pages", () => {
  // Six pages: each prompt of eleven needs three, and only a chunk of each is computed in the first step.
  const table = tableWith({ maxRows: 8 }, 6);
  submit(table, { id: "a", prompt: 11 });
  submit(table, { id: "b", prompt: 11 });
  submit(table, { id: "c", prompt: 1 });
  stepOnce(table);
  expect(table.running.map(({ id }) => id as string)).toEqual(["a", "b"]);
});

describe("preemption", () => {
  test("puts the sequence before those of its adapter that have not started", () => {
    const table = tableWith({ maxSequences: 2 }, 4);
    const a = submit(table, { id: "a", prompt: 7, maxTokens: 6 });
    const b = submit(table, { id: "b", prompt: 7, maxTokens: 6 });
    const c = submit(table, { id: "c", prompt: 7, maxTokens: 6 });
    while (b.numPreemptions === 0) stepOnce(table);
    expect(table.groups.get(null)?.waiting).toEqual([b, c]);
    expect(a.phase).toBe("running");
  });

  test("takes the pages of the latest started sequence, which starts again with all its tokens", () => {
    // Four pages of four: two sequences of seven tokens fill them, the fifth token of "a" needs another.
    const table = tableWith({}, 4);
    const a = submit(table, { id: "a", prompt: 7, maxTokens: 6 });
    const b = submit(table, { id: "b", prompt: 7, maxTokens: 6 });
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:7", "b:7"]);
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:1", "b:1"]);
    expect(shapeOf(stepOnce(table).plan)).toEqual(["a:1"]);
    expect(b.phase).toBe("waiting");
    expect(b.length).toBe(9);
    expect(b.pages).toEqual([]);
    checkTable(table);
    while (a.phase !== "ended") stepOnce(table);
    expect(shapeOf(stepOnce(table).plan)).toEqual(["b:9"]);
    while (b.phase !== "ended") stepOnce(table);
    expect(b.length).toBe(13);
    expect(table.counters.preemptions).toBe(1);
    expect(table.pool.numHeld).toBe(0);
  });

  test("every mix of requests ends, in arrival order within an adapter, with all books balanced", () => {
    const request = fc.record({
      adapter: fc.option(fc.constantFrom(0, 1, 2, 90, 91, 92), { nil: undefined }),
      prompt: fc.integer({ min: 1, max: 30 }),
      maxTokens: fc.integer({ min: 1, max: 10 }),
      atStep: fc.nat(30),
      isScored: fc.boolean(),
    });
    const shape = fc.record({
      maxRows: fc.integer({ min: 1, max: 20 }),
      maxSequences: fc.integer({ min: 1, max: 6 }),
      numPages: fc.integer({ min: 10, max: 20 }),
      sharesPrefixes: fc.boolean(),
    });
    fc.assert(
      fc.property(shape, fc.array(request, { maxLength: 25 }), (sizes, requests) => {
        const { maxRows, maxSequences, numPages, sharesPrefixes } = sizes;
        const table = tableWith({ maxRows, maxSequences, sharesPrefixes }, numPages);
        const firstStarts = new Map<number | null, number[]>();
        let numEnded = 0;
        for (let step = 0; step < 5000; step++) {
          for (const { adapter, prompt, maxTokens, atStep, isScored } of requests) {
            if (atStep !== step) continue;
            submit(table, { ...(adapter === undefined ? {} : { adapter }), prompt, maxTokens, isScored });
          }
          grantAll(table);
          const plan = composeStep(table, step);
          expect(plan.numRows).toBeLessThanOrEqual(maxRows);
          expect(plan.entries.length).toBeLessThanOrEqual(maxSequences);
          for (const { sequence, slot, position, numRows: count } of plan.entries) {
            const from = { 90: 6, 91: 3, 92: Infinity }[sequence.adapter as number] ?? 0;
            // The invocation may be longer than the prompt.
            const activeFrom = sequence.promptLength > from + (sequence.adapter === asAdapterId(91) ? 1 : 0) ? from : Infinity;
            const hasSlot = sequence.adapter !== null && (from === 0 || position >= activeFrom);
            expect(slot as number).toBe(hasSlot ? sequence.adapter! : -1);
            if (!hasSlot && sequence.adapter !== null) expect(position + count).toBeLessThanOrEqual(activeFrom);
          }
          const order = plan.entries.map(({ slot, sequence }) => [slot, sequence.startOrder] as const);
          expect(order).toEqual(order.toSorted(([slot, start], [otherSlot, otherStart]) => slot - otherSlot || start - otherStart));
          const numSamples = plan.entries.map((entry) => (isScoring(entry.sequence) ? entry.numRows : Number(entry.picksToken))).reduce((a, b) => a + b, 0);
          expect(numSamples).toBeLessThanOrEqual(maxSequences);
          for (const { sequence, position, numRows } of plan.entries) {
            const needed = Math.ceil((position + numRows) / 4);
            if (sequence.activeFrom === 0) expect(sequence.pages.length).toBe(needed);
            expect(sequence.pages.length).toBeGreaterThanOrEqual(needed);
            if (position > 0 || sequence.numPreemptions > 0) continue;
            const arrivals = firstStarts.get(sequence.adapter) ?? [];
            firstStarts.set(sequence.adapter, [...arrivals, sequence.arrival]);
          }
          numEnded += compute(table, plan).length;
          checkTable(table);
          if (step > 30 && table.sequences.size === 0) break;
        }
        expect(numEnded).toBe(requests.length);
        expect(table.pool.numHeld).toBe(0);
        for (const arrivals of firstStarts.values()) {
          expect(arrivals).toEqual(arrivals.toSorted((a, b) => a - b));
        }
      }),
      { numRuns: 600 },
    );
  });
});

describe("an adapter that acts from its invocation on", () => {
  const start = (asked: Asked[], ...table: Parameters<typeof tableWith>) => {
    const made = tableWith(...table);
    for (const each of asked) submit(made, each);
    grantAll(made);
    return made;
  };

  test("has the rows from there on, the base model those before, in one step", () => {
    const table = start([{ id: "a", adapter: 90, prompt: 9 }, { id: "b", prompt: 2 }]);
    expect(slotsOf(stepOnce(table).plan)).toEqual(["a:6@-1", "b:2@-1", "a:3@90"]);
    expect(slotsOf(stepOnce(table).plan)).toEqual(["b:1@-1", "a:1@90"]);
    checkTable(table);
  });

  test("has none without its invocation, not of the answer either", () => {
    const table = start([{ id: "a", adapter: 92, prompt: 5 }]);
    expect(slotsOf(stepOnce(table).plan)).toEqual(["a:5@-1"]);
    expect(slotsOf(stepOnce(table).plan)).toEqual(["a:1@-1"]);
  });

  test("has the same rows whatever the chunks", () => {
    const table = start([{ id: "a", adapter: 91, prompt: 9 }], { maxRows: 2 });
    const steps = Array.from({ length: 6 }, () => slotsOf(stepOnce(table).plan));
    expect(steps).toEqual([["a:2@-1"], ["a:1@-1", "a:1@91"], ["a:2@91"], ["a:2@91"], ["a:1@91"], ["a:1@91"]]);
  });

  test("waits a step where the step has no room for a further entry", () => {
    const table = start([{ id: "a", adapter: 90, prompt: 9 }, { id: "b", prompt: 2 }], { maxSequences: 2 });
    const { plan } = stepOnce(table);
    expect([slotsOf(plan), plan.numRows]).toEqual([["a:6@-1", "b:2@-1"], 8]);
    expect(slotsOf(stepOnce(table).plan)).toEqual(["b:1@-1", "a:3@90"]);
    checkTable(table);
  });

  test("ends once when it is cancelled in the step in which it comes to act", () => {
    const table = start([{ id: "a", adapter: 90, prompt: 9 }]);
    const plan = composeStep(table, 0);
    expect(endAll(table, endingOf("cancelled"), 0).map(({ finish }) => finish.reason)).toEqual(["cancelled"]);
    expect(compute(table, plan)).toEqual([]);
    expect([table.running.length, table.pool.numHeld, table.sequences.size]).toEqual([0, 0, 0]);
  });

  test("acts from the same position on once it is computed again", () => {
    const table = start([{ id: "first", prompt: 7, maxTokens: 6 }, { id: "a", adapter: 90, prompt: 7, maxTokens: 6 }], {}, 4);
    const a = [...table.sequences.values()].find(({ id }) => id === "a")!;
    while (a.numPreemptions === 0) stepOnce(table);
    while (a.phase === "waiting") {
      grantAll(table);
      stepOnce(table);
    }
    expect([a.activeFrom, a.numPreemptions]).toEqual([6, 1]);
  });
});

test("ending everything gives all pages back but those of the step under way", () => {
  const table = tableWith();
  submit(table, { id: "a" });
  const plan = composeStep(table, 0);
  submit(table, { id: "b" });
  expect(endAll(table, endingOf("shutdown"), 0).map(({ sequence }) => sequence.id as string)).toEqual(["a", "b"]);
  expect(table.pool.numHeld).toBe(1);
  expect(compute(table, plan)).toEqual([]);
  expect(table.pool.numHeld).toBe(0);
  expect(table.sequences.size).toBe(0);
});
