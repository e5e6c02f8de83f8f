/**
 * Hopper's product of a warpgroup: 64 rows of a matrix in shared memory times 8 to 64 rows of another.
 *
 * Both operands lie as rows of 64 bfloat16 numbers (128 bytes), their eight 16-byte chunks exchanged by the row's low
 * three bits, in blocks of eight rows that begin on 1024 bytes. Source: PTX ISA, "Asynchronous warpgroup level matrix
 * operations", 128-byte swizzle.
 */
#pragma once
#include "device.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LORIKEET_HAS_WGMMA 1
#endif

namespace lorikeet {

#ifdef LORIKEET_HAS_WGMMA

/** Describes an operand whose rows begin at `shared`. */
__device__ __forceinline__ uint64_t operand_descriptor(const void* shared) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  constexpr uint64_t STRIDE_8_ROWS = 1024 >> 4, LEADING = 1, SWIZZLE_128 = 1;
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | LEADING << 16 | STRIDE_8_ROWS << 32 | SWIZZLE_128 << 62;
}

/** Sixteen columns further, in the descriptor's unit of 16 bytes. */
constexpr uint64_t DESCRIPTOR_16_COLUMNS = 2;

/** Makes ordinary and asynchronous copies into shared memory visible to the product; before a barrier. */
__device__ __forceinline__ void fence_shared_for_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

/**
 * c[64, 8 N_TILES] += a[64, 16] · b[8 N_TILES, 16]ᵀ, with c as `multiply_add` holds it: warp w of the warpgroup has rows
 * 16 w to 16 w + 15.
 */
template <int N_TILES> __device__ __forceinline__ void wgmma_16(float (&c)[N_TILES][4], uint64_t a, uint64_t b);

template <> __device__ __forceinline__ void wgmma_16<1>(float (&c)[1][4], uint64_t a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;"
               : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3])
               : "l"(a), "l"(b));
}
template <> __device__ __forceinline__ void wgmma_16<2>(float (&c)[2][4], uint64_t a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, 1, 1, 1, 0, 0;"
               : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3])
               : "l"(a), "l"(b));
}
template <> __device__ __forceinline__ void wgmma_16<4>(float (&c)[4][4], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, 1, 1, 1, 0, 0;"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]),
        "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3])
      : "l"(a), "l"(b));
}
template <> __device__ __forceinline__ void wgmma_16<8>(float (&c)[8][4], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"
      "%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, 1, 1, 1, 0, 0;"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]),
        "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
        "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]), "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]),
        "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
      : "l"(a), "l"(b));
}

#endif

}  // namespace lorikeet
