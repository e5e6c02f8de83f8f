/**
 * Feeds a reader made-up inputs and holds it to its promise: an input is refused with an error of its own kind, or
 * what it was read as is true by an independent check; either way in bounded time and memory.
 */
import { Random } from "./random.ts";

export interface Target<T> {
  readonly name: string;
  /** Valid files, mutated valid files, files of lying fields, noise. */
  readonly generate: (random: Random) => Uint8Array;
  readonly parse: (bytes: Uint8Array) => T;
  /** What is wrong with an accepted input, by means that share no code with the reader. */
  readonly check: (bytes: Uint8Array, parsed: T) => string | null;
}

export interface FuzzLimits {
  readonly inputs: number;
  /** The run ends early when it takes longer; how many inputs were run is told. */
  readonly maxMs: number;
  /** One input, once slow ones were tried again. */
  readonly maxInputMs: number;
  /** Growth of the process over the whole run. */
  readonly maxGrowthBytes: number;
}

export const FUZZ_LIMITS: FuzzLimits = { inputs: 1000, maxMs: 60_000, maxInputMs: 250, maxGrowthBytes: 384 * 1024 * 1024 };

export interface FuzzResult {
  readonly target: string;
  readonly seed: number;
  readonly inputs: number;
  readonly accepted: number;
  readonly refused: number;
  /** The first few, each with the input in base64. */
  readonly faults: readonly string[];
  readonly slowestMs: number;
  readonly growthBytes: number;
  readonly elapsedMs: number;
}

/** How errors are told apart from faults: by name, since a test may load a second copy of the classes. */
const OWN_ERRORS = new Set(["FormatError", "AdapterError"]);
const MAX_FAULTS = 5;
const MEMORY_EVERY = 4096;

export function fuzz<T>(target: Target<T>, seed: number, limits: FuzzLimits): FuzzResult {
  const random = new Random(seed);
  const faults: string[] = [];
  const started = performance.now();
  // What others have left behind must not go during the run, which would hide what a reader keeps.
  Bun.gc(true);
  const startBytes = process.memoryUsage.rss();
  let accepted = 0;
  let inputs = 0;
  let slowestMs = 0;
  let growthBytes = 0;
  while (inputs < limits.inputs && faults.length < MAX_FAULTS) {
    const bytes = target.generate(random);
    const before = performance.now();
    const outcome = runOne(target, bytes);
    let elapsed = performance.now() - before;
    // A pause of the machine is not the reader's: it will not come three times.
    for (let again = 0; again < 3 && elapsed > limits.maxInputMs; again++) {
      const from = performance.now();
      runOne(target, bytes);
      elapsed = Math.min(elapsed, performance.now() - from);
    }
    slowestMs = Math.max(slowestMs, elapsed);
    const fault = elapsed > limits.maxInputMs ? `took ${elapsed} ms` : outcome.fault;
    if (fault !== null) faults.push(`input ${inputs} (${Buffer.from(bytes).toString("base64").slice(0, 2000)}): ${fault}`);
    if (outcome.accepted) accepted++;
    inputs++;
    if (inputs % MEMORY_EVERY !== 0) continue;
    growthBytes = Math.max(growthBytes, process.memoryUsage.rss() - startBytes);
    if (growthBytes > limits.maxGrowthBytes) faults.push(`input ${inputs}: the process grew by ${growthBytes} bytes`);
    if (performance.now() - started > limits.maxMs) break;
  }
  const elapsedMs = performance.now() - started;
  return { target: target.name, seed, inputs, accepted, refused: inputs - accepted, faults, slowestMs, growthBytes, elapsedMs };
}

function runOne<T>({ parse, check }: Target<T>, bytes: Uint8Array): { accepted: boolean; fault: string | null } {
  let parsed: T;
  try {
    parsed = parse(bytes);
  } catch (thrown) {
    const isOwn = thrown instanceof Error && OWN_ERRORS.has(thrown.name) && thrown.message !== "" && thrown.message.length < 2000;
    return { accepted: false, fault: isOwn ? null : `was refused with ${String(thrown).slice(0, 300)}` };
  }
  try {
    return { accepted: true, fault: check(bytes, parsed) };
  } catch (thrown) {
    return { accepted: true, fault: `was accepted, and its check failed with ${String(thrown).slice(0, 300)}` };
  }
}
