import { describe, expect, test } from "bun:test";
import type { AdapterId } from "../../src/core/ids.ts";
import { createLocalRuntime } from "../../src/runtime/local-runtime.ts";
import { FakeBackend } from "../helpers/fake-backend.ts";
import { fakeModel, requestWith, weightsOf } from "../helpers/runtime.ts";
import { VirtualTime } from "./virtual-time.ts";

interface Flood {
  readonly title: string;
  /** `null` is the base model. */
  readonly hot: readonly (number | null)[];
  /** Tokens of each request of the flood. */
  readonly hotTokens: number;
  readonly coldAdapters: readonly number[];
  readonly numSlots: number;
  readonly maxSequences: number;
  readonly maxWaitSteps: number;
  /** In pages; so much that nobody waits for it when left out. */
  readonly numExtents?: number;
}

interface Ahead {
  readonly stepsAhead: 0 | 1;
}

const AGING = 16;
const QUANTUM = 40;
/** Reading, uploading, prompts and the step under way. */
const SLACK = 20;

const floods: Flood[] = [
  {
    title: "short requests of adapters that hold every slot",
    hot: [0, 1],
    hotTokens: 10,
    coldAdapters: [5],
    numSlots: 2,
    maxSequences: 4,
    maxWaitSteps: AGING + 10 + SLACK,
  },
  {
    title: "endless requests of adapters that hold every slot",
    hot: [0, 1],
    hotTokens: 800,
    coldAdapters: [5],
    numSlots: 2,
    maxSequences: 8,
    maxWaitSteps: AGING + QUANTUM + SLACK,
  },
  {
    title: "endless requests, with more cold adapters than slots",
    hot: [0, 1],
    hotTokens: 800,
    coldAdapters: [5, 6, 7, 8],
    numSlots: 2,
    maxSequences: 8,
    maxWaitSteps: AGING + 3 * QUANTUM + SLACK,
  },
  {
    title: "requests of the base model that fill every place",
    hot: [null],
    hotTokens: 30,
    coldAdapters: [5],
    numSlots: 2,
    maxSequences: 4,
    maxWaitSteps: AGING + 30 + SLACK,
  },
  {
    title: "endless requests of the base model whose pages fill the memory",
    hot: [null],
    hotTokens: 800,
    coldAdapters: [5],
    numSlots: 2,
    maxSequences: 8,
    // What is in the way goes when it has had its quantum, which may have begun just before the adapter had waited for long.
    maxWaitSteps: AGING + 2 * QUANTUM + SLACK,
    numExtents: 310,
  },
  {
    title: "endless requests of adapters whose pages fill the memory, with more cold adapters than slots",
    hot: [0, 1],
    hotTokens: 800,
    coldAdapters: [5, 6, 7, 8],
    numSlots: 2,
    maxSequences: 8,
    maxWaitSteps: AGING + 4 * QUANTUM + SLACK,
    numExtents: 310,
  },
];

const cases: (Flood & Ahead)[] = floods.flatMap((flood) => ([0, 1] as const).map((stepsAhead) => ({ ...flood, stepsAhead })));

/** Steps from submission to the first token of each cold request, under a flood that never ends. */
async function waitsUnder(flood: Flood & Ahead, sharesPrefixes: boolean): Promise<number[]> {
  const time = new VirtualTime();
  const backend = new FakeBackend({
    numSlots: flood.numSlots,
    maxSequences: flood.maxSequences,
    maxRows: 64,
    numPages: (flood.numExtents ?? 3000) - 10,
    adapterBytes: 100,
    capsPages: false,
    stepsAhead: flood.stepsAhead,
  });
  const runtime = createLocalRuntime({
    model: fakeModel(1000),
    backend,
    readAdapter: async ({ name }) => {
      await time.sleep(3);
      return weightsOf(`digest of ${name}`, 100);
    },
    options: { sharesPrefixes, agingSteps: AGING, quantumSteps: QUANTUM, maxContext: 1000 },
    clock: time.clock,
    timers: time.timers,
    yieldTurn: time.yieldTurn,
  });
  const adapters = Array.from({ length: 9 }, (_, i) => runtime.registerAdapter(`a${i}`, `/a${i}`));
  let isOver = false;
  const keepBusy = async (adapter: AdapterId | null) => {
    while (!isOver) {
      const request = requestWith([1, 2, 3], { adapter, maxTokens: flood.hotTokens });
      for await (const _ of runtime.generate(request)) if (isOver) break;
    }
  };
  for (const which of flood.hot) {
    const adapter = which === null ? null : adapters[which]!;
    // More than can run, so that a successor always waits.
    for (let i = 0; i < flood.maxSequences * 2; i++) void keepBusy(adapter);
  }
  for (let i = 0; i < 30; i++) await time.advance(1);

  const waits: number[] = [];
  for (let round = 0; round < 10; round++) {
    let numLeft = flood.coldAdapters.length;
    for (const which of flood.coldAdapters) {
      const submittedAt = backend.steps;
      void (async () => {
        const request = requestWith([4, 5], { adapter: adapters[which]!, maxTokens: 2 });
        for await (const { tokens } of runtime.generate(request)) {
          if (tokens.length > 0) break;
        }
        waits.push(backend.steps - submittedAt);
        numLeft--;
      })();
    }
    for (let i = 0; numLeft > 0 && i < 3000; i++) await time.advance(1);
    for (let i = 0; i < 7 * round; i++) await time.advance(1);
  }
  isOver = true;
  return waits;
}

describe("a request of a rare adapter waits a bounded number of steps", () => {
  test.each(cases)("under $title, $stepsAhead ahead", async (flood) => {
    const waits = await waitsUnder(flood, false);
    expect(waits).toHaveLength(10 * flood.coldAdapters.length);
    expect(Math.max(...waits)).toBeLessThanOrEqual(flood.maxWaitSteps);
  });

  // Preempted sequences find their pages again and take the places that they left before the slot is granted: the rare one then
  // waits for a place, too, which is a quantum more.
  test.each(cases)("under $title, $stepsAhead ahead, with prefixes that are kept", async (flood) => {
    const waits = await waitsUnder(flood, true);
    expect(waits).toHaveLength(10 * flood.coldAdapters.length);
    expect(Math.max(...waits)).toBeLessThanOrEqual(flood.maxWaitSteps + QUANTUM);
  });
});
