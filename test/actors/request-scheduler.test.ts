import { describe, expect, test } from "bun:test";
import { createActor, SimulatedClock } from "xstate";
import type { RequestSchedulerFact } from "../../src/actors/request-scheduler/request-scheduler.events.ts";
import { requestSchedulerMachine } from "../../src/actors/request-scheduler/request-scheduler.machine.ts";
import { AdapterError, InvariantError } from "../../src/core/errors.ts";
import { asAdapterId, asRequestId, asSlotId } from "../../src/core/ids.ts";
import { picksToken, type StepPlan } from "../../src/schedule/compose-step.ts";
import { appendToken, createSequence, numRemaining } from "../../src/schedule/sequence.ts";
import { deviceLost } from "../helpers/fake-backend.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { checkTable, tableWith } from "../helpers/schedule.ts";

interface Running {
  readonly plan: StepPlan;
  readonly settle: PromiseWithResolvers<void>;
}

/** A scheduler whose steps and turns end when the test says so. */
function open(maxSequences = 8) {
  const clock = new SimulatedClock();
  const table = tableWith({ maxSequences });
  const steps: Running[] = [];
  const facts: string[] = [];
  const actor = createActor(requestSchedulerMachine, {
    clock,
    input: {
      table,
      engine: {
        runStep: (plan) => {
          const settle = Promise.withResolvers<void>();
          steps.push({ plan, settle });
          return settle.promise;
        },
      },
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
      changes: { adapter?: number; maxTokens?: number; deadlineMs?: number } = {},
    ) =>
      actor.send({
        type: "request.submit",
        sequence: createSequence({
          id: asRequestId(id),
          adapter: changes.adapter === undefined ? null : asAdapterId(changes.adapter),
          tenant: "",
          promptTokens: [1, 2],
          sampling: samplingWith({ maxTokens: changes.maxTokens ?? 2 }),
          output: { adjustments: () => [], accept: () => null, finish: () => {} },
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
    /** Ends the step under way the way the engine does. */
    finishStep: async (error?: unknown) => {
      const { plan, settle } = steps.at(-1)!;
      for (const entry of plan.entries) {
        const { sequence } = entry;
        const picks = picksToken(entry);
        sequence.computed = entry.position + entry.numRows;
        if (!picks || sequence.ending !== null) continue;
        appendToken(sequence, 7);
        if (numRemaining(sequence) > 0) continue;
        sequence.ending = { reason: "length", stopReason: null, error: null };
      }
      if (error === undefined) settle.resolve();
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

  test("cancels a queued request at once, and a running one when its step is over", async () => {
    const scheduler = open(1);
    scheduler.submit("runs", { maxTokens: 50 });
    await scheduler.turn();
    scheduler.submit("queued");
    scheduler.cancel("queued");
    expect(scheduler.heard()).toEqual(["queued cancelled"]);
    scheduler.cancel("runs");
    scheduler.cancel("runs");
    expect(scheduler.heard()).toEqual([]);
    expect(scheduler.table.pool.numHeld).toBe(1);
    await scheduler.finishStep();
    expect(scheduler.heard()).toEqual(["runs cancelled"]);
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

  test("stops: ends what waits at once and what runs with its step", async () => {
    const scheduler = open();
    scheduler.submit("runs", { maxTokens: 50 });
    await scheduler.turn();
    scheduler.submit("x", { adapter: 1 });
    scheduler.heard();
    scheduler.actor.send({ type: "scheduler.stop" });
    expect(scheduler.heard()).toEqual(["x shutdown", "adapter.released 1"]);
    await scheduler.finishStep();
    expect(scheduler.heard()).toEqual(["runs shutdown", "scheduler.drained"]);
  });

  test("ends everything with the error when the backend fails", async () => {
    const scheduler = open();
    scheduler.submit("a");
    await scheduler.turn();
    scheduler.submit("x", { adapter: 1 });
    scheduler.heard();
    await scheduler.finishStep(deviceLost());
    expect(scheduler.heard()).toEqual(["x error", "a error", "engine.failed"]);
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
      expect(scheduler.table.running[0]!.isInStep).toBe(true);
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
