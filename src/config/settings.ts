/**
 * Every setting of a Lorikeet, once.
 *
 * A setting has three spellings: `maxBatchSize` here and in programs, `max_batch_size` in YAML, `--max-batch-size`
 * on the command line.
 */
import { clients } from "./clients.ts";
import { boolean, choice, integer, nameMap, number, type Setting, text, texts } from "./setting.ts";

const MAX = Number.MAX_SAFE_INTEGER;
const GIB = 1024 ** 3;

/** Of a server only: a program that has the library in it is refused them. */
export const SERVER_SETTINGS = {
  servedModelName: text(null, "NAME", "name of the base model in requests; the directory's name by default"),
  host: text("127.0.0.1", "HOST", "address to listen on"),
  port: integer(8000, 0, 65_535, "port to listen on, 0 for any free one"),
  allowedHost: texts("NAME", "a host name to answer to besides localhost, when there is no API key"),
  apiKey: texts("KEY", "an API key; every request must send one of them; also LORIKEET_API_KEY"),
  adminKey: texts("KEY", "a key that may load and unload adapters, and do all that an API key may; also LORIKEET_ADMIN_KEY"),
  adminHost: text(null, "HOST", "address of administration, with admin_port; 127.0.0.1 by default"),
  adminPort: integer(null, 0, 65_535, "port of its own for loading and unloading adapters and for events, which are then there only; needs an admin key"),
  clients: clients("clients with a key each, a share of the device (weight) and a quota (max_requests, requests_per_minute, tokens_per_minute)"),
  allowNoKey: boolean(false, "listen on a public address without an API key"),
  shutdownTimeoutS: integer(30, 0, 3_600, "seconds that running requests get to end after a stop signal"),
  logLevel: choice("info", ["debug", "info", "warning", "error"], "least level that is logged"),
} as const;

export const TOP_SETTINGS = {
  ...SERVER_SETTINGS,
  model: text(null, "MODEL", "the base model: a directory, OWNER/NAME[@REVISION] of a Hugging Face hub, s3://BUCKET/FOLDER or https://HOST/FOLDER"),
  sourceHost: texts("HOST", "a host that models and adapters may be downloaded from by https, as HOST, HOST:PORT or http://HOST:PORT; none besides the hub by default"),
  downloadTimeoutS: integer(21_600, 1, 604_800, "longest download of one model or adapter in seconds"),
  adapterRoot: texts("DIR", "a directory under which requests may name adapters by path; none by default"),
  adapterSource: texts("SOURCE", "a source under which the admin key may load adapters by request: hf://OWNER, hf://OWNER/NAME, s3://BUCKET/FOLDER or https://HOST/FOLDER; none by default"),
  backend: choice("auto", ["auto", "wasm", "cuda"], "what computes; auto takes cuda where a device answers and has kernels for the model"),
  dtype: choice("bfloat16", ["bfloat16", "float32", "int8", "auto"], "format of the weights in memory; auto is bfloat16"),
  threads: integer(null, 1, 1024, "compute threads; one per core by default"),
  maxBatchSize: integer(null, 1, 4096, "most sequences in one step; 64 on a CPU and 256 on a GPU by default"),
  maxNumTokens: integer(null, 1, 65_536, "most rows in one step, prompts and outputs together; 512 on a CPU and up to 8192 on a GPU by default"),
  maxSeqLen: integer(null, 2, MAX, "most tokens of one sequence; the model's own limit by default"),
  maxQueue: integer(1024, 1, 1_000_000, "most sequences that wait; more are refused with 429"),
  requestTimeoutS: integer(600, 1, 86_400, "longest life of a request in seconds"),
  disableOverlapScheduler: boolean(false, "compose a step only when the one before is over; a GPU is otherwise given the next one ahead, so that it does not wait for the host"),
} as const;

export const LORA_SETTINGS = {
  loraDir: texts("DIR", "adapters: a directory of one, a directory of many, a .nemo file, OWNER/NAME[@REVISION] of a hub, s3:// or https://, each also as name=DIR"),
  loraFetch: choice("first_use", ["first_use", "start"], "when adapters of lora_dir that are elsewhere are downloaded: when they are first asked for, or all of them before anything is served"),
  loraTargetModules: texts("NAME", "modules that adapters may change, by TensorRT-LLM's names, such as attn_q; an adapter that changes another is refused; all by default"),
  maxLoraRank: integer(64, 1, 4096, "largest rank that is served"),
  maxLoras: integer(null, 1, 100_000, "most adapters on the device at once"),
  maxCpuLoras: integer(null, 1, 1_000_000, "most adapters in host memory at once; at least max_loras"),
  loraCkptSource: choice("hf", ["hf", "nemo"], "format of the adapters; hf serves NeMo archives as well, nemo serves nothing else"),
  nemoQkvLayout: choice("auto", ["auto", "megatron", "sequential"], "order of query, key and value rows in NeMo archives; auto decides by the archive's configuration"),
  trtllmModulesToHfModules: nameMap("TensorRT-LLM's module names to those in adapters' files, where they are not the model's own"),
  swapGateUpProjLoraBWeight: boolean(true, "either value gives the same: fused gate_up adapters are read in PEFT's order, gate then up"),
} as const;

export const PEFT_CACHE_SETTINGS = {
  hostCacheSize: integer(GIB, 0, MAX, "bytes of host memory for adapters"),
  deviceCachePercent: number(null, 0, 1, "most of the free device memory that adapters take, 0 to 1; by default they share the pool with the KV cache and take what it leaves"),
  numHostModuleLayer: integer(0, 0, MAX, "rank-1 modules of one layer in host memory; above 0 it replaces host_cache_size and max_cpu_loras"),
  numDeviceModuleLayer: integer(0, 0, MAX, "the same on the device; above 0 it replaces device_cache_percent, and max_loras as a size"),
  maxAdapterSize: integer(null, 1, 4096, "largest rank in the caches, where that is below max_lora_rank"),
  optimalAdapterSize: integer(8, 1, 4096, "any value gives the same: adapters are stored whole, not in pages of one rank"),
  numPutWorkers: integer(2, 1, 64, "adapters read into host memory at once"),
  numEnsureWorkers: integer(4, 1, 64, "adapters made ready for the device ahead of a free slot"),
  numCopyStreams: integer(1, 1, 64, "any value gives the same: one adapter at a time is copied to the device, with all of the way there"),
  maxPagesPerBlockHost: integer(24, 1, MAX, "any value gives the same: host memory for adapters is not paged"),
  maxPagesPerBlockDevice: integer(8, 1, MAX, "any value gives the same: each adapter has one run of device memory"),
} as const;

export const KV_CACHE_SETTINGS = {
  maxTokens: integer(null, 1, MAX, "most positions in the KV cache; by default what memory allows and adapters leave"),
  enableBlockReuse: boolean(true, "begin sequences with what others of the same client, adapter and tokens have computed; vLLM calls it enable_prefix_caching"),
} as const;

type Values<S> = { readonly [K in keyof S]: S[K] extends Setting<infer T> ? T : never };

export type LoraSettings = Values<typeof LORA_SETTINGS>;
export type PeftCacheSettings = Values<typeof PEFT_CACHE_SETTINGS>;
export type KvCacheSettings = Values<typeof KV_CACHE_SETTINGS>;

export interface Config extends Values<typeof TOP_SETTINGS> {
  readonly loraConfig: LoraSettings;
  readonly peftCacheConfig: PeftCacheSettings;
  readonly kvCacheConfig: KvCacheSettings;
}

export const SECTIONS = {
  loraConfig: LORA_SETTINGS,
  peftCacheConfig: PEFT_CACHE_SETTINGS,
  kvCacheConfig: KV_CACHE_SETTINGS,
} as const;

export type Section = keyof typeof SECTIONS;
export type SettingTable = Readonly<Record<string, Setting<unknown>>>;

export const isServerOnly = (place: string): boolean => Object.hasOwn(SERVER_SETTINGS, place);

/** Every setting by its place: `port`, `loraConfig.maxLoraRank`. */
export const SETTINGS: ReadonlyMap<string, Setting<unknown>> = new Map<string, Setting<unknown>>([
  ...Object.entries(TOP_SETTINGS),
  ...Object.entries(SECTIONS).flatMap(([section, table]) =>
    Object.entries(table).map(([name, setting]) => [`${section}.${name}`, setting] as const),
  ),
]);

export const snakeCase = (name: string): string => name.replaceAll(/[A-Z]/g, (capital) => `_${capital.toLowerCase()}`);
export const camelCase = (name: string): string => name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
export const flagOf = (name: string): string => `--${snakeCase(name).replaceAll("_", "-")}`;
