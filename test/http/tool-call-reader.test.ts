import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type AnswerPart, type ToolCallForm, ToolCallReader, toolCallForm } from "../../src/http/openai/tool-call-reader.ts";

interface Read {
  readonly content: string;
  readonly calls: readonly (readonly [name: string, args: string])[];
}

function collect(parts: readonly AnswerPart[]): Read {
  const calls: [string, string][] = [];
  let content = "";
  for (const part of parts) {
    if (part.type === "content") content += part.text;
    else if (part.type === "name") {
      expect(part.call).toBe(calls.length);
      calls.push([part.name, ""]);
    } else calls[part.call]![1] += part.text;
  }
  return { content, calls };
}

function read(form: ToolCallForm, pieces: readonly string[]): Read {
  const reader = new ToolCallReader(form);
  const read = collect([...pieces.flatMap((piece) => reader.push(piece)), ...reader.flush()]);
  expect(reader.numCalls).toBe(read.calls.length);
  return read;
}

const WEATHER = '{"city": "Par\\"is {[", "days": [1, {"a": 2}]}';

describe.each<[ToolCallForm, string, Read]>([
  ["hermes", `<tool_call>\n{"name": "weather", "arguments": ${WEATHER}}\n</tool_call>`, { content: "", calls: [["weather", WEATHER]] }],
  ["hermes", `Let me see.<tool_call>{"arguments": ${WEATHER}, "name": "weather"}</tool_call><tool_call>{"name":"time"}</tool_call>`, { content: "Let me see.", calls: [["weather", WEATHER], ["time", "{}"]] }],
  ["hermes", "1 < 2, <tool> and <tool_cal", { content: "1 < 2, <tool> and <tool_cal", calls: [] }],
  ["hermes", '{"name": "weather"}', { content: '{"name": "weather"}', calls: [] }],
  ["hermes", '<tool_call>{"no": "name"}</tool_call>', { content: '{"no": "name"}', calls: [] }],
  ["hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Par', { content: "", calls: [["weather", '{"city": "Par']] }],
  ["llama3_json", `{"name": "weather", "parameters": ${WEATHER}}`, { content: "", calls: [["weather", WEATHER]] }],
  ["llama3_json", `<|python_tag|>{"type": "function", "name": "a", "parameters": {}}; {"name": "b", "parameters": {"x": 1}}`, { content: "", calls: [["a", "{}"], ["b", '{"x": 1}']] }],
  ["llama3_json", "It is 5 {degrees}.", { content: "It is 5 {degrees}.", calls: [] }],
  ["llama3_json", '{"answer": 42} is JSON', { content: '{"answer": 42} is JSON', calls: [] }],
  ["mistral", `[TOOL_CALLS] [{"name": "weather", "arguments": ${WEATHER}}, {"name": "time", "arguments": {}}]`, { content: "", calls: [["weather", WEATHER], ["time", "{}"]] }],
  ["mistral", `[TOOL_CALLS]weather[ARGS]${WEATHER}`, { content: "", calls: [["weather", WEATHER]] }],
  ["mistral", `I look. [TOOL_CALLS]weather[CALL_ID]a1B2c3D4e[ARGS] ${WEATHER}\n[TOOL_CALLS]get.time-now[ARGS]{}`, { content: "I look. ", calls: [["weather", WEATHER], ["get.time-now", "{}"]] }],
  ["mistral", '[TOOL_CALLS]weather[ARGS]{"city": "Par', { content: "", calls: [["weather", '{"city": "Par']] }],
  ["mistral", "[TOOL_CALLS]weather is [ARGS] fine", { content: "weather is [ARGS] fine", calls: [] }],
  ["mistral", "[TOOL_CALLS]weather[ARGS", { content: "weather[ARGS", calls: [] }],
  ["mistral", "Tools [TOOLS] are [1, 2]", { content: "Tools [TOOLS] are [1, 2]", calls: [] }],
  ["list", `[{"name": "weather", "arguments": ${WEATHER}},\n{"name": "b", "arguments": {"x":[]}}]`, { content: "", calls: [["weather", WEATHER], ["b", '{"x":[]}']] }],
])("%s: %s", (form, text, expected) => {
  test("is read whole", () => {
    expect(read(form, [text])).toEqual(expected);
  });

  test("is read alike in pieces of any size", () => {
    fc.assert(
      fc.property(fc.array(fc.nat({ max: text.length }), { maxLength: 12 }), (cuts) => {
        const at = [0, ...cuts.toSorted((a, b) => a - b), text.length];
        expect(read(form, at.slice(1).map((end, i) => text.slice(at[i]!, end)))).toEqual(expected);
      }),
      { numRuns: 60 },
    );
  });
});

test("no text makes a reader throw, and text without marks passes unchanged", () => {
  const forms: readonly ToolCallForm[] = ["hermes", "llama3_json", "mistral", "list"];
  const pieces = fc.array(fc.oneof(fc.string(), fc.constantFrom("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "name[ARGS]", "[CALL_ID]", "{", "}", '"name"', ":", '"', "[", "]", ";", ",")));
  fc.assert(fc.property(fc.constantFrom(...forms), pieces, (form, texts) => void read(form, texts)), { numRuns: 500 });
  fc.assert(fc.property(fc.string().filter((text) => !/[<[{]/.test(text)), (text) => expect(read("hermes", text.split("")).content).toBe(text)));
});

test("arguments leave as they come", () => {
  const reader = new ToolCallReader("hermes");
  reader.push('<tool_call>{"name": "weather", "arguments": {"ci');
  expect(reader.push('ty": "Pa')).toEqual([{ type: "arguments", text: 'ty": "Pa', call: 0 }]);
});

test.each([
  ["{{ tools }}<tool_call>", "hermes"],
  ["{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", "mistral"],
  ["{% for t in tools %}{{ t }}{% endfor %}<|python_tag|>", "llama3_json"],
  ["{{ messages }} stools", null],
])("the template %s teaches %s", (template, form) => {
  expect(toolCallForm(template)).toBe(form as ReturnType<typeof toolCallForm>);
});
