/** `lorikeet serve`: a runtime behind HTTP, from start to orderly end. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import pino from "pino";
import packageJson from "../package.json" with { type: "json" };
import { downloadProgress } from "./download-progress.ts";
import { weightsProgress } from "./weights-progress.ts";
import type { Config } from "./config/settings.ts";
import { ConfigError } from "./core/errors.ts";
import { type Address, type HttpServer, listen } from "./http/server.ts";
import { openTracing } from "./http/telemetry/tracing.ts";
import { chatEncoder } from "./runtime/chat.ts";
import { type Opened, openRuntime } from "./runtime/open-runtime.ts";
import type { AdapterLoad } from "./runtime/runtime-parts.ts";

export interface RunningServer {
  readonly http: HttpServer;
  readonly opened: Opened;
  /** Lets requests end within the configured time, then closes everything. */
  stop(): Promise<void>;
}

/**
 * @param page what a browser is shown at `/`; left out for nothing
 * @throws {LorikeetError} when the model, an option or the address cannot be used
 */
export async function startServer(config: Config, page?: Bun.HTMLBundle): Promise<RunningServer> {
  const log = pino({ level: config.logLevel === "warning" ? "warn" : config.logLevel }, pino.destination({ dest: 2, sync: true }));
  const adminAddress = adminAddressOf(config);
  const tracing = await openTracing(process.env, packageJson.version);
  let http: HttpServer | null = null;
  const opened = await openRuntime({
    ...config,
    onSource: downloadProgress(process.stderr),
    onWeights: weightsProgress(process.stderr),
    // The banner tells of those that are read at the start.
    onAdapterLoad: (load) => logLoad(log, load, http === null),
    onFailure: (error) => {
      log.error({ err: error.cause ?? error, code: error.errorCode }, error.message);
      http?.fail();
    },
  });
  const { runtime } = opened;
  logOrigins(log, opened);
  if (tracing !== null) runtime.watch(tracing.onTransition);
  try {
    http = listen({
      runtime,
      encodeChat: chatEncoder(runtime.model),
      host: config.host,
      port: config.port,
      apiKeys: [...config.apiKey, ...config.clients],
      adminKeys: config.adminKey,
      adminAddress,
      allowNoKey: config.allowNoKey,
      allowedHosts: config.allowedHost,
      baseNames: [runtime.model.name],
      version: packageJson.version,
      log,
      ...(page === undefined ? {} : { page }),
      ...(tracing === null ? {} : { onAnswer: tracing.onAnswer }),
    });
  } catch (thrown) {
    await runtime.close(0);
    await tracing?.close();
    throw thrown;
  }
  const listening = http;
  return {
    http: listening,
    opened,
    async stop() {
      listening.drain();
      await runtime.close(config.shutdownTimeoutS * 1000);
      await listening.stop();
      await tracing?.close();
    },
  };
}

function adminAddressOf({ adminHost, adminPort }: Config): Address | null {
  if (adminPort !== null) return { host: adminHost ?? "127.0.0.1", port: adminPort };
  if (adminHost === null) return null;
  throw new ConfigError("config_invalid", `admin_host ${adminHost} needs a port of its own; set admin_port as well`, { field: "adminPort" });
}

/** Which versions are served of what was downloaded; of adapters that are fetched later their load report tells. */
function logOrigins(log: pino.Logger, { runtime, modelOrigin, served }: Opened): void {
  if (modelOrigin !== null) log.info({ model: runtime.model.name, origin: modelOrigin }, "model downloaded or found in the cache");
  for (const { name: adapter, origin } of served) if (origin !== null) log.info({ adapter, origin }, "adapter downloaded or found in the cache");
}

/** The load report: what an adapter has, and what will be applied of it. */
function logLoad(log: pino.Logger, { name: adapter, ...load }: AdapterLoad, isStart: boolean): void {
  const level = isStart ? "debug" : load.error === null ? "info" : "warn";
  if (load.error === null) {
    const { report, digest, origin, deviceBytes } = load;
    log[level]({ adapter, digest, ...(origin === null ? {} : { origin }), deviceBytes, ...report }, "adapter loaded");
    return;
  }
  const { errorCode: code, field, message, cause } = load.error;
  log[level]({ adapter, code, field, err: cause }, `adapter not loaded: ${message}`);
}

/** What a person needs to know at the start, with commands that work when pasted. */
export function banner(config: Config, { http, opened }: RunningServer): string {
  const { runtime, backendReason, modelOrigin, served, refused } = opened;
  const { model, backend } = runtime;
  const host = config.host.replaceAll(/[[\]]/g, "");
  const reachedAt = ALL_INTERFACES[host] ?? host;
  const address = urlOf(reachedAt, http.port);
  const names = served.map(({ name }) => name);
  const elsewhere = served.filter(({ isElsewhere }) => isElsewhere);
  // One that answers at once, where there is one.
  const adapter = (served.find(({ isElsewhere }) => !isElsewhere) ?? served[0])?.name;
  return [
    `Lorikeet ${packageJson.version}`,
    `  backend   ${backend.name}: ${backend.description} (${backendReason})`,
    `  model     ${model.name}${modelOrigin === null ? "" : ` (${modelOrigin})`}, up to ${runtime.maxContext} tokens per request`,
    `  adapters  ${served.length === 0 ? "none" : `${served.length}: ${listed(names)}`}`,
    ...(elsewhere.length === 0 ? [] : [`            downloaded at their first use: ${listed(elsewhere.map(({ name, path }) => `${name} from ${path}`))}`]),
    ...refused.map(({ name, error }) => `            not served: ${name}: ${error.message}`),
    `  address   ${address}${host === reachedAt ? "" : ` (listening on all interfaces, ${config.host})`}`,
    ...(http.admin === null ? [] : [`  admin     ${urlOf(http.admin.host.replaceAll(/[[\]]/g, ""), http.admin.port)}`]),
    "",
    "Try it:",
    `  ${curl(config, opened, address, model.name, "Tell me a story.")}`,
    ...(adapter === undefined ? [] : [`  ${curl(config, opened, address, adapter, samplePrompt(model.directory, adapter))}`]),
    "",
  ].join("\n");
}

const urlOf = (host: string, port: number): string => `http://${host.includes(":") ? `[${host}]` : host}:${port}`;

/** Addresses that stand for every one of this machine's, and one of those. */
const ALL_INTERFACES: Readonly<Record<string, string>> = { "0.0.0.0": "127.0.0.1", "::": "::1" };
const MAX_LISTED = 20;

const listed = (names: readonly string[]): string =>
  names.length <= MAX_LISTED ? names.join(", ") : `${names.slice(0, MAX_LISTED).join(", ")} and ${names.length - MAX_LISTED} more`;

function curl(config: Config, { runtime }: Opened, address: string, model: string, prompt: string): string {
  const isChat = runtime.model.chatTemplate !== null;
  const path = isChat ? "/v1/chat/completions" : "/v1/completions";
  const asked = isChat ? { messages: [{ role: "user", content: prompt }] } : { prompt: runtime.model.tokenizer === null ? [1, 2, 3] : prompt };
  const body = JSON.stringify({ model, ...asked, max_tokens: 64, temperature: 0 });
  const key = config.apiKey.length + config.clients.length === 0 ? "" : ' -H "Authorization: Bearer $LORIKEET_API_KEY"';
  return `curl -s ${address}${path} -H 'Content-Type: application/json'${key} -d '${body.replaceAll("'", "'\\''")}'`;
}

/** A prompt of the adapter's own evaluation set, where the model's directory has one. */
function samplePrompt(modelDirectory: string, adapter: string): string {
  try {
    const [line = ""] = readFileSync(join(modelDirectory, "eval", `${adapter}.jsonl`), "utf8").split("\n", 1);
    const { prompt } = JSON.parse(line) as { readonly prompt?: unknown };
    if (typeof prompt === "string") return prompt;
  } catch {
    // Most models have no such set.
  }
  return "Hello!";
}
