import { describe, expect, setSystemTime, test } from "bun:test";
import golden from "../../models/demo/golden.json";
import { ModelError, RequestError } from "../../src/core/errors.ts";
import {
  type ChatInput,
  type ChatTemplate,
  compileChatTemplate,
  loadChatTemplate,
} from "../../src/model/chat-template.ts";
import { loadTokenizer } from "../../src/model/load-tokenizer.ts";
import { type Json, writeDirectory } from "../helpers/model-files.ts";
import { thrownBy } from "../helpers/thrown.ts";

const DEMO = `${import.meta.dir}/../../models/demo`;
const user = { role: "user", content: "Hi" };

function compile(
  text: string,
  variables: Record<string, string> = {},
): ChatTemplate {
  return compileChatTemplate({ name: "a test", text }, variables);
}

function render(text: string, input: Partial<ChatInput> = {}): string {
  return compile(text).render({
    messages: [],
    addGenerationPrompt: false,
    ...input,
  });
}

async function thrownAt(load: Promise<unknown>): Promise<unknown> {
  return load.then(
    () => new Error("the load was expected to fail"),
    (thrown: unknown) => thrown,
  );
}

test("the demo model's chat prompts have the tokens of the reference", async () => {
  const tokenizer = (await loadTokenizer(DEMO))!;
  const template = (await loadChatTemplate(DEMO))!;
  const chats = Object.values(golden)
    .flat()
    .filter(({ raw }) => !raw);
  for (const { prompt, prompt_token_ids: ids } of chats) {
    const text = template.render({
      messages: [{ role: "user", content: prompt }],
      addGenerationPrompt: true,
    });
    expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(ids);
  }
  expect(chats.length).toBeGreaterThan(0);
});

describe("the template of a directory", () => {
  const load = async (
    files: Record<string, string | Json>,
  ): Promise<ChatTemplate | null> => loadChatTemplate(writeDirectory(files));
  const input: ChatInput = { messages: [user], addGenerationPrompt: false };

  test("is chat_template.jinja before any other", async () => {
    const config = { chat_template: "config" };
    const both = {
      "chat_template.jinja": "file",
      "tokenizer_config.json": config,
    };
    expect((await load(both))!.render(input)).toBe("file");
    expect(
      (await load({ "tokenizer_config.json": config }))!.render(input),
    ).toBe("config");
  });

  test("is null when there is none", async () => {
    expect(await load({ "tokenizer_config.json": {} })).toBeNull();
    expect(
      await load({ "tokenizer_config.json": { chat_template: [] } }),
    ).toBeNull();
  });

  test("is the one for tools when a request has tools", async () => {
    const template = await load({
      "tokenizer_config.json": {
        chat_template: [
          { name: "default", template: "plain" },
          { name: "tool_use", template: "tools" },
        ],
      },
    });
    expect(template!.render(input)).toBe("plain");
    expect(template!.render({ ...input, tools: [] })).toBe("plain");
    expect(template!.render({ ...input, tools: [{ type: "function" }] })).toBe(
      "tools",
    );
  });

  test("knows the special tokens, written as strings or as objects", async () => {
    const template = await load({
      "chat_template.jinja":
        "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ unk_token is defined }}",
      "tokenizer_config.json": {
        bos_token: "<s>",
        eos_token: { content: "</s>" },
        pad_token: null,
      },
    });
    expect(template!.render(input)).toBe("<s></s>FalseFalse");
  });

  const broken: readonly (readonly [
    string,
    Record<string, string | Json>,
    RegExp,
  ])[] = [
    [
      "a file",
      { "chat_template.jinja": "{% if %}" },
      /chat_template\.jinja cannot be parsed/,
    ],
    [
      "a string",
      { "tokenizer_config.json": { chat_template: "{{ 'a" } },
      /chat_template of tokenizer_config\.json cannot be parsed/,
    ],
    [
      "one of a list",
      {
        "tokenizer_config.json": {
          chat_template: [{ name: "default", template: "{% for %}" }],
        },
      },
      /tokenizer_config\.json \(default\) cannot be parsed/,
    ],
    [
      "a number",
      { "tokenizer_config.json": { chat_template: 1 } },
      /^chat_template in tokenizer_config\.json must be a string or an array/,
    ],
    [
      "a list of strings",
      { "tokenizer_config.json": { chat_template: ["a"] } },
      /^chat_template in tokenizer_config\.json must be an array of objects/,
    ],
    [
      "a special token",
      { "tokenizer_config.json": { bos_token: 1 } },
      /^bos_token in tokenizer_config\.json must be a string/,
    ],
  ];
  test.each(broken)(
    "is refused by name when it is broken: %s",
    async (_, files, message) => {
      const thrown = await thrownAt(load(files));
      expect(thrown).toBeInstanceOf(ModelError);
      expect(thrown).toMatchObject({ errorCode: "model_invalid" });
      expect((thrown as Error).message).toMatch(message);
    },
  );

  test("is refused when its file is not UTF-8", async () => {
    const directory = writeDirectory({
      "chat_template.jinja": Uint8Array.of(0x61, 0xff),
    });
    expect(await thrownAt(loadChatTemplate(directory))).toMatchObject({
      errorCode: "model_invalid",
      message: "chat_template.jinja cannot be read (it is not UTF-8)",
    });
  });
});

/** Each line is what Python's Jinja 3.1 gives, in the settings of transformers. */
describe("templates mean what they mean in Python", () => {
  const extra = {
    n: null,
    d: { a: 1, b: "x", c: null, d: true, e: [1, "q"] },
    list: [1, "two", null, true, { k: "v" }],
    u8: "a😀b",
    q: 'it\'s "q" \\ \n',
    turns: [
      user,
      { role: "assistant", content: null, calls: [1] },
      { role: "user" },
    ],
  };
  const lines: readonly (readonly [string, string])[] = [
    ['{{ "xxabxx".strip("x") }}', "ab"],
    ['{{ "\\n\\n x ".lstrip("\\n") }}|', " x |"],
    ['{{ "ab\\n\\n".rstrip("\\n") }}|', "ab|"],
    ['{{ "xxaxx" | trim("x") }}', "a"],
    ['{{ " \u0085\ufeffx " | trim }}|', "\ufeffx|"],
    ["{{ none }} {{ n }} {{ true }} {{ undefined_name }}|", "None None True |"],
    ["{{ n | trim }}{{ undefined_name | trim }}", "None"],
    ["{{ d }}", "{'a': 1, 'b': 'x', 'c': None, 'd': True, 'e': [1, 'q']}"],
    ["{{ list | string }}", "[1, 'two', None, True, {'k': 'v'}]"],
    ["{{ [q] }}", `['it\\'s "q" \\\\ \\n']`],
    ['{{ "a" ~ n ~ undefined_name ~ true ~ 1.0 }}', "aNoneTrue1.0"],
    ['{{ list | join(",") }}', "1,two,None,True,{'k': 'v'}"],
    ["{% for x in undefined_name %}a{% else %}nothing{% endfor %}", "nothing"],
    ["{% for x in u8 %}[{{ x }}]{% endfor %}", "[a][😀][b]"],
    ["{{ u8 | length }}{{ u8[1] }}", "3😀"],
    [
      '{{ "1" == 1 }} {{ undefined_name == none }} {{ "" == 0 }}',
      "False False False",
    ],
    ["{{ [1, 2] == [1, 2] }} {{ turns[2].content == none }}", "True False"],
    ["{{ none in [1, none] }} {{ undefined_name in ['a'] }}", "True False"],
    [
      '{{ "abc" | selectattr("type", "equalto", "image") | list | length }}',
      "0",
    ],
    ['{{ turns | selectattr("role", "in", ["user"]) | list | length }}', "2"],
    ['{{ turns | rejectattr("calls", "defined") | list | length }}', "2"],
    ['{{ [" a ", "b "] | map("trim") | join("-") }}', "a-b"],
    [
      '{{ turns | map(attribute="content", default="-") | list }}',
      "['Hi', None, '-']",
    ],
    ["{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }};{% endfor %}", "12;34;"],
    [
      "{{ 1.0 | tojson }} {{ d | tojson }}",
      '1.0 {"a": 1, "b": "x", "c": null, "d": true, "e": [1, "q"]}',
    ],
    ['{{ "hELLO" | capitalize }} {{ -1 % 2 }}', "Hello 1"],
    [
      "{{ d is iterable }} {{ n is iterable }} {{ [] | first is defined }}",
      "True False False",
    ],
    [
      "{% set x = none %}{% macro m(v) %}<{{ v }}>{% endmacro %}{{ m(x) }}{# note #}",
      "<None>",
    ],
  ];
  test.each(lines)("%s", (text, expected) => {
    expect(render(text, { extra })).toBe(expected);
  });
});

describe("idioms of well-known templates", () => {
  test("Llama 3.1: tools that are none, a date, the system message taken out", () => {
    const text = `{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|system|>\\n\\n" }}{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}{{- system_message }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|' + message['role'] + '|>' + message['content'] | trim }}
    {%- endif %}
{%- endfor %}`;
    setSystemTime(new Date(2026, 6, 4, 12));
    try {
      const template = compile(text, { bos_token: "<s>" });
      const messages = [{ role: "system", content: " Be kind. " }, user];
      expect(template.render({ messages, addGenerationPrompt: false })).toBe(
        "<s><|system|>\n\nToday Date: 04 Jul 2026\n\nBe kind.<|user|>Hi",
      );
      expect(
        template.render({
          messages: [user],
          tools: [{}],
          addGenerationPrompt: false,
        }),
      ).toContain("Environment: ipython");
    } finally {
      setSystemTime();
    }
  });

  test("Qwen 2.5: a default system message, tools as JSON, the generation prompt", () => {
    const text = `{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}`;
    expect(render(text, { messages: [user], addGenerationPrompt: true })).toBe(
      "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    );
    const tools = [
      { type: "function", function: { name: "f", parameters: {} } },
    ];
    expect(render(text, { messages: [user], tools })).toStartWith(
      '<|im_start|>system\n\n{"type": "function", "function": {"name": "f", "parameters": {}}}<|im_end|>\n',
    );
  });

  test("Qwen 3: a namespace, slices from the end, and what follows a thought", () => {
    const text = `{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.last == -1 and message.role == "user" %}{%- set ns.last = index %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if '</think>' in message.content %}
        {{- message.content.split('</think>')[-1].lstrip('\\n') }}
    {%- else %}{{- message.content }}{%- endif %}{{- ';' }}
{%- endfor %}{{- ns.last }}`;
    const messages = [
      user,
      { role: "assistant", content: "hm</think>\n\n yes" },
      user,
    ];
    expect(render(text, { messages })).toBe("Hi; yes;Hi;2");
  });

  const ALTERNATING = `{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}{{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- else %}{{- message['content'] + eos_token }}{%- endif %}
{%- endfor %}`;

  test("Mistral: wrong roles are the request's fault, in the template's words", () => {
    const template = compile(ALTERNATING, { eos_token: "</s>" });
    const thrown = thrownBy(() =>
      template.render({ messages: [user, user], addGenerationPrompt: false }),
    );
    expect(thrown).toBeInstanceOf(RequestError);
    expect(thrown).toMatchObject({
      errorCode: "invalid_request",
      field: "messages",
    });
    expect((thrown as Error).message).toContain(
      "Conversation roles must alternate",
    );
    const answered = [user, { role: "assistant", content: "Yes" }];
    expect(
      template.render({ messages: answered, addGenerationPrompt: false }),
    ).toBe("[INST] Hi [/INST]Yes</s>");
  });

  test("a conversation that the template cannot write is the request's fault too", () => {
    const thrown = thrownBy(() =>
      render("{{ messages[0]['content'] + '!' }}", { messages: [{}] }),
    );
    expect(thrown).toMatchObject({
      errorCode: "invalid_request",
      field: "messages",
    });
  });
});

describe("what a template may do", () => {
  test("is bounded", () => {
    const loops =
      "{% for i in range(100000) %}".repeat(3) + "{% endfor %}".repeat(3);
    expect((thrownBy(() => render(loops)) as Error).message).toContain("steps");
    expect(
      (thrownBy(() => render("{{ range(1000000000) }}")) as Error).message,
    ).toContain("range must have at most");
    // A second of work on a machine with nothing else to do.
  }, 60_000);

  test("does not let a request replace its variables, and allows further ones", () => {
    const template = compile(
      "{{ bos_token }}{{ messages | length }}{{ enable_thinking }}",
      {
        bos_token: "<s>",
      },
    );
    const extra = { bos_token: "x", messages: [1, 2], enable_thinking: false };
    expect(
      template.render({ messages: [user], addGenerationPrompt: false, extra }),
    ).toBe("<s>1False");
  });
});
