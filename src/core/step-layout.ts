/**
 * The layout of the two records that cross into native code, in 32-bit words.
 *
 * This file is the only definition: `scripts/generate-abi.ts` writes `native/abi.h` from it, and a
 * test holds the two together. Change `ABI_VERSION` with any change of meaning.
 */

export const ABI_VERSION = 1;

/** Most alternatives reported per sampled token. */
export const MAX_LOGPROBS = 20;

/**
 * Page tables that a page may be in, on average over the pool: sequences share pages of equal beginnings, and devices have
 * room in a step block for so many entries. A sequence whose adapter comes to act in a step is listed twice besides.
 */
export const MAX_TABLES_PER_PAGE = 4;

/** Step block: fixed header, then sections at the word offsets that the header names. */
export const STEP_HEADER = {
  version: 0,
  /** Words used, header included. */
  numWords: 1,
  /** Token positions computed in this step. */
  numRows: 2,
  /** Sequences that own those rows. */
  numSequences: 3,
  /** Runs of rows that share an adapter slot. */
  numSegments: 4,
  /** Rows whose logits are computed and sampled. */
  numSampled: 5,
  /** i32[numRows]: token id of each row; `~i` for what sample i of the step before picks, where a backend takes steps ahead. */
  tokensAt: 6,
  /** i32[numRows]: position of each row in its sequence, from 0. */
  positionsAt: 7,
  /** i32[numRows]: index of the sequence that owns each row. */
  sequenceOfRowAt: 8,
  /** SEQUENCE records. */
  sequencesAt: 9,
  /** i32[]: the page tables of all sequences, one after the other. */
  pagesAt: 10,
  /** SEGMENT records over rows, ascending; rows without an adapter lie between them. */
  segmentsAt: 11,
  /** SAMPLE records. */
  samplesAt: 12,
  /** ADJUSTMENT records. */
  adjustmentsAt: 13,
} as const;
export const STEP_HEADER_WORDS = 16;

/** Rows of one sequence are consecutive, in position order. */
export const SEQUENCE = { rowStart: 0, numRows: 1, pagesStart: 2, numPages: 3 } as const;
export const SEQUENCE_WORDS = 4;

export const SEGMENT = { rowStart: 0, numRows: 1, slot: 2 } as const;
export const SEGMENT_WORDS = 4;

/** How to sample one row; floats are stored as their bits. */
export const SAMPLE = {
  row: 0,
  /** SAMPLE_FLAG bits. */
  flags: 1,
  temperature: 2,
  topP: 3,
  minP: 4,
  /** 0 keeps every token. */
  topK: 5,
  seedLow: 6,
  seedHigh: 7,
  /** Index of the token within the sequence's output: the random counter. */
  counter: 8,
  repetitionPenalty: 9,
  presencePenalty: 10,
  frequencyPenalty: 11,
  /** First ADJUSTMENT record of this row. */
  adjustmentsStart: 12,
  numAdjustments: 13,
  /** Alternatives wanted, 0 to MAX_LOGPROBS. */
  numTop: 14,
  /** Where in the block the bits of the allowed tokens start, `ceil(vocabulary / 32)` words; 0 when all are. */
  allowedAt: 15,
} as const;
export const SAMPLE_WORDS = 16;

export const SAMPLE_FLAG = {
  /** Take the most likely token; ties go to the lowest id. */
  greedy: 1,
  /** Compute log-probability, rank and alternatives. */
  logprobs: 2,
} as const;

/** One token whose logit is changed before sampling. */
export const ADJUSTMENT = {
  token: 0,
  /** Times generated so far in this sequence. */
  generatedCount: 1,
  /** 1 when the token occurs in prompt or output. */
  seen: 2,
  /** Float bits, added to the logit. */
  bias: 3,
} as const;
export const ADJUSTMENT_WORDS = 4;

/** Step result: header, then one RESULT record per SAMPLE record, in the same order. */
export const RESULT_HEADER = {
  version: 0,
  numSampled: 1,
  /** Time inside native code, microseconds. */
  elapsedMicros: 2,
} as const;
export const RESULT_HEADER_WORDS = 8;

export const RESULT = {
  token: 0,
  /** RESULT_FLAG bits. */
  flags: 1,
  logprob: 2,
  rank: 3,
  numTop: 4,
  /** i32[MAX_LOGPROBS] ids, best first. */
  topTokens: 8,
  /** f32[MAX_LOGPROBS], same order. */
  topLogprobs: 8 + MAX_LOGPROBS,
} as const;
export const RESULT_WORDS = 8 + 2 * MAX_LOGPROBS;

export const RESULT_FLAG = {
  /** A logit of this row was NaN or infinite; the token is not to be used. */
  nonFinite: 1,
} as const;
