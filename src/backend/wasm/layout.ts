/**
 * What the WASM executor's C code and its TypeScript side agree on, in 32-bit words.
 *
 * The only definition: `scripts/generate-abi.ts` writes `native/wasm/include/layout.h` from it.
 */

/** Positions per KV page: four vectors of scores. */
export const PAGE_TOKENS = 16;

/** Shared by all threads; every address is a byte offset into the memory. */
export const CONTROL = {
  /** Raised by one to start a step; threads sleep on it. */
  epoch: 0,
  stop: 1,
  numThreads: 2,
  barrierArrived: 16,
  barrierPhase: 32,
  /** Threads asleep at the barrier. */
  barrierSleepers: 33,
  /** Epoch of the last finished step; the main thread sleeps on it. */
  done: 48,

  block: 64,
  result: 65,
  operations: 66,
  numOperations: 67,
  /** u32[numOperations * WORK_COUNTERS], zeroed before each step. */
  workCounters: 68,
  /** Packed activations of one linear operation. */
  packed: 69,
  /** Of a thread's private memory, the bytes in front that hold the rows it packs for itself. */
  packedBlockBytes: 70,
  /** Private memory of thread t at `scratch + t * scratchBytes`. */
  scratch: 71,
  scratchBytes: 72,
  /** u32[numSlots * numSites]: SITE record or 0. */
  slotSites: 73,
  numSites: 74,
  /** f32[maxRows, shrinkStride]: A·x of every LoRA row. */
  shrunk: 75,
  shrinkStride: 76,
  /** Private packing of shrunk rows, of thread t at `expandPacked + t * expandPackedBytes`. */
  expandPacked: 77,
  expandPackedBytes: 78,
  /** What outputs held before an operation that adds to them: f32[maxRows][widest site]. */
  held: 79,

  kvPages: 80,
  pageBytes: 81,
  numHeads: 82,
  numKvHeads: 83,
  headDim: 84,
  /** `headDim` rounded up to 8: floats per position of V. */
  headDimPadded: 85,
  scoreScale: 86,
  rotaryDim: 87,
  /** f32[maxContext, rotaryDim]: cosines, then sines, of each position. */
  ropeTable: 88,
  vocabSize: 89,
  /** Floats of scores per query head in a thread's scratch. */
  maxContext: 90,
  numExperts: 91,
  /** Experts per row. */
  topK: 92,
  /** Rows by expert of the layer at hand: u32[numExperts + 1] starts, then sources and places, one each per routed row. */
  groups: 93,
} as const;
export const CONTROL_WORDS = 128;

/** Most rows that are packed together. Packed they stay in a second-level cache, and 16 to 32 measured best. */
export const ROW_BLOCK = 32;

/** Query heads that one thread attends to at once. */
export const MAX_QUERY_HEADS = 3;

/** Atomic work queues of one operation: one per phase. */
export const WORK_COUNTERS = 4;

export const OPCODE = {
  embed: 0,
  rmsNorm: 1,
  linear: 2,
  headNorm: 3,
  ropeKvWrite: 4,
  attention: 5,
  siluMul: 6,
  gather: 7,
  sample: 8,
  route: 9,
  expertLinear: 10,
  combine: 11,
} as const;

/** One operation; fields that an opcode does not use are 0. */
export const OPERATION = {
  opcode: 0,
  x: 1,
  /** Row stride of x in floats. */
  xStride: 2,
  out: 3,
  outStride: 4,
  /** Matrix panels, or a float32 vector. */
  weight: 5,
  format: 6,
  /** Outputs: rows of the matrix, or the width of an element-wise operation. */
  n: 7,
  /** Inputs: columns of the matrix. */
  k: 8,
  /** Address of f32[n], or 0. */
  bias: 9,
  accumulate: 10,
  /** Site of adapters, or -1. */
  site: 11,
  /** 1 when rows are the sampled ones. */
  sampledRows: 12,
  /** Float bits. */
  eps: 13,
  /** Byte offset of the layer's part within a page; window of an attention, 0 for none, in `n`. */
  layerOffset: 14,
  /** First column, of a head norm. */
  offset: 15,
  /** 1 when rows are the routed ones. */
  routedRows: 16,
  /** 1 when x has the rows of the step and out the routed ones. */
  gathered: 17,
  /** From one expert's matrix to the next. */
  matrixBytes: 18,
  /** Address of what a route operation wrote, and the row stride of that in floats. */
  routes: 19,
  routesStride: 20,
  normalize: 21,
} as const;
export const OPERATION_WORDS = 24;

/**
 * What one adapter does at one site. REPLACEMENT records follow, then DELTA records.
 *
 * A norm has `own` alone; an embedding at most one replacement and one delta, and lists of tokens.
 */
export const SITE = {
  format: 0,
  /** Ranks of all deltas: rows of the stacked A. */
  totalRank: 1,
  a: 2,
  numDeltas: 3,
  /** Output panels expanded per claim; all of them where deltas or replacements are not aligned to panels. */
  expandPanels: 4,
  /** 1 when what the output held before the operation is needed again: for gains and replacements. */
  holds: 5,
  numReplacements: 6,
  /** 1 when replacements write the whole output, so that the base matrix has no say in it. */
  replacesAll: 7,
  /** f32[outWidth]: added to the output at last, or 0. Trained biases less the base's. */
  shift: 8,
  /** f32[outWidth]: the weight of a norm. */
  own: 9,
  /** Rows of the matrix that are replaced one by one, u32[numTokens] ascending, and their numbers. */
  tokens: 10,
  numTokens: 11,
  tokenRows: 12,
  tokenFormat: 13,
} as const;
export const SITE_WORDS = 16;

/** A run of a matrix's rows: outputs of a linear operation, all tokens of an embedding. */
export const REPLACEMENT = { outOffset: 0, width: 1, format: 2, matrix: 3 } as const;
export const REPLACEMENT_WORDS = 4;

export const DELTA = {
  /** First column of this delta's rank space in the shrunk row. */
  rankOffset: 0,
  rank: 1,
  outOffset: 2,
  width: 3,
  /** Float bits. */
  scale: 4,
  b: 5,
  /** f32[width], scaled like B's output, or 0. */
  bias: 6,
  /** f32[width]: multiplies what base and adapter added to the output, or 0. */
  gain: 7,
} as const;
export const DELTA_WORDS = 8;
