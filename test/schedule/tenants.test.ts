/**
 * Shares between tenants, as simulations of the policy alone: clients submit, steps are composed and settled.
 *
 * The gap is stated for tenants that both have something to start: what one has had ahead of another, each divided
 * by its weight, is at most what `maxSequences` sequences compute, divided by the smaller weight.
 */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { composeStep } from "../../src/schedule/compose-step.ts";
import type { ScheduleTable } from "../../src/schedule/schedule-table.ts";
import { turnOver } from "../../src/schedule/turn-over.ts";
import { checkTable, compute, grantAll, stepOnce, submit, tableWith } from "../helpers/schedule.ts";

interface Client {
  readonly tenant: string;
  readonly weight: number;
  /** Adapters that its requests name in turn; none is the base model. */
  readonly numAdapters: number;
  readonly prompt: number;
  readonly maxTokens: number;
}

const PLENTY = 100_000;

function tableFor(clients: readonly Client[], limits: Parameters<typeof tableWith>[0] = {}): ScheduleTable {
  const weights = new Map(clients.map(({ tenant, weight }) => [tenant, weight]));
  return tableWith({ maxContext: 4096, maxWaitingRequests: PLENTY, weights, ...limits }, PLENTY);
}

let numAsked = 0;
function ask(table: ScheduleTable, index: number, { tenant, numAdapters, prompt, maxTokens }: Client): ReturnType<typeof submit> {
  const adapter = numAdapters === 0 ? {} : { adapter: 1 + index * 1000 + (numAsked++ % numAdapters) };
  return submit(table, { tenant, prompt, maxTokens, ...adapter });
}

/** One step as the scheduler takes it; adds the rows of each tenant to `served`. */
function step(table: ScheduleTable, served: Map<string, number>): void {
  turnOver(table);
  grantAll(table);
  const plan = composeStep(table, 0);
  for (const { sequence, numRows } of plan.entries) served.set(sequence.tenant, (served.get(sequence.tenant) ?? 0) + numRows);
  compute(table, plan);
}

const rowsOf = ({ prompt, maxTokens }: Client): number => prompt + maxTokens - 1;

const numWaitingOf = (table: ScheduleTable, tenant: string): number =>
  [...(table.tenants.get(tenant)?.lanes ?? [])].reduce((sum, { waiting }) => sum + waiting.length, 0);

function gapBound(table: ScheduleTable, clients: readonly Client[]): number {
  const least = Math.min(...clients.map(({ weight }) => weight));
  const bound = (table.limits.maxSequences * Math.max(...clients.map(rowsOf))) / least;
  // Both it and the gap are sums of thirds, and a gap that just keeps it may be one rounding above.
  return bound * (1 + 1e-12);
}

function largestGap(clients: readonly Client[], served: ReadonlyMap<string, number>): number {
  const shares = clients.map(({ tenant, weight }) => (served.get(tenant) ?? 0) / weight);
  return Math.max(...shares) - Math.min(...shares);
}

const client = (changes: Partial<Client>): Client => ({ tenant: "", weight: 1, numAdapters: 0, prompt: 8, maxTokens: 12, ...changes });

describe("shares between tenants", () => {
  for (const numAdapters of [0, 1, 40]) {
    test(`a client at ten times the rate of another gets no more than it while both wait (it names ${numAdapters} adapters)`, () => {
      const clients = [client({ tenant: "greedy", numAdapters }), client({ tenant: "modest" })];
      const table = tableFor(clients);
      const served = new Map<string, number>();
      let worst = 0;
      for (let i = 0; i < 1500; i++) {
        // Both ask for more than half of what is served, 0.6 requests a step.
        if (i % 2 === 0) for (let k = 0; k < 10; k++) ask(table, 0, clients[0]!);
        if (i % 2 === 0) ask(table, 1, clients[1]!);
        step(table, served);
        worst = Math.max(worst, largestGap(clients, served));
      }
      expect(numWaitingOf(table, "modest")).toBeGreaterThan(100);
      expect(numWaitingOf(table, "greedy")).toBeGreaterThan(1000);
      expect(worst).toBeLessThanOrEqual(gapBound(table, clients));
      // The bound is 152 rows of 10,000; what is left of it is seen in the shares.
      expect(served.get("greedy")! / served.get("modest")!).toBeCloseTo(1, 1);
      checkTable(table);
    });
  }

  test("a client that asks for less than its share gets all of it, and the other the rest", () => {
    const clients = [client({ tenant: "greedy" }), client({ tenant: "modest" })];
    const table = tableFor(clients);
    const served = new Map<string, number>();
    let numLate = 0;
    for (let i = 0; i < 1000; i++) {
      for (let k = 0; k < 3; k++) ask(table, 0, clients[0]!);
      const asked = i % 20 === 0 ? ask(table, 1, clients[1]!) : null;
      step(table, served);
      if (asked === null) continue;
      if (asked.phase === "waiting") numLate++;
      // It is the next to start: a place comes free as soon as one of the eight ends.
      for (let k = 0; k < clients[0]!.maxTokens && asked.phase === "waiting"; k++) step(table, served);
      expect(asked.phase).not.toBe("waiting");
    }
    expect(served.get("modest")).toBeGreaterThanOrEqual(49 * rowsOf(clients[1]!));
    expect(numLate).toBeGreaterThan(0);
  });

  test("weights divide the device, for any tenants, sizes and adapters, within the stated gap", () => {
    const clients = fc.array(
      fc.record({
        weight: fc.constantFrom(0.5, 1, 2, 3),
        numAdapters: fc.nat(5),
        prompt: fc.integer({ min: 1, max: 30 }),
        maxTokens: fc.integer({ min: 1, max: 30 }),
      }),
      { minLength: 2, maxLength: 4 },
    );
    fc.assert(
      fc.property(clients, fc.integer({ min: 1, max: 12 }), fc.integer({ min: 4, max: 64 }), (drawn, maxSequences, maxRows) => {
        const all = drawn.map((each, i): Client => ({ ...each, tenant: `t${i}` }));
        const table = tableFor(all, { maxSequences, maxRows, agingSteps: PLENTY, quantumSteps: PLENTY });
        const served = new Map<string, number>();
        const bound = gapBound(table, all);
        for (let i = 0; i < 200; i++) {
          // Everyone always has more waiting than there are places.
          all.forEach((each, index) => {
            for (let k = numWaitingOf(table, each.tenant); k <= 2 * maxSequences; k++) ask(table, index, each);
          });
          step(table, served);
          expect(largestGap(all, served)).toBeLessThanOrEqual(bound);
        }
        checkTable(table);
      }),
      { numRuns: 60 },
    );
  });

  test("however small its weight, a tenant waits no longer than its time of aging, two quanta and a prompt", () => {
    const small = client({ tenant: "small", weight: 0.001 });
    const great = client({ tenant: "great", numAdapters: 30, maxTokens: 400 });
    const table = tableFor([small, great], { agingSteps: 20, quantumSteps: 40 });
    const served = new Map<string, number>();
    let longest = 0;
    for (let round = 0; round < 40; round++) {
      const asked = ask(table, 0, small);
      const since = table.step;
      while (asked.phase !== "ended") {
        while (table.numWaiting < 60) ask(table, 1, great);
        step(table, served);
        if (asked.startedMs === null) longest = Math.max(longest, table.step - since);
        expect(table.step - since).toBeLessThan(1000);
      }
    }
    expect(longest).toBeGreaterThanOrEqual(20);
    expect(longest).toBeLessThanOrEqual(20 + 2 * 40 + 1);
    checkTable(table);
  });

  test("within a tenant its adapters share, also where others crowd one of them", () => {
    const table = tableFor([], { maxSequences: 2 });
    const served = new Map<string, number>();
    let numX = 0;
    let numY = 0;
    for (let i = 0; i < 400; i++) {
      submit(table, { tenant: "crowd", adapter: 1, prompt: 4, maxTokens: 4 });
      for (const adapter of [1, 2]) submit(table, { tenant: "me", adapter, prompt: 4, maxTokens: 4 });
      step(table, served);
    }
    for (const { adapter, tenant, phase } of table.sequences.values()) {
      if (tenant !== "me" || phase !== "waiting") continue;
      if (adapter === 1) numX++;
      else numY++;
    }
    expect(Math.abs(numX - numY)).toBeLessThanOrEqual(2);
    expect(served.get("me")! / served.get("crowd")!).toBeCloseTo(1, 1);
  });

  test("a priority orders a tenant's own requests, over all its adapters, and takes nothing from others", () => {
    const table = tableFor([], { maxSequences: 1 });
    const sizes = { prompt: 4, maxTokens: 1 };
    for (let i = 0; i < 3; i++) submit(table, { id: `pa${i}`, tenant: "a", adapter: i + 1, priority: -i, ...sizes });
    for (let i = 0; i < 3; i++) submit(table, { id: `pb${i}`, tenant: "b", ...sizes });
    grantAll(table);
    expect(Array.from({ length: 6 }, () => stepOnce(table).retired[0]!.sequence.id as string)).toEqual(["pa2", "pb0", "pa1", "pb1", "pa0", "pb2"]);
  });

  test("a tenant that was idle earns no credit for it, and one that comes back is charged for what it had", () => {
    const table = tableFor([], { maxSequences: 1 });
    for (let i = 0; i < 6; i++) submit(table, { id: `ta${i}`, tenant: "a", prompt: 9, maxTokens: 1 });
    for (let i = 0; i < 3; i++) stepOnce(table);
    for (let i = 0; i < 3; i++) submit(table, { id: `tb${i}`, tenant: "b", prompt: 9, maxTokens: 1 });
    const order: string[] = [];
    for (let i = 0; i < 6; i++) order.push(stepOnce(table).retired[0]!.sequence.id);
    expect(order).toEqual(["ta3", "tb0", "ta4", "tb1", "ta5", "tb2"]);
    expect(table.tenants.size).toBe(0);
    submit(table, { id: "td", tenant: "d", prompt: 4, maxTokens: 1 });
    submit(table, { id: "ta6", tenant: "a", prompt: 4, maxTokens: 1 });
    submit(table, { id: "td1", tenant: "d", prompt: 4, maxTokens: 1 });
    expect([0, 0, 0].map(() => stepOnce(table).retired[0]!.sequence.id as string)).toEqual(["td", "td1", "ta6"]);
  });
});
