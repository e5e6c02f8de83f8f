import { describe, expect, test } from "bun:test";
import { systemClock } from "../../src/core/clock.ts";
import { asRequestId } from "../../src/core/ids.ts";
import type { SampledToken } from "../../src/core/sampling.ts";
import type { Step } from "../../src/core/step.ts";
import { Engine } from "../../src/engine/engine.ts";
import { enqueue } from "../../src/schedule/admission.ts";
import { composeStep } from "../../src/schedule/compose-step.ts";
import { endingOf, endSequence } from "../../src/schedule/retire.ts";
import { createSequence, type Ending, type Sequence } from "../../src/schedule/sequence.ts";
import { settleStep } from "../../src/schedule/settle-step.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { tableWith } from "../helpers/schedule.ts";

const token = (id: number): SampledToken => ({ id, logprob: -1, rank: 2, top: [] });

/** An engine that is given its results, with sequences that note what they get. */
function open(results: (SampledToken | null)[][], maxRows = 16) {
  const steps: Step[] = [];
  const table = tableWith({ maxRows });
  const engine = new Engine(
    {
      run: (step) => {
        // Token views are read now, as a backend does.
        steps.push({
          sequences: step.sequences.map((each) => ({ ...each, tokens: Array.from(each.tokens) })),
        });
        return Promise.resolve({ sampled: results.shift()!, computeMs: 2 });
      },
    },
    systemClock,
  );
  const accepted = new Map<string, SampledToken[]>();
  let arrival = 0;
  const add = (id: string, prompt: number[], accept?: (token: SampledToken) => Ending | null) => {
    accepted.set(id, []);
    const sequence = createSequence({
      id: asRequestId(id),
      adapter: null,
      tenant: "",
      promptTokens: prompt,
      sampling: samplingWith(),
      output: {
        adjustments: () => [{ token: 3, generatedCount: 0, seen: true, bias: 0 }],
        accept: (each) => {
          accepted.get(id)!.push(each);
          return accept?.(each) ?? null;
        },
        finish: () => {},
      },
      arrival: arrival++,
      submittedMs: 0,
      deadlineMs: Infinity,
    });
    enqueue(table, sequence);
    return sequence;
  };
  const step = async () => {
    const plan = composeStep(table, 0);
    engine.take(plan, await engine.run(plan));
    return settleStep(table, plan, 0);
  };
  return { engine, table, steps, accepted, add, step };
}

const known = ({ tokens, length }: Sequence) => [...tokens.subarray(0, length)];

describe("Engine", () => {
  test("asks for a sample at the end of a prompt only, and counts what is generated", async () => {
    const opened = open([[], [token(7)], [token(8)]], 3);
    const sequence = opened.add("a", [10, 11, 12, 13, 14]);
    for (let i = 0; i < 3; i++) await opened.step();
    expect(
      opened.steps.map(({ sequences: [first] }) => ({
        tokens: first!.tokens,
        position: first!.position,
        numPages: first!.pages.length,
        counter: first!.sample?.counter ?? null,
      })),
    ).toMatchObject([
      { tokens: [10, 11, 12], position: 0, counter: null },
      { tokens: [13, 14], position: 3, counter: 0 },
      { tokens: [7], position: 5, counter: 1 },
    ]);
    expect(known(sequence)).toEqual([10, 11, 12, 13, 14, 7, 8]);
    expect(opened.engine.counters).toEqual({
      steps: 3,
      promptTokens: 5,
      generatedTokens: 2,
      computeMs: 6,
    });
  });

  test("hands each sequence its own token with all that belongs to it", async () => {
    const opened = open([[token(1), token(2)]]);
    opened.add("a", [10]);
    opened.add("b", [20]);
    await opened.step();
    expect(opened.accepted.get("a")).toEqual([token(1)]);
    expect(opened.accepted.get("b")).toEqual([token(2)]);
    expect(opened.steps[0]!.sequences[0]!.sample?.adjustments).toHaveLength(1);
  });

  test("ends only the sequence whose logits were not finite", async () => {
    const opened = open([[null, token(2)]]);
    opened.add("bad", [10]);
    opened.add("good", [20]);
    const retired = await opened.step();
    expect(retired).toMatchObject([
      { finish: { reason: "error", error: { errorCode: "non_finite_logits" } } },
    ]);
    expect([...opened.table.sequences.keys()] as string[]).toEqual(["good"]);
  });

  test("ends only the sequence whose text cannot be made", async () => {
    const opened = open([[token(1), token(2)]]);
    opened.add("bad", [10], () => {
      throw new TypeError("a bug in a detokenizer");
    });
    opened.add("good", [20]);
    const retired = await opened.step();
    expect(retired).toMatchObject([
      {
        sequence: { id: "bad" },
        finish: { reason: "error", error: { errorCode: "invariant_violated" } },
      },
    ]);
  });

  test("drops the token of a sequence that was cancelled during the step", async () => {
    const opened = open([[token(1)]]);
    const sequence = opened.add("a", [10]);
    const plan = composeStep(opened.table, 0);
    const running = opened.engine.run(plan);
    expect(endSequence(opened.table, sequence.id, endingOf("cancelled"), 0)).toMatchObject([
      { finish: { reason: "cancelled", usage: { completionTokens: 0 } } },
    ]);
    opened.engine.take(plan, await running);
    expect(opened.accepted.get("a")).toEqual([]);
    expect(settleStep(opened.table, plan, 0)).toEqual([]);
    expect([sequence.phase, opened.table.pool.numHeld]).toEqual(["ended", 0]);
  });

  test("does not take a result that does not fit the step", async () => {
    const opened = open([[token(1), token(2)]]);
    const sequence = opened.add("a", [10]);
    await expect(opened.step()).rejects.toMatchObject({ errorCode: "backend_failed" });
    expect(known(sequence)).toEqual([10]);
  });
});
