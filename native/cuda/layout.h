/* Written by scripts/generate-abi.ts from src/backend/cuda/layout.ts; do not edit. */
#pragma once

enum { ADDON_VERSION = 6 };

enum {
  LAUNCH_OP = 0,
  LAUNCH_X = 1,
  LAUNCH_OUT = 2,
  LAUNCH_WEIGHT = 3,
  LAUNCH_Q_NORM = 4,
  LAUNCH_K_NORM = 5,
  LAUNCH_PENDING_BIAS = 6,
  LAUNCH_PENDING_SITE = 7,
  LAUNCH_SITE = 8,
  LAUNCH_ACCUMULATE = 9,
  LAUNCH_SAMPLED_ROWS = 10,
  LAUNCH_LAYER = 11,
  LAUNCH_WINDOW = 12,
  LAUNCH_EPS = 13,
};

enum {
  LAUNCH_OP_EMBED = 0,
  LAUNCH_OP_RMS_NORM = 1,
  LAUNCH_OP_LINEAR = 2,
  LAUNCH_OP_ROPE_KV_WRITE = 3,
  LAUNCH_OP_ATTENTION = 4,
  LAUNCH_OP_SILU_MUL = 5,
  LAUNCH_OP_SAMPLE = 6,
};
enum { LAUNCH_WORDS = 16 };
enum { PAGE_TOKENS = 64 };
