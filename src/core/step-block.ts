/** Writes a `Step` as the words of `step-layout.ts`, and reads a result back. */
import { invariant } from "./errors.ts";
import type { SampledToken } from "./sampling.ts";
import type { Step, StepResult, StepSample, StepScore, StepSequence } from "./step.ts";
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
  for (const sequence of step.sequences) {
    counts.rows += sequence.tokens.length;
    counts.pages += sequence.pages.length;
    if (sequence.slot >= 0 && sequence.slot !== previousSlot) counts.segments++;
    previousSlot = sequence.slot;
    for (const { sample } of samplesOf(sequence)) {
      counts.samples++;
      counts.adjustments += sample.adjustments.length;
      counts.allowedWords += sample.allowed?.length ?? 0;
    }
  }
  return counts;
}

/** Every sample of a sequence with its row. */
function samplesOf({ tokens, sample, scores = [] }: StepSequence): readonly StepScore[] {
  return sample === null ? scores : [...scores, { row: tokens.length - 1, sample }];
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

  let row = 0;
  let page = 0;
  let segment = segmentsAt - SEGMENT_WORDS;
  let sample = samplesAt;
  let adjustment = 0;
  let allowed = allowedAt;
  let previousSlot = -1;
  for (let s = 0; s < numSequences; s++) {
    const sequence = step.sequences[s]!;
    const numRows = sequence.tokens.length;
    invariant(numRows > 0, "a sequence in a step has at least one row");
    const at = sequencesAt + s * SEQUENCE_WORDS;
    words[at + SEQUENCE.rowStart] = row;
    words[at + SEQUENCE.numRows] = numRows;
    words[at + SEQUENCE.pagesStart] = page;
    words[at + SEQUENCE.numPages] = sequence.pages.length;
    for (const id of sequence.pages) words[pagesAt + page++] = id;

    if (sequence.slot >= 0) {
      if (sequence.slot !== previousSlot) {
        segment += SEGMENT_WORDS;
        words[segment + SEGMENT.rowStart] = row;
        words[segment + SEGMENT.numRows] = 0;
        words[segment + SEGMENT.slot] = sequence.slot;
      }
      words[segment + SEGMENT.numRows]! += numRows;
    }
    previousSlot = sequence.slot;

    const firstRow = row;
    for (let i = 0; i < numRows; i++, row++) {
      words[tokensAt + row] = sequence.tokens[i]!;
      words[positionsAt + row] = sequence.position + i;
      words[sequenceOfRowAt + row] = s;
    }
    for (const wanted of samplesOf(sequence)) {
      writeSample(block, sample, firstRow + wanted.row, wanted.sample, adjustment);
      for (const entry of wanted.sample.adjustments) {
        const to = adjustmentsAt + ADJUSTMENT_WORDS * adjustment++;
        words[to + ADJUSTMENT.token] = entry.token;
        words[to + ADJUSTMENT.generatedCount] = entry.generatedCount;
        words[to + ADJUSTMENT.seen] = entry.seen ? 1 : 0;
        block.floats[to + ADJUSTMENT.bias] = entry.bias;
      }
      if (wanted.sample.allowed !== undefined) {
        words[sample + SAMPLE.allowedAt] = allowed;
        words.set(wanted.sample.allowed, allowed);
        allowed += wanted.sample.allowed.length;
      }
      sample += SAMPLE_WORDS;
    }
  }
}

function writeSample(
  block: StepBlock,
  at: number,
  row: number,
  { sampling, counter, adjustments }: StepSample,
  adjustmentsStart: number,
): void {
  const { words, floats } = block;
  const greedy = sampling.temperature === 0 || sampling.topK === 1;
  words[at + SAMPLE.row] = row;
  words[at + SAMPLE.flags] =
    (greedy ? SAMPLE_FLAG.greedy : 0) | (sampling.logprobs === null ? 0 : SAMPLE_FLAG.logprobs);
  floats[at + SAMPLE.temperature] = sampling.temperature;
  floats[at + SAMPLE.topP] = sampling.topP;
  floats[at + SAMPLE.minP] = sampling.minP;
  words[at + SAMPLE.topK] = sampling.topK;
  words[at + SAMPLE.seedLow] = Number(BigInt.asIntN(32, sampling.seed));
  words[at + SAMPLE.seedHigh] = Number(BigInt.asIntN(32, sampling.seed >> 32n));
  words[at + SAMPLE.counter] = counter;
  floats[at + SAMPLE.repetitionPenalty] = sampling.repetitionPenalty;
  floats[at + SAMPLE.presencePenalty] = sampling.presencePenalty;
  floats[at + SAMPLE.frequencyPenalty] = sampling.frequencyPenalty;
  words[at + SAMPLE.adjustmentsStart] = adjustmentsStart;
  words[at + SAMPLE.numAdjustments] = adjustments.length;
  words[at + SAMPLE.numTop] = sampling.logprobs ?? 0;
  words[at + SAMPLE.allowedAt] = 0;
}

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
    const top = [];
    for (let j = 0; j < numTop; j++) {
      top.push({ id: words[at + RESULT.topTokens + j]!, logprob: floats[at + RESULT.topLogprobs + j]! });
    }
    sampled.push({
      id: words[at + RESULT.token]!,
      logprob: floats[at + RESULT.logprob]!,
      rank: words[at + RESULT.rank]!,
      top,
    });
  }
  return { sampled, computeMs: words[RESULT_HEADER.elapsedMicros]! / 1000 };
}
