/** The server that `npm start` runs, in this process, on any free port. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import { type RunningServer, startServer } from "../../src/serve.ts";
import { REPOSITORY } from "./repository.ts";

export const DEMO = join(REPOSITORY, "models/demo");

/** Adapters of the demo in plain LoRA, which every backend serves. */
export const DEMO_ADAPTERS = ["extract-json", "pirate", "roman", "sentiment", "sql", "summarize", "summarize-nemo", "translate-fr"] as const;

/** All of them: one is DoRA, which the WASM backend serves. */
export const ALL_ADAPTERS = ["arithmetic", ...DEMO_ADAPTERS] as const;

/** Name of the evaluation set of an adapter: two of them do the same task. */
export const taskOf = (adapter: string): string => adapter.replace(/-nemo$/, "");

export interface GoldenPrompt {
  readonly prompt: string;
  /** The prompt as it is, not as a user's message. */
  readonly raw: boolean;
  readonly prompt_token_ids: readonly number[];
  readonly top10: readonly (readonly [id: number, logprob: number])[];
  readonly token_ids: readonly number[];
  readonly text: string;
}

/** What transformers and PEFT answered in float32; `model` is the base's name or an adapter's. */
export const readDemoGolden = (adapters: readonly string[] = DEMO_ADAPTERS): (GoldenPrompt & { readonly model: string; readonly adapter: string | null })[] => {
  const golden = JSON.parse(readFileSync(join(DEMO, "golden.json"), "utf8")) as Record<string, GoldenPrompt[]>;
  return [null, ...adapters].flatMap((adapter) => golden[adapter ?? "base"]!.map((prompt) => ({ ...prompt, adapter, model: adapter ?? "demo" })));
};

export interface DemoServer {
  readonly url: string;
  readonly running: RunningServer;
  post(path: string, body: object): Promise<Response>;
  stop(): Promise<void>;
}

/** On the WASM backend, whose answers do not depend on the batch, where nothing else is said. */
export async function startDemo(options: object = {}, page?: Bun.HTMLBundle): Promise<DemoServer> {
  const { config } = resolveConfig(
    givenOptions({
      model: DEMO,
      port: 0,
      logLevel: "error",
      backend: "wasm",
      loraConfig: { loraDir: [join(DEMO, "adapters")] },
      ...options,
    }, "server"),
  );
  const running = await startServer(config, page);
  const url = `http://127.0.0.1:${running.http.port}`;
  return {
    url,
    running,
    post: (path, body) =>
      fetch(url + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
    stop: () => running.stop(),
  };
}
