/** The demo model and its adapters through HTTP, against what transformers and PEFT answered in float32. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DEMO, DEMO_ADAPTERS, type DemoServer, startDemo } from "../helpers/demo-server.ts";

interface GoldenPrompt {
  readonly prompt: string;
  /** The prompt as it is, not as a user's message. */
  readonly raw: boolean;
  readonly prompt_token_ids: number[];
  readonly top10: [id: number, logprob: number][];
  readonly token_ids: number[];
  readonly text: string;
}

const golden = JSON.parse(readFileSync(join(DEMO, "golden.json"), "utf8")) as Record<string, GoldenPrompt[]>;
const served = ["base", ...DEMO_ADAPTERS];
const cases = served.flatMap((model) => golden[model]!.map((prompt) => ({ model, ...prompt })));

/** Of log-probabilities, with bfloat16 weights and float32 arithmetic. */
const TOLERANCE = 2e-2;
/** Its reference was computed with the float32 weights of `summarize`; the archive holds them rounded to bfloat16. */
const ROUNDED = new Map([["summarize-nemo", 0.1]]);

interface Choice {
  readonly text: string;
  readonly finish_reason: string;
  readonly token_ids: number[];
  readonly prompt_token_ids: number[];
  readonly logprobs: { readonly tokens: string[]; readonly top_logprobs: Record<string, number>[] };
}

let server: DemoServer;
beforeAll(async () => {
  server = await startDemo();
});
afterAll(() => server.stop());

const modelName = (model: string): string => (model === "base" ? "demo" : model);

describe("golden continuations", () => {
  test("cover the base and eight adapters", () => {
    expect(cases.length).toBe(38);
  });

  test.each(cases.map((one) => [`${one.model}: ${one.prompt.slice(0, 40)}`, one] as const))("%s", async (_, one) => {
    const body = {
      model: modelName(one.model),
      prompt: one.prompt_token_ids,
      max_tokens: 128,
      temperature: 0,
      logprobs: 10,
      return_token_ids: true,
      return_tokens_as_token_ids: true,
    };
    const response = await server.post("/v1/completions", body);
    expect(response.status).toBe(200);
    const [choice] = ((await response.json()) as { choices: Choice[] }).choices;
    expect(choice!.token_ids).toEqual(one.token_ids);
    expect(choice!.finish_reason).toBe("stop");
    const top = choice!.logprobs.top_logprobs[0]!;
    const tolerance = ROUNDED.get(one.model) ?? TOLERANCE;
    for (const [id, logprob] of one.top10) {
      // Beyond the tenth place the two orders may differ.
      const got = top[`token_id:${id}`];
      if (got !== undefined) expect(Math.abs(got - logprob)).toBeLessThan(tolerance * Math.max(1, Math.abs(logprob) / 10));
    }
    expect(one.top10.filter(([id]) => top[`token_id:${id}`] !== undefined).length).toBeGreaterThan(7);
  });

  test.each(cases.filter(({ raw }) => !raw).map((one) => [`${one.model}: ${one.prompt.slice(0, 40)}`, one] as const))(
    "as a chat, %s",
    async (_, one) => {
      const body = {
        model: modelName(one.model),
        messages: [{ role: "user", content: one.prompt }],
        temperature: 0,
        max_tokens: 128,
        return_token_ids: true,
      };
      const answer = (await (await server.post("/v1/chat/completions", body)).json()) as {
        choices: { message: { content: string }; token_ids: number[] }[];
        usage: { prompt_tokens: number; completion_tokens: number };
      };
      expect(answer.choices[0]!.message.content).toBe(one.text);
      expect(answer.usage).toMatchObject({ prompt_tokens: one.prompt_token_ids.length, completion_tokens: one.token_ids.length });
    },
  );
});
