/** The command line: arguments to one of three commands. */
import { Command, CommanderError, Option } from "commander";
import { ConfigError } from "../core/errors.ts";
import { type Given, givenEnvironment, givenFlag, type Resolved, resolveConfig } from "./resolve.ts";
import { flagOf, SETTINGS } from "./settings.ts";
import { readYaml } from "./yaml-file.ts";

/** Documented in `--help`. */
export const EXIT = { ok: 0, failed: 1, usage: 2, forced: 130 } as const;

export type CliCommand =
  | { readonly kind: "serve"; readonly resolved: Resolved }
  | { readonly kind: "generate"; readonly resolved: Resolved; readonly ask: GenerateAsk }
  /** Help or version: `text` is the answer. */
  | { readonly kind: "print"; readonly text: string };

export interface GenerateAsk {
  readonly prompt: string;
  readonly adapter: string | null;
  readonly isChat: boolean;
  readonly maxTokens: number | null;
  readonly temperature: number | null;
}

export interface CliEnvironment {
  readonly version: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Text of a file. @throws when it cannot be read */
  readonly readFile: (path: string) => string;
}

/** As commander gives them. */
type Options = Readonly<Record<string, string | boolean | readonly string[] | undefined>>;

const SERVE_FLAGS = [
  "servedModelName", "host", "port", "allowedHost", "apiKey", "allowNoKey", "adapterRoot", "loraConfig.loraDir",
  "loraConfig.maxLoraRank", "loraConfig.maxLoras", "loraConfig.maxCpuLoras", "backend", "dtype", "threads",
  "maxBatchSize", "maxNumTokens", "maxSeqLen", "maxQueue", "requestTimeoutS", "shutdownTimeoutS", "logLevel",
] as const;
const GENERATE_FLAGS = ["loraConfig.loraDir", "backend", "dtype", "threads", "maxSeqLen"] as const;

/**
 * @param argv arguments after the program's own name
 * @throws {ConfigError} `config_invalid` for anything that is wrong with them
 */
export function parseCommandLine(argv: readonly string[], environment: CliEnvironment): CliCommand {
  let printed = "";
  let parsed: CliCommand | null = null;
  const program = new Command("lorikeet")
    .description("Serves one base language model with any number of LoRA adapters.")
    .version(environment.version, "--version", "print the version")
    .addHelpText("after", `\nExit codes: ${EXIT.ok} done, ${EXIT.failed} failed, ${EXIT.usage} wrong arguments, ${EXIT.forced} stopped by a second signal.`);

  const serve = program
    .command("serve")
    .description("serve a model and its adapters over HTTP")
    .argument("[model]", "directory of the base model", undefined)
    .option("--config <FILE>", "YAML file of settings; its values win over flags")
    .action((model: string | undefined, options: Options) => {
      parsed = { kind: "serve", resolved: resolve(model, options, SERVE_FLAGS, environment) };
    });
  addFlags(serve, SERVE_FLAGS, "several");

  const generate = program
    .command("generate")
    .description("answer one prompt on standard output")
    .argument("<model>", "directory of the base model")
    .argument("<prompt>", "text to continue, or with --chat the user's message")
    .option("--lora <NAME>", "adapter to answer with")
    .option("--chat", "put the prompt into the model's chat template")
    .option("--max-tokens <NUMBER>", "most tokens of the answer", "256")
    .option("--temperature <NUMBER>", "0 for the most likely tokens", "0")
    .option("--config <FILE>", "YAML file of settings; its values win over flags")
    .action((model: string, prompt: string, options: Options) => {
      const resolved = resolve(model, options, GENERATE_FLAGS, environment);
      parsed = { kind: "generate", resolved, ask: askOf(prompt, options) };
    });
  addFlags(generate, GENERATE_FLAGS, "one");

  for (const command of [program, serve, generate]) {
    command.exitOverride().configureOutput({ writeOut: (text) => (printed += text), writeErr: () => undefined });
  }
  try {
    program.parse([...argv], { from: "user" });
  } catch (thrown) {
    if (!(thrown instanceof CommanderError)) throw thrown;
    if (thrown.exitCode !== 0) throw usageError(thrown, program);
  }
  return parsed ?? { kind: "print", text: printed };
}

/** @param perFlag how many values a list's flag takes at once; a prompt behind a greedy one would be swallowed */
function addFlags(command: Command, places: readonly string[], perFlag: "one" | "several"): void {
  for (const place of places) {
    const { default: fallback, placeholder, doc } = SETTINGS.get(place)!;
    const flag = flagOf(place.split(".").at(-1)!);
    const isList = Array.isArray(fallback);
    const isShown = typeof fallback === "string" || typeof fallback === "number";
    const shownDefault = isShown ? ` (default ${fallback})` : "";
    const value = isList && perFlag === "several" ? `${placeholder}...` : placeholder;
    const option = new Option(placeholder === "" ? flag : `${flag} <${value}>`, doc + shownDefault);
    if (isList && perFlag === "one") option.argParser((each: string, earlier?: string[]) => [...(earlier ?? []), each]);
    command.addOption(option);
  }
}

function resolve(
  model: string | undefined,
  options: Options,
  places: readonly string[],
  { env, readFile }: CliEnvironment,
): Resolved {
  const flags = places.flatMap((place): Given[] => {
    const value = options[place.split(".").at(-1)!];
    if (value === undefined) return [];
    return [givenFlag(place, typeof value === "object" ? value : [String(value)])];
  });
  const named: Given[] = model === undefined ? [] : [{ setting: "model", value: model, source: "the argument MODEL" }];
  const config = options["config"];
  const file = typeof config === "string" ? readYaml(textOf(config, readFile), config) : [];
  return resolveConfig(givenEnvironment(env), named, flags, file);
}

function textOf(path: string, readFile: CliEnvironment["readFile"]): string {
  try {
    return readFile(path);
  } catch (cause) {
    throw new ConfigError("config_invalid", `--config ${path} cannot be read; give the path of a YAML file`, { field: "--config", cause });
  }
}

function askOf(prompt: string, options: Options): GenerateAsk {
  return {
    prompt,
    adapter: typeof options["lora"] === "string" ? options["lora"] : null,
    isChat: options["chat"] === true,
    maxTokens: numberOf("--max-tokens", options["maxTokens"]),
    temperature: numberOf("--temperature", options["temperature"]),
  };
}

function numberOf(flag: string, given: Options[string]): number {
  const text = String(given);
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value)) return value;
  throw new ConfigError("config_invalid", `${flag} must be a number, got ${JSON.stringify(text)}`, { field: flag });
}

/** Commander's own sentences are good; only the prefix and the line break are not ours. */
function usageError({ code, message }: CommanderError, program: Command): ConfigError {
  if (code === "commander.help") return new ConfigError("config_invalid", `name a command: ${program.commands.map((each) => each.name()).join(" or ")}`);
  const [sentence = "", hint = ""] = message.replace(/^error: /, "").split("\n");
  return new ConfigError("config_invalid", `${sentence}${hint === "" ? "" : ` ${hint}`}; see lorikeet --help`);
}
