/**
 * Writes docs/adapter-forms.md: every adapter that the tests have and what becomes of it, found by looking, not by a list.
 *
 * A fixture that is added appears by itself; a test compares the file with what this writes.
 */
import { Glob } from "bun";
import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { ADAPTER_FORMS as CUDA_FORMS } from "../src/backend/cuda/cuda-backend.ts";
import { lowerProgram } from "../src/backend/cuda/lower-program.ts";
import { ADAPTER_FORMS } from "../src/backend/wasm/wasm-backend.ts";
import { LorikeetError } from "../src/core/errors.ts";
import { isJsonObject, type JsonObject } from "../src/formats/json.ts";
import { checkForms } from "../src/lora/adapter-forms.ts";
import { inspectAdapter, type Inspection } from "../src/lora/inspect-adapter.ts";
import { readAdapter } from "../src/lora/read-adapter.ts";
import { buildDecoderProgram } from "../src/model/decoder-program.ts";
import { readModelConfig } from "../src/model/model-config.ts";
import { FIXTURE_CASES } from "../test/helpers/fixture-cases.ts";
import { REPOSITORY } from "../test/helpers/repository.ts";

export interface Row {
  readonly form: string;
  readonly file: string;
  readonly wasm: string;
  readonly cuda: string;
  /** `FILE: TITLE`; `null` where no test has it. */
  readonly test: string | null;
}

const DEMO = "models/demo";
const BACKENDS = { wasm: ADAPTER_FORMS, cuda: CUDA_FORMS } as const;

/** Directories of PEFT's and NeMo's archives, relative to the repository. */
async function adapters(): Promise<string[]> {
  const found: string[] = [];
  for (const folder of ["test/fixtures", `${DEMO}/adapters`]) {
    for await (const name of new Glob("**/{adapter_config.json,*.nemo}").scan(join(REPOSITORY, folder))) {
      const path = join(folder, name);
      found.push(path.endsWith(".json") ? dirname(path) : path);
    }
  }
  return found.sort();
}

export async function rows(): Promise<Row[]> {
  const tests = await testSources();
  return Promise.all(
    (await adapters()).map(async (file): Promise<Row> => {
      const path = join(REPOSITORY, file);
      const inspection = await inspectAdapter(path);
      const outcome = async (backend: keyof typeof BACKENDS): Promise<string> => outcomeOf(path, baseOf(file, inspection), backend);
      return { form: formOf(inspection), file, wasm: await outcome("wasm"), cuda: await outcome("cuda"), test: testOf(file, tests) };
    }),
  );
}

async function outcomeOf(path: string, base: string | null, backend: keyof typeof BACKENDS): Promise<string> {
  try {
    if (base === null) return "no base";
    const program = buildDecoderProgram(readModelConfig(base));
    // Throws for a base that the engine has no kernels for.
    if (backend === "cuda") lowerProgram(program);
    checkForms(await readAdapter(path, program), { name: backend, adapterForms: BACKENDS[backend] });
    return "served";
  } catch (thrown) {
    if (!(thrown instanceof LorikeetError)) throw thrown;
    return `refused: ${thrown.message}`;
  }
}

/** As the reference that comes with the adapter says, or else as its configuration does. */
function baseOf(file: string, { config }: Inspection): string | null {
  if (file.startsWith(DEMO)) return join(REPOSITORY, DEMO);
  const name = basename(file, ".nemo");
  const stated = config["base_model_name_or_path"];
  const names: string[] = typeof stated === "string" ? [stated] : [];
  for (let folder = dirname(join(REPOSITORY, file)); folder.length > join(REPOSITORY, "test").length; folder = dirname(folder)) {
    for (const golden of new Glob("golden*.json").scanSync(folder)) {
      const entry = (JSON.parse(readFileSync(join(folder, golden), "utf8")) as Record<string, { readonly base?: string; readonly adapter?: string }>);
      for (const [key, { base, adapter = key }] of Object.entries(entry)) if (adapter === name && base !== undefined) names.unshift(base);
    }
    const there = names.map((each) => join(folder, each)).find((each) => existsSync(join(each, "config.json")));
    if (there !== undefined) return there;
  }
  return null;
}

/** Fields that every adapter has, or that say nothing of its form. */
const USUAL = new Set([
  "peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "r", "lora_alpha", "lora_dropout",
  "megatron_core", "qalora_group_size", "target_modules", "init_lora_weights", "bias",
]);

const LINEAR = new Set(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"]);

function formOf({ format, config, files }: Inspection): string {
  const containers = [...new Set(files.flatMap(({ container }) => container ?? []))].join(", ");
  const parts = format === "nemo" ? nemoParts(config) : peftParts(config);
  return `${format === "nemo" ? "NeMo" : "PEFT"}, ${containers}: ${parts.length === 0 ? "plain LoRA" : parts.join(", ")}`;
}

function peftParts(config: JsonObject): string[] {
  const { bias, init_lora_weights: initial, target_modules: targets } = config;
  const unusual = Array.isArray(targets) ? targets.map((name) => String(name).split(".").at(-1)!).filter((name) => !LINEAR.has(name)) : [];
  return [
    ...Object.keys(config).filter((field) => !USUAL.has(field)),
    ...(typeof bias === "string" && bias !== "none" ? [`bias ${bias}`] : []),
    ...(typeof initial === "string" ? [`init_lora_weights ${initial}`] : []),
    ...new Set(unusual.map((name) => `targets ${name}`)),
    ...(typeof targets === "string" ? [targets === "all-linear" ? targets : "target_modules as a pattern"] : []),
  ].sort();
}

function nemoParts(config: JsonObject): string[] {
  const peft = isJsonObject(config["peft"]) ? config["peft"] : {};
  const tuning = isJsonObject(peft["lora_tuning"]) ? peft["lora_tuning"] : {};
  const targets = tuning["target_modules"];
  const ranks = ["tensor", "pipeline"].flatMap((kind) => {
    const size = config[`${kind}_model_parallel_size`];
    return typeof size === "number" && size > 1 ? [`${kind}-parallel ${size}`] : [];
  });
  return [
    config["peft"] === undefined ? "TensorRT-LLM's configuration" : "Megatron's configuration",
    ...(Array.isArray(targets) ? [targets.join(" ")] : []),
    ...(tuning["alpha"] == null ? [] : ["alpha"]),
    ...ranks,
  ];
}

// ---- tests -------------------------------------------------------------------------------------------

async function testSources(): Promise<ReadonlyMap<string, string>> {
  const names: string[] = [];
  for await (const name of new Glob("test/**/*.test.ts").scan(REPOSITORY)) names.push(name);
  return new Map(names.sort().map((name) => [name, readFileSync(join(REPOSITORY, name), "utf8")]));
}

/** One that compares its numbers, or else one that names it. */
function testOf(file: string, tests: ReadonlyMap<string, string>): string | null {
  const name = basename(file, ".nemo");
  const path = join(REPOSITORY, file);
  const compared = FIXTURE_CASES.find(({ adapter }) => adapter !== null && relative(adapter, path) === "");
  if (compared !== undefined) return `test/fidelity/fixtures.test.ts: ${compared.name}`;
  if (file.startsWith(DEMO)) return `test/e2e/golden.test.ts: ${file.endsWith(".nemo") ? basename(dirname(file)) : name}`;
  const naming = [...tests].find(([test, source]) => !test.startsWith("test/setup/") && source.includes(`"${name}"`));
  return naming === undefined ? null : `${naming[0]}: ${name}`;
}

export interface RefusedForm {
  readonly title: string;
  readonly message: string;
  readonly test: string;
}

/** Cases of tests that are written as `["title", how, "adapter_unsupported", "part of the message"]`. */
export async function refusedForms(): Promise<RefusedForm[]> {
  const found: RefusedForm[] = [];
  for (const [test, source] of await testSources()) {
    if (!test.startsWith("test/lora/")) continue;
    for (const match of source.matchAll(/^\s*\[\s*"([^"\n]+)",[^\n]*"adapter_unsupported",\s*(?:"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'|\/([^\n]+?)\/)/gm)) {
      found.push({ title: match[1]!, message: match[2]?.replaceAll('\\"', '"') ?? match[3] ?? match[4]!, test });
    }
  }
  return found;
}

// ---- text --------------------------------------------------------------------------------------------

const cell = (text: string): string => text.replaceAll("|", "\\|").replaceAll("\n", " ");
const line = (...cells: readonly string[]): string => `| ${cells.map(cell).join(" | ")} |`;

export async function adapterTable(): Promise<string> {
  const all = await rows();
  return [
    "# Adapter forms",
    "",
    "Written by `scripts/generate-adapter-table.ts` from the adapters and tests of this repository; `bun run generate` writes it again.",
    "",
    "## Every adapter of the tests",
    "",
    "Served ones are compared with what transformers and PEFT compute in float32, by the test that is named.",
    "",
    line("form", "file", "WASM", "CUDA", "test"),
    line("---", "---", "---", "---", "---"),
    ...all.map(({ form, file, wasm, cuda, test }) => line(form, `\`${file}\``, wasm, cuda === wasm ? "the same" : cuda, test ?? "none")),
    "",
    "## Forms that are refused by name",
    "",
    line("case", "message holds", "test"),
    line("---", "---", "---"),
    ...(await refusedForms()).map(({ title, message, test }) => line(title, `\`${message}\``, `${test}: ${title}`)),
    "",
  ].join("\n");
}

if (import.meta.main) await Bun.write(join(REPOSITORY, "docs/adapter-forms.md"), await adapterTable());
