/** The model's own way of writing a conversation as one text. */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { Environment, Interpreter, Template } from "./vendor/jinja.js";
import { InvariantError, ModelError, RequestError } from "../core/errors.ts";
import {
  isJsonObject,
  type JsonObject,
  type JsonValue,
} from "../formats/json.ts";
import { ConfigFields } from "./config-fields.ts";
import { errorName, readJsonFile } from "./read-json-file.ts";
import { formatTime } from "./format-time.ts";

export interface ChatInput {
  readonly messages: readonly object[];
  readonly tools?: readonly object[] | null;
  readonly documents?: readonly object[] | null;
  /** Ends the text where the assistant's next answer begins. */
  readonly addGenerationPrompt: boolean;
  /** Further variables of the template; they do not replace the ones above or the special tokens. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

export interface ChatTemplate {
  /** Its text; of two, the one for requests with tools. */
  readonly source: string;
  /**
   * @throws {RequestError} `invalid_request` when the template refuses the conversation or cannot write it
   */
  render(input: ChatInput): string;
}

export interface TemplateSource {
  /** For messages: file, and name where a file has several. */
  readonly name: string;
  readonly text: string;
}

const MAX_TEMPLATE_BYTES = 1024 * 1024;
const TOKENIZER_CONFIG = "tokenizer_config.json";
const CONFIG_LIMITS = { maxBytes: 64 * 1024 * 1024, maxDepth: 32 };
const SPECIAL_TOKENS = [
  "bos_token",
  "eos_token",
  "pad_token",
  "unk_token",
] as const;
/** About a second of work; a hundred messages take a few thousand steps. */
const MAX_STEPS = 1_000_000;
const MAX_RANGE = 100_000;

/**
 * The template of a model directory: `chat_template.jinja`, else the one in tokenizer_config.json, where a
 * second one named `tool_use` serves requests with tools.
 *
 * @returns `null` when the directory has none
 * @throws {ModelError} `model_invalid` naming the template that cannot be read or parsed
 */
export async function loadChatTemplate(
  directory: string,
): Promise<ChatTemplate | null> {
  const config = new ConfigFields(
    TOKENIZER_CONFIG,
    readJsonFile(directory, TOKENIZER_CONFIG, CONFIG_LIMITS) ?? {},
  );
  const variables: Record<string, string> = {};
  for (const name of SPECIAL_TOKENS) {
    const token = readSpecialToken(config, name);
    if (token !== undefined) variables[name] = token;
  }
  const file = readTemplateFile(directory, "chat_template.jinja");
  const { chat, tools } =
    file === undefined ? readConfigTemplates(config) : { chat: file };
  const plain =
    chat === undefined ? null : compileChatTemplate(chat, variables);
  const withTools =
    tools === undefined ? null : compileChatTemplate(tools, variables);
  if (plain === null || withTools === null) return plain ?? withTools;
  return {
    source: withTools.source,
    render: (input) => (isEmpty(input.tools) ? plain : withTools).render(input),
  };
}

function isEmpty(list: readonly object[] | null | undefined): boolean {
  return list === undefined || list === null || list.length === 0;
}

/** @param variables special tokens by name; one that the model lacks is left out */
export function compileChatTemplate(
  { name, text }: TemplateSource,
  variables: Readonly<Record<string, string>> = {},
): ChatTemplate {
  checkPatched();
  let template: Template;
  try {
    template = new Template(text);
  } catch (cause) {
    throw new ModelError(
      "model_invalid",
      `the chat template in ${name} cannot be parsed: ${(cause as Error).message}`,
      { field: "chat_template", cause },
    );
  }
  return { source: text, render: (input) => render(template, input, variables) };
}

function render(
  template: Template,
  input: ChatInput,
  tokens: Readonly<Record<string, string>>,
): string {
  const environment = new Environment();
  const globals: Record<string, unknown> = {
    ...input.extra,
    ...tokens,
    ...TEMPLATE_GLOBALS,
    messages: input.messages,
    tools: input.tools ?? null,
    documents: input.documents ?? null,
    add_generation_prompt: input.addGenerationPrompt,
  };
  try {
    for (const [name, value] of Object.entries(globals))
      environment.set(name, value);
    const { value } = new BoundedInterpreter(environment).run(template.parsed);
    if (typeof value !== "string") throw new Error("it does not give a text");
    return value;
  } catch (cause) {
    if (cause instanceof RequestError) throw cause;
    throw new RequestError(
      "invalid_request",
      `messages cannot be written with this model's chat template: ${(cause as Error).message}`,
      { field: "messages", cause },
    );
  }
}

const TEMPLATE_GLOBALS: Readonly<Record<string, unknown>> = {
  true: true,
  True: true,
  false: false,
  False: false,
  none: null,
  None: null,
  range: boundedRange,
  strftime_now: (format: string) => formatTime(new Date(), format),
  raise_exception: (message: string): never => {
    throw new RequestError(
      "invalid_request",
      `messages are refused by this model's chat template: ${message}`,
      { field: "messages" },
    );
  },
};

function boundedRange(first: number, end?: number, step = 1): number[] {
  const [from, to] = end === undefined ? [0, first] : [first, end];
  const length = Math.ceil((to - from) / step);
  if (!(length <= MAX_RANGE))
    throw new Error(`range must have at most ${MAX_RANGE} numbers`);
  return Array.from({ length: Math.max(0, length) }, (_, i) => from + i * step);
}

/** Stops a template that would run on and on: rendering happens on the thread that serves everybody. */
class BoundedInterpreter extends Interpreter {
  #numSteps = 0;

  override evaluate(
    ...args: EvaluateArguments
  ): ReturnType<Interpreter["evaluate"]> {
    this.onLoop(1);
    return super.evaluate(...args);
  }

  /** Called by the patched library with the length of what a loop goes over, which takes time to prepare. */
  onLoop(numItems: number): void {
    this.#numSteps += numItems;
    if (this.#numSteps > MAX_STEPS) {
      throw new Error(
        `it takes more than ${MAX_STEPS} steps; send fewer or shorter messages`,
      );
    }
  }
}

type EvaluateArguments = Parameters<Interpreter["evaluate"]>;

let isPatched = false;

/** Unpatched, the library strips, prints and compares differently from Python, and prompts change silently. */
function checkPatched(): void {
  isPatched ||=
    new Template("{{ '\n\n x '.lstrip('\n') }}{{ none }}").render() ===
    " x None";
  if (!isPatched) {
    throw new InvariantError(
      "src/model/vendor/jinja.js is not the patched engine; run scripts/vendor-jinja.ts",
    );
  }
}

function readTemplateFile(
  directory: string,
  name: string,
): TemplateSource | undefined {
  const path = join(directory, name);
  try {
    const { size } = statSync(path);
    if (size > MAX_TEMPLATE_BYTES) {
      throw new ModelError(
        "model_invalid",
        `${name} has ${size} bytes, more than the ${MAX_TEMPLATE_BYTES} allowed`,
      );
    }
    const decoder = new TextDecoder("utf-8", { fatal: true });
    return { name, text: decoder.decode(readFileSync(path)) };
  } catch (cause) {
    if (cause instanceof ModelError) throw cause;
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    const why =
      cause instanceof TypeError ? "it is not UTF-8" : errorName(cause);
    throw new ModelError("model_invalid", `${name} cannot be read (${why})`, {
      cause,
    });
  }
}

interface ConfigTemplates {
  readonly chat?: TemplateSource | undefined;
  readonly tools?: TemplateSource | undefined;
}

function readConfigTemplates(config: ConfigFields): ConfigTemplates {
  const field = "chat_template";
  const value = config.value(field);
  const name = `${field} of ${config.file}`;
  if (value === undefined) return {};
  if (typeof value === "string") return { chat: { name, text: value } };
  if (!Array.isArray(value))
    return config.invalid(field, "a string or an array of templates");
  const byName = new Map(
    (value as readonly JsonValue[]).map((entry) => {
      const { name: key, template: text } = isJsonObject(entry)
        ? entry
        : ({} as JsonObject);
      if (typeof key !== "string" || typeof text !== "string") {
        return config.invalid(
          field,
          "an array of objects with the strings name and template",
        );
      }
      return [key, { name: `${name} (${key})`, text }] as const;
    }),
  );
  return { chat: byName.get("default"), tools: byName.get("tool_use") };
}

/** A token as a string, or as an object with its content. */
function readSpecialToken(
  config: ConfigFields,
  name: string,
): string | undefined {
  const value = config.value(name);
  if (value === undefined || typeof value === "string") return value;
  const content = isJsonObject(value) ? value["content"] : undefined;
  return typeof content === "string"
    ? content
    : config.invalid(name, "a string or an object with content");
}
