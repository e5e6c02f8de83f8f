import { describe, expect, test } from "bun:test";
import { AdapterError } from "../../src/core/errors.ts";
import { asAdapterId, asSlotId } from "../../src/core/ids.ts";
import { composeStep } from "../../src/schedule/compose-step.ts";
import { blockLease, changeLeases, grantLease, refuseLease } from "../../src/schedule/leases.ts";
import { endSequence, endingOf, expire } from "../../src/schedule/retire.ts";
import type { ScheduleTable } from "../../src/schedule/schedule-table.ts";
import { turnOver } from "../../src/schedule/turn-over.ts";
import {
  checkTable,
  compute,
  finishes,
  grantAll,
  stepOnce,
  submit,
  tableWith,
} from "../helpers/schedule.ts";

const started = (table: ScheduleTable): string[] => table.running.map(({ id }) => id);

describe("order between adapters", () => {
  test("the least served adapter starts next, not the one with the longest queue", () => {
    const table = tableWith({ maxSequences: 1 });
    for (let i = 0; i < 4; i++)
      submit(table, { id: `flood${i}`, adapter: 1, prompt: 4, maxTokens: 1 });
    submit(table, { id: "single", adapter: 2, prompt: 4, maxTokens: 1 });
    grantAll(table);
    const order: string[] = [];
    for (let i = 0; i < 5; i++) order.push(stepOnce(table).retired[0]!.sequence.id);
    expect(order).toEqual(["flood0", "single", "flood1", "flood2", "flood3"]);
  });

  test("an adapter that was idle earns no credit for it", () => {
    const table = tableWith({ maxSequences: 1 });
    for (let i = 0; i < 6; i++) submit(table, { id: `a${i}`, adapter: 1, prompt: 9, maxTokens: 1 });
    grantAll(table);
    for (let i = 0; i < 3; i++) stepOnce(table);
    for (let i = 0; i < 3; i++) submit(table, { id: `b${i}`, adapter: 2, prompt: 9, maxTokens: 1 });
    grantAll(table);
    const order: string[] = [];
    for (let i = 0; i < 6; i++) order.push(stepOnce(table).retired[0]!.sequence.id);
    expect(order).toEqual(["a3", "b0", "a4", "b1", "a5", "b2"]);
  });

  test("an adapter that comes back is still charged for what it had", () => {
    const table = tableWith({ maxSequences: 1 });
    submit(table, { id: "greedy", adapter: 1, prompt: 16, maxTokens: 1 });
    grantAll(table);
    stepOnce(table);
    changeLeases(table);
    expect(table.groups.size).toBe(0);
    submit(table, { id: "other0", adapter: 2, prompt: 4, maxTokens: 1 });
    submit(table, { id: "again", adapter: 1, prompt: 4, maxTokens: 1 });
    submit(table, { id: "other1", adapter: 2, prompt: 4, maxTokens: 1 });
    grantAll(table);
    const order: string[] = [];
    for (let i = 0; i < 3; i++) order.push(stepOnce(table).retired[0]!.sequence.id);
    expect(order).toEqual(["other0", "other1", "again"]);
  });

  test("an aged request goes before every younger one, and nobody takes the pages it waits for", () => {
    const table = tableWith({ agingSteps: 10 }, 6);
    submit(table, { id: "running", prompt: 7, maxTokens: 13 });
    stepOnce(table);
    submit(table, { id: "big", adapter: 1, prompt: 19, maxTokens: 1 });
    grantAll(table);
    for (let i = 0; i < 9; i++) {
      submit(table, { id: `small${i}`, prompt: 1, maxTokens: 1 });
      stepOnce(table);
    }
    // Young, the big one is passed; from its tenth step on the next free pages are its own.
    expect(finishes.get("small8")?.reason).toBe("length");
    stepOnce(table);
    submit(table, { id: "late", prompt: 1, maxTokens: 1 });
    stepOnce(table);
    expect(started(table)).toEqual(["running"]);
    while (table.sequences.has("running" as never)) stepOnce(table);
    stepOnce(table);
    expect(started(table)[0]).toBe("big");
    checkTable(table);
  });
});

describe("leases", () => {
  test("are asked for in order of arrival, held while used, and given back", () => {
    const table = tableWith();
    submit(table, { adapter: 5, maxTokens: 1 });
    submit(table, { adapter: 3, maxTokens: 1 });
    submit(table, { adapter: 5, maxTokens: 1 });
    expect(changeLeases(table).map(({ kind, adapterId }) => `${kind} ${adapterId}`)).toEqual([
      "wanted 5",
      "wanted 3",
    ]);
    expect(changeLeases(table)).toEqual([]);
    grantLease(table, asAdapterId(5), 1, asSlotId(0), 0);
    stepOnce(table);
    expect(changeLeases(table).map(({ kind, adapterId }) => `${kind} ${adapterId}`)).toEqual([
      "released 5",
    ]);
  });

  test("are not taken from an answer to an earlier lease", () => {
    const table = tableWith();
    const first = submit(table, { adapter: 1 });
    changeLeases(table);
    endSequence(table, first.id, endingOf("cancelled"), 0);
    expect(changeLeases(table)).toMatchObject([{ kind: "released", leaseNumber: 1 }]);
    submit(table, { adapter: 1 });
    expect(changeLeases(table)).toMatchObject([{ kind: "wanted", leaseNumber: 2 }]);
    grantLease(table, asAdapterId(1), 1, asSlotId(0), 0);
    expect(stepOnce(table).plan.entries).toEqual([]);
    grantLease(table, asAdapterId(1), 2, asSlotId(0), 0);
    expect(stepOnce(table).plan.entries).toHaveLength(1);
  });

  test("that are refused end the requests of that adapter only", () => {
    const table = tableWith();
    submit(table, { id: "bad1", adapter: 1 });
    submit(table, { id: "bad2", adapter: 1 });
    submit(table, { id: "good", adapter: 2 });
    changeLeases(table);
    const error = new AdapterError("adapter_invalid", "no weights");
    const ended = refuseLease(table, asAdapterId(1), 1, error, 0);
    expect(ended.map(({ sequence, finish }) => [sequence.id as string, finish.error])).toEqual([
      ["bad1", error],
      ["bad2", error],
    ]);
    expect([...table.sequences.keys()] as string[]).toEqual(["good"]);
    checkTable(table);
  });

  test("turn over for an aged request: the holder drains, then gives its lease back", () => {
    const table = tableWith({ agingSteps: 4, quantumSteps: 1000 });
    submit(table, { id: "h1", adapter: 1, maxTokens: 8 });
    grantAll(table);
    stepOnce(table);
    submit(table, { id: "w", adapter: 2 });
    const [wish] = changeLeases(table);
    blockLease(table, asAdapterId(2), wish!.leaseNumber);
    const released: number[] = [];
    for (let i = 0; i < 12; i++) {
      submit(table, { id: `more${i}`, adapter: 1, maxTokens: 8 });
      turnOver(table);
      for (const change of changeLeases(table)) {
        if (change.kind === "released") released.push(i);
      }
      stepOnce(table);
      if (released.length > 0) break;
    }
    expect(table.counters.preemptions).toBe(0);
    expect(finishes.get("h1")?.reason).toBe("length");
    expect(released).toHaveLength(1);
    checkTable(table);
  });

  test("are taken by preemption once the holder had its quantum and the aged request its wait", () => {
    const table = tableWith({ agingSteps: 4, quantumSteps: 6 });
    const holder = submit(table, { id: "holder", adapter: 1, maxTokens: 200 });
    grantAll(table);
    stepOnce(table);
    submit(table, { id: "w", adapter: 2 });
    const [wish] = changeLeases(table);
    blockLease(table, asAdapterId(2), wish!.leaseNumber);
    let waited = 0;
    for (; waited < 100; waited++) {
      turnOver(table);
      if (changeLeases(table).some(({ kind }) => kind === "released")) break;
      stepOnce(table);
    }
    expect(waited).toBe(10);
    expect(holder.phase).toBe("waiting");
    expect(holder.length).toBeGreaterThan(4);
    checkTable(table);
  });

  test("stop draining when the aged request goes away", () => {
    const table = tableWith({ agingSteps: 1 });
    submit(table, { id: "h", adapter: 1, maxTokens: 50 });
    grantAll(table);
    stepOnce(table);
    const aged = submit(table, { id: "w", adapter: 2 });
    blockLease(table, asAdapterId(2), changeLeases(table)[0]!.leaseNumber);
    stepOnce(table);
    turnOver(table);
    const group = table.groups.get(asAdapterId(1))!;
    expect(group.isDraining).toBe(true);
    endSequence(table, aged.id, endingOf("cancelled"), 0);
    turnOver(table);
    expect(group.isDraining).toBe(false);
  });
});

describe("deadlines", () => {
  test("end requests at once, and give pages back after the step that names them", () => {
    const table = tableWith();
    submit(table, { id: "runs", deadlineMs: 100 });
    submit(table, { id: "waits", adapter: 1, deadlineMs: 100 });
    submit(table, { id: "later", deadlineMs: 900 });
    const plan = composeStep(table, 0);
    expect(expire(table, 99)).toEqual([]);
    const ended = expire(table, 100);
    expect(ended.map(({ sequence, finish }) => `${sequence.id} ${finish.reason} ${sequence.phase}`)).toEqual(["runs timeout leaving", "waits timeout ended"]);
    checkTable(table);
    expect(compute(table, plan)).toEqual([]);
    expect(ended.map(({ sequence }) => sequence.phase)).toEqual(["ended", "ended"]);
    expect(table.nextDeadlineMs).toBe(900);
    checkTable(table);
  });
});
