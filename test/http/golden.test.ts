/** The demo model's references, asked for over HTTP. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { resolveConfig } from "../../src/config/resolve.ts";
import { startServer, type RunningServer } from "../../src/serve.ts";

interface Golden {
  readonly prompt: string;
  readonly raw: boolean;
  readonly prompt_token_ids: readonly number[];
  readonly top10: readonly (readonly [id: number, logprob: number])[];
  readonly token_ids: readonly number[];
  readonly text: string;
}

interface Answer {
  readonly choices: readonly [
    {
      readonly text?: string;
      readonly message?: { readonly content: string };
      readonly token_ids: readonly number[];
      readonly prompt_token_ids?: readonly number[];
      readonly logprobs: { readonly top_logprobs: readonly Readonly<Record<string, number>>[] };
    },
  ];
  readonly prompt_token_ids?: readonly number[];
}

const demo = join(import.meta.dir, "../../models/demo");
const golden = (await Bun.file(join(demo, "golden.json")).json()) as Readonly<Record<string, readonly Golden[]>>;
const served = ["base", "extract-json", "roman", "sentiment", "sql", "summarize", "translate-fr"];

let server: RunningServer;
let url: string;

beforeAll(async () => {
  const { config } = resolveConfig([
    { setting: "model", value: demo, source: "test" },
    { setting: "backend", value: "wasm", source: "test" },
    { setting: "port", value: 0, source: "test" },
    { setting: "logLevel", value: "error", source: "test" },
    { setting: "loraConfig.loraDir", value: [join(demo, "adapters")], source: "test" },
  ]);
  server = await startServer(config);
  url = `http://127.0.0.1:${server.http.port}`;
});

afterAll(() => server.stop());

async function ask(path: string, body: object): Promise<Answer> {
  const response = await fetch(url + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ temperature: 0, return_token_ids: true, ...body }),
  });
  expect(response.status).toBe(200);
  return (await response.json()) as Answer;
}

describe.each(served)("%s", (name) => {
  const model = name === "base" ? "demo" : name;
  const cases = golden[name]!;

  test("continues every prompt token for token, with the reference's log-probabilities", async () => {
    expect(cases.length).toBeGreaterThan(0);
    await Promise.all(
      cases.map(async (reference) => {
        const answer = await ask("/v1/completions", {
          model,
          prompt: reference.prompt_token_ids,
          max_tokens: reference.token_ids.length,
          logprobs: 10,
          return_tokens_as_token_ids: true,
        });
        const [choice] = answer.choices;
        expect(choice.token_ids).toEqual(reference.token_ids);
        expect(choice.text).toBe(reference.text);
        const top = choice.logprobs.top_logprobs[0]!;
        for (const [id, logprob] of reference.top10) {
          const got = top[`token_id:${id}`];
          // Beyond the tenth place two nearly equal tokens may change places.
          if (got !== undefined) expect(Math.abs(got - logprob)).toBeLessThan(2e-2);
        }
        const numShared = reference.top10.filter(([id]) => `token_id:${id}` in top).length;
        expect(numShared).toBeGreaterThanOrEqual(9);
      }),
    );
  });

  test("gives the same answer to the text of the prompt", async () => {
    for (const reference of cases.slice(0, 2)) {
      const answer = reference.raw
        ? await ask("/v1/completions", { model, prompt: reference.prompt, max_tokens: 64 })
        : await ask("/v1/chat/completions", { model, messages: [{ role: "user", content: reference.prompt }], max_tokens: 64 });
      const [choice] = answer.choices;
      expect(choice.prompt_token_ids ?? answer.prompt_token_ids).toEqual(reference.prompt_token_ids);
      expect(choice.text ?? choice.message?.content).toBe(reference.text);
    }
  });
});
