/**
 * What beginning prompts with what others have computed saves, and what looking for it costs.
 *
 *   bun bench/serving/prefix.ts [--model demo|135m] [--shared 192] [--own 32] [--requests 16] [--repeats 5] [--json FILE]
 *
 * Prompts are `shared` tokens that some have in common and `own` ones that none has, sent by four streams, each as soon as its
 * last is answered: on the base with one common beginning, on four adapters with one each, and with nothing in common. The
 * same requests go to a runtime with `enable_block_reuse` and to one without, in turn; every repetition has tokens of its own, so
 * that none finds what an earlier one left. Both must answer the same.
 */
import { join } from "node:path";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import { openRuntime } from "../../src/runtime/open-runtime.ts";
import { libraryDefaults, prepareRequests } from "../../src/runtime/requests.ts";
import type { Runtime } from "../../src/runtime/runtime.ts";
import { integerIn, oneOf, parseFlags } from "../lib/flags.ts";
import { DEMO_SHAPE, LLAMA_135M, type ModelShape, randomAdapter, randomModel, randomSource } from "../lib/random-model.ts";
import { Neighbours, printTable, type Spread, spreadOf, writeRecord } from "../lib/record.ts";

const NUM_ADAPTERS = 4;
const RANK = 16;
const NUM_STREAMS = 4;
const OUTPUT_TOKENS = 8;

const flags = parseFlags({ model: "135m", shared: "192", own: "32", requests: "16", repeats: "5", json: undefined });
const modelName = oneOf("model", flags.model, ["demo", "135m"]);
const shape: ModelShape = modelName === "demo" ? DEMO_SHAPE : LLAMA_135M;
const numShared = integerIn("shared", flags.shared, 16, 400);
const numOwn = integerIn("own", flags.own, 1, 100);
const numRequests = integerIn("requests", flags.requests, NUM_STREAMS, 1000);
const repeats = integerIn("repeats", flags.repeats, 1, 100);
const root = join(import.meta.dir, "../models");

const model = await randomModel(shape, root);
const loraDir: string[] = [];
for (let i = 0; i < NUM_ADAPTERS; i++) loraDir.push(`a${i}=${await randomAdapter(shape, RANK, i, root)}`);
const open = async (enableBlockReuse: boolean): Promise<Runtime> => {
  const options = { model, backend: "wasm", maxSeqLen: 512, maxBatchSize: NUM_STREAMS, loraConfig: { loraDir, maxLoras: NUM_ADAPTERS }, kvCacheConfig: { enableBlockReuse } };
  return (await openRuntime(resolveConfig(givenOptions(options)).config)).runtime;
};

const CASES = ["base, one beginning", "4 adapters, a beginning each", "base, nothing shared"] as const;
type Case = (typeof CASES)[number];

interface Request {
  readonly adapter: string | null;
  readonly prompt: readonly number[];
}

const random = randomSource(11);
const tokens = (count: number): number[] => Array.from({ length: count }, () => 3 + Math.floor(random() * (shape.vocabSize - 3)));

/** Those of one repetition. */
function requestsOf(name: Case): Request[] {
  const numBeginnings = name === "base, nothing shared" ? numRequests : name === "base, one beginning" ? 1 : NUM_ADAPTERS;
  const beginnings = Array.from({ length: numBeginnings }, () => tokens(numShared));
  return Array.from({ length: numRequests }, (_, i) => ({
    adapter: name === "4 adapters, a beginning each" ? `a${i % NUM_ADAPTERS}` : null,
    prompt: [...beginnings[i % numBeginnings]!, ...tokens(numOwn)],
  }));
}

interface Answer {
  readonly firstTokenMs: number;
  readonly computed: number;
  readonly ids: readonly number[];
}

async function answer(runtime: Runtime, { adapter: name, prompt }: Request): Promise<Answer> {
  const adapter = name === null ? null : await runtime.resolveAdapter({ name });
  const [request] = prepareRequests(runtime, { prompts: [prompt], adapter, params: { maxTokens: OUTPUT_TOKENS, ignoreEos: true }, defaults: libraryDefaults, fieldName: (field) => field });
  const startMs = performance.now();
  const ids: number[] = [];
  let firstTokenMs = NaN;
  let computed = NaN;
  for await (const { tokens: fresh, finish } of runtime.generate(request!)) {
    if (fresh.length > 0 && ids.length === 0) firstTokenMs = performance.now() - startMs;
    ids.push(...fresh.map(({ id }) => id));
    if (finish === null) continue;
    if (finish.reason !== "length") throw new Error(`a request ended with ${finish.reason}`, { cause: finish.error });
    computed = finish.usage.promptTokens - (finish.usage.cachedTokens ?? 0);
  }
  return { firstTokenMs, computed, ids };
}

/** @returns answers in the order of the requests */
async function run(runtime: Runtime, requests: readonly Request[]): Promise<{ readonly answers: readonly Answer[]; readonly elapsedMs: number }> {
  const answers: Answer[] = [];
  const startMs = performance.now();
  let next = 0;
  const stream = async (): Promise<void> => {
    for (let i = next++; i < requests.length; i = next++) answers[i] = await answer(runtime, requests[i]!);
  };
  await Promise.all(Array.from({ length: NUM_STREAMS }, stream));
  return { answers, elapsedMs: performance.now() - startMs };
}

interface Measured {
  /** Of the prompts, those that were computed. */
  readonly promptTokens: Spread;
  /** Milliseconds to the first token: median over the requests of a repetition. */
  readonly firstTokenMs: Spread;
  readonly requestsPerSecond: Spread;
}

const neighbours = new Neighbours();
const runtimes = { without: await open(false), with: await open(true) };
type Setting = keyof typeof runtimes;
const SETTINGS: readonly Setting[] = ["without", "with"];
for (const runtime of Object.values(runtimes)) await run(runtime, requestsOf("4 adapters, a beginning each").slice(0, NUM_ADAPTERS));

const results = {} as Record<Case, Record<Setting, Measured>>;
for (const name of CASES) {
  const samples = { without: [] as Awaited<ReturnType<typeof run>>[], with: [] as Awaited<ReturnType<typeof run>>[] };
  for (let repeat = 0; repeat < repeats; repeat++) {
    const requests = requestsOf(name);
    for (const setting of SETTINGS) samples[setting].push(await run(runtimes[setting], requests));
    const [plain, reusing] = SETTINGS.map((setting) => samples[setting].at(-1)!.answers.map(({ ids }) => ids.join(" ")).join("\n"));
    if (plain !== reusing) throw new Error(`${name}: answers differ with and without what others computed`);
  }
  const spread = (setting: Setting): Measured => ({
    promptTokens: spreadOf(samples[setting].map(({ answers }) => answers.reduce((sum, { computed }) => sum + computed, 0))),
    firstTokenMs: spreadOf(samples[setting].map(({ answers }) => spreadOf(answers.map(({ firstTokenMs }) => firstTokenMs)).median)),
    requestsPerSecond: spreadOf(samples[setting].map(({ elapsedMs }) => (numRequests * 1000) / elapsedMs)),
  });
  results[name] = { without: spread("without"), with: spread("with") };
}
const coresOfOthers = neighbours.cores();
for (const runtime of Object.values(runtimes)) await runtime.close();

const shown = ({ median, min, max }: Spread, digits: number): string => `${median.toFixed(digits)} (${min.toFixed(digits)} to ${max.toFixed(digits)})`;
printTable(
  ["requests", "enable_block_reuse", "prompt tokens computed", "ms to the first token", "requests/s"],
  CASES.flatMap((name) => SETTINGS.map((setting) => {
    const { promptTokens, firstTokenMs, requestsPerSecond } = results[name][setting];
    return [name, String(setting === "with"), shown(promptTokens, 0), shown(firstTokenMs, 1), shown(requestsPerSecond, 2)];
  })),
);
const workload = { shared: numShared, own: numOwn, requests: numRequests, streams: NUM_STREAMS, outputTokens: OUTPUT_TOKENS, adapters: NUM_ADAPTERS, rank: RANK };
if (flags.json !== undefined) await writeRecord(flags.json, "serving/prefix", { model: shape.name, workload, results }, coresOfOthers);
process.exit(0);
