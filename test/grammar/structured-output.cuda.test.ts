/** Outputs that keep to a grammar, on a machine with a CUDA device: beside others, which do not. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { noCudaReason } from "../helpers/cuda.ts";
import { type DemoServer, startDemo } from "../helpers/demo-server.ts";
import { checkPerson, PERSON } from "../helpers/person-schema.ts";

interface Body {
  readonly choices: readonly { readonly text: string; readonly finish_reason: string }[];
}

describe.skipIf(noCudaReason !== null)("structured outputs on a CUDA device", () => {
  let server: DemoServer;
  beforeAll(async () => {
    server = await startDemo({ backend: "cuda" });
  });
  afterAll(() => server?.stop());

  async function complete(body: object): Promise<Body> {
    const response = await server.post("/v1/completions", { model: "demo", prompt: "Describe a person:", max_tokens: 200, ...body });
    expect(response.status).toBe(200);
    return (await response.json()) as Body;
  }

  test.each([0, 1, 1.7])("keep to a schema, at temperature %p, every choice of four", async (temperature) => {
    const { choices } = await complete({ guided_json: PERSON, temperature, n: 4, seed: 7 });
    expect(choices).toHaveLength(4);
    for (const { text, finish_reason } of choices) {
      expect(finish_reason).toBe("stop");
      checkPerson(text);
    }
  });

  test("keep to it beside others, of the base and of adapters, with and without penalties", async () => {
    const patterns = ["[0-9]{3}-[a-f]{2}", "(ja|nein)!", "a[xyz]{1,40}b"];
    const answers = await Promise.all(
      Array.from({ length: 96 }, async (_, i) => {
        const model = ["demo", "sql", "pirate", "translate-fr"][i % 4]!;
        const pattern = i % 3 === 0 ? patterns[(i / 3) % patterns.length]! : null;
        const penalties = i % 5 === 0 ? { frequency_penalty: 0.5, repetition_penalty: 1.1 } : {};
        const { choices } = await complete({ model, max_tokens: 60, temperature: i % 2, seed: i, ...penalties, ...(pattern === null ? {} : { guided_regex: pattern }) });
        return { pattern, text: choices[0]!.text };
      }),
    );
    for (const { pattern, text } of answers) {
      if (pattern !== null) expect(text).toMatch(new RegExp(`^${pattern}$`));
    }
    expect(answers.filter(({ pattern, text }) => pattern === null && text.length > 0).length).toBeGreaterThan(32);
  });
});
