/** The demo model and its adapters through HTTP, against what transformers and PEFT answered in float32. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { ALL_ADAPTERS, type DemoServer, readDemoGolden, startDemo } from "../helpers/demo-server.ts";

const cases = readDemoGolden(ALL_ADAPTERS);

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

describe("golden continuations", () => {
  test("cover the base and nine adapters", () => {
    expect(cases.length).toBe(42);
    for (const { top10 } of cases) expect(top10.length).toBe(10);
  });

  test.each(cases.map((one) => [`${one.model}: ${one.prompt.slice(0, 40)}`, one] as const))("%s", async (_, one) => {
    const body = {
      model: one.model,
      prompt: one.prompt_token_ids,
      max_tokens: 128,
      temperature: 0,
      // More than are compared: beyond the tenth place two nearly equal tokens may change places.
      logprobs: 20,
      return_token_ids: true,
      return_tokens_as_token_ids: true,
    };
    const response = await server.post("/v1/completions", body);
    expect(response.status).toBe(200);
    const listed = server.running.opened.runtime.adapters().find(({ name }) => name === one.adapter);
    expect(response.headers.get("x-lorikeet-adapter-digest")).toBe(listed?.digest ?? null);
    const [choice] = ((await response.json()) as { choices: Choice[] }).choices;
    expect(choice!.token_ids).toEqual([...one.token_ids]);
    expect(choice!.text).toBe(one.text);
    expect(choice!.finish_reason).toBe("stop");
    const top = choice!.logprobs.top_logprobs[0]!;
    const tolerance = ROUNDED.get(one.model) ?? TOLERANCE;
    for (const [id, logprob] of one.top10) expect(Math.abs(top[`token_id:${id}`]! - logprob)).toBeLessThan(tolerance);
  });

  test.each(cases.filter(({ raw }) => !raw).map((one) => [`${one.model}: ${one.prompt.slice(0, 40)}`, one] as const))(
    "as a chat, %s",
    async (_, one) => {
      const body = {
        model: one.model,
        messages: [{ role: "user", content: one.prompt }],
        temperature: 0,
        max_tokens: 128,
        return_token_ids: true,
      };
      const answer = (await (await server.post("/v1/chat/completions", body)).json()) as {
        prompt_token_ids: number[];
        choices: { message: { content: string }; token_ids: number[] }[];
        usage: { prompt_tokens: number; completion_tokens: number };
      };
      expect(answer.prompt_token_ids).toEqual([...one.prompt_token_ids]);
      expect(answer.choices[0]!.token_ids).toEqual([...one.token_ids]);
      expect(answer.choices[0]!.message.content).toBe(one.text);
      expect(answer.usage).toMatchObject({ prompt_tokens: one.prompt_token_ids.length, completion_tokens: one.token_ids.length });
    },
  );

  test.each(cases.filter(({ raw }) => raw).map((one) => [`${one.model}: ${one.prompt.slice(0, 40)}`, one] as const))(
    "as text, %s",
    async (_, one) => {
      const body = { model: one.model, prompt: one.prompt, temperature: 0, max_tokens: 128, return_token_ids: true };
      const [choice] = ((await (await server.post("/v1/completions", body)).json()) as { choices: Choice[] }).choices;
      expect(choice!.prompt_token_ids).toEqual([...one.prompt_token_ids]);
      expect(choice!.token_ids).toEqual([...one.token_ids]);
    },
  );
});
