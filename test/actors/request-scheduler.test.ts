import { describe, expect, test } from "bun:test";
import { createActor, SimulatedClock } from "xstate";
import type { RequestSchedulerFact } from "../../src/actors/request-scheduler/request-scheduler.events.ts";
import { requestSchedulerMachine } from "../../src/actors/request-scheduler/request-scheduler.machine.ts";
import { AdapterError, InvariantError } from "../../src/core/errors.ts";
import { asAdapterId, asRequestId, asSlotId } from "../../src/core/ids.ts";
import type { StepPlan } from "../../src/schedule/compose-step.ts";
import type { StepResult } from "../../src/core/step.ts";
import { appendToken, createSequence, numRemaining } from "../../src/schedule/sequence.ts";
import { deviceLost } from "../helpers/fake-backend.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { MAX_ROWS_AHEAD } from "../../src/schedule/go-ahead.ts";
import { checkTable, tableWith } from "../helpers/schedule.ts";

interface Running {
  readonly plan: StepPlan;
  readonly settle: PromiseWithResolvers<StepResult>;
}

/** Of an engine that reads none. */
const NO_RESULT: StepResult = { sampled: [], computeMs: 0 };

/** A scheduler whose steps and turns end when the test says so. */
function open(maxSequences = 8, stepsAhead: 0 | 1 = 0, maxRows = 16, numPages = 1000) {
  const clock = new SimulatedClock();
  const table = tableWith({ maxSequences, maxRows, maxContext: 4000 }, numPages);
  const steps: Running[] = [];
  let numFinished = 0;
  const facts: string[] = [];
  const actor = createActor(requestSchedulerMachine, {
    clock,
    input: {
      table,
      engine: {
        run: (plan) => {
          const settle = Promise.withResolvers<StepResult>();
          steps.push({ plan, settle });
          return settle.promise;
        },
        /** What the engine does, with token 7 for every sample. */
        take: (plan) => {
          for (const entry of plan.entries) {
            const { sequence } = entry;
            sequence.computed = entry.position + entry.numRows;
            if (!entry.picksToken) continue;
            sequence.numAwaited--;
            if (sequence.ending !== null) continue;
            appendToken(sequence, 7);
            if (numRemaining(sequence) > 0) continue;
            sequence.ending = { reason: "length", stopReason: null, error: null };
          }
        },
      },
      stepsAhead,
      clock: { nowMs: () => clock.now(), unixSeconds: () => 0 },
      yieldTurn: () => Promise.resolve(),
      onStepTime: () => {},
    },
  });
  actor.on("*", (fact: RequestSchedulerFact) => {
    if (fact.type === "request.ended") facts.push(`${fact.requestId} ${fact.finish.reason}`);
    else facts.push("adapterId" in fact ? `${fact.type} ${fact.adapterId}` : fact.type);
  });
  actor.start();
  let arrival = 0;
  return {
    actor,
    table,
    clock,
    steps,
    state: () => actor.getSnapshot().value as string,
    turn: () => Bun.sleep(0),
    heard: () => facts.splice(0),
    submit: (
      id: string,
      changes: { adapter?: number; maxTokens?: number; deadlineMs?: number; promptLength?: number; needsTokens?: boolean } = {},
    ) =>
      actor.send({
        type: "request.submit",
        sequence: createSequence({
          id: asRequestId(id),
          adapter: changes.adapter === undefined ? null : asAdapterId(changes.adapter),
          tenant: "",
          promptTokens: Array.from({ length: changes.promptLength ?? 2 }, (_, i) => i),
          sampling: samplingWith({ maxTokens: changes.maxTokens ?? 2 }),
          output: { adjustments: () => [], needsTokens: changes.needsTokens ?? false, accept: () => null, finish: () => {} },
          arrival: arrival++,
          submittedMs: clock.now(),
          deadlineMs: changes.deadlineMs ?? Infinity,
        }),
      }),
    cancel: (id: string) => actor.send({ type: "request.cancel", requestId: asRequestId(id) }),
    use: (adapter: number, leaseNumber: number) =>
      actor.send({
        type: "adapter.use",
        adapterId: asAdapterId(adapter),
        leaseNumber,
        slot: asSlotId(0),
      }),
    /** Ends the step under way, the first of them where there are two. */
    finishStep: async (error?: unknown) => {
      const { settle } = steps[numFinished++]!;
      if (error === undefined) settle.resolve(NO_RESULT);
      else settle.reject(error);
      await Bun.sleep(0);
    },
  };
}

describe("request scheduler", () => {
  test("gathers what comes in one turn into one step, and is idle again at the end", async () => {
    const scheduler = open();
    expect(scheduler.state()).toBe("idle");
    scheduler.submit("a");
    scheduler.submit("b");
    expect(scheduler.state()).toBe("gathering");
    await scheduler.turn();
    expect(scheduler.state()).toBe("stepping");
    expect(scheduler.steps[0]!.plan.entries).toHaveLength(2);
    await scheduler.finishStep();
    expect(scheduler.state()).toBe("stepping");
    await scheduler.finishStep();
    expect(scheduler.heard()).toEqual(["a length", "b length"]);
    expect(scheduler.state()).toBe("idle");
    expect(scheduler.steps).toHaveLength(2);
  });

  test("asks for adapters while a step runs, and waits when nothing else can run", async () => {
    const scheduler = open();
    scheduler.submit("base", { maxTokens: 1 });
    await scheduler.turn();
    scheduler.submit("x", { adapter: 3 });
    expect(scheduler.heard()).toEqual(["adapter.wanted 3"]);
    await scheduler.finishStep();
    expect(scheduler.state()).toBe("waiting");
    scheduler.use(3, 1);
    expect(scheduler.state()).toBe("stepping");
    await scheduler.finishStep();
    await scheduler.finishStep();
    expect(scheduler.heard()).toEqual(["base length", "x length", "adapter.released 3"]);
  });

  test("ends waiting requests of a refused adapter and goes on with the others", async () => {
    const scheduler = open();
    scheduler.submit("bad", { adapter: 1 });
    scheduler.submit("good", { adapter: 2 });
    await scheduler.turn();
    scheduler.actor.send({
      type: "adapter.refuse",
      adapterId: asAdapterId(1),
      leaseNumber: 1,
      error: new AdapterError("adapter_invalid", "bad"),
    });
    expect(scheduler.heard()).toEqual(["adapter.wanted 1", "adapter.wanted 2", "bad error"]);
    scheduler.use(2, 2);
    expect(scheduler.state()).toBe("stepping");
  });

  test("cancels a request at once, and frees its pages when the step that names it is over", async () => {
    const scheduler = open(1);
    scheduler.submit("runs", { maxTokens: 50 });
    await scheduler.turn();
    scheduler.submit("queued");
    scheduler.cancel("queued");
    expect(scheduler.heard()).toEqual(["queued cancelled"]);
    scheduler.cancel("runs");
    scheduler.cancel("runs");
    expect(scheduler.heard()).toEqual(["runs cancelled"]);
    expect(scheduler.table.pool.numHeld).toBe(1);
    await scheduler.finishStep();
    expect(scheduler.heard()).toEqual([]);
    expect(scheduler.table.pool.numHeld).toBe(0);
    expect(scheduler.state()).toBe("idle");
    scheduler.cancel("runs");
    expect(scheduler.heard()).toEqual([]);
  });

  test("cancels a request that waits for its adapter, and gives up the lease", async () => {
    const scheduler = open();
    scheduler.submit("x", { adapter: 1 });
    await scheduler.turn();
    scheduler.cancel("x");
    expect(scheduler.heard()).toEqual(["adapter.wanted 1", "x cancelled", "adapter.released 1"]);
    expect(scheduler.state()).toBe("idle");
    scheduler.use(1, 1);
    expect(scheduler.state()).toBe("idle");
  });

  test("ends a waiting request at its deadline, not before, with no step running", async () => {
    const scheduler = open();
    scheduler.submit("x", { adapter: 1, deadlineMs: 500 });
    await scheduler.turn();
    scheduler.heard();
    scheduler.clock.increment(499);
    expect(scheduler.heard()).toEqual([]);
    scheduler.clock.increment(1);
    expect(scheduler.heard()).toEqual(["x timeout", "adapter.released 1"]);
    expect(scheduler.state()).toBe("idle");
  });

  test("drains: lets everything end, then says so once", async () => {
    const scheduler = open();
    scheduler.submit("a", { maxTokens: 2 });
    await scheduler.turn();
    scheduler.actor.send({ type: "scheduler.drain" });
    await scheduler.finishStep();
    expect(scheduler.heard()).toEqual([]);
    await scheduler.finishStep();
    expect(scheduler.heard()).toEqual(["a length", "scheduler.drained"]);
    expect(scheduler.actor.getSnapshot().status).toBe("done");
  });

  test("drains at once when idle", () => {
    const scheduler = open();
    scheduler.actor.send({ type: "scheduler.drain" });
    expect(scheduler.heard()).toEqual(["scheduler.drained"]);
  });

  test("stops: ends everything at once, and has drained when the step under way is over", async () => {
    const scheduler = open();
    scheduler.submit("runs", { maxTokens: 50 });
    await scheduler.turn();
    scheduler.submit("x", { adapter: 1 });
    scheduler.heard();
    scheduler.actor.send({ type: "scheduler.stop" });
    expect(scheduler.heard()).toEqual(["runs shutdown", "x shutdown", "adapter.released 1"]);
    await scheduler.finishStep();
    expect(scheduler.heard()).toEqual(["scheduler.drained"]);
  });

  test("ends everything with the error when the backend fails", async () => {
    const scheduler = open();
    scheduler.submit("a");
    await scheduler.turn();
    scheduler.submit("x", { adapter: 1 });
    scheduler.heard();
    await scheduler.finishStep(deviceLost());
    expect(scheduler.heard()).toEqual(["a error", "x error", "engine.failed"]);
    expect(scheduler.table.pool.numHeld).toBe(0);
    checkTable(scheduler.table);
  });

  test("makes no transition for steps in which nothing ends", async () => {
    const scheduler = open();
    scheduler.submit("a", { maxTokens: 10 });
    await scheduler.turn();
    let numTransitions = 0;
    scheduler.actor.subscribe(() => numTransitions++);
    for (let i = 0; i < 9; i++) await scheduler.finishStep();
    expect([scheduler.steps.length, numTransitions]).toEqual([10, 0]);
    await scheduler.finishStep();
    expect(scheduler.heard()).toEqual(["a length"]);
    expect([scheduler.state(), scheduler.steps.length, numTransitions]).toEqual(["idle", 10, 1]);
  });

  test("keeps no sequences of steps that are over", async () => {
    const scheduler = open();
    scheduler.submit("a", { maxTokens: 1 });
    scheduler.submit("b", { maxTokens: 5 });
    await scheduler.turn();
    const [{ plan }] = scheduler.steps as [Running];
    expect(plan.entries).toHaveLength(2);
    await scheduler.finishStep();
    expect([scheduler.state(), plan.entries]).toEqual(["stepping", []]);
  });

  test("composes nothing more once it was stopped, whatever becomes of the step under way", async () => {
    for (const error of [undefined, deviceLost()]) {
      const scheduler = open();
      scheduler.submit("a", { maxTokens: 10 });
      await scheduler.turn();
      scheduler.actor.stop();
      await scheduler.finishStep(error);
      expect(scheduler.steps).toHaveLength(1);
      expect(scheduler.heard()).toEqual([]);
      expect(scheduler.table.running[0]!.numUnderWay).toBe(1);
    }
  });

  test("ends everything where a bug shows itself between two steps", async () => {
    const scheduler = open();
    scheduler.submit("a", { maxTokens: 10 });
    await scheduler.turn();
    scheduler.table.groups.values = () => {
      throw new InvariantError("a bug");
    };
    await scheduler.finishStep();
    expect(scheduler.heard()).toEqual(["a error", "engine.failed"]);
    expect(scheduler.state()).toBe("failed");
    expect(scheduler.table.sequences.size).toBe(0);
  });
});

describe("request scheduler, one step ahead", () => {
  const rowsOf = ({ plan }: Running): string[] =>
    plan.entries.map(({ sequence, numRows, awaitedSample }) => `${sequence.id}:${numRows}${awaitedSample === null ? "" : ` of sample ${awaitedSample}`}`);

  test("gives the engine the next step before the result of the one under way, and no third", async () => {
    const scheduler = open(8, 1);
    scheduler.submit("a", { maxTokens: 3 });
    scheduler.submit("b", { maxTokens: 3 });
    await scheduler.turn();
    expect(scheduler.steps.map(rowsOf)).toEqual([["a:2", "b:2"], ["a:1 of sample 0", "b:1 of sample 1"]]);
    await scheduler.finishStep();
    expect(scheduler.steps.slice(2).map(rowsOf)).toEqual([["a:1 of sample 0", "b:1 of sample 1"]]);
    await scheduler.finishStep();
    expect(scheduler.steps).toHaveLength(3);
    await scheduler.finishStep();
    expect([scheduler.heard(), scheduler.state()]).toEqual([["a length", "b length"], "idle"]);
    checkTable(scheduler.table);
  });

  test("takes in who comes with the step after those that it has given", async () => {
    const scheduler = open(8, 1);
    scheduler.submit("a", { maxTokens: 9 });
    await scheduler.turn();
    scheduler.submit("b", { maxTokens: 9 });
    await scheduler.finishStep();
    expect(rowsOf(scheduler.steps[2]!)).toEqual(["a:1 of sample 0", "b:2"]);
  });

  test("tells an end with the result, and keeps pages and lease until the step in vain is over", async () => {
    const scheduler = open(8, 1);
    scheduler.submit("x", { adapter: 1, maxTokens: 9 });
    await scheduler.turn();
    scheduler.use(1, 1);
    scheduler.heard();
    const [sequence] = scheduler.table.running;
    expect(scheduler.steps).toHaveLength(2);
    // Ends it by what was picked, which no plan can know.
    sequence!.ending = { reason: "stop", stopReason: null, error: null };
    await scheduler.finishStep();
    expect(scheduler.heard()).toEqual(["x stop"]);
    expect([sequence!.phase, scheduler.table.pool.numHeld, scheduler.state()]).toEqual(["leaving", 1, "stepping"]);
    checkTable(scheduler.table);
    await scheduler.finishStep();
    expect(scheduler.heard()).toEqual(["adapter.released 1"]);
    expect([sequence!.phase, scheduler.table.pool.numHeld, scheduler.steps.length, scheduler.state()]).toEqual(["ended", 0, 2, "idle"]);
  });

  test("waits for the result where a sequence needs its tokens, and behind a step of many rows", async () => {
    for (const { needsTokens, numRows } of [{ needsTokens: true, numRows: 2 }, { needsTokens: false, numRows: MAX_ROWS_AHEAD + 1 }]) {
      const scheduler = open(8, 1, 2000);
      scheduler.submit("a", { maxTokens: 9, promptLength: numRows, needsTokens });
      await scheduler.turn();
      expect(scheduler.steps).toHaveLength(1);
      await scheduler.finishStep();
      expect(scheduler.steps).toHaveLength(needsTokens ? 2 : 3);
    }
  });

  test("preempts nobody whom a step under way names: it pauses first", async () => {
    // Pages of four positions, three of them: both need a third before either ends.
    const scheduler = open(8, 1, 16, 3);
    scheduler.submit("a", { maxTokens: 9 });
    scheduler.submit("b", { maxTokens: 9 });
    await scheduler.turn();
    while (scheduler.table.counters.preemptions === 0) {
      const numUnderWay = scheduler.table.numUnderWay;
      await scheduler.finishStep();
      if (scheduler.table.counters.preemptions > 0) expect(numUnderWay).toBe(1);
      checkTable(scheduler.table);
    }
    expect(scheduler.table.running.map(({ id }) => id as string)).toEqual(["a"]);
    while (scheduler.state() === "stepping") await scheduler.finishStep();
    expect(scheduler.heard()).toEqual(["a length", "b length"]);
  });

  test("ends everything once when a step fails, whichever it is", async () => {
    for (const numFinished of [0, 1]) {
      const scheduler = open(8, 1);
      scheduler.submit("a", { maxTokens: 9 });
      await scheduler.turn();
      for (let i = 0; i < numFinished; i++) await scheduler.finishStep();
      await scheduler.finishStep(deviceLost());
      expect(scheduler.heard()).toEqual(["a error", "engine.failed"]);
      expect([scheduler.table.pool.numHeld, scheduler.table.running.length]).toEqual([0, 0]);
      checkTable(scheduler.table);
    }
  });
});
