/** `lorikeet generate`: one prompt, its answer on standard output as it comes. */
import { existsSync } from "node:fs";
import { basename, resolve } from "node:path";
import type { GenerateAsk } from "./config/cli.ts";
import { downloadProgress } from "./download-progress.ts";
import { weightsProgress } from "./weights-progress.ts";
import { flagOf, type Config } from "./config/settings.ts";
import { describeReport } from "./lora/adapter-report.ts";
import { chatEncoder } from "./runtime/chat.ts";
import { sourceErrorOf } from "./runtime/fetch-adapter.ts";
import { openRuntime } from "./runtime/open-runtime.ts";
import type { AdapterLoad } from "./runtime/runtime-parts.ts";
import { libraryDefaults, prepareRequests, promptTokens } from "./runtime/requests.ts";
import { ConfigError, NativeError } from "./core/errors.ts";

export interface GenerateOutput {
  /** The answer, piece by piece. */
  readonly write: (text: string) => void;
  /** A line about the answer, where one was asked for. */
  readonly tell: (line: string) => void;
}

/** @throws {LorikeetError} */
export async function generate(given: Config, asked: GenerateAsk, { write, tell }: GenerateOutput): Promise<void> {
  const { config, ask } = withAdapter(given, asked);
  const tellFact = (label: string, value: string): void => {
    if (ask.isVerbose) tell(`${label.padEnd(9)} ${value}`);
  };
  const tellLoad = (load: AdapterLoad | undefined): void => {
    if (load === undefined || load.error !== null) return;
    tellFact("adapter", load.name);
    if (load.origin !== null) tellFact("origin", load.origin);
    tellFact("digest", load.digest);
    for (const [label, value] of describeReport(load.report)) tellFact(label, value);
  };
  /** Of the adapter asked for; the others are read as well. */
  const loads: AdapterLoad[] = [];
  const { runtime, backendReason, modelOrigin } = await openRuntime({
    ...config,
    maxBatchSize: 1,
    onSource: downloadProgress(process.stderr),
    onWeights: weightsProgress(process.stderr),
    onAdapterLoad: (load) => {
      if (load.name === ask.adapter) loads.push(load);
    },
  });
  tellFact("model", runtime.model.name);
  if (modelOrigin !== null) tellFact("origin", modelOrigin);
  tellFact("backend", `${runtime.backend.name}: ${runtime.backend.description} (${backendReason})`);
  try {
    const adapter = ask.adapter === null ? null : await runtime.resolveAdapter({ name: ask.adapter });
    const tokens =
      ask.isRaw || runtime.model.chatTemplate === null
        ? promptTokens(runtime.model, ask.prompt)
        : chatEncoder(runtime.model)([{ role: "user", content: ask.prompt }], { addGenerationPrompt: true });
    const [request] = prepareRequests(runtime, {
      prompts: [tokens],
      adapter,
      params: { maxTokens: ask.maxTokens, temperature: ask.temperature },
      defaults: libraryDefaults,
      fieldName: flagOf,
    });
    const generation = runtime.generate(request!);
    const cancel = () => generation.cancel();
    process.once("SIGINT", cancel).once("SIGTERM", cancel);
    for await (const { text, finish } of generation) {
      write(text);
      if (finish !== null) tellLoad(loads.at(-1));
      if (finish !== null) tellFact("tokens", `${finish.usage.promptTokens} of the prompt, ${finish.usage.completionTokens} generated`);
      if (finish !== null && finish.reason !== "stop" && finish.reason !== "length") {
        throw sourceErrorOf(finish.error) ?? new NativeError("backend_failed", `the generation ended early: ${finish.reason}`);
      }
    }
    write("\n");
  } finally {
    await runtime.close(0);
  }
}

/** An adapter that is named by where it lies is as one of `lora_dir`. */
function withAdapter(config: Config, ask: GenerateAsk): { readonly config: Config; readonly ask: GenerateAsk } {
  const { loraConfig } = config;
  if (ask.adapter === null) return { config, ask };
  const isAmongNamed = loraConfig.loraDir.length > 0 && !ask.adapter.includes("/");
  if (!isAmongNamed && existsSync(ask.adapter)) {
    const adapter = basename(resolve(ask.adapter)).replace(/\.nemo$/, "");
    return { config: { ...config, loraConfig: { ...loraConfig, loraDir: [...loraConfig.loraDir, ask.adapter] } }, ask: { ...ask, adapter } };
  }
  if (loraConfig.loraDir.length > 0) return { config, ask };
  throw new ConfigError("config_invalid", `--lora ${JSON.stringify(ask.adapter.slice(0, 100))} is neither a directory nor a .nemo file, and no --lora-dir tells where adapters are`, {
    field: "--lora",
  });
}
