/** What openai's own client makes of tools, structured outputs and streams. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { until } from "../helpers/until.ts";
import { callingOnce, endless, startScripted, startToolDemo, WEATHER_CALL } from "./tool-model.ts";

const connect = (url: string) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user" as const, content: "Weather in Paris?" }];
const parameters = {
  type: "object",
  properties: { city: { type: "string", minLength: 1, maxLength: 10 }, days: { type: "integer", minimum: 1, maximum: 9 } },
  required: ["city", "days"],
  additionalProperties: false,
};
const tools = [
  { type: "function" as const, function: { name: "weather", description: "The weather", parameters } },
  { type: "function" as const, function: { name: "time", parameters: { $ref: "#/$defs/zone", $defs: { zone: { type: "object", properties: { zone: { enum: ["utc", "local"] } }, required: ["zone"] } } } } },
];

describe("a model that calls a tool", () => {
  test("gives the call beside the content, and takes the tool's answer", async () => {
    await using server = startScripted(callingOnce(WEATHER_CALL, "Sunny."));
    const client = connect(server.url);
    const first = await client.chat.completions.create({ model: "demo", messages, tools });
    const { message, finish_reason } = first.choices[0]!;
    expect(finish_reason).toBe("tool_calls");
    expect(message.content).toBe("Let me look. ");
    const call = message.tool_calls![0]!;
    if (call.type !== "function") throw new Error("not a function");
    expect(call.id).toMatch(/^call_\w{24}$/);
    expect([call.function.name, JSON.parse(call.function.arguments)]).toEqual(["weather", { city: "Paris", days: 2 }]);
    const second = await client.chat.completions.create({ model: "demo", tools, messages: [...messages, message, { role: "tool", tool_call_id: call.id, content: "21 degrees" }] });
    expect(second.choices[0]).toMatchObject({ finish_reason: "stop", message: { content: "Sunny." } });
  });

  test("streams the call's name, then its arguments", async () => {
    await using server = startScripted(callingOnce(WEATHER_CALL, ""));
    const stream = connect(server.url).chat.completions.stream({ model: "demo", messages, tools });
    const seen: string[] = [];
    stream.on("chunk", ({ choices }) => seen.push(...(choices[0]?.delta.tool_calls ?? []).map((call) => call.function?.arguments ?? "")));
    const { choices } = await stream.finalChatCompletion();
    expect(choices[0]!.finish_reason).toBe("tool_calls");
    expect(choices[0]!.message.tool_calls).toMatchObject([{ function: { name: "weather", arguments: '{"city": "Paris", "days": 2}' } }]);
    expect(seen.length).toBeGreaterThan(2);
  });

  test("runs tools with the client's helper", async () => {
    await using server = startScripted(callingOnce(WEATHER_CALL, "It is sunny."));
    const asked: unknown[] = [];
    const runner = connect(server.url).chat.completions.runTools({
      model: "demo",
      messages,
      tools: [{ type: "function", function: { name: "weather", parameters, parse: JSON.parse, description: "", function: (args: object) => (asked.push(args), "sunny") } }],
    });
    expect(await runner.finalContent()).toBe("It is sunny.");
    expect(asked).toEqual([{ city: "Paris", days: 2 }]);
  });

  test("may be told not to", async () => {
    await using server = startScripted(callingOnce(WEATHER_CALL, ""));
    const answer = await connect(server.url).chat.completions.create({ model: "demo", messages, tools, tool_choice: "none" });
    expect(answer.choices[0]!.message).toMatchObject({ content: WEATHER_CALL });
    expect(answer.choices[0]!.message.tool_calls).toBeUndefined();
  });
});

test("abort ends the sequence", async () => {
  await using server = startScripted(endless);
  const stream = await connect(server.url).chat.completions.create({ model: "demo", messages, stream: true });
  for await (const chunk of stream) {
    expect(chunk.choices).toHaveLength(1);
    break;
  }
  stream.controller.abort();
  await until(() => server.runtime.sequences[0]!.isCancelled);
  expect(server.runtime.live).toEqual([]);
});

describe("the demo model, which knows no tools,", () => {
  let server: Awaited<ReturnType<typeof startToolDemo>>;
  beforeAll(async () => {
    server = await startToolDemo();
  });
  afterAll(() => server.stop());

  test.each([0, 1.5])("calls the named tool with arguments that fit, at temperature %d", async (temperature) => {
    const answer = await connect(server.url).chat.completions.create({
      model: "demo", messages, tools, temperature, seed: 3, max_tokens: 120, tool_choice: { type: "function", function: { name: "weather" } },
    });
    const { message, finish_reason } = answer.choices[0]!;
    expect([finish_reason, message.content]).toEqual(["tool_calls", null]);
    const call = message.tool_calls![0]!;
    if (call.type !== "function") throw new Error("not a function");
    const args = JSON.parse(call.function.arguments) as { city: string; days: number };
    expect(Object.keys(args).toSorted()).toEqual(["city", "days"]);
    expect(args.days >= 1 && args.days <= 9).toBe(true);
  });

  test("calls one of the tools when it must, as a stream too", async () => {
    const client = connect(server.url);
    const body = { model: "demo", messages, tools, tool_choice: "required" as const, parallel_tool_calls: false, temperature: 1, seed: 5, max_tokens: 160 };
    const whole = await client.chat.completions.create(body);
    const streamed = await client.chat.completions.stream(body).finalChatCompletion();
    const callsOf = (answer: typeof whole) => answer.choices[0]!.message.tool_calls!.map((call) => (call.type === "function" ? [call.function.name, call.function.arguments] : []));
    expect(whole.choices[0]!.finish_reason).toBe("tool_calls");
    expect(callsOf(whole)).toHaveLength(1);
    expect(callsOf(streamed)).toEqual(callsOf(whole));
    const [name, args] = callsOf(whole)[0]!;
    expect(["weather", "time"]).toContain(name!);
    expect(Object.keys(JSON.parse(args!) as object).length).toBeGreaterThan(0);
  });

  test("answers in a schema of zod", async () => {
    const shape = z.object({ mood: z.enum(["good", "bad"]), score: z.int().min(0).max(10) });
    const answer = await connect(server.url).chat.completions.parse({ model: "sql", messages, temperature: 0, response_format: zodResponseFormat(shape, "mood"), max_tokens: 60 });
    expect(shape.parse(answer.choices[0]!.message.parsed)).toEqual(answer.choices[0]!.message.parsed!);
  });
});
