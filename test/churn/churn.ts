/**
 * More adapters than the device and host memory hold, under streams that all want different ones.
 *
 * The whole server runs: HTTP, scheduler, tiers, WASM kernels. Every answer is compared, token for token, with
 * what transformers and PEFT gave for that adapter's task, and its digest header with the contents that its name
 * meant while the request ran. Meanwhile names get new content, and clients leave.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DEMO, type DemoServer, type GoldenPrompt, readDemoGolden, startDemo } from "../helpers/demo-server.ts";
import { Chance } from "../simulation/virtual-time.ts";
import { writeCopy } from "./copies.ts";

/** One demo adapter per task, as PEFT wrote it. */
const TASKS = ["arithmetic", "extract-json", "pirate", "roman", "sentiment", "sql", "summarize", "translate-fr"] as const;
const COPIES_PER_TASK = 8;
export const NUM_ADAPTERS = TASKS.length * COPIES_PER_TASK;
const MAX_LORAS = 4;
const MAX_CPU_LORAS = 16;
const ADMIN_KEY = "churn-admin";
const LEAVE_RATE = 0.05;
const SAMPLE_MS = 1000;

export interface ChurnOptions {
  readonly seconds: number;
  readonly numStreams: number;
  /** Until when memory may grow. */
  readonly warmUpSeconds: number;
  /** Pause between two replacements of a name's content. */
  readonly replaceEveryMs: number;
  readonly seed: number;
}

export interface ChurnReport {
  readonly adapters: number;
  readonly onDevice: number;
  readonly inHostMemory: number;
  readonly streams: number;
  readonly seconds: number;
  readonly answers: number;
  readonly tokens: number;
  readonly left: number;
  readonly replaced: number;
  readonly adapterLoads: number;
  readonly adapterEvictions: number;
  readonly adaptersUsed: number;
  /** Answers that are not their adapter's, or were computed with a content that the name did not mean. */
  readonly wrong: readonly string[];
  readonly errors: readonly string[];
  /** Most adapters in a tier at any look, and what is held once nothing runs. */
  readonly mostInHostMemory: number;
  readonly mostOnDevice: number;
  readonly heldAtEnd: { readonly usedPages: number; readonly runningRequests: number; readonly waitingRequests: number; readonly draining: number };
  /** Resident memory in MiB, ten-second medians. */
  readonly residentMiB: readonly number[];
  /** Between the medians of the first and the last fifth after the warm-up. */
  readonly growthMiB: number;
}

interface Content {
  readonly path: string;
  readonly task: string;
}

interface Name {
  readonly name: string;
  readonly task: string;
  /** Digest of the content at the path of its name. */
  readonly first: string;
  /** Digests that the name has meant, with the time until which it did. */
  readonly meanings: { digest: string; untilMs: number }[];
  numAnswers: number;
}

class Churn {
  readonly #options: ChurnOptions;
  readonly #root = mkdtempSync(join(tmpdir(), "lorikeet-churn-"));
  readonly #chance: Chance;
  readonly #golden: ReadonlyMap<string, readonly GoldenPrompt[]>;
  readonly #names: Name[] = [];
  readonly #wrong: string[] = [];
  readonly #errors: string[] = [];
  readonly #resident: number[] = [];
  #server!: DemoServer;
  #answers = 0;
  #tokens = 0;
  #left = 0;
  #replaced = 0;
  #mostHost = 0;
  #mostDevice = 0;
  #isOver = false;

  constructor(options: ChurnOptions) {
    this.#options = options;
    this.#chance = new Chance(options.seed);
    this.#golden = Map.groupBy(readDemoGolden(TASKS).filter(({ adapter }) => adapter !== null), ({ adapter }) => adapter!);
  }

  async run(): Promise<ChurnReport> {
    try {
      const contents = this.#write();
      this.#server = await startDemo({
        adminKey: [ADMIN_KEY],
        adapterRoot: [this.#root],
        loraConfig: { loraDir: contents.map(({ path }, i) => `copy-${i}=${path}`), maxLoras: MAX_LORAS, maxCpuLoras: MAX_CPU_LORAS },
      });
      const listed = new Map(this.#server.running.opened.runtime.adapters().map(({ name, digest }) => [name, digest]));
      for (const [i, { task }] of contents.entries()) {
        const digest = listed.get(`copy-${i}`);
        if (digest == null) throw new Error(`copy-${i} was not read at the start`);
        this.#names.push({ name: `copy-${i}`, task, first: digest, meanings: [{ digest, untilMs: Infinity }], numAnswers: 0 });
      }
      if (new Set(this.#names.map(({ first }) => first)).size !== NUM_ADAPTERS) throw new Error("the copies are not of different content");
      const { seconds, numStreams } = this.#options;
      const started = performance.now();
      const streams = Array.from({ length: numStreams }, () => this.#stream());
      const others = [this.#replace(), this.#watch()];
      await Bun.sleep(seconds * 1000);
      this.#isOver = true;
      await Promise.all([...streams, ...others]);
      const report = this.#report((performance.now() - started) / 1000);
      await this.#server.stop();
      return report;
    } finally {
      rmSync(this.#root, { recursive: true, force: true });
    }
  }

  #write(): Content[] {
    return Array.from({ length: NUM_ADAPTERS }, (_, i) => {
      const task = TASKS[i % TASKS.length]!;
      const path = join(this.#root, `copy-${i}`);
      writeCopy(join(DEMO, "adapters", task), path, 1 + Math.floor(i / TASKS.length));
      return { path, task };
    });
  }

  async #stream(): Promise<void> {
    while (!this.#isOver) {
      const chosen = this.#names[this.#chance.int(0, NUM_ADAPTERS - 1)]!;
      const prompts = this.#golden.get(chosen.task)!;
      const golden = prompts[this.#chance.int(0, prompts.length - 1)]!;
      try {
        await this.#ask(chosen, golden);
      } catch (thrown) {
        this.#errors.push(`${chosen.name}: ${String(thrown)}`);
      }
    }
  }

  async #ask(chosen: Name, golden: GoldenPrompt): Promise<void> {
    const isLeaving = this.#chance.isOnce(LEAVE_RATE);
    const leaving = new AbortController();
    const startedMs = performance.now();
    const response = await fetch(`${this.#server.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      signal: leaving.signal,
      body: JSON.stringify({ model: chosen.name, prompt: golden.prompt_token_ids, max_tokens: 64, temperature: 0, stream: true, return_token_ids: true }),
    });
    if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
    if (isLeaving) {
      leaving.abort();
      this.#left++;
      return;
    }
    const { ids, finish } = idsOf(await response.text());
    const digest = response.headers.get("x-lorikeet-adapter-digest") ?? "none";
    this.#answers++;
    this.#tokens += ids.length;
    chosen.numAnswers++;
    if (finish !== "stop" || !Bun.deepEquals(ids, [...golden.token_ids])) {
      this.#wrong.push(`${chosen.name} (${chosen.task}) answered ${ids.join()} (${finish}) instead of ${golden.token_ids.join()}`);
    }
    const { meanings } = chosen;
    if (!meanings.some((each) => each.digest === digest && each.untilMs >= startedMs)) {
      this.#wrong.push(`${chosen.name} answered with the content ${digest}, which it did not mean`);
    }
  }

  /** Gives names the content of another copy of their task, while they are used. */
  async #replace(): Promise<void> {
    while (!this.#isOver) {
      await Bun.sleep(this.#options.replaceEveryMs);
      const at = this.#chance.int(0, NUM_ADAPTERS - 1);
      const chosen = this.#names[at]!;
      const from = at % TASKS.length + TASKS.length * this.#chance.int(0, COPIES_PER_TASK - 1);
      const before = chosen.meanings.at(-1)!;
      const loading = { digest: this.#names[from]!.first, untilMs: Infinity };
      chosen.meanings.push(loading);
      const response = await fetch(`${this.#server.url}/v1/load_lora_adapter`, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${ADMIN_KEY}` },
        body: JSON.stringify({ lora_name: chosen.name, lora_path: `copy-${from}`, load_inplace: true }),
      });
      if (response.status !== 200) this.#errors.push(`replacing ${chosen.name}: ${response.status} ${await response.text()}`);
      before.untilMs = performance.now();
      this.#replaced++;
    }
  }

  async #watch(): Promise<void> {
    while (!this.#isOver) {
      await Bun.sleep(SAMPLE_MS);
      this.#resident.push(process.memoryUsage.rss() / 2 ** 20);
      const { runtime } = this.#server.running.opened;
      const stats = runtime.stats();
      this.#mostHost = Math.max(this.#mostHost, stats.hostCacheAdapters);
      this.#mostDevice = Math.max(this.#mostDevice, stats.usedSlots);
    }
  }

  #report(seconds: number): ChurnReport {
    const { runtime } = this.#server.running.opened;
    const { adapterLoads, adapterEvictions, usedPages, runningRequests, waitingRequests } = runtime.stats();
    const settled = this.#resident.slice(this.#options.warmUpSeconds);
    const fifth = Math.max(1, Math.floor(settled.length / 5));
    const tens = Array.from({ length: Math.ceil(this.#resident.length / 10) }, (_, i) => median(this.#resident.slice(i * 10, i * 10 + 10)));
    return {
      adapters: NUM_ADAPTERS,
      onDevice: MAX_LORAS,
      inHostMemory: MAX_CPU_LORAS,
      streams: this.#options.numStreams,
      seconds: Math.round(seconds),
      answers: this.#answers,
      tokens: this.#tokens,
      left: this.#left,
      replaced: this.#replaced,
      adapterLoads,
      adapterEvictions,
      adaptersUsed: this.#names.filter(({ numAnswers }) => numAnswers > 0).length,
      wrong: this.#wrong,
      errors: this.#errors,
      mostInHostMemory: this.#mostHost,
      mostOnDevice: this.#mostDevice,
      heldAtEnd: { usedPages, runningRequests, waitingRequests, draining: runtime.adapters().filter(({ state }) => state === "draining").length },
      residentMiB: tens.map(Math.round),
      growthMiB: Math.round(median(settled.slice(-fifth)) - median(settled.slice(0, fifth))),
    };
  }
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;

function idsOf(events: string): { ids: number[]; finish: string | null } {
  const ids: number[] = [];
  let finish: string | null = null;
  for (const line of events.split("\n")) {
    if (!line.startsWith("data: {")) continue;
    const event = JSON.parse(line.slice("data: ".length)) as { choices?: { token_ids?: number[]; finish_reason: string | null }[]; error?: { message: string } };
    if (event.error !== undefined) throw new Error(event.error.message);
    for (const choice of event.choices ?? []) {
      ids.push(...(choice.token_ids ?? []));
      finish = choice.finish_reason ?? finish;
    }
  }
  return { ids, finish };
}

export const churn = (options: ChurnOptions): Promise<ChurnReport> => new Churn(options).run();
