/**
 * The shipped runtime over the fake backend, under a load drawn from a seed.
 *
 * The same seed gives the same run. What must hold is checked as the run goes on; a broken promise throws
 * with the seed and the tick in its message.
 */
import { AdapterError, CapacityError } from "../../src/core/errors.ts";
import type { AdapterId } from "../../src/core/ids.ts";
import type { Finish } from "../../src/core/request.ts";
import type { Sampling } from "../../src/core/sampling.ts";
import { createLocalRuntime, type LocalRuntime } from "../../src/runtime/local-runtime.ts";
import type { Generation } from "../../src/runtime/runtime.ts";
import { computedBy, FakeBackend, nextToken } from "../helpers/fake-backend.ts";
import { fakeModel, weightsOf } from "../helpers/runtime.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { Chance, VirtualTime } from "./virtual-time.ts";

export interface SimulationReport {
  readonly steps: number;
  /** Of them, composed while another was under way. */
  readonly stepsTakenAhead: number;
  readonly accepted: number;
  readonly refused: number;
  readonly preemptions: number;
  readonly evictions: number;
  /** Tokens of prompts that had been computed for others. */
  readonly prefixHits: number;
  readonly reasons: Readonly<Record<string, number>>;
  readonly longestWaitSteps: number;
  /** Equal for equal runs. */
  readonly traceHash: number;
}

interface Profile {
  readonly vocabSize: number;
  readonly numAdapters: number;
  readonly pageTokens: number;
  readonly numPages: number;
  readonly numSlots: number;
  readonly adapterBytes: number;
  readonly extentBytes: number;
  /** Whether pages and adapters keep to memory of their own, or share all of it. */
  readonly capsPages: boolean;
  readonly maxRows: number;
  readonly maxSequences: number;
  readonly hostCacheBytes: number;
  readonly agingSteps: number;
  readonly quantumSteps: number;
  readonly maxWaitingRequests: number;
  readonly arrivalsPerTick: number;
  readonly cancelsPerTick: number;
  readonly leaveRate: number;
  readonly slowReaderRate: number;
  readonly failureRate: number;
  readonly maxLoadMs: number;
  readonly longestOutput: number;
  readonly longestPrompt: number;
  readonly sharesPrefixes: boolean;
  readonly stepsAhead: 0 | 1;
}

interface Live {
  readonly generation: Generation;
  readonly index: number;
  readonly prompt: readonly number[];
  /** What computes it. */
  readonly by: string;
  readonly sampling: Sampling;
  readonly acceptedAtStep: number;
  /** Steps before the first token at most. */
  readonly maxWaitSteps: number;
  /** Reads late, and so sees its end late. */
  readonly isSlow: boolean;
  cancelledAtStep: number | null;
  firstTokenAtStep: number | null;
  readonly ids: number[];
  finish: Finish | null;
  isDone: boolean;
}

/** Most tokens of a sequence. */
const LONGEST = 80;

const drawProfile = (chance: Chance): Profile => {
  const pageTokens = chance.int(1, 8);
  return {
    vocabSize: chance.int(20, 200),
    numAdapters: chance.int(1, 12),
    pageTokens,
    // Room for one of the longest, and little more.
    numPages: Math.ceil(LONGEST / pageTokens) + chance.int(0, 40),
    numSlots: chance.int(1, 4),
    adapterBytes: chance.int(150, 600),
    extentBytes: chance.int(5, 60),
    capsPages: chance.isOnce(0.4),
    maxRows: chance.int(1, 32),
    maxSequences: chance.int(1, 8),
    hostCacheBytes: chance.int(0, 800),
    agingSteps: chance.int(4, 32),
    quantumSteps: chance.int(8, 64),
    maxWaitingRequests: chance.int(4, 60),
    arrivalsPerTick: chance.next() * 0.5,
    cancelsPerTick: chance.next() * 0.1,
    leaveRate: chance.next() * 0.1,
    slowReaderRate: chance.next() * 0.2,
    failureRate: chance.isOnce(0.5) ? chance.next() * 0.4 : 0,
    maxLoadMs: chance.int(0, 100),
    longestOutput: chance.int(1, 40),
    longestPrompt: chance.int(1, 38),
    sharesPrefixes: chance.isOnce(0.7),
    stepsAhead: chance.isOnce(0.6) ? 1 : 0,
  };
};

/** What the request gives when it is alone and nobody ends it. */
function aloneTokens({ by, sampling, prompt }: Live, vocabSize: number): number[] {
  const all = [...prompt];
  const ids: number[] = [];
  while (ids.length < sampling.maxTokens) {
    let id = nextToken(by, sampling.seed, ids.length, all, vocabSize);
    if (ids.length < sampling.minTokens) {
      while (sampling.stopTokenIds.has(id)) id = (id + 1) % vocabSize;
    }
    all.push(id);
    ids.push(id);
    if (sampling.stopTokenIds.has(id)) break;
  }
  return ids;
}

/** Every third adapter acts from two tokens on. */
const invocationOf = (which: number): readonly [number, number] | undefined => (which % 3 === 1 ? [which, which + 1] : undefined);

function computedFor(which: number, prompt: readonly number[]): string {
  if (which < 0) return "base";
  const digest = `digest of a${which}`;
  const invocation = invocationOf(which);
  if (invocation === undefined) return digest;
  const start = prompt.findLastIndex((id, i) => id === invocation[0] && prompt[i + 1] === invocation[1]);
  return computedBy(digest, start < 0 ? Infinity : start);
}

function promise(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(`broken promise: ${what}`);
}

class Simulation {
  readonly #time = new VirtualTime();
  readonly #chance: Chance;
  readonly #profile: Profile;
  readonly #backend: FakeBackend;
  readonly #runtime: LocalRuntime;
  readonly #adapters: AdapterId[] = [];
  readonly #requests: Live[] = [];
  readonly #failures: unknown[] = [];
  #refused = 0;
  #wasIdle = false;
  #traceHash = 2166136261;
  tick = 0;

  constructor(seed: number) {
    this.#chance = new Chance(seed);
    this.#profile = drawProfile(this.#chance);
    const profile = this.#profile;
    const beforeResult = async () => {
      // Some steps take a while, so that everything can happen during one as well.
      if (this.#chance.isOnce(0.3)) await this.#time.yieldTurn();
    };
    this.#backend = new FakeBackend({ ...profile, beforeResult });
    this.#backend.onStep = (step) => {
      for (const { position, tokens, slot } of step.sequences) {
        for (const word of [position, tokens.length, slot]) {
          this.#traceHash = Math.imul(this.#traceHash ^ word, 16777619) >>> 0;
        }
      }
    };
    this.#runtime = createLocalRuntime({
      model: fakeModel(profile.vocabSize),
      backend: this.#backend,
      readAdapter: ({ name }) => this.#readAdapter(name),
      options: {
        ...profile,
        maxContext: LONGEST,
        adapterBytes: profile.capsPages ? profile.adapterBytes : null,
        loadBackoffMs: 5,
        loadFailureMs: 50,
        requestTimeoutMs: 4000,
        maxUnreadTokens: 1000,
      },
      clock: this.#time.clock,
      timers: this.#time.timers,
      yieldTurn: this.#time.yieldTurn,
    });
    for (let i = 0; i < profile.numAdapters; i++) {
      this.#adapters.push(this.#runtime.registerAdapter(`a${i}`, `/a${i}`));
    }
  }

  async run(numTicks: number): Promise<SimulationReport> {
    for (; this.tick < numTicks; this.tick++) {
      const { arrivalsPerTick, cancelsPerTick } = this.#profile;
      const burst = this.#chance.isOnce(0.01) ? this.#chance.int(1, 20) : 0;
      const numArrivals = (this.#chance.isOnce(arrivalsPerTick) ? 1 : 0) + burst;
      for (let i = 0; i < numArrivals; i++) this.#submit();
      if (this.#chance.isOnce(cancelsPerTick)) this.#cancelOne();
      if (this.#chance.isOnce(0.002)) for (let i = 0; i < 5; i++) this.#cancelOne();
      await this.#turn();
    }
    await this.#finishAll();
    await this.#checkNothingLeaked();
    await this.#close();
    return this.#report();
  }

  async #turn(): Promise<void> {
    await this.#time.advance(this.#chance.int(1, 4));
    if (this.#failures.length > 0) throw this.#failures[0];
    const stats = this.#runtime.stats();
    const numEnded = Object.values(stats.finished).reduce((sum, count) => sum + count, 0);
    promise(
      stats.waitingRequests + stats.runningRequests + numEnded === this.#requests.length,
      "accepted = waiting + running + ended",
    );
    promise(stats.usedSlots <= stats.numSlots, "slots within their number");
    promise(stats.hostCacheBytes <= stats.hostCacheMaxBytes, "host cache within its bytes");
    const isIdle = stats.runningRequests === 0 && this.#backend.numUnderWay === 0;
    // A step that has ended may be settled in the turn after.
    promise(!isIdle || !this.#wasIdle || stats.usedPages === 0, "no pages are held while nothing runs");
    this.#wasIdle = isIdle;
    promise(this.#runtime.failure === null, "the runtime is alive");
    for (const live of this.#requests) {
      if (live.cancelledAtStep === null || live.isSlow || live.isDone) continue;
      promise(
        this.#backend.steps - live.cancelledAtStep <= 1,
        `request ${live.index} ends within a step of its cancel`,
      );
    }
  }

  #submit(): void {
    const { longestPrompt, longestOutput, vocabSize, numAdapters } = this.#profile;
    const chance = this.#chance;
    const own = Array.from({ length: chance.int(1, longestPrompt) }, () => chance.int(0, vocabSize - 1));
    // Half of them begin as another did, or go on where another ended.
    const numShared = chance.isOnce(0.5) ? chance.int(0, own.length - 1) : 0;
    const { prompt: earlier = own, ids = [] } = this.#requests.at(-chance.int(1, 6)) ?? {};
    const prompt = [...[...earlier, ...ids].slice(0, numShared), ...own.slice(numShared)];
    const maxTokens = chance.int(1, longestOutput);
    const hasStops = chance.isOnce(0.3);
    const sampling = samplingWith({
      seed: BigInt(chance.int(0, 2 ** 31)),
      maxTokens,
      minTokens: chance.isOnce(0.3) ? chance.int(0, maxTokens) : 0,
      stopTokenIds: new Set(hasStops ? [chance.int(0, 9), chance.int(10, 19)] : []),
    });
    // Squaring makes the first adapters hot and the last ones rare.
    const which = Math.floor(chance.next() ** 2 * (numAdapters + 1)) - 1;
    const adapter = which < 0 ? null : this.#adapters[which]!;
    const invocation = invocationOf(which);
    if (invocation !== undefined && chance.isOnce(0.8)) prompt.splice(chance.int(0, prompt.length - 1), 2, ...invocation);
    const timeoutMs = chance.isOnce(0.03) ? chance.int(1, 100) : null;
    let generation: Generation;
    try {
      generation = this.#runtime.generate({
        promptTokens: prompt,
        adapter,
        sampling,
        tenant: "",
        timeoutMs,
      });
    } catch (error) {
      promise(
        error instanceof CapacityError,
        `a valid request is refused for room only: ${String(error)}`,
      );
      this.#refused++;
      return;
    }
    const live: Live = {
      generation,
      index: this.#requests.length,
      prompt,
      by: computedFor(which, prompt),
      sampling,
      acceptedAtStep: this.#backend.steps,
      maxWaitSteps: this.#maxWaitSteps(),
      isSlow: chance.isOnce(this.#profile.slowReaderRate),
      cancelledAtStep: null,
      firstTokenAtStep: null,
      ids: [],
      finish: null,
      isDone: false,
    };
    this.#requests.push(live);
    this.#read(live).catch((error: unknown) => this.#failures.push(error));
  }

  /**
   * Those before it one after the other, each taking turns with the other adapters for the places there are, the aging, and a
   * quantum for each round of adapters over the slots.
   * A request that nobody holds back waits far less; one that is passed for ever waits longer.
   */
  #maxWaitSteps(): number {
    const { agingSteps, quantumSteps, numAdapters, numSlots } = this.#profile;
    const { longestPrompt, longestOutput, maxSequences } = this.#profile;
    const { waitingRequests, runningRequests } = this.#runtime.stats();
    const numRounds = 1 + Math.ceil(numAdapters / numSlots);
    const numTurns = Math.max(3, Math.ceil((numAdapters + 1) / maxSequences));
    const serviceSteps = numTurns * (longestPrompt + longestOutput);
    return (
      agingSteps + quantumSteps * numRounds + (waitingRequests + runningRequests + 1) * serviceSteps
    );
  }

  async #read(live: Live): Promise<void> {
    const { leaveRate, vocabSize } = this.#profile;
    const leavesAfter = this.#chance.isOnce(leaveRate) ? this.#chance.int(1, 10) : Infinity;
    for await (const { tokens, finish } of live.generation) {
      promise(live.finish === null, "nothing follows the finish");
      if (tokens.length > 0 && live.firstTokenAtStep === null) {
        live.firstTokenAtStep = this.#backend.steps;
        const waited = live.firstTokenAtStep - live.acceptedAtStep;
        promise(
          live.isSlow || waited <= live.maxWaitSteps,
          `request ${live.index} waits ${waited} of at most ${live.maxWaitSteps} steps`,
        );
      }
      for (const { id } of tokens) live.ids.push(id);
      live.finish = finish;
      if (finish === null && live.ids.length >= leavesAfter) break;
      if (live.isSlow) await this.#time.sleep(this.#chance.int(1, 50));
    }
    live.isDone = true;
    this.#check(live, aloneTokens(live, vocabSize));
  }

  #check({ index, ids, finish, sampling }: Live, alone: readonly number[]): void {
    const isWhole = finish?.reason === "length" || finish?.reason === "stop";
    const expected = isWhole ? alone : alone.slice(0, ids.length);
    promise(
      ids.length === expected.length && ids.every((id, i) => id === expected[i]),
      `request ${index} gives the tokens it gives alone: ${ids.join()} instead of ${expected.join()}`,
    );
    if (finish === null) return;
    promise(finish.usage.completionTokens === ids.length, "usage counts the tokens delivered");
    promise((finish.reason === "error") === (finish.error !== null), "an error has its reason");
    if (isWhole) {
      const endsAtStop = sampling.stopTokenIds.has(ids.at(-1)!);
      promise((finish.reason === "stop") === endsAtStop, "the reason fits the last token");
    }
  }

  #cancelOne(): void {
    const live = this.#requests[this.#chance.int(0, Math.max(0, this.#requests.length - 1))];
    if (live === undefined || live.isDone) return;
    live.generation.cancel();
    live.cancelledAtStep ??= this.#backend.steps;
  }

  async #readAdapter(name: string): Promise<ReturnType<typeof weightsOf>> {
    const { maxLoadMs, failureRate } = this.#profile;
    await this.#time.sleep(this.#chance.int(0, maxLoadMs));
    if (this.#chance.isOnce(failureRate)) {
      if (this.#chance.isOnce(0.5)) throw Object.assign(new Error("read failed"), { code: "EIO" });
      throw new AdapterError("adapter_invalid", `${name} is broken`);
    }
    return weightsOf(`digest of ${name}`, 60 + (name.charCodeAt(1) % 5) * 30, invocationOf(Number(name.slice(1))));
  }

  async #finishAll(): Promise<void> {
    const maxTicks = 20_000;
    const isBusy = () => {
      const { waitingRequests, runningRequests } = this.#runtime.stats();
      return waitingRequests + runningRequests + this.#backend.numUnderWay > 0 || this.#requests.some(({ isDone }) => !isDone);
    };
    for (let i = 0; isBusy(); i++) {
      promise(i < maxTicks, "everything ends once nothing new comes");
      this.tick++;
      await this.#turn();
    }
    // The last step may be settled in the turn after.
    await this.#turn();
  }

  /** Every adapter gets to the device once more: a slot, a lease or a page that leaked would stand in the way. */
  async #checkNothingLeaked(): Promise<void> {
    const stats = this.#runtime.stats();
    promise(stats.usedPages === 0, "no pages at idle");
    promise(stats.waitingRequests + stats.runningRequests === 0, "no requests at idle");
    for (let round = 0; round < 2; round++) {
      for (const adapter of this.#adapters) {
        const generation = this.#runtime.generate({
          promptTokens: [1],
          adapter,
          sampling: samplingWith({ maxTokens: 2 }),
          tenant: "",
          timeoutMs: null,
        });
        const state: { finish: Finish | null } = { finish: null };
        void (async () => {
          for await (const event of generation) state.finish = event.finish;
        })();
        for (let i = 0; state.finish === null; i++) {
          promise(i < 2000, "an adapter can be had at idle");
          await this.#time.advance(10);
        }
        promise(
          state.finish.reason === "length" || state.finish.reason === "error",
          "a request at idle ends by itself",
        );
      }
    }
  }

  async #close(): Promise<void> {
    const state = { isClosed: false };
    void this.#runtime.close(1000).then(() => (state.isClosed = true));
    for (let i = 0; !state.isClosed; i++) {
      promise(i < 2000, "close ends");
      await this.#time.advance(10);
    }
    promise(this.#backend.closed, "the backend is closed");
  }

  #report(): SimulationReport {
    const { preemptions, adapterEvictions, finished, prefixHits } = this.#runtime.stats();
    const waits = this.#requests.flatMap(({ firstTokenAtStep, acceptedAtStep }) =>
      firstTokenAtStep === null ? [] : [firstTokenAtStep - acceptedAtStep],
    );
    return {
      steps: this.#backend.steps,
      stepsTakenAhead: this.#backend.stepsTakenAhead,
      accepted: this.#requests.length,
      refused: this.#refused,
      preemptions,
      evictions: adapterEvictions,
      prefixHits,
      reasons: finished,
      longestWaitSteps: Math.max(0, ...waits),
      traceHash: this.#traceHash,
    };
  }
}

/** @throws when a promise is broken, with `SEED=… TICK=…` */
export async function simulate(seed: number, numTicks: number): Promise<SimulationReport> {
  const simulation = new Simulation(seed);
  try {
    return await simulation.run(numTicks);
  } catch (error) {
    throw new Error(`SEED=${seed} TICK=${simulation.tick}: ${String(error)}`, { cause: error });
  }
}
