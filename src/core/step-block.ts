/** Writes a `Step` as the words of `step-layout.ts`, and reads a result back. */
import { invariant } from "./errors.ts";
import type { SampledToken } from "./sampling.ts";
import type { Step, StepResult, StepSample, TokenAdjustment } from "./step.ts";
import {
  ABI_VERSION,
  ADJUSTMENT,
  ADJUSTMENT_WORDS,
  MAX_LOGPROBS,
  RESULT,
  RESULT_FLAG,
  RESULT_HEADER,
  RESULT_HEADER_WORDS,
  RESULT_WORDS,
  SAMPLE,
  SAMPLE_FLAG,
  SAMPLE_WORDS,
  SEGMENT,
  SEGMENT_WORDS,
  SEQUENCE,
  SEQUENCE_WORDS,
  STEP_HEADER,
  STEP_HEADER_WORDS,
} from "./step-layout.ts";

/** Two views of one growable stretch of words. */
export class StepBlock {
  words: Int32Array;
  floats: Float32Array;

  constructor(numWords = 4096) {
    this.words = new Int32Array(numWords);
    this.floats = new Float32Array(this.words.buffer);
  }

  /** The words in use. */
  get used(): Int32Array {
    return this.words.subarray(0, this.words[STEP_HEADER.numWords]);
  }

  reserve(numWords: number): void {
    if (numWords <= this.words.length) return;
    this.words = new Int32Array(Math.max(numWords, this.words.length * 2));
    this.floats = new Float32Array(this.words.buffer);
  }
}

interface StepCounts {
  rows: number;
  pages: number;
  segments: number;
  samples: number;
  adjustments: number;
  allowedWords: number;
}

function countStep(step: Step): StepCounts {
  const counts: StepCounts = { rows: 0, pages: 0, segments: 0, samples: 0, adjustments: 0, allowedWords: 0 };
  let previousSlot = -1;
  for (const { tokens, pages, slot, sample, scores } of step.sequences) {
    counts.rows += tokens.length;
    counts.pages += pages.length;
    if (slot >= 0 && slot !== previousSlot) counts.segments++;
    previousSlot = slot;
    if (scores !== undefined) for (const score of scores) countSample(counts, score.sample);
    if (sample !== null) countSample(counts, sample);
  }
  return counts;
}

function countSample(counts: StepCounts, { adjustments, allowed }: StepSample): void {
  counts.samples++;
  counts.adjustments += adjustments.length;
  if (allowed !== undefined) counts.allowedWords += allowed.length;
}

/** Words that a block of this many parts takes; backends size their memory with it. */
export function stepWords(
  rows: number,
  sequences: number,
  pages: number,
  segments: number,
  samples: number,
  adjustments: number,
  allowedWords: number,
): number {
  return (
    STEP_HEADER_WORDS +
    3 * rows +
    SEQUENCE_WORDS * sequences +
    pages +
    SEGMENT_WORDS * segments +
    SAMPLE_WORDS * samples +
    ADJUSTMENT_WORDS * adjustments +
    allowedWords
  );
}

export const resultWords = (samples: number): number => RESULT_HEADER_WORDS + RESULT_WORDS * samples;

/**
 * Writes `step` into `block`, growing it where needed.
 *
 * @complexity O(rows + pages + adjustments), no allocation once the block has grown
 */
export function encodeStep(step: Step, block: StepBlock): void {
  const counts = countStep(step);
  const numSequences = step.sequences.length;
  const tokensAt = STEP_HEADER_WORDS;
  const positionsAt = tokensAt + counts.rows;
  const sequenceOfRowAt = positionsAt + counts.rows;
  const sequencesAt = sequenceOfRowAt + counts.rows;
  const pagesAt = sequencesAt + SEQUENCE_WORDS * numSequences;
  const segmentsAt = pagesAt + counts.pages;
  const samplesAt = segmentsAt + SEGMENT_WORDS * counts.segments;
  const adjustmentsAt = samplesAt + SAMPLE_WORDS * counts.samples;
  const allowedAt = adjustmentsAt + ADJUSTMENT_WORDS * counts.adjustments;
  const numWords = allowedAt + counts.allowedWords;
  block.reserve(numWords);

  const { words } = block;
  words[STEP_HEADER.version] = ABI_VERSION;
  words[STEP_HEADER.numWords] = numWords;
  words[STEP_HEADER.numRows] = counts.rows;
  words[STEP_HEADER.numSequences] = numSequences;
  words[STEP_HEADER.numSegments] = counts.segments;
  words[STEP_HEADER.numSampled] = counts.samples;
  words[STEP_HEADER.tokensAt] = tokensAt;
  words[STEP_HEADER.positionsAt] = positionsAt;
  words[STEP_HEADER.sequenceOfRowAt] = sequenceOfRowAt;
  words[STEP_HEADER.sequencesAt] = sequencesAt;
  words[STEP_HEADER.pagesAt] = pagesAt;
  words[STEP_HEADER.segmentsAt] = segmentsAt;
  words[STEP_HEADER.samplesAt] = samplesAt;
  words[STEP_HEADER.adjustmentsAt] = adjustmentsAt;

  const samples = new SampleWriter(block, samplesAt, adjustmentsAt, allowedAt);
  let row = 0;
  let page = 0;
  let segment = segmentsAt - SEGMENT_WORDS;
  let previousSlot = -1;
  for (let s = 0; s < numSequences; s++) {
    const { tokens, position, pages, slot, sample, scores } = step.sequences[s]!;
    const numRows = tokens.length;
    invariant(numRows > 0, "a sequence in a step has at least one row");
    const at = sequencesAt + s * SEQUENCE_WORDS;
    words[at + SEQUENCE.rowStart] = row;
    words[at + SEQUENCE.numRows] = numRows;
    words[at + SEQUENCE.pagesStart] = page;
    words[at + SEQUENCE.numPages] = pages.length;
    // By index: for long tables it takes a third of the time.
    for (let i = 0; i < pages.length; i++) words[pagesAt + page++] = pages[i]!;

    if (slot >= 0) {
      if (slot !== previousSlot) {
        segment += SEGMENT_WORDS;
        words[segment + SEGMENT.rowStart] = row;
        words[segment + SEGMENT.numRows] = 0;
        words[segment + SEGMENT.slot] = slot;
      }
      words[segment + SEGMENT.numRows]! += numRows;
    }
    previousSlot = slot;

    if (scores !== undefined) for (const score of scores) samples.write(row + score.row, score.sample);
    for (let i = 0; i < numRows; i++, row++) {
      words[tokensAt + row] = tokens[i]!;
      words[positionsAt + row] = position + i;
      words[sequenceOfRowAt + row] = s;
    }
    if (sample !== null) samples.write(row - 1, sample);
  }
}

/** Writes SAMPLE records one behind the other, and what they refer to. */
class SampleWriter {
  readonly #block: StepBlock;
  readonly #adjustmentsAt: number;
  #at: number;
  #numAdjustments = 0;
  #allowedAt: number;

  constructor(block: StepBlock, samplesAt: number, adjustmentsAt: number, allowedAt: number) {
    this.#block = block;
    this.#at = samplesAt;
    this.#adjustmentsAt = adjustmentsAt;
    this.#allowedAt = allowedAt;
  }

  write(row: number, { sampling, counter, adjustments, allowed }: StepSample): void {
    const { words, floats } = this.#block;
    const at = this.#at;
    this.#at += SAMPLE_WORDS;
    const greedy = sampling.temperature === 0 || sampling.topK === 1;
    seed64[0] = sampling.seed;
    words[at + SAMPLE.row] = row;
    words[at + SAMPLE.flags] = (greedy ? SAMPLE_FLAG.greedy : 0) | (sampling.logprobs === null ? 0 : SAMPLE_FLAG.logprobs);
    floats[at + SAMPLE.temperature] = sampling.temperature;
    floats[at + SAMPLE.topP] = sampling.topP;
    floats[at + SAMPLE.minP] = sampling.minP;
    words[at + SAMPLE.topK] = sampling.topK;
    words[at + SAMPLE.seedLow] = seed32[0]!;
    words[at + SAMPLE.seedHigh] = seed32[1]!;
    words[at + SAMPLE.counter] = counter;
    floats[at + SAMPLE.repetitionPenalty] = sampling.repetitionPenalty;
    floats[at + SAMPLE.presencePenalty] = sampling.presencePenalty;
    floats[at + SAMPLE.frequencyPenalty] = sampling.frequencyPenalty;
    words[at + SAMPLE.adjustmentsStart] = this.#numAdjustments;
    words[at + SAMPLE.numAdjustments] = adjustments.length;
    words[at + SAMPLE.numTop] = sampling.logprobs ?? 0;
    for (const entry of adjustments) this.#adjust(entry);
    words[at + SAMPLE.allowedAt] = allowed === undefined ? 0 : this.#allow(allowed);
  }

  #adjust({ token, generatedCount, seen, bias }: TokenAdjustment): void {
    const { words, floats } = this.#block;
    const to = this.#adjustmentsAt + ADJUSTMENT_WORDS * this.#numAdjustments++;
    words[to + ADJUSTMENT.token] = token;
    words[to + ADJUSTMENT.generatedCount] = generatedCount;
    words[to + ADJUSTMENT.seen] = seen ? 1 : 0;
    floats[to + ADJUSTMENT.bias] = bias;
  }

  #allow(allowed: Int32Array): number {
    const to = this.#allowedAt;
    this.#block.words.set(allowed, to);
    this.#allowedAt += allowed.length;
    return to;
  }
}

/** A seed goes through memory into its halves: arithmetic on big integers allocates. Devices and hosts are little-endian. */
const seed64 = new BigUint64Array(1);
const seed32 = new Int32Array(seed64.buffer);

/** Reads a result record; `words` and `floats` are views of the same bytes. */
export function decodeResult(words: Int32Array, floats: Float32Array): StepResult {
  invariant(words[RESULT_HEADER.version] === ABI_VERSION, "the step result has another ABI version");
  const numSampled = words[RESULT_HEADER.numSampled]!;
  const sampled: (SampledToken | null)[] = [];
  for (let i = 0; i < numSampled; i++) {
    const at = RESULT_HEADER_WORDS + i * RESULT_WORDS;
    if ((words[at + RESULT.flags]! & RESULT_FLAG.nonFinite) !== 0) {
      sampled.push(null);
      continue;
    }
    const numTop = Math.min(words[at + RESULT.numTop]!, MAX_LOGPROBS);
    sampled.push({
      id: words[at + RESULT.token]!,
      logprob: floats[at + RESULT.logprob]!,
      rank: words[at + RESULT.rank]!,
      top: numTop === 0 ? NO_TOP : topOf(words, floats, at, numTop),
    });
  }
  return { sampled, computeMs: words[RESULT_HEADER.elapsedMicros]! / 1000 };
}

const NO_TOP: SampledToken["top"] = [];

function topOf(words: Int32Array, floats: Float32Array, at: number, numTop: number): SampledToken["top"] {
  const top = [];
  for (let j = 0; j < numTop; j++) top.push({ id: words[at + RESULT.topTokens + j]!, logprob: floats[at + RESULT.topLogprobs + j]! });
  return top;
}
