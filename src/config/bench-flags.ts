/** The `bench` commands: trtllm-bench's options by its names, and those of our own. */
import { type Command, Option } from "commander";
import { ConfigError } from "../core/errors.ts";
import { parseFlag } from "./resolve.ts";
import { choice, integer, number, type Setting, text, texts } from "./setting.ts";
import { flagOf } from "./settings.ts";

const MAX = Number.MAX_SAFE_INTEGER;

const LOAD = {
  dataset: text(null, "FILE", "requests, one JSON object a line, as prepare-dataset writes them"),
  workload: text(null, "NAME", "requests of a named workload; lorikeet bench workloads lists them"),
  numRequests: integer(0, 0, MAX, "requests to send, 0 for all of the data set or the workload's own number"),
  concurrency: text("-1", "LIST", "requests under way at most; -1 for no limit; several, as 1,4,16, are measured one after the other"),
  numAdapters: text(null, "LIST", "how many of the adapters a workload uses; several, as 0,1,8, are measured one after the other"),
  popularity: text(null, "KIND", "uniform, zipf:EXPONENT, power:ALPHA, round-robin or punica-distinct, -uniform, -skewed, -identical"),
  duration: number(null, 0.1, 86_400, "seconds of a workload's arrivals"),
  lengthScale: number(1, 0.001, 1000, "factor on a workload's lengths, for models of short context"),
  randomSeed: integer(420, 0, 2 ** 32, "the same seed sends the same requests at the same times"),
  warmup: integer(2, 0, 10_000, "requests before the clock starts"),
  reportJson: text(null, "FILE", "write the report as JSON"),
  outputJson: text(null, "FILE", "write the answers' texts by request"),
  requestJson: text(null, "FILE", "write one record per request"),
  plot: text(null, "FILE", "draw latency against load, throughput against adapters and a timeline; .svg or .html"),
} as const;

const SERVE = {
  baseUrl: text("http://127.0.0.1:8000", "URL", "the server, up to and without /v1"),
  apiKey: texts("KEY", "an API key, also LORIKEET_API_KEY; with several, adapter i is asked for with key i modulo their number"),
  loraModules: texts("NAME", "an adapter to ask for as a model; all that the server lists by default"),
  requestRate: text(null, "LIST", "mean requests per second, inf for all at once; several, as 1,2,4, are measured one after the other"),
  burstiness: number(1, 0, 100, "deviation of the gaps over their mean: 1 for Poisson arrivals, more for gamma arrivals in bursts"),
  endpoint: choice("completions", ["completions", "chat"], "chat sends texts as a user's message"),
  vocabSize: integer(4096, 2, MAX, "ids of a workload's prompts lie below it"),
} as const;

const PREPARE = {
  output: text("preprocessed_dataset.json", "FILE", "where the rows go"),
  randomSeed: LOAD.randomSeed,
  taskId: integer(-1, -1, MAX, "adapter of every row; -1 for none"),
  loraDir: text(null, "DIR", "directory of adapters whose names are their numbers"),
  popularity: text("uniform", "KIND", `which adapter of --rand-task-id: ${LOAD.popularity.doc}`),
} as const;

const NORMAL = {
  numRequests: integer(null, 1, MAX, "rows"),
  inputMean: integer(null, 1, MAX, "mean tokens of a prompt"),
  inputStdev: number(null, 0, MAX, "their deviation"),
  outputMean: integer(null, 1, MAX, "mean tokens of an answer"),
  outputStdev: number(null, 0, MAX, "their deviation"),
} as const;

const UNIFORM = {
  numRequests: NORMAL.numRequests,
  inputMin: integer(null, 1, MAX, "least tokens of a prompt"),
  inputMax: integer(null, 1, MAX, "most tokens of a prompt"),
  outputMin: integer(null, 1, MAX, "least tokens of an answer"),
  outputMax: integer(null, 1, MAX, "most tokens of an answer"),
} as const;

const REAL = {
  datasetName: text(null, "FILE", "records as JSON: a list, one object a line, or an object with a list in data or rows"),
  datasetInputKey: text(null, "FIELD", "field with the prompt"),
  datasetPromptKey: text(null, "FIELD", "field whose text goes before it"),
  datasetPrompt: text(null, "TEXT", "text that goes before every prompt"),
  datasetOutputKey: text(null, "FIELD", "field whose text is as long as the answer shall be"),
  outputLenDist: text(null, "MEAN,STDEV", "length of the answers instead"),
  numRequests: integer(MAX, 1, MAX, "most rows"),
  maxInputLen: integer(null, 1, MAX, "longer prompts are left out"),
} as const;

type Table = Readonly<Record<string, Setting<unknown>>>;
type Values<S> = { readonly [K in keyof S]: S[K] extends Setting<infer T> ? T : never };

export type LoadFlags = Values<typeof LOAD>;
export type ServeFlags = Values<typeof SERVE>;
export type PrepareFlags = Values<typeof PREPARE> & { readonly randTaskId: readonly [number, number] | null };

export type BenchAsk =
  | ({ readonly mode: "throughput" | "latency" } & LoadFlags)
  | ({ readonly mode: "serve"; readonly model: string | null } & LoadFlags & ServeFlags)
  | { readonly mode: "workloads" }
  | ({ readonly mode: "token-norm-dist" } & PrepareFlags & Required<Values<typeof NORMAL>>)
  | ({ readonly mode: "token-unif-dist" } & PrepareFlags & Values<typeof UNIFORM>)
  | ({ readonly mode: "real-dataset" } & PrepareFlags & Values<typeof REAL>);

/** As commander gives them. */
export type Options = Readonly<Record<string, string | boolean | readonly string[] | undefined>>;

/**
 * @param onAsk hears what was asked, the options of the model, and the model's name or `undefined`
 * @param addSettings adds the flags of the runtime's own settings
 * @returns every command, for whoever configures them all
 */
export function addBench(program: Command, addSettings: (command: Command) => void, onAsk: (ask: BenchAsk, options: Options) => void): Command[] {
  const bench = program
    .command("bench")
    .description("measure throughput and latency, here or of any OpenAI-compatible server")
    .option("-m, --model <MODEL>", "the base model, as for serve; of bench serve its name there")
    .configureHelp({ showGlobalOptions: true });
  const help = { showGlobalOptions: true };

  const local = (["throughput", "latency"] as const).map((mode) => {
    const about = mode === "throughput" ? "send as much as --concurrency allows to a model in this process" : "send one request at a time to a model in this process";
    const command = bench.command(mode).description(about).configureHelp(help).option("--config <FILE>", "YAML file of settings; its values win over flags");
    command.option("--model-path <DIR>", "the base model, where --model is only its name").option("--streaming", "answers always come in pieces, so this changes nothing");
    addTable(command, LOAD, mode === "latency" ? ["concurrency"] : []);
    if (mode === "latency") command.addOption(new Option("--concurrency <1>").hideHelp().argParser(onlyOne));
    addSettings(command);
    return command.action((_: Options, self: Command) => onAsk({ mode, ...read(LOAD, self.opts()) }, self.optsWithGlobals()));
  });

  const serve = bench.command("serve").description("send requests over HTTP, at given times or as earlier ones end").configureHelp(help);
  addTable(serve, { ...LOAD, ...SERVE });
  serve.action((_: Options, self: Command) => {
    const all: Options = self.optsWithGlobals();
    const model = typeof all["model"] === "string" ? all["model"] : null;
    onAsk({ mode: "serve", model, ...read(LOAD, all), ...read(SERVE, all) }, {});
  });

  const build = bench.command("build", { hidden: true }).allowUnknownOption().allowExcessArguments().action(() => {
    throw wrong("build", `is a command of trtllm-bench that is known, not supported: ${NOT_SERVED["engine-dir"]}`);
  });

  const workloads = bench.command("workloads").description("list the named workloads and where they come from").action(() => onAsk({ mode: "workloads" }, {}));

  const prepare = bench.command("prepare-dataset").description("write a data set for --dataset").configureHelp(help);
  addTable(prepare, PREPARE);
  prepare.addOption(new Option("--rand-task-id <MIN,MAX>", "a random adapter of these for every row, both ends included; as two arguments, too"));
  const kinds = ([["token-norm-dist", NORMAL, "lengths normally distributed"], ["token-unif-dist", UNIFORM, "lengths uniformly distributed"], ["real-dataset", REAL, "prompts of a file"]] as const).map(([mode, table, about]) => {
    const command = prepare.command(mode).description(about).configureHelp(help);
    addTable(command, table);
    return command.action((_: Options, self: Command) => {
      const all: Options = self.optsWithGlobals();
      const given: Options = prepare.opts();
      const shared = { ...read(PREPARE, given), randTaskId: randTaskId(given["randTaskId"] as string | undefined) };
      const values = read(table, self.opts());
      if (mode !== "real-dataset") for (const [name, value] of Object.entries(values)) if (value === null) throw wrong(flagOf(name), "must be given");
      onAsk({ mode, ...shared, ...values } as BenchAsk, all);
    });
  });
  return [bench, ...local, serve, build, workloads, prepare, ...kinds];
}

function onlyOne(given: string): string {
  if (given === "1") return given;
  throw wrong("--concurrency", `of bench latency can only be 1, got "${given}"; lorikeet bench throughput sends more at once`);
}

function addTable(command: Command, table: Table, without: readonly string[] = []): void {
  for (const [name, { default: fallback, placeholder, doc }] of Object.entries(table)) {
    if (without.includes(name)) continue;
    const isShown = (typeof fallback === "string" || typeof fallback === "number") && fallback !== MAX;
    const option = new Option(`${flagOf(name)} <${placeholder}>`, `${doc}${isShown ? ` (default ${fallback})` : Array.isArray(fallback) ? " (repeatable)" : ""}`);
    if (Array.isArray(fallback)) option.argParser((each: string, earlier?: string[]) => [...(earlier ?? []), each]);
    command.addOption(option);
  }
}

function read<T extends Table>(table: T, options: Options): Values<T> {
  const entries = Object.entries(table).map(([name, setting]) => {
    const given = options[name];
    return [name, given === undefined ? setting.default : parseFlag(flagOf(name), setting, typeof given === "object" ? given : [String(given)])];
  });
  return Object.fromEntries(entries) as Values<T>;
}

function randTaskId(given: string | undefined): readonly [number, number] | null {
  if (given === undefined) return null;
  const [least = NaN, most = NaN, ...rest] = given.split(",").map((each) => (/^\d+$/.test(each) ? Number(each) : NaN));
  if (rest.length === 0 && least <= most && Number.isSafeInteger(most)) return [least, most];
  throw wrong("--rand-task-id", `must be two whole numbers from 0 up, the smaller one first, got "${given}"`);
}

const ONE = "one process serves one whole model; leave it out";
/** Options that only trtllm-bench has. */
export const NOT_SERVED: Readonly<Record<string, string>> = {
  tp: ONE, pp: ONE, ep: ONE, "cluster-size": ONE,
  "engine-dir": "there are no engines to build; name a model with --model",
  "beam-width": "beam search is not served",
  modality: "prompts are text", "image-data-format": "prompts are text", "data-device": "prompts are text",
  "medusa-choices": "there is no speculative decoding",
  "kv-cache-free-gpu-mem-fraction": "set kv_cache_config.max_tokens with --config",
  "sampler-options": "answers are greedy and as long as the data set says",
  "eos-id": "end tokens never shorten an answer of a bench",
  "no-skip-tokenizer-init": "the tokenizer is read from the model's directory", "custom-module-dirs": "no code is ever run from a model's directory",
  "max-input-len": "set --max-seq-len instead",
  "iteration-log": "--report-json has steps and their time, --plot their course",
  "enable-chunked-context": "prompts are always computed in chunks", "disable-chunked-context": "prompts are always computed in chunks",
  "scheduler-policy": "the engine decides this itself",
  "target-input-len": "there is no engine to tune", "target-output-len": "there is no engine to tune",
  "dataset-config-name": "export the split to a file and name it with --dataset-name", "dataset-split": "export the split to a file and name it with --dataset-name",
  "trust-remote-code": "no code is ever run from a model's directory", "log-level": "a bench has no log", workspace: "nothing is kept between runs",
  stdout: "write to a file with --output", tokenizer: "the tokenizer is read from the model's directory", revision: "write it behind the model's name: OWNER/NAME@REVISION",
};

/**
 * trtllm-bench's spelling to this one's: snake case is kebab case, some names are others.
 *
 * @throws {ConfigError} `config_invalid` for an option of trtllm-bench that is not served, with the reason
 */
export function benchArguments(argv: readonly string[]): readonly string[] {
  if (argv[0] !== "bench") return argv;
  return withPairs(argv).map((each) => {
    if (each === "-w") throw wrong("-w", `is an option of trtllm-bench that is known, not supported: ${NOT_SERVED["workspace"]}`);
    const [, name, rest = ""] = /^--([a-z][a-z_-]*)(=[\s\S]*)?$/.exec(each) ?? [];
    if (name === undefined) return each;
    const kebab = name.replaceAll("_", "-");
    const reason = Object.hasOwn(NOT_SERVED, kebab) && !(kebab === "max-input-len" && argv.includes("real-dataset")) ? NOT_SERVED[kebab] : undefined;
    if (reason !== undefined) throw wrong(`--${name}`, `is an option of trtllm-bench that is known, not supported: ${reason}`);
    return `--${kebab === "extra-llm-api-options" ? "config" : kebab}${rest}`;
  });
}

/** The one option of trtllm-bench that takes two arguments, as one. */
function withPairs(argv: readonly string[]): readonly string[] {
  const at = argv.findIndex((each) => each === "--rand-task-id" || each === "--rand_task_id");
  const [least, most] = argv.slice(at + 1, at + 3);
  if (at < 0 || !/^\d+$/.test(least ?? "") || !/^\d+$/.test(most ?? "")) return argv;
  return [...argv.slice(0, at + 1), `${least},${most}`, ...argv.slice(at + 3)];
}

const wrong = (field: string, problem: string): ConfigError => new ConfigError("config_invalid", `${field} ${problem}`, { field });
