/**
 * What the CUDA engine and its TypeScript side agree on, in 32-bit words.
 *
 * The only definition: `scripts/generate-abi.ts` writes `native/cuda/layout.h` from it.
 */

/** Of what the addon exports; change it with any change there or of a launch's fields. */
export const ADDON_VERSION = 8;

/** Positions per KV page: 16 KiB of keys of one head 128 wide. */
export const PAGE_TOKENS = 64;

export const LAUNCH_OP = {
  embed: 0,
  rmsNorm: 1,
  linear: 2,
  ropeKvWrite: 3,
  attention: 4,
  siluMul: 5,
  sample: 6,
  /** With a matrix in float32, its adapters included. */
  exactLinear: 7,
  route: 8,
  expertLinear: 9,
  combine: 10,
} as const;

/** What a buffer has one row for. */
export const BUFFER_ROWS = { step: 0, sampled: 1, routed: 2 } as const;

/** How a weight is stored. */
export const WEIGHT_KIND = { matrix: 0, exact: 1, vector: 2 } as const;

/** One kernel of the forward program; fields that an operation does not use are -1. */
export const LAUNCH = {
  op: 0,
  /** Buffers. */
  x: 1,
  out: 2,
  /** Weights: the matrix, or a norm's vector. */
  weight: 3,
  /** Head norms of q and k. */
  qNorm: 4,
  kNorm: 5,
  /** Vector that the linear operation behind `x` left to be added, and that operation's site. */
  pendingBias: 6,
  pendingSite: 7,
  /** The operation's own site: of an embedding, a norm or a linear operation; of experts the first one's. */
  site: 8,
  /** 1 when the product is added to `out`. */
  accumulate: 9,
  /** 1 when rows are the sampled ones; a norm then reads the sampled rows of `x`. */
  sampledRows: 10,
  layer: 11,
  /** 0 for no window. */
  window: 12,
  /** Float bits. */
  eps: 13,
  /** Sites of the head norms. */
  qNormSite: 14,
  kNormSite: 15,
  /** Buffer of experts and their shares. */
  routes: 16,
  /** 1 when shares are of the chosen experts alone. */
  normalize: 17,
} as const;
export const LAUNCH_WORDS = 18;

/** Of a `LoraSite`; a `matrix` is one of a layer that all rows share, a `router`'s is in float32. */
export const SITE_KIND = { matrix: 0, embedding: 1, head: 2, norm: 3, router: 4, expert: 5 } as const;
