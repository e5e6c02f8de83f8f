/** Outputs that keep to a grammar, from the demo model, which left alone would write stories. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type DemoServer, startDemo } from "../helpers/demo-server.ts";
import { checkPerson, PERSON } from "../helpers/person-schema.ts";

let server: DemoServer;
beforeAll(async () => {
  server = await startDemo();
});
afterAll(() => server.stop());

interface Body {
  readonly choices: readonly { readonly text?: string; readonly message?: { readonly content: string }; readonly finish_reason: string }[];
  readonly error?: { readonly message: string; readonly param: string };
}

async function chat(body: object): Promise<{ readonly status: number; readonly body: Body }> {
  const messages = [{ role: "user", content: "Describe a person." }];
  const response = await server.post("/v1/chat/completions", { model: "demo", messages, max_tokens: 200, seed: 7, ...body });
  return { status: response.status, body: (await response.json()) as Body };
}

const jsonSchema = (schema: object) => ({ response_format: { type: "json_schema", json_schema: { name: "person", strict: true, schema } } });

const structural = (format: object) => ({ response_format: { type: "structural_tag", format } });
const answerTag = { type: "tag", begin: "<answer>", content: { type: "json_schema", json_schema: { type: "boolean" } }, end: "</answer>" };

describe("outputs keep to", () => {
  for (const temperature of [0, 1, 1.7]) {
    test(`a schema, at temperature ${temperature}, every choice of four`, async () => {
      const { status, body } = await chat({ ...jsonSchema(PERSON), temperature, n: 4 });
      expect(status).toBe(200);
      expect(body.choices).toHaveLength(4);
      for (const { message, finish_reason } of body.choices) {
        expect(finish_reason).toBe("stop");
        checkPerson(message!.content);
      }
    });
  }

  test("json_object: an object or, cut short, the start of one", async () => {
    const { body } = await chat({ response_format: { type: "json_object" }, temperature: 0, max_tokens: 64 });
    expect(body.choices[0]!.message!.content.trimStart()).toStartWith("{");
    if (body.choices[0]!.finish_reason === "stop") expect(typeof JSON.parse(body.choices[0]!.message!.content)).toBe("object");
  });

  test.each([
    [{ response_format: { type: "regex", regex: "[0-9]{3}-[a-f]{2}" } }, /^[0-9]{3}-[a-f]{2}$/],
    [{ guided_regex: "(ja|nein)!" }, /^(ja|nein)!$/],
    [{ guided_choice: ["ünï \"quoted\"", "\\back\nslash"] }, /^(ünï "quoted"|\\back\nslash)$/],
    [{ structured_outputs: { choice: ["yes", "no"] } }, /^(yes|no)$/],
    [{ response_format: { type: "ebnf", ebnf: 'root ::= "a" [xyz] "b"' } }, /^a[xyz]b$/],
    [{ guided_json: JSON.stringify({ type: "boolean" }) }, /^(true|false)$/],
    [{ structured_outputs: { json: { enum: [1, "two"] } } }, /^(1|"two")$/],
    [structural(answerTag), /^<answer>(true|false)<\/answer>$/],
    [structural({ type: "sequence", elements: [{ type: "const_string", value: "So: " }, { type: "or", elements: [answerTag, { type: "regex", pattern: "[0-9]{2}" }] }] }), /^So: (<answer>(true|false)<\/answer>|[0-9]{2})$/],
    [structural({ type: "triggered_tags", triggers: ["<answer"], tags: [answerTag], at_least_one: true, stop_after_first: true }), /^<answer>(true|false)<\/answer>$/],
  ])("%j", async (wanted, pattern) => {
    const { status, body } = await chat({ ...wanted, temperature: 1.5, n: 3 });
    expect(status).toBe(200);
    for (const { message } of body.choices) expect(message!.content).toMatch(pattern);
  });

  test("structures where their triggers appear; text before them is free", async () => {
    const textOf = async (body: object) => (await chat({ temperature: 0, max_tokens: 24, ...body })).body.choices[0]!.message!.content;
    const held = (begin: string) => textOf({ response_format: { type: "structural_tag", structures: [{ begin, schema: { const: "it" }, end: "." }], triggers: [begin] } });
    expect(await textOf({})).toStartWith("I do not");
    expect(await held("I")).toStartWith('I"it".');
    expect(await held(" not")).toStartWith('I do not"it".');
  });

  test("a schema with definitions, on an adapter, as events", async () => {
    const schema = { type: "array", items: { $ref: "#/$defs/pair" }, minItems: 1, maxItems: 2, $defs: { pair: { type: "object", properties: { left: { type: "integer", minimum: 0, maximum: 99 } }, required: ["left"], additionalProperties: false } } };
    const response = await server.post("/v1/completions", { model: "sql", prompt: "Pairs:", stream: true, max_tokens: 120, temperature: 0, guided_json: schema });
    const events = (await response.text()).split("\n\n").filter((line) => line.startsWith("data: {"));
    const text = events.map((line) => (JSON.parse(line.slice(6)) as Body).choices[0]!.text).join("");
    const parsed = JSON.parse(text) as { left: number }[];
    expect(parsed.length).toBeGreaterThan(0);
    expect(parsed.every(({ left }) => Number.isInteger(left))).toBe(true);
  });
});

test("rows beside them get the answers they get alone", async () => {
  const free = { model: "demo", prompt: "Once upon a time", max_tokens: 40, temperature: 0 };
  const textOf = async (body: object) => ((await (await server.post("/v1/completions", body)).json()) as Body).choices[0]!.text;
  const alone = await textOf(free);
  const constrained = { ...free, guided_regex: "[0-9 ]{30}" };
  const [beside, digits, again] = await Promise.all([textOf(free), textOf(constrained), textOf(constrained)]);
  expect(beside).toBe(alone);
  expect(digits).toMatch(/^[0-9 ]{30}$/);
  expect(again).toBe(digits);
});

test("log-probabilities are the model's own, before the grammar", async () => {
  const ask = async (body: object) => (await (await server.post("/v1/completions", { model: "demo", prompt: "Once upon a", max_tokens: 1, temperature: 0, logprobs: 5, ...body })).json()) as {
    readonly choices: readonly { readonly logprobs: { readonly token_logprobs: number[]; readonly top_logprobs: Record<string, number>[] } }[];
  };
  const free = (await ask({})).choices[0]!.logprobs;
  const forced = (await ask({ guided_choice: ["zebra"] })).choices[0]!.logprobs;
  expect(forced.token_logprobs[0]!).toBeLessThan(free.token_logprobs[0]!);
  for (const [token, logprob] of Object.entries(free.top_logprobs[0]!)) expect(forced.top_logprobs[0]![token]).toBeCloseTo(logprob, 5);
});

describe("refused by name, with nothing else harmed", () => {
  test.each([
    [jsonSchema({ type: "nope" }), "response_format.json_schema.schema", "type must be one of"],
    [jsonSchema({ type: "integer", multipleOf: 3 }), "response_format.json_schema.schema", "multipleOf"],
    [jsonSchema({ properties: { a: { not: {} } } }), "response_format.json_schema.schema", "the schema.properties.a has not"],
    [jsonSchema({ $ref: "https://example.com/x" }), "response_format.json_schema.schema", "$ref"],
    [jsonSchema({ type: "integer", minimum: 5, maximum: 2 }), "response_format.json_schema.schema", "minimum greater than maximum"],
    [{ response_format: { type: "json_schema" } }, "response_format.json_schema", "is missing"],
    [structural({}), "response_format.format", 'the format.type must be one of any_text, const_string, json_schema'],
    [structural({ type: "tag", begin: "<a>", end: "</a>" }), "response_format.format", "the format of type tag must have content"],
    [structural({ type: "sequence", elements: [{ type: "any_text", excludes: ["x"] }] }), "response_format.format", "the format.elements[0] of type any_text has excludes"],
    [structural({ type: "json_schema", json_schema: { type: "integer", multipleOf: 3 } }), "response_format.format", "the format.json_schema has multipleOf"],
    [structural({ type: "or", elements: [] }), "response_format.format", "the format.elements must be a list with at least one entry"],
    [structural({ type: "regex", pattern: "(" }), "response_format.format", "parenthesis is not closed"],
    [structural({ type: "triggered_tags", triggers: ["<f"], tags: [{ type: "tag", begin: "<g>", content: { type: "any_text" }, end: "" }] }), "response_format.format", ""],
    [{ response_format: { type: "structural_tag", structures: [{ begin: "<f>" }], triggers: ["<f"] } }, "response_format.structures[0].end", "is missing"],
    [{ response_format: { type: "ebnf", ebnf: "root ::= nowhere" } }, "response_format.ebnf", "\"nowhere\" is not defined"],
    [{ guided_regex: "(" }, "guided_regex", "parenthesis is not closed"],
    [{ guided_regex: "" }, "guided_regex", "is empty"],
    [{ guided_choice: [] }, "guided_choice", "1 to 1024"],
    [{ guided_json: "{" }, "guided_json", "must be a JSON Schema"],
    [{ guided_regex: "a", guided_choice: ["b"] }, "guided_choice", "together with guided_regex"],
    [{ guided_regex: "a", ignore_eos: true }, "ignore_eos", "together with guided_regex"],
    [{ guided_regex: "a", min_tokens: 3 }, "min_tokens", "together with guided_regex"],
  ])("%j", async (wanted, param, words) => {
    const { status, body } = await chat(wanted);
    expect(status).toBe(400);
    expect(body.error!.param).toBe(param);
    expect(body.error!.message).toContain(words);
    const after = await chat({ guided_choice: ["still here"] });
    expect(after.body.choices[0]!.message!.content).toBe("still here");
  });
});
