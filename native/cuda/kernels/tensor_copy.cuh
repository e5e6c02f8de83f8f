/** Copies that the device's copy engine does by itself, and the barriers that count their bytes. From sm_90 on. */
#pragma once
#include <cuda.h>
#include <stdint.h>

#include "device.cuh"

namespace lorikeet {

__device__ __forceinline__ uint32_t shared_address(const void* shared) { return static_cast<uint32_t>(__cvta_generic_to_shared(shared)); }

/** A phase of the barrier ends when `arrivals` threads have arrived and all bytes that were announced are there. */
__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}
/** Makes initialised barriers visible to the copy engine. */
__device__ __forceinline__ void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) { asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory"); }
/** Arrives, and announces bytes; they may have come already. */
__device__ __forceinline__ void barrier_arrive_expecting(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
/** Waits for the end of the barrier's phases of this parity: 0 for the first, 1 for the second, and so on. */
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again_%=:\n"
      "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@!done bra again_%=;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/** Cache policies of the copies: what is read once, and what all blocks read. Source: as createpolicy.fractional makes them. */
constexpr uint64_t READ_ONCE = 0x12f0000000000000, READ_OFTEN = 0x14f0000000000000;

/**
 * Boxes of a matrix that `box_map` describes: rows from `row` on, 64 columns each, the first the `box`th of a row. They lie one
 * behind the other, [boxes][rows][64]; what is outside of the matrix becomes zero.
 */
__device__ __forceinline__ void copy_boxes(void* shared, const CUtensorMap* matrix, int row, int box, uint64_t* barrier, uint64_t policy) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(shared)),
               "l"(matrix), "r"(0), "r"(row), "r"(box), "r"(shared_address(barrier)), "l"(policy)
               : "memory");
}
/** The same in blocks of eight rows, [blocks][boxes][8][64], of a matrix that `block_map` describes. */
__device__ __forceinline__ void copy_blocks(void* shared, const CUtensorMap* matrix, int block, int box, uint64_t* barrier, uint64_t policy) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(
                   shared_address(shared)),
               "l"(matrix), "r"(0), "r"(0), "r"(box), "r"(block), "r"(shared_address(barrier)), "l"(policy)
               : "memory");
}
/** Neighbouring bytes, a multiple of 16. */
__device__ __forceinline__ void copy_bytes(void* shared, const void* global, int bytes, uint64_t* barrier, uint64_t policy) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(shared_address(shared)), "l"(global),
               "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
               : "memory");
}

/* ---- on the host ----------------------------------------------------------------------------------------------- */

/** 128 bytes, what a swizzled row of the tensor cores' operands holds. */
constexpr int BOX_COLUMNS = 64;

/** Whether the driver can describe matrices to the copy engine. */
bool tensor_copies_work();

/**
 * A matrix of which `boxes` boxes of BOX_COLUMNS columns and `box_rows` rows, at most 256, are copied at a time, swizzled.
 *
 * @param columns a multiple of BOX_COLUMNS
 */
CUtensorMap box_map(const bf16* data, int rows, int columns, int stride, int box_rows, int boxes);
/** The same in blocks of eight rows. There is memory behind the last row up to a multiple of eight. */
CUtensorMap block_map(const bf16* data, int rows, int columns, int stride, int blocks, int boxes);

}  // namespace lorikeet
