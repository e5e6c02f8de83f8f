/** What LangChain makes of this server. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { AIMessage, HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";
import { saying } from "../helpers/fake-runtime.ts";
import { until } from "../helpers/until.ts";
import { callingOnce, endless, startScripted, startToolDemo, WEATHER_CALL } from "./tool-model.ts";

const connect = (url: string, fields: object = {}) => new ChatOpenAI({ model: "demo", apiKey: "none", maxRetries: 0, configuration: { baseURL: `${url}/v1` }, ...fields });
const weather = tool(({ city }) => `sunny in ${city}`, { name: "weather", description: "The weather", schema: z.object({ city: z.string(), days: z.number() }) });

test("invokes and streams", async () => {
  await using server = startScripted(saying("One day Rosa went home."));
  const model = connect(server.url);
  const answer = await model.invoke("Tell");
  expect(answer.content).toBe("One day Rosa went home.");
  expect(answer.usage_metadata).toMatchObject({ output_tokens: 23 });
  let text = "";
  for await (const chunk of await model.stream("Tell")) text += chunk.content as string;
  expect(text).toBe("One day Rosa went home.");
});

test("calls a tool and goes on with its answer", async () => {
  await using server = startScripted(callingOnce(WEATHER_CALL, "It is sunny."));
  const model = connect(server.url).bindTools([weather]);
  const question = new HumanMessage("Weather in Paris?");
  const first = await model.invoke([question]);
  expect(first.tool_calls).toMatchObject([{ name: "weather", args: { city: "Paris", days: 2 } }]);
  const result = (await weather.invoke(first.tool_calls![0]!)) as ToolMessage;
  expect(result.content).toBe("sunny in Paris");
  expect((await model.invoke([question, first, result])).content).toBe("It is sunny.");
});

test("gathers a streamed tool call", async () => {
  await using server = startScripted(callingOnce(WEATHER_CALL, ""));
  let whole: Awaited<ReturnType<ChatOpenAI["invoke"]>> | undefined;
  for await (const chunk of await connect(server.url).bindTools([weather]).stream("Weather?")) {
    whole = whole === undefined ? chunk : (whole as typeof chunk).concat(chunk);
  }
  expect((whole as AIMessage).tool_calls).toMatchObject([{ name: "weather", args: { city: "Paris", days: 2 } }]);
});

test("abort ends the sequence", async () => {
  await using server = startScripted(endless);
  const controller = new AbortController();
  const reading = (async () => {
    for await (const chunk of await connect(server.url).stream("Go", { signal: controller.signal })) {
      if (chunk.content !== "") controller.abort();
    }
  })();
  await reading.catch(() => undefined);
  await until(() => server.runtime.sequences[0]!.isCancelled);
  expect(server.runtime.live).toEqual([]);
});

describe("the demo model", () => {
  let server: Awaited<ReturnType<typeof startToolDemo>>;
  beforeAll(async () => {
    server = await startToolDemo();
  });
  afterAll(() => server.stop());

  test.each(["jsonSchema", "functionCalling"] as const)("answers in a schema, by %s", async (method) => {
    const schema = z.object({ stars: z.int().min(1).max(5), verdict: z.enum(["keep", "drop"]) });
    const model = connect(server.url, { temperature: 0, maxTokens: 80 }).withStructuredOutput(schema, { method, name: "verdict" });
    const answer = await model.invoke("Rate it.");
    expect(schema.parse(answer)).toEqual(answer);
  });
});
