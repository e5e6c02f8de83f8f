/**
 * A backend without mathematics that watches its caller.
 *
 * Tokens that a step awaits are those that the step before picked, as on a device.
 *
 * The next token is a pure function of the adapter's content, the seed, the sample's counter and every token before it, as they
 * were written to the pages: so a wrong page, slot, position or a lost token changes the output. Every rule
 * that a caller of a backend must keep is checked on every call.
 */
import type { AdapterImage, Backend, BackendInfo } from "../../src/backend/backend.ts";
import { NativeError } from "../../src/core/errors.ts";
import type { SlotId } from "../../src/core/ids.ts";
import { MAX_TABLES_PER_PAGE } from "../../src/core/step-layout.ts";
import type { SampledToken } from "../../src/core/sampling.ts";
import type { Step, StepResult, StepSample, StepSequence } from "../../src/core/step.ts";
import type { AdapterWeights } from "../../src/lora/adapter-weights.ts";

export interface FakeBackendOptions {
  readonly pageTokens: number;
  readonly numPages: number;
  readonly numSlots: number;
  /** Beside the pages. */
  readonly adapterBytes: number;
  readonly extentBytes: number;
  /** Whether pages stay off what adapters leave of theirs. */
  readonly capsPages: boolean;
  readonly maxRows: number;
  readonly maxSequences: number;
  readonly vocabSize: number;
  readonly stepsAhead: 0 | 1;
  /** Waits before a step's result; the default resolves at once. */
  readonly beforeResult?: () => Promise<void>;
  /** Seeds whose every token is "not a finite number". */
  readonly poisonedSeeds?: ReadonlySet<bigint>;
}

const defaults: FakeBackendOptions = {
  pageTokens: 4,
  numPages: 64,
  numSlots: 2,
  adapterBytes: 1000,
  extentBytes: 10,
  capsPages: true,
  maxRows: 16,
  maxSequences: 8,
  vocabSize: 1000,
  stepsAhead: 0,
};

function check(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`broken rule of the backend: ${message}`);
}

/** FNV-1a over 32-bit words. */
function mix(hash: number, word: number): number {
  return Math.imul(hash ^ word, 16777619) >>> 0;
}

function textHash(text: string): number {
  let hash = 2166136261;
  for (let i = 0; i < text.length; i++) hash = mix(hash, text.charCodeAt(i));
  return hash;
}

/** What tokens were computed with: an adapter alone, or from a position on, behind rows of the base model. */
export const computedBy = (digest: string, activeFrom = 0): string =>
  activeFrom === Infinity ? "base" : activeFrom === 0 ? digest : `${digest} from ${activeFrom}`;

/** The token that follows `tokens` for a content, a seed and the number of tokens generated before. */
export function nextToken(
  digest: string,
  seed: bigint,
  counter: number,
  tokens: ArrayLike<number>,
  vocabSize: number,
): number {
  let hash = mix(mix(textHash(digest), Number(BigInt.asUintN(32, seed))), counter);
  for (let i = 0; i < tokens.length; i++) hash = mix(hash, tokens[i]!);
  return ((hash ^ (hash >>> 15)) >>> 0) % vocabSize;
}

type Named = Pick<StepSequence, "slot" | "pages">;

export class FakeBackend implements Backend {
  readonly info: BackendInfo;
  readonly #options: FakeBackendOptions;
  /** Kept, since the runtime shares an image as long as anybody has it: else a run would hang on when memory is collected. */
  readonly #staged: AdapterImage[] = [];
  /** Digest per attached slot. */
  readonly attached = new Map<SlotId, AdapterImage>();
  /** Extents that adapters lie in. */
  readonly #owners = new Map<number, SlotId>();
  /** `page * pageTokens + offset`: the token written there and the digest it was computed with. */
  readonly #cells: ({ readonly token: number; readonly digest: string } | undefined)[];
  /** Steps, in order, and what their sequences name: tables may change meanwhile. */
  readonly #underWay: (readonly Named[])[] = [];
  #lastResult: Promise<void> = Promise.resolve();
  #lastSampled: readonly (SampledToken | null)[] = [];
  /** Steps given while another was under way. */
  stepsTakenAhead = 0;
  steps = 0;
  rows = 0;
  maxSlotsInStep = 0;
  closed = false;
  /** Set to make the next step fail. */
  failNext: Error | null = null;
  /** Called with every step that keeps the rules. */
  onStep: (step: Step) => void = () => {};

  constructor(options: Partial<FakeBackendOptions> = {}) {
    this.#options = { ...defaults, ...options };
    const { pageTokens, numPages, numSlots, adapterBytes, extentBytes, capsPages, maxRows, maxSequences, stepsAhead } = this.#options;
    const numExtents = numPages + Math.ceil(adapterBytes / extentBytes);
    this.#cells = [];
    this.info = {
      name: "wasm",
      description: "a backend for tests",
      pageTokens,
      numExtents,
      extentBytes,
      numPages: capsPages ? numPages : numExtents,
      numSlots,
      maxRows,
      maxSequences,
      weightBytes: 0,
      stepsAhead,
    };
  }

  get numUnderWay(): number {
    return this.#underWay.length;
  }

  async run(step: Step): Promise<StepResult> {
    check(this.#underWay.length <= this.#options.stepsAhead, "no more steps at a time than it takes");
    check(!this.closed, "no step after close");
    this.#checkStep(step);
    if (this.failNext !== null) {
      const error = this.failNext;
      this.failNext = null;
      throw error;
    }
    if (this.#underWay.length > 0) this.stepsTakenAhead++;
    this.#underWay.push(step.sequences.map(({ slot, pages }) => ({ slot, pages: [...pages] })));
    this.onStep(step);
    const sampled: (SampledToken | null)[] = [];
    for (const sequence of step.sequences) {
      const { history, by } = this.#compute(sequence);
      if (sequence.sample !== null) sampled.push(this.#sample(sequence.sample, history, by));
    }
    this.#lastSampled = sampled;
    const before = this.#lastResult;
    const ready = Promise.withResolvers<void>();
    this.#lastResult = ready.promise;
    await Promise.all([before, this.#options.beforeResult?.()]);
    ready.resolve();
    this.steps++;
    this.#underWay.shift();
    return { sampled, computeMs: 0 };
  }

  stage(adapter: AdapterWeights): Promise<AdapterImage> {
    const image = { digest: adapter.digest, numBytes: adapter.report.numBytes };
    this.#staged.push(image);
    return Promise.resolve(image);
  }

  attach(slot: SlotId, extent: number, image: AdapterImage): Promise<void> {
    check(slot >= 0 && slot < this.info.numSlots, `slot ${slot} exists`);
    check(!this.attached.has(slot), `slot ${slot} is free before attach`);
    this.#checkIdle(slot);
    const { numExtents, extentBytes } = this.info;
    for (let at = extent; at < extent + image.numBytes / extentBytes; at++) {
      check(at >= 0 && at < numExtents, `extent ${at} exists`);
      check(!this.#owners.has(at), `extent ${at} is no other adapter's`);
      check(!this.#isUnderWay(({ pages }) => pages.some((page) => page === at)), `extent ${at} is no page of a step under way`);
      this.#owners.set(at, slot);
      this.#cells.fill(undefined, at * this.info.pageTokens, (at + 1) * this.info.pageTokens);
    }
    this.attached.set(slot, image);
    return Promise.resolve();
  }

  detach(slot: SlotId): void {
    check(this.attached.has(slot), `slot ${slot} is attached before detach`);
    this.#checkIdle(slot);
    this.attached.delete(slot);
    for (const [at, owner] of this.#owners) if (owner === slot) this.#owners.delete(at);
  }

  close(): Promise<void> {
    check(this.#underWay.length === 0, "no close during a step");
    check(!this.closed, "closed once");
    this.closed = true;
    return Promise.resolve();
  }

  #checkIdle(slot: SlotId): void {
    check(!this.#isUnderWay((sequence) => sequence.slot === slot), `slot ${slot} is not named by a step under way`);
  }

  #isUnderWay(holds: (sequence: Named) => boolean): boolean {
    return this.#underWay.some((sequences) => sequences.some(holds));
  }

  /** The token itself, or what the step before picked; anything where that was no number. */
  #tokenOf(word: number): number {
    if (word >= 0) return word;
    check(~word < this.#lastSampled.length, `the step before has a sample ${~word}`);
    return this.#lastSampled[~word]?.id ?? 0;
  }

  #checkStep({ sequences }: Step): void {
    const { pageTokens, numExtents, numPages, maxRows, maxSequences, numSlots } = this.info;
    check(sequences.length >= 1 && sequences.length <= maxSequences, "sequence budget");
    const readers = new Map<number, StepSequence[]>();
    let numListed = 0;
    const slots = new Set<SlotId>();
    let numRows = 0;
    let previousSlot = -1;
    for (const sequence of sequences) {
      const { tokens, position, pages, slot } = sequence;
      check(tokens.length >= 1, "a sequence has a row");
      numRows += tokens.length;
      const end = position + tokens.length;
      check(pages.length >= Math.ceil(end / pageTokens), `page table fits position ${end}`);
      for (const page of pages) {
        check(page >= 0 && page < numExtents, `page ${page} exists`);
        check(!this.#owners.has(page), `page ${page} is no adapter's`);
        readers.set(page, [...(readers.get(page) ?? []), sequence]);
        numListed++;
      }
      check(slot >= previousSlot, "sequences are sorted by slot");
      previousSlot = slot;
      if (slot < 0) continue;
      check(this.attached.has(slot), `slot ${slot} is attached`);
      slots.add(slot);
    }
    check(numListed <= 2 * MAX_TABLES_PER_PAGE * numPages, "page tables within the block");
    for (const { tokens, position, pages, slot } of sequences) {
      const first = Math.floor(position / pageTokens);
      for (const page of pages.slice(first, Math.ceil((position + tokens.length) / pageTokens))) {
        const isPart = ({ pages: others, ...other }: StepSequence): boolean =>
          others === pages && (slot < 0 ? other.position === position + tokens.length && other.slot >= 0 : other.slot < 0 && other.position + other.tokens.length === position);
        check(readers.get(page)!.every((other) => (other.pages === pages && other.position === position) || isPart(other)), `page ${page}, which is written, is in one table`);
      }
    }
    check(numRows <= maxRows, `token budget: ${numRows} of ${maxRows}`);
    check(slots.size <= numSlots, "adapters within slots");
    this.rows += numRows;
    this.maxSlotsInStep = Math.max(this.maxSlotsInStep, slots.size);
  }

  #digestOf(slot: SlotId): string {
    return slot < 0 ? "base" : this.attached.get(slot)!.digest;
  }

  /** Writes the rows into their pages and reads the whole history, and what it was computed with, back from there. */
  #compute({ tokens, position, pages, slot }: StepSequence): { readonly history: number[]; readonly by: string } {
    const { pageTokens } = this.info;
    const digest = this.#digestOf(slot);
    const cellOf = (at: number) =>
      pages[Math.floor(at / pageTokens)]! * pageTokens + (at % pageTokens);
    for (let i = 0; i < tokens.length; i++) {
      const token = this.#tokenOf(tokens[i]!);
      check(token >= 0 && token < this.#options.vocabSize, `token ${token} is in the vocabulary`);
      this.#cells[cellOf(position + i)] = { token, digest };
    }
    const history: number[] = [];
    let activeFrom = slot < 0 ? Infinity : 0;
    for (let at = 0; at < position + tokens.length; at++) {
      const cell = this.#cells[cellOf(at)];
      check(cell !== undefined, `position ${at} was computed`);
      if (cell.digest === "base" && activeFrom === at) activeFrom++;
      check(cell.digest === (at < activeFrom ? "base" : digest), `position ${at} was computed with ${digest}`);
      history.push(cell.token);
    }
    return { history, by: computedBy(digest, activeFrom) };
  }

  #sample(sample: StepSample, history: number[], by: string): SampledToken | null {
    const { seed, logprobs } = sample.sampling;
    if (this.#options.poisonedSeeds?.has(seed) === true) return null;
    const forbidden = new Set<number>();
    for (const { token, bias } of sample.adjustments) {
      if (bias === -Infinity) forbidden.add(token);
    }
    let id = nextToken(by, seed, sample.counter, history, this.#options.vocabSize);
    while (forbidden.has(id)) id = (id + 1) % this.#options.vocabSize;
    return { id, logprob: logprobs === null ? 0 : -0.5, rank: 1, top: [] };
  }
}

export const deviceLost = (): NativeError =>
  new NativeError("backend_failed", "the device stopped working");
