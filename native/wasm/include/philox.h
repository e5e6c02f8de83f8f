/**
 * Philox 4x32-10: a random number that is a pure function of (seed, counter).
 * Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 */
#pragma once
#include <stdint.h>

/** A double in [0, 1) with 53 random bits. */
static inline double philox_unit(uint32_t seed_low, uint32_t seed_high, uint32_t counter) {
  uint32_t c0 = counter, c1 = 0, c2 = 0, c3 = 0, k0 = seed_low, k1 = seed_high;
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c0 = n0;
    c1 = (uint32_t)p1;
    c2 = n2;
    c3 = (uint32_t)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return ((double)(c0 >> 5) * 67108864.0 + (double)(c1 >> 6)) / 9007199254740992.0;
}
