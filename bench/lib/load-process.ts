/** Load generators in processes of their own, so that reading answers costs the server nothing. */
import { openAiTarget } from "../../src/bench/load/openai-target.ts";
import { drive, type RequestRecord } from "../../src/bench/load/drive.ts";
import type { Trace } from "../../src/bench/workload/trace.ts";
import { machineClock } from "./clocks.ts";

export interface LoadOrder {
  readonly baseUrl: string;
  readonly model: string;
  readonly adapters: readonly string[];
  readonly trace: Trace;
  readonly concurrency: number;
}

export interface Load {
  readonly records: readonly RequestRecord[];
  /** When `records` begin, by the machine's monotonic clock. */
  readonly startMs: number;
  /** Time on a core, all threads. */
  readonly cpuMs: number;
}

/** Argument that makes a program that has `serveOrders` a load generator. */
export const LOAD_ROLE = "--load-generator";

/** What such a program does: one answer per order, until its parent goes. */
export function serveOrders(): void {
  const nowMs = machineClock();
  process.on("message", (order: LoadOrder) => void answer(order).then((load) => process.send!(load)));
  process.on("disconnect", () => process.exit(0));

  async function answer({ trace, concurrency, ...to }: LoadOrder): Promise<Load> {
    const target = await openAiTarget({ ...to, apiKeys: [], endpoint: "completions" });
    const before = process.cpuUsage();
    const startMs = nowMs();
    const records = await drive(trace, target, { concurrency, signal: new AbortController().signal });
    const { user, system } = process.cpuUsage(before);
    return { records, startMs, cpuMs: (user + system) / 1000 };
  }
}

export class LoadProcess {
  readonly #child: Bun.Subprocess;
  #hear: (load: Load) => void = () => undefined;

  /** @param script a program that calls `serveOrders` where it is given `LOAD_ROLE` */
  constructor(script: string) {
    this.#child = Bun.spawn([process.execPath, script, LOAD_ROLE], { stdout: "inherit", stderr: "inherit", ipc: (message) => this.#hear(message as Load) });
  }

  send(order: LoadOrder): Promise<Load> {
    return new Promise((resolve, reject) => {
      this.#hear = resolve;
      void this.#child.exited.then((code) => reject(new Error(`a load generator ended with ${code}`)));
      this.#child.send(order);
    });
  }

  async stop(): Promise<void> {
    this.#child.kill();
    await this.#child.exited;
  }
}
