/** The command line: arguments to a command. */
import { join } from "node:path";
import { Command, CommanderError, Option } from "commander";
import { ConfigError } from "../core/errors.ts";
import { addBench, type BenchAsk, benchArguments, type Options } from "./bench-flags.ts";
import { type Given, givenEnvironment, givenFlag, parseFlag, type Resolved, resolveConfig } from "./resolve.ts";
import { integer, number } from "./setting.ts";
import { flagOf, SETTINGS } from "./settings.ts";
import { ownArguments } from "./trtllm-arguments.ts";
import { readYaml } from "./yaml-file.ts";

/** Documented in `--help`. */
export const EXIT = { ok: 0, failed: 1, usage: 2, forced: 130 } as const;

export type CliCommand =
  | { readonly kind: "serve"; readonly resolved: Resolved }
  | { readonly kind: "generate"; readonly resolved: Resolved; readonly ask: GenerateAsk }
  | { readonly kind: "inspect"; readonly resolved: Resolved; readonly ask: InspectAsk }
  | { readonly kind: "bench"; readonly resolved: Resolved; readonly ask: BenchAsk }
  /** Help or version: `text` is the answer. */
  | { readonly kind: "print"; readonly text: string };

export interface GenerateAsk {
  readonly prompt: string;
  readonly adapter: string | null;
  /** Continue the prompt as it is, also where the model has a chat template. */
  readonly isRaw: boolean;
  readonly maxTokens: number;
  readonly temperature: number;
  /** Tell on standard error what answers: model, backend, adapter and its load report. */
  readonly isVerbose: boolean;
}

export interface InspectAsk {
  /** Of the adapter: its directory or archive. */
  readonly path: string;
  readonly isJson: boolean;
}

export interface CliEnvironment {
  readonly version: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Text of a file. @throws when it cannot be read */
  readonly readFile: (path: string) => string;
  /** Directory of the demo model, which has its adapters in `adapters`; asked for where nothing else is named. */
  readonly demo: () => string;
}

const SERVE_FLAGS = [
  "servedModelName", "sourceHost", "downloadTimeoutS", "host", "port", "allowedHost", "apiKey", "adminKey", "adminHost", "adminPort", "allowNoKey", "adapterRoot", "adapterSource", "loraConfig.loraDir", "loraConfig.loraFetch",
  "loraConfig.maxLoraRank", "loraConfig.maxLoras", "loraConfig.maxCpuLoras", "backend", "dtype", "threads",
  "maxBatchSize", "maxNumTokens", "maxSeqLen", "maxQueue", "requestTimeoutS", "disableOverlapScheduler", "kvCacheConfig.enableBlockReuse", "shutdownTimeoutS", "logLevel",
] as const;
/** How one prompt is answered. */
const MAX_TOKENS = integer(256, 1, Number.MAX_SAFE_INTEGER, "most tokens of the answer");
const TEMPERATURE = number(0, 0, 1e6, "0 for the most likely tokens");
const INSPECT_FLAGS = ["sourceHost", "backend", "loraConfig.maxLoraRank"] as const;
const GENERATE_FLAGS = ["loraConfig.loraDir", "sourceHost", "backend", "dtype", "threads", "maxSeqLen"] as const;
const BENCH_FLAGS = [
  ...GENERATE_FLAGS, "downloadTimeoutS", "loraConfig.maxLoraRank", "loraConfig.maxLoras", "loraConfig.maxCpuLoras", "maxBatchSize", "maxNumTokens", "maxQueue",
  "disableOverlapScheduler", "kvCacheConfig.enableBlockReuse",
] as const;

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
    .description("serve a model and its adapters over HTTP; the demo with its adapters when neither MODEL nor --config is given")
    .argument("[model]", "the base model: a directory, or OWNER/NAME[@REVISION] of a Hugging Face hub, s3://, https://")
    .option("--config <FILE>", "YAML file of settings; its values win over flags")
    .action((model: string | undefined, options: Options) => {
      const isDemo = model === undefined && options["config"] === undefined;
      const unnamed = isDemo ? demoSettings(environment.demo()) : [];
      parsed = { kind: "serve", resolved: resolve(model, options, SERVE_FLAGS, environment, unnamed) };
    });
  addFlags(serve, SERVE_FLAGS);

  const generate = program
    .command("generate")
    .description("answer one prompt on standard output")
    .argument("<model>", "the base model: a directory, or OWNER/NAME[@REVISION] of a Hugging Face hub, s3://, https://")
    .argument("<prompt>", "a user's message where the model has a chat template, text to continue otherwise")
    .option("--lora <NAME>", "adapter to answer with: a name in --lora-dir, or the adapter's own directory or .nemo file")
    .option("--raw", "continue the prompt as it is, without the model's chat template")
    .option("--max-tokens <NUMBER>", MAX_TOKENS.doc, String(MAX_TOKENS.default))
    .option("--temperature <NUMBER>", TEMPERATURE.doc, String(TEMPERATURE.default))
    .option("--verbose", "tell on standard error what answers: backend, adapter, digest and load report")
    .option("--config <FILE>", "YAML file of settings; its values win over flags")
    .action((model: string, prompt: string, options: Options) => {
      const resolved = resolve(model, options, GENERATE_FLAGS, environment);
      parsed = { kind: "generate", resolved, ask: askOf(prompt, options) };
    });
  addFlags(generate, GENERATE_FLAGS);

  const adapters = program.command("adapters").description("look at adapters without serving them");
  const inspect = adapters
    .command("inspect")
    .description(`tell what an adapter's files hold and, with --model, what they would do on that base; exit code ${EXIT.failed} where they cannot be served`)
    .argument("<path>", "directory of an adapter, a .nemo file, or a source as for --lora-dir")
    .option("--model <MODEL>", "the base model, as for serve")
    .option("--json", "as one JSON object")
    .option("--config <FILE>", "YAML file of settings; its values win over flags")
    .action((path: string, options: Options) => {
      const model = options["model"];
      const resolved = resolve(typeof model === "string" ? model : undefined, options, INSPECT_FLAGS, environment);
      parsed = { kind: "inspect", resolved, ask: { path, isJson: options["json"] === true } };
    });
  addFlags(inspect, INSPECT_FLAGS);

  const benches = addBench(program, (command) => addFlags(command, BENCH_FLAGS), (ask, options) => {
    const model = options["modelPath"] ?? options["model"];
    parsed = { kind: "bench", resolved: resolve(typeof model === "string" ? model : undefined, options, BENCH_FLAGS, environment, MEASURED), ask };
  });

  for (const command of [program, serve, generate, adapters, inspect, ...benches]) {
    command.exitOverride().configureOutput({ writeOut: (text) => (printed += text), writeErr: () => undefined });
  }
  try {
    const flags = new Set([serve, generate, inspect, ...benches].flatMap((command) => command.options.map(({ long }) => long)));
    program.parse(ownArguments(benchArguments(argv), (flag) => flags.has(flag)), { from: "user" });
  } catch (thrown) {
    if (!(thrown instanceof CommanderError)) throw thrown;
    if (thrown.exitCode !== 0) throw usageError(thrown, program);
  }
  return parsed ?? { kind: "print", text: printed };
}

/** A list's flag takes one value and is repeated: one that took several would swallow the arguments behind it. */
function addFlags(command: Command, places: readonly string[]): void {
  for (const place of places) {
    const { default: fallback, placeholder, doc } = SETTINGS.get(place)!;
    const flag = flagOf(place.split(".").at(-1)!);
    const isList = Array.isArray(fallback);
    const isShown = typeof fallback === "string" || typeof fallback === "number" || fallback === true;
    const note = isShown ? ` (default ${fallback})` : isList ? " (repeatable)" : "";
    const option = new Option(placeholder === "" ? flag : `${flag} <${placeholder}>`, doc + note);
    if (isList) option.argParser((each: string, earlier?: string[]) => [...(earlier ?? []), each]);
    command.addOption(option);
  }
}

/**
 * A bench computes every prompt, as trtllm-bench does: a repeated run would otherwise measure the first one's leavings. Nor does it
 * measure a network.
 */
const MEASURED: readonly Given[] = [
  { setting: "kvCacheConfig.enableBlockReuse", value: false, source: "the bench" },
  { setting: "loraConfig.loraFetch", value: "start", source: "the bench" },
];

/** What is served when nobody names anything. */
const demoSettings = (directory: string): Given[] => [
  { setting: "model", value: directory, source: "the demo" },
  { setting: "loraConfig.loraDir", value: [join(directory, "adapters")], source: "the demo" },
];

/** @param unnamed settings that count where no flag sets them */
function resolve(
  model: string | undefined,
  options: Options,
  places: readonly string[],
  { env, readFile }: CliEnvironment,
  unnamed: readonly Given[] = [],
): Resolved {
  const flags = places.flatMap((place): Given[] => {
    const value = options[place.split(".").at(-1)!];
    if (value === undefined) return [];
    return [givenFlag(place, typeof value === "object" ? value : [String(value)])];
  });
  const named: Given[] = model === undefined ? [] : [{ setting: "model", value: model, source: "the argument MODEL" }];
  const config = options["config"];
  const file = typeof config === "string" ? readYaml(textOf(config, readFile), config) : [];
  const fallbacks = unnamed.filter(({ setting }) => flags.every((flag) => flag.setting !== setting));
  return resolveConfig(fallbacks, givenEnvironment(env), named, flags, file);
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
    isRaw: options["raw"] === true,
    isVerbose: options["verbose"] === true,
    maxTokens: parseFlag("--max-tokens", MAX_TOKENS, [String(options["maxTokens"])]),
    temperature: parseFlag("--temperature", TEMPERATURE, [String(options["temperature"])]),
  };
}

const commandNames = (command: Command): string[] =>
  command.commands.length === 0 ? [command.name()] : shown(command).map((each) => `${command.name()} ${each.name()}`);

/** Without those that are only there to be refused with a reason. */
const shown = (command: Command): Command[] => command.createHelp().visibleCommands(command).filter((each) => each.name() !== "help");

/** Commander's own sentences are good; only the prefix and the line break are not ours. */
function usageError({ code, message }: CommanderError, program: Command): ConfigError {
  if (code === "commander.help") return new ConfigError("config_invalid", `name a command: ${program.commands.flatMap(commandNames).join(", ")}`);
  const [sentence = "", hint = code === "commander.excessArguments" ? "A flag with several values is repeated" : ""] = message
    .replace(/^error: /, "")
    .split("\n");
  return new ConfigError("config_invalid", `${sentence}${hint === "" ? "" : ` ${hint}`}; see lorikeet --help`);
}
