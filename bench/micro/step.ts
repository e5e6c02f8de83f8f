/**
 * What a step costs JavaScript: over a backend that computes nothing, with texts, streams and readers as in the library.
 *
 *   bun bench/micro/step.ts [--rows 32,128,256] [--adapters 0,32] [--rounds 5] [--pause-ms 5] [--json FILE]
 *
 * Times are of the serving thread on a core, in microseconds a step in which every sequence has one row, means of a round.
 *
 *   between   from the moment when a step's tokens are there to the moment when the next block is written: a device
 *             that runs one step at a time has nothing to do meanwhile
 *   beside    all the rest, while the device computes: readers take their tokens
 *
 * Both with a device that takes `pause-ms` for a step, in which the thread sleeps, as on a GPU: it finds little of its code
 * and data in the caches then. `tight` is `between` with a device that takes no time, and the parts of it are each called by
 * itself in a loop without actors.
 */
import type { Backend } from "../../src/backend/backend.ts";
import { ExtentPool } from "../../src/core/extent-pool.ts";
import { asAdapterId, asRequestId, asSlotId } from "../../src/core/ids.ts";
import type { Sampling } from "../../src/core/sampling.ts";
import { decodeResult, encodeStep, resultWords, StepBlock } from "../../src/core/step-block.ts";
import { MAX_LOGPROBS, RESULT, RESULT_HEADER, RESULT_HEADER_WORDS, RESULT_WORDS, STEP_HEADER } from "../../src/core/step-layout.ts";
import type { Step, StepResult } from "../../src/core/step.ts";
import { TokenStream } from "../../src/core/token-stream.ts";
import { Engine } from "../../src/engine/engine.ts";
import { TextOutput } from "../../src/engine/text-output.ts";
import { createLocalRuntime } from "../../src/runtime/local-runtime.ts";
import { enqueue } from "../../src/schedule/admission.ts";
import { composeStep } from "../../src/schedule/compose-step.ts";
import { changeLeases, grantLease } from "../../src/schedule/leases.ts";
import { createScheduleTable } from "../../src/schedule/schedule-table.ts";
import { createSequence } from "../../src/schedule/sequence.ts";
import { settleStep } from "../../src/schedule/settle-step.ts";
import { turnOver } from "../../src/schedule/turn-over.ts";
import { fakeModel, weightsOf } from "../../test/helpers/runtime.ts";
import { samplingWith } from "../../test/helpers/sampling.ts";
import { threadClock } from "../lib/clocks.ts";
import { integerIn, integersIn, parseFlags } from "../lib/flags.ts";
import { randomSource } from "../lib/random-model.ts";
import { Neighbours, printTable, type Spread, spreadOf, writeRecord } from "../lib/record.ts";
import { syntheticTokenizer } from "../lib/synthetic-tokenizer.ts";

const VOCAB = 32_000;
const PAGE_TOKENS = 64;
const PROMPT_TOKENS = 1000;
const OUTPUT_TOKENS = 200;
const NUM_TOP = 5;

const flags = parseFlags({ rows: "32,128,256", adapters: "0,32", rounds: "5", "pause-ms": "5", json: undefined });
const rowCounts = integersIn("rows", flags.rows, 1, 1024);
const adapterCounts = integersIn("adapters", flags.adapters, 0, 64);
const rounds = integerIn("rounds", flags.rounds, 1, 100);
const pauseMs = integerIn("pause-ms", flags["pause-ms"], 1, 1000);

const { tokenizer, words } = syntheticTokenizer(VOCAB);
const nowMs = threadClock();
const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

/** Readers, woken in the turn after the step began, are through with their tokens after it. */
async function tightly(): Promise<void> {
  for (let i = 0; i < 3; i++) await turn();
}

const WAYS = { plain: { sharesPrefixes: false, logprobs: null }, prefixes: { sharesPrefixes: true, logprobs: null }, logprobs: { sharesPrefixes: false, logprobs: NUM_TOP } } as const;
type Way = keyof typeof WAYS;

interface Case {
  readonly numRows: number;
  readonly numAdapters: number;
  readonly way: Way;
}

const samplingOf = (way: Way): Sampling => samplingWith({ maxTokens: OUTPUT_TOKENS, logprobs: WAYS[way].logprobs, seed: 0x1234_5678_9abc_def0n });
const promptOf = (random: () => number): number[] => Array.from({ length: PROMPT_TOKENS }, () => words[Math.floor(random() * words.length)]!);
const limitsOf = ({ numRows, way }: Case) => ({
  maxRows: 8192, maxSequences: numRows, maxContext: 4096, maxWaitingRequests: numRows, maxWaitingTokens: Number.MAX_SAFE_INTEGER, agingSteps: 256, quantumSteps: 256,
  sharesPrefixes: WAYS[way].sharesPrefixes,
});
const numPagesFor = (numRows: number): number => numRows * Math.ceil((PROMPT_TOKENS + OUTPUT_TOKENS + 1) / PAGE_TOKENS);

/** A device's result record, of random words of the vocabulary. */
class Results {
  readonly #random = randomSource(3);
  readonly #words: Int32Array;
  readonly #floats: Float32Array;

  constructor(numRows: number, way: Way) {
    this.#words = new Int32Array(resultWords(numRows));
    this.#floats = new Float32Array(this.#words.buffer);
    this.#words[RESULT_HEADER.version] = 1;
    for (let i = 0; i < numRows; i++) {
      const at = RESULT_HEADER_WORDS + i * RESULT_WORDS;
      this.#words[at + RESULT.numTop] = WAYS[way].logprobs ?? 0;
      for (let top = 0; top < MAX_LOGPROBS; top++) this.#words[at + RESULT.topTokens + top] = words[top]!;
      this.#floats.fill(-1.5, at + RESULT.topLogprobs, at + RESULT_WORDS);
    }
  }

  fill(block: StepBlock): void {
    const numSampled = block.words[STEP_HEADER.numSampled]!;
    this.#words[RESULT_HEADER.numSampled] = numSampled;
    for (let i = 0; i < numSampled; i++) this.#words[RESULT_HEADER_WORDS + i * RESULT_WORDS + RESULT.token] = words[Math.floor(this.#random() * words.length)]!;
  }

  decode = (): StepResult => decodeResult(this.#words, this.#floats);
}

/** Every one of `numRows` sequences has one row. */
const isWhole = ({ sequences }: Step, numRows: number): boolean => sequences.length === numRows && sequences.every(({ tokens }) => tokens.length === 1);

interface Round {
  readonly between: number;
  readonly beside: number;
}

/** @param compute resolves when the device has computed a step */
async function runWhole(each: Case, compute: () => Promise<void>): Promise<Round> {
  const { numRows, numAdapters, way } = each;
  const block = new StepBlock();
  const results = new Results(numRows, way);
  let answeredMs = NaN;
  let readyMs = 0;
  let betweenMs = 0;
  let besideMs = 0;
  let numSteps = 0;
  const backend: Backend = {
    info: {
      name: "wasm", description: "nothing", pageTokens: PAGE_TOKENS, numExtents: numPagesFor(numRows) + numAdapters, extentBytes: 1000, numPages: numPagesFor(numRows), numSlots: Math.max(1, numAdapters), maxRows: 8192, maxSequences: numRows,
      weightBytes: 0,
    },
    async run(step) {
      encodeStep(step, block);
      readyMs = nowMs();
      const isCounted = !Number.isNaN(answeredMs) && isWhole(step, numRows);
      if (isCounted) betweenMs += readyMs - answeredMs;
      results.fill(block);
      const startMs = nowMs();
      await compute();
      answeredMs = nowMs();
      if (isCounted) {
        besideMs += answeredMs - startMs;
        numSteps++;
      }
      return results.decode();
    },
    stage: () => Promise.resolve({ digest: "none", numBytes: 10 }),
    attach: () => Promise.resolve(),
    detach: () => undefined,
    close: () => Promise.resolve(),
  };
  const runtime = createLocalRuntime({ model: fakeModel(VOCAB, tokenizer), backend, readAdapter: () => Promise.resolve(weightsOf("none", 10)), options: limitsOf(each) });
  const adapters = Array.from({ length: numAdapters }, (_, i) => runtime.registerAdapter(`a${i}`, `/a${i}`));
  const random = randomSource(5);
  const sampling = samplingOf(way);
  let numChars = 0;
  const generations = Array.from({ length: numRows }, (_, i) =>
    runtime.generate({ promptTokens: promptOf(random), adapter: adapters[i % numAdapters] ?? null, sampling, tenant: "", timeoutMs: null }),
  );
  await Promise.all(
    generations.map(async (generation) => {
      for await (const { text, finish } of generation) {
        numChars += text.length;
        if (finish?.error != null) throw finish.error;
      }
    }),
  );
  await runtime.close();
  if (numChars < numRows * OUTPUT_TOKENS || numSteps < OUTPUT_TOKENS / 2) throw new Error(`${numChars} characters in ${numSteps} steps: not what was to be measured`);
  return { between: (betweenMs * 1000) / numSteps, beside: (besideMs * 1000) / numSteps };
}

const PARTS = ["compose", "encode", "decode", "apply", "settle"] as const;
type Parts = Record<(typeof PARTS)[number], number>;

async function drain(stream: TokenStream): Promise<void> {
  for await (const { finish } of stream) if (finish !== null) return;
}

async function runParts(each: Case): Promise<Parts> {
  const { numRows, numAdapters, way } = each;
  const table = createScheduleTable(limitsOf(each), { extents: new ExtentPool(numPagesFor(numRows)), pageTokens: PAGE_TOKENS, numPages: numPagesFor(numRows) });
  const random = randomSource(5);
  const sampling = samplingOf(way);
  let tasks: (() => void)[] = [];
  for (let i = 0; i < numRows; i++) {
    const stream = new TokenStream(() => undefined, undefined, (task) => void tasks.push(task));
    const promptTokens = promptOf(random);
    const output = new TextOutput({ sampling, promptTokens, tokenizer, stream });
    const adapter = numAdapters === 0 ? null : asAdapterId(i % numAdapters);
    enqueue(table, createSequence({ id: asRequestId(String(i)), adapter, tenant: "", promptTokens, sampling, output, arrival: i, submittedMs: 0, deadlineMs: Infinity }));
    void drain(stream);
  }
  const block = new StepBlock();
  const results = new Results(numRows, way);
  let encodedMs = 0;
  let decodingMs = 0;
  let decodedMs = 0;
  let isCounted = false;
  const engine = new Engine(
    {
      run(step) {
        encodeStep(step, block);
        encodedMs = nowMs();
        isCounted = isWhole(step, numRows);
        results.fill(block);
        decodingMs = nowMs();
        const result = results.decode();
        decodedMs = nowMs();
        return Promise.resolve(result);
      },
    },
    { nowMs: () => 0, unixSeconds: () => 0 },
  );
  const sums: Parts = { compose: 0, encode: 0, decode: 0, apply: 0, settle: 0 };
  let numSteps = 0;
  while (table.sequences.size > 0) {
    const composingMs = nowMs();
    turnOver(table);
    for (const { kind, adapterId, leaseNumber } of changeLeases(table)) if (kind === "wanted") grantLease(table, adapterId, leaseNumber, asSlotId(adapterId), 0);
    const plan = composeStep(table, 0);
    const composedMs = nowMs();
    engine.take(plan, await engine.run(plan));
    const appliedMs = nowMs();
    settleStep(table, plan, 0);
    const settledMs = nowMs();
    for (const task of tasks) task();
    tasks = [];
    if (!isCounted) continue;
    numSteps++;
    sums.compose += composedMs - composingMs;
    sums.encode += encodedMs - composedMs;
    sums.decode += decodedMs - decodingMs;
    sums.apply += appliedMs - decodedMs;
    sums.settle += settledMs - appliedMs;
  }
  return Object.fromEntries(PARTS.map((part) => [part, (sums[part] * 1000) / numSteps])) as Parts;
}

const spreadsOf = <Name extends string>(names: readonly Name[], samples: readonly Record<Name, number>[]) =>
  Object.fromEntries(names.map((name) => [name, spreadOf(samples.map((sample) => sample[name]))])) as Record<Name, Spread>;

const cases: Case[] = rowCounts.flatMap((numRows) => adapterCounts.flatMap((numAdapters) => (Object.keys(WAYS) as Way[]).map((way) => ({ numRows, numAdapters, way }))));
const neighbours = new Neighbours();
const wholes = cases.map((): (Round & { readonly tight: number })[] => []);
const parts = cases.map((): Parts[] => []);
// The first round warms up.
for (let round = 0; round <= rounds; round++) {
  for (const [i, each] of cases.entries()) {
    const tight = await runWhole(each, tightly);
    const paused = await runWhole(each, () => Bun.sleep(pauseMs));
    const part = await runParts(each);
    if (round === 0) continue;
    wholes[i]!.push({ ...paused, tight: tight.between });
    parts[i]!.push(part);
  }
}
const coresOfOthers = neighbours.cores();
const figures = cases.map((each, i) => ({ ...each, ...spreadsOf(["between", "beside", "tight"], wholes[i]!), parts: spreadsOf(PARTS, parts[i]!) }));
printTable(
  ["µs a step", "between", "min", "max", "beside", "tight", ...PARTS],
  figures.map(({ numRows, numAdapters, way, between, beside, tight, parts: of }) => [
    `${numRows} rows, ${numAdapters} adapters, ${way}`,
    ...[between.median, between.min, between.max, beside.median, tight.median, ...PARTS.map((part) => of[part].median)].map((value) => value.toFixed(1)),
  ]),
);
if (flags.json !== undefined) await writeRecord(flags.json, "micro/step", { unit: "us", pauseMs, promptTokens: PROMPT_TOKENS, outputTokens: OUTPUT_TOKENS, figures }, coresOfOthers);
process.exit(0);
