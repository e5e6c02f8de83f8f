/** What the Vercel AI SDK makes of this server. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";
import { saying } from "../helpers/fake-runtime.ts";
import { until } from "../helpers/until.ts";
import { callingOnce, endless, startScripted, startToolDemo, WEATHER_CALL } from "./tool-model.ts";

const connect = (url: string) => createOpenAICompatible({ name: "lorikeet", baseURL: `${url}/v1`, includeUsage: true, supportsStructuredOutputs: true });
const weather = tool({
  description: "The weather",
  inputSchema: z.object({ city: z.string(), days: z.number() }),
  execute: async ({ city }) => `sunny in ${city}`,
});

test("generates and streams text with usage", async () => {
  await using server = startScripted(saying("One day Rosa went home."));
  const model = connect(server.url)("sql");
  const whole = await generateText({ model, prompt: "Tell" });
  expect([whole.text, whole.finishReason, whole.usage.outputTokens]).toEqual(["One day Rosa went home.", "stop", 23]);
  const stream = streamText({ model, prompt: "Tell" });
  let text = "";
  for await (const delta of stream.textStream) text += delta;
  expect([text, (await stream.usage).outputTokens]).toEqual(["One day Rosa went home.", 23]);
});

test.each(["whole", "as a stream"])("runs a tool and goes on with its answer, %s", async (how) => {
  await using server = startScripted(callingOnce(WEATHER_CALL, "It is sunny."));
  const call = { model: connect(server.url)("demo"), prompt: "Weather in Paris?", tools: { weather }, stopWhen: isStepCount(3) };
  const result = how === "whole" ? await generateText(call) : streamText(call);
  expect(await result.text).toBe("It is sunny.");
  const steps = await result.steps;
  expect(steps.map(({ finishReason }) => finishReason)).toEqual(["tool-calls", "stop"]);
  expect(steps[0]!.toolCalls).toMatchObject([{ toolName: "weather", input: { city: "Paris", days: 2 } }]);
  expect(steps[0]!.toolResults).toMatchObject([{ output: "sunny in Paris" }]);
});

test("abort ends the sequence", async () => {
  await using server = startScripted(endless);
  const controller = new AbortController();
  const stream = streamText({ model: connect(server.url)("demo"), prompt: "Go", abortSignal: controller.signal, onError: () => undefined });
  for await (const delta of stream.textStream) {
    expect(delta).toContain("on");
    controller.abort();
    break;
  }
  await until(() => server.runtime.sequences[0]!.isCancelled);
  expect(server.runtime.live).toEqual([]);
});

describe("the demo model", () => {
  let server: Awaited<ReturnType<typeof startToolDemo>>;
  beforeAll(async () => {
    server = await startToolDemo();
  });
  afterAll(() => server.stop());

  test("answers in a schema", async () => {
    const schema = z.object({ title: z.string().min(1).max(8), stars: z.int().min(1).max(5) });
    const { output } = await generateText({ model: connect(server.url)("demo"), output: Output.object({ schema }), prompt: "Rate it.", temperature: 0, maxOutputTokens: 80 });
    expect(schema.parse(output)).toEqual(output);
  });

  test("calls the tool that it must", async () => {
    const short = tool({ description: "Rates", inputSchema: z.object({ stars: z.int().min(1).max(5) }), execute: async () => "noted" });
    const result = await generateText({ model: connect(server.url)("demo"), tools: { short }, toolChoice: { type: "tool", toolName: "short" }, prompt: "Rate it.", temperature: 0, maxOutputTokens: 60 });
    expect(result.toolCalls).toMatchObject([{ toolName: "short", input: { stars: expect.any(Number) } }]);
  });
});
