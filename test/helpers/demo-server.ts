/** The server that `npm start` runs, in this process, on any free port. */
import { join } from "node:path";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import { type RunningServer, startServer } from "../../src/serve.ts";

export const DEMO = join(import.meta.dir, "../../models/demo");

/** Adapters of the demo in forms that this version serves. */
export const DEMO_ADAPTERS = ["extract-json", "pirate", "roman", "sentiment", "sql", "summarize", "summarize-nemo", "translate-fr"] as const;

/** Name of the evaluation set of an adapter: two of them do the same task. */
export const taskOf = (adapter: string): string => adapter.replace(/-nemo$/, "");

export interface DemoServer {
  readonly url: string;
  readonly running: RunningServer;
  post(path: string, body: object): Promise<Response>;
  stop(): Promise<void>;
}

export async function startDemo(options: object = {}): Promise<DemoServer> {
  const { config } = resolveConfig(
    givenOptions({
      model: DEMO,
      port: 0,
      logLevel: "error",
      loraConfig: { loraDir: [join(DEMO, "adapters")] },
      ...options,
    }, "server"),
  );
  const running = await startServer(config);
  const url = `http://127.0.0.1:${running.http.port}`;
  return {
    url,
    running,
    post: (path, body) =>
      fetch(url + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
    stop: () => running.stop(),
  };
}
