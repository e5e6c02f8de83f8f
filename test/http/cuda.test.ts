/**
 * The demo model and its adapters on a CUDA device, through HTTP and under load.
 *
 * Bfloat16 may change a token only where the reference itself hardly prefers it.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { readModelConfig } from "../../src/model/model-config.ts";
import { openCheckpoint } from "../../src/model/weights.ts";
import { chatEncoder } from "../../src/runtime/chat.ts";
import type { LocalRuntime } from "../../src/runtime/local-runtime.ts";
import { referenceOf, referenceStep } from "../helpers/bfloat16-noise.ts";
import { noCudaReason } from "../helpers/cuda.ts";
import { accuracyOf, readEvalRows } from "../helpers/demo-eval.ts";
import { DEMO, DEMO_ADAPTERS, type DemoServer, readDemoGolden, startDemo, taskOf } from "../helpers/demo-server.ts";
import { ReferenceExecutor } from "../helpers/reference-executor.ts";
import { collect } from "../helpers/runtime.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { numbers } from "../helpers/tiny-program.ts";

/**
 * Of log-probabilities and of margins: four times the largest change that rounding to bfloat16 makes over the first six
 * tokens of three golden prompts of each model, 0.126, which is the first of `summarize`.
 */
const BOUND = 0.52;

const golden = readDemoGolden();
const program = buildDecoderProgram(readModelConfig(DEMO));
const adapterOf = async (name: string | null) => (name === null ? null : readAdapter(join(DEMO, "adapters", name), program));

if (noCudaReason !== null) console.warn(`the server on a CUDA device is not tested: ${noCudaReason}`);

test("the bound of bfloat16 is what the widest golden prompt gives", async () => {
  const widest = golden.find(({ adapter }) => adapter === "summarize")!;
  const adapter = await adapterOf(widest.adapter);
  const { bound } = referenceOf(program, openCheckpoint(DEMO), adapter, widest.prompt_token_ids, widest.token_ids.slice(0, 6));
  expect(bound).toBeLessThan(BOUND);
  expect(bound).toBeGreaterThan(0.8 * BOUND);
}, 60_000);

describe.skipIf(noCudaReason !== null)("the demo on a CUDA device", () => {
  let server: DemoServer;
  let exact: ReferenceExecutor | null = null;
  beforeAll(async () => {
    server = await startDemo({ backend: "cuda" });
  });
  afterAll(() => server?.stop());

  interface Choice {
    readonly finish_reason: string;
    readonly token_ids: number[];
    readonly logprobs: { readonly top_logprobs: Record<string, number>[] };
  }

  async function complete(model: string, prompt: readonly number[]): Promise<Choice> {
    const body = { model, prompt, max_tokens: 128, temperature: 0, logprobs: 20, return_token_ids: true, return_tokens_as_token_ids: true };
    const response = await server.post("/v1/completions", body);
    expect(response.status).toBe(200);
    return ((await response.json()) as { choices: Choice[] }).choices[0]!;
  }

  /** How far the reference prefers its own next token. */
  async function marginAfter(adapter: string | null, tokens: readonly number[]): Promise<number> {
    exact ??= new ReferenceExecutor(program, openCheckpoint(DEMO));
    return referenceStep(exact.logits(tokens, await adapterOf(adapter))).margin;
  }

  test("computes there", () => {
    expect(server.running.opened.runtime.backend.name).toBe("cuda");
  });

  test.each(golden.map((one) => [`${one.model}: ${one.prompt.slice(0, 40)}`, one] as const))("continues as the reference does, %s", async (_, one) => {
    const { model, adapter, prompt_token_ids: prompt, token_ids: expected, top10 } = one;
    for (let done = 0; done < expected.length; ) {
      const { token_ids: got, finish_reason, logprobs } = await complete(model, [...prompt, ...expected.slice(0, done)]);
      if (done === 0) {
        const top = logprobs.top_logprobs[0]!;
        const shared = top10.filter(([id]) => `token_id:${id}` in top);
        expect(shared.length).toBeGreaterThan(7);
        for (const [id, logprob] of shared) expect(Math.abs(top[`token_id:${id}`]! - logprob)).toBeLessThan(BOUND);
      }
      const differs = expected.slice(done).findIndex((id, i) => got[i] !== id);
      if (differs === -1) {
        expect(got).toEqual(expected.slice(done));
        expect(finish_reason).toBe("stop");
        return;
      }
      done += differs;
      expect(await marginAfter(adapter, [...prompt, ...expected.slice(0, done)])).toBeLessThan(BOUND);
      // On with the reference's token in place of the other one.
      done++;
    }
  }, 60_000);

  test.each([...DEMO_ADAPTERS])("answers the evaluation set as well as the reference does: %s", async (task) => {
    const { numRows, correct, reference } = await accuracyOf(server, task);
    expect(numRows).toBe(200);
    expect(Math.abs(correct - reference)).toBeLessThanOrEqual(1);
  }, 120_000);
});

/** Two adapters of one task cannot be told apart by their answers. */
const MODELS = [null, ...DEMO_ADAPTERS.filter((adapter) => taskOf(adapter) === adapter)];
const PROMPTS_PER_TASK = 6;
const MAX_TOKENS = 6;
const IN_FLIGHT = 64;

/** A prompt and how one model, and no other, answers it. */
interface Marker {
  readonly model: string | null;
  readonly prompt: readonly number[];
  readonly answer: string;
  /** The least between the best two log-probabilities of any of its tokens. */
  readonly margin: number;
  /** Of the other models to the same prompt. */
  readonly others: ReadonlySet<string>;
}

async function ask(runtime: LocalRuntime, model: string | null, prompt: readonly number[]) {
  const adapter = model === null ? null : await runtime.resolveAdapter({ name: model });
  const eosTokenIds = new Set(runtime.model.generation.eosTokenIds);
  const sampling = samplingWith({ maxTokens: MAX_TOKENS, logprobs: 2, eosTokenIds });
  const { ids, events } = await collect(runtime.generate({ promptTokens: prompt, adapter, sampling, tenant: "", timeoutMs: null }));
  const margins = events.flatMap(({ tokens }) => tokens.map(({ top }) => top[0]!.logprob - top[1]!.logprob));
  return { answer: ids.join(" "), margin: Math.min(...margins) };
}

/** Every model is asked every prompt, alone; kept is what is sure whatever shares the batch, and only that model's. */
async function findMarkers(runtime: LocalRuntime): Promise<Marker[]> {
  const encode = chatEncoder(runtime.model);
  const prompts = DEMO_ADAPTERS.flatMap((task) => readEvalRows(taskOf(task)).slice(0, PROMPTS_PER_TASK).map(({ prompt }) => encode([{ role: "user", content: prompt }], { addGenerationPrompt: true })));
  const markers: Marker[] = [];
  for (const prompt of prompts) {
    const answers: { readonly model: string | null; readonly answer: string; readonly margin: number }[] = [];
    for (const model of MODELS) answers.push({ model, ...(await ask(runtime, model, prompt)) });
    for (const { model, answer, margin } of answers) {
      const others = new Set(answers.filter((other) => other.model !== model).map((other) => other.answer));
      if (margin > 1.5 * BOUND && !others.has(answer)) markers.push({ model, prompt, answer, margin, others });
    }
  }
  return markers;
}

describe.skipIf(noCudaReason !== null)("load on a CUDA device", () => {
  test.each([
    ["every adapter on the device", 100_000, {}],
    ["room for three adapters", 4_000, { maxLoras: 3 }],
  ])("%s: no request of %d is answered by another adapter", async (_, numRequests, loraConfig) => {
    const server = await startDemo({ backend: "cuda", loraConfig: { loraDir: [join(DEMO, "adapters")], ...loraConfig } });
    try {
      const { runtime } = server.running.opened;
      const markers = await findMarkers(runtime);
      for (const model of MODELS) expect(markers.filter((marker) => marker.model === model).length).toBeGreaterThan(3);
      const random = numbers(7);
      const wrong: { readonly model: string | null; readonly expected: string; readonly got: string; readonly margin: number; readonly isAnothers: boolean }[] = [];
      let started = 0;
      let answered = 0;
      const client = async (): Promise<void> => {
        while (started < numRequests) {
          started++;
          const { model, prompt, answer, margin, others } = markers[Math.floor(((random() + 1) / 2) * markers.length)]!;
          const got = await ask(runtime, model, prompt);
          answered++;
          if (got.answer !== answer) wrong.push({ model, expected: answer, got: got.answer, margin, isAnothers: others.has(got.answer) });
        }
      };
      await Promise.all(Array.from({ length: IN_FLIGHT }, client));
      expect(answered).toBe(numRequests);
      expect(wrong.filter(({ isAnothers }) => isAnothers)).toEqual([]);
      // Two log-probabilities that each move by less than the bound cannot change places. The bound is that of an adapter's
      // own task; prompts of another were seen to move half as far again.
      expect(wrong.filter(({ margin }) => margin > 3 * BOUND)).toEqual([]);
      if (process.env["SHOW_ERRORS"] !== undefined) console.log(`${markers.length} markers, ${wrong.length} of ${answered} answers moved by rounding`);
    } finally {
      await server.stop();
    }
  }, 300_000);
});
