/** Writes docs/compatibility.md: what TensorRT-LLM's users bring, and what becomes of it. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { KV_CACHE_SETTINGS, LORA_SETTINGS, PEFT_CACHE_SETTINGS, snakeCase, TOP_SETTINGS } from "../src/config/settings.ts";
import { TRTLLM_ALIASES, TRTLLM_ONLY_KEYS, TRTLLM_ONLY_OPTIONS, type Unserved } from "../src/config/trtllm-keys.ts";
import { CHAT_FIELDS, COMPLETION_FIELDS, type FieldTable, IGNORED_FIELDS, knownFields } from "../src/http/openai/known-fields.ts";

export const COMPATIBILITY_PATH = join(import.meta.dir, "../docs/compatibility.md");

/** Options of `trtllm-serve` that are settings here, in its order. */
const SERVED_OPTIONS = ["host", "port", "backend", "log_level", "max_batch_size", "max_num_tokens", "max_seq_len", "served_model_name"] as const;

type SettingTable = Readonly<Record<string, { readonly doc: string }>>;
type Row = readonly [name: string, status: string, note: string];

const docOf = (settings: SettingTable, snake: string): string => Object.entries(settings).find(([name]) => snakeCase(name) === snake)![1].doc;

const unservedRow = ([name, { reason, harmless = [] }]: readonly [string, Unserved]): Row => [
  name,
  harmless.length === 0 ? "not applicable" : `only ${harmless.map((value) => `\`${JSON.stringify(value)}\``).join(", ")}`,
  reason,
];

function keyRows(settings: SettingTable, section: string): Row[] {
  const prefix = section === "" ? "" : `${section}.`;
  const served = Object.entries(settings).map(([name, { doc }]): Row => [prefix + snakeCase(name), "supported", doc]);
  const others = Object.entries(TRTLLM_ONLY_KEYS).filter(([key]) => (section === "" ? !key.includes(".") : key.startsWith(prefix)));
  return [...served, ...others.map(unservedRow)];
}

function fieldRows(table: FieldTable): Row[] {
  const rows = knownFields(table).map((name): Row => {
    const harmless = table.unserved[name];
    if (harmless !== undefined) return [name, harmless.length === 0 ? "refused" : `only ${harmless.map((value) => `\`${JSON.stringify(value)}\``).join(", ")}`, ""];
    return [name, (IGNORED_FIELDS as readonly string[]).includes(name) ? "taken, without effect" : "supported", ""];
  });
  return rows.toSorted(([a], [b]) => (a < b ? -1 : 1));
}

const table = (head: string, rows: readonly Row[]): string =>
  [`| ${head} | | |`, "|---|---|---|", ...rows.map(([name, status, note]) => `| \`${name}\` | ${status} | ${note.replaceAll("|", "\\|")} |`)].join("\n");

export const compatibility = (): string => `# Compatibility with TensorRT-LLM

Written by \`bun run generate\` from the settings themselves; a test holds the two together. What is not in these tables is refused with the
nearest name that is. "only \`X\`" means that the name is taken with that value, which is what happens anyway, and refused with any other.

## Options of \`trtllm-serve\`

\`lorikeet serve MODEL\` takes them as \`--max-batch-size\` and \`--max_batch_size\` alike.

${table("option", [
  ...SERVED_OPTIONS.map((name): Row => [`--${name}`, "supported", docOf(TOP_SETTINGS, name)]),
  ["--config", "supported", "a YAML file; its values win over flags, with a warning"],
  ...Object.entries(TRTLLM_ALIASES).map(([alias, name]): Row => [`--${alias}`, "supported", `the same as \`--${name}\``]),
  ...Object.entries(TRTLLM_ONLY_OPTIONS).map(([name, unserved]) => unservedRow([`--${name}`, unserved])),
])}

## Keys of the configuration file

In snake_case or kebab-case; a program gives the same in camelCase. Settings of Lorikeet's own are among them.

${table("key", keyRows(TOP_SETTINGS, ""))}

### lora_config

\`trtllm_modules_to_hf_modules\` adds names to the model's own, which always count: an adapter that calls \`q_proj\` \`wq\` is the same adapter.

${table("key", keyRows(LORA_SETTINGS, "lora_config"))}

### peft_cache_config

${table("key", keyRows(PEFT_CACHE_SETTINGS, "peft_cache_config"))}

### kv_cache_config

${table("key", keyRows(KV_CACHE_SETTINGS, "kv_cache_config"))}

## Fields of requests

Differences to know: a \`max_tokens\` beyond the context is refused with \`context_length_exceeded\`, as OpenAI and vLLM do, where TensorRT-LLM
cuts it (a program's \`maxTokens\` is cut). \`lora_path\` must lie under an \`adapter_root\`. \`priority\` is vLLM's: a lower number goes first.
\`timeout\` is in seconds. \`oneOf\` in a schema is held to as \`anyOf\`. Structured output needs the WASM backend.

### POST /v1/completions

${table("field", fieldRows(COMPLETION_FIELDS))}

### POST /v1/chat/completions

${table("field", fieldRows(CHAT_FIELDS))}
`;

if (import.meta.main) writeFileSync(COMPATIBILITY_PATH, compatibility());
