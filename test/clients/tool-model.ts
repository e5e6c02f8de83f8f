/** The demo model with a chat template that has tools, as Hermes and Qwen write them, and the server that clients talk to. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeRuntime, type Script } from "../helpers/fake-runtime.ts";
import { DEMO, startDemo } from "../helpers/demo-server.ts";
import { startServer } from "../http/harness.ts";

const TEMPLATE = `{{- bos_token }}{%- if tools %}{{- '<|start_header_id|>system<|end_header_id|>\\n\\nTools:' }}{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}{{- '\\nCall them as <tool_call>{"name": ..., "arguments": ...}</tool_call><|eot_id|>' }}{%- endif %}
{%- for message in messages %}{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{%- if message.tool_calls %}{%- for call in message.tool_calls %}{{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}</tool_call>' }}{%- endfor %}{%- endif %}
{{- message.content | trim + '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}`;

/** A server of the real engine. */
export async function startToolDemo() {
  const directory = mkdtempSync(join(tmpdir(), "lorikeet-tools-"));
  const model = join(directory, "demo");
  symlinkAll(model);
  const server = await startDemo({ model });
  return {
    ...server,
    stop: async () => {
      await server.stop();
      rmSync(directory, { recursive: true });
    },
  };
}

function symlinkAll(model: string): void {
  mkdirSync(model);
  for (const name of readdirSync(DEMO)) if (name !== "chat_template.jinja") symlinkSync(join(DEMO, name), join(model, name));
  writeFileSync(join(model, "chat_template.jinja"), TEMPLATE);
}

/** A server whose answers are scripted, for what no small model would write by itself. */
export const startScripted = (script: Script) => startServer(new FakeRuntime({ script, template: TEMPLATE }), { headersAfterMs: 1 });

/** Calls the tool first; answers once it has the tool's result. */
export const callingOnce =
  (call: string, answer: string): Script =>
  (sequence) => {
    const prompt = new TextDecoder().decode(new Uint8Array(sequence.request.promptTokens.filter((id) => id < 256)));
    const words = (prompt.includes("tool: ") ? answer : call).split(/(?<= )/);
    const next = (): void => {
      const word = words.shift();
      if (sequence.isOver) return;
      if (word === undefined) return sequence.end("stop");
      sequence.say(word);
      setImmediate(next);
    };
    setImmediate(next);
  };

/** Never stops by itself. */
export const endless: Script = (sequence) => {
  const next = (): void => {
    if (sequence.isOver) return;
    sequence.say("on and ");
    setTimeout(next, 2);
  };
  next();
};

export const WEATHER_CALL = 'Let me look. <tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>';
