/** `lorikeet adapters inspect`: what an adapter's files hold, and what they would do on a base. */
import { chooseBackend } from "./backend/choose-backend.ts";
import type { InspectAsk } from "./config/cli.ts";
import { downloadProgress } from "./download-progress.ts";
import type { Config } from "./config/settings.ts";
import { ConfigError, LorikeetError } from "./core/errors.ts";
import { checkForms } from "./lora/adapter-forms.ts";
import { type AdapterReport, describeReport, reportOn } from "./lora/adapter-report.ts";
import type { AdapterForm } from "./lora/adapter-weights.ts";
import { inspectAdapter, type Inspection, type Problem, problemOf } from "./lora/inspect-adapter.ts";
import { readAdapter } from "./lora/read-adapter.ts";
import { buildDecoderProgram } from "./model/decoder-program.ts";
import { readModelConfig } from "./model/model-config.ts";
import { findModel, sourcesOf } from "./runtime/find-sources.ts";
import { adapterLimits } from "./runtime/open-runtime.ts";

/** What would come of it on one base. */
export interface Judgement {
  readonly model: string;
  readonly backend: string;
  readonly isServed: boolean;
  /** Content digest on this base; `null` where it is not served. */
  readonly digest: string | null;
  readonly forms: readonly AdapterForm[];
  readonly report: AdapterReport | null;
  readonly problem: Problem | null;
}

export interface Inspected extends Inspection {
  /** `null` where no base was named. */
  readonly base: Judgement | null;
}

/** @returns what to print, and whether the adapter can be served as far as was asked */
export async function inspect(config: Config, ask: InspectAsk): Promise<{ readonly text: string; readonly isGood: boolean }> {
  const sources = sourcesOf({ ...config, onSource: downloadProgress(process.stderr) });
  const { path } = await sources.fetch(ask.path, "adapter");
  const content = await inspectAdapter(path).catch((cause: unknown) => {
    throw new ConfigError("config_invalid", `${ask.path} cannot be read: ${(cause as { readonly code?: string }).code ?? "unknown error"}`, { cause });
  });
  const base = config.model === null ? null : await judge(config, (await findModel(sources, config.model)).path, path);
  const inspected: Inspected = { ...content, base };
  const isGood = base === null ? content.problem === null : base.isServed;
  return { text: ask.isJson ? `${JSON.stringify(inspected, null, 2)}\n` : describe(inspected), isGood };
}

async function judge(config: Config, model: string, path: string): Promise<Judgement> {
  const program = buildDecoderProgram(readModelConfig(model));
  const chosen = chooseBackend(config.backend);
  const { loraCkptSource: source, nemoQkvLayout } = config.loraConfig;
  let about: Pick<Judgement, "model" | "backend"> = { model, backend: chosen.name };
  try {
    const backend = chosen.forProgram(program);
    about = { model, backend: backend.name };
    const weights = checkForms(await readAdapter(path, program, { ...adapterLimits(config), source, nemoQkvLayout }), backend);
    const { digest, forms = [], report } = weights;
    return { ...about, isServed: true, digest, forms, report: backend.adapterNumbers === undefined ? report : reportOn(weights, program, backend.adapterNumbers), problem: null };
  } catch (thrown) {
    if (!(thrown instanceof LorikeetError)) throw thrown;
    return { ...about, isServed: false, digest: null, forms: [], report: null, problem: problemOf(thrown) };
  }
}

function describe({ path, format, files, config, tensors, numTensors, problem, base }: Inspected): string {
  const lines = [path];
  const fact = (label: string, value: string): void => void lines.push(`  ${label.padEnd(9)} ${visible(value)}`);
  fact("format", format === null ? "unknown" : FORMATS[format]);
  for (const { name, container, numBytes, sha256 } of files) {
    fact("file", [name, container ?? "", `${numBytes} bytes`, sha256 === null ? "" : `sha256 ${sha256}`].filter((part) => part !== "").join("  "));
  }
  for (const [field, value] of Object.entries(config)) fact("config", `${field}: ${clipped(JSON.stringify(value))}`);
  fact("tensors", String(numTensors));
  for (const group of tensors.slice(0, MAX_GROUPS)) fact("", groupLine(group));
  if (tensors.length > MAX_GROUPS) fact("", `and ${tensors.length - MAX_GROUPS} more kinds; --json has them all`);
  if (problem !== null) fact("problem", problem.message);
  else if (base === null) fact("problem", "none of the files' own; --model DIR tells whether they fit a base");
  if (base !== null) {
    lines.push(`on ${base.model} with the ${base.backend} backend`);
    fact("served", base.problem === null ? "yes" : `no: ${base.problem.message}`);
    if (base.report !== null) {
      fact("digest", base.digest ?? "");
      fact("forms", base.forms.length === 0 ? "plain LoRA" : base.forms.join(", "));
      for (const [label, value] of describeReport(base.report)) fact(label, value);
    }
  }
  return `${lines.join("\n")}\n`;
}

const FORMATS = { peft: "PEFT", nemo: "NeMo 1.x" } as const;
const MAX_GROUPS = 64;
const MAX_CHARS = 160;

/** Names in a file must not steer the terminal that shows them. */
const visible = (text: string): string => text.replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`);

const clipped = (text: string): string => (text.length <= MAX_CHARS ? text : `${text.slice(0, MAX_CHARS)}...`);

const groupLine = ({ name, numTensors, shapes, dtypes }: Inspection["tensors"][number]): string =>
  `${name}  ${shapes.map((shape) => `[${shape.join(", ")}]`).join(" ")}  ${dtypes.join(" ")}${numTensors === 1 ? "" : `  x ${numTensors}`}`;
