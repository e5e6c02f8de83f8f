/**
 * What every kernel shares: warp and block reductions, bfloat16 conversions, and the few PTX instructions that
 * CUDA C++ has no spelling for. Everything here runs from sm_80 on.
 */
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

namespace lorikeet {

using bf16 = __nv_bfloat16;

/**
 * Waits until the kernels before this one in the stream have finished and their writes are visible.
 *
 * A kernel that is launched with `launch()` may start while the one before it still runs, so it calls this before
 * its first access to anything that another kernel of the step writes. Older devices run kernels one by one.
 */
__device__ __forceinline__ void wait_for_previous_kernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/** Lets the next kernel of the stream start its own prologue once every block has come here; it still waits for this one to finish. */
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/** What most kernels begin with: the next one may fill its rings with weights while this one waits and works. */
__device__ __forceinline__ void begin_behind_previous_kernels() {
  let_next_kernel_start();
  wait_for_previous_kernels();
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

/** The sum over the block, known to every thread. `shared` holds 32 floats that nothing else uses meanwhile. */
__device__ __forceinline__ float block_sum(float value, float* shared) {
  value = warp_sum(value);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = (blockDim.x + 31) / 32;
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  value = lane < warps ? shared[lane] : 0.0f;
  __syncthreads();
  return warp_sum(value);
}

/** Eight bfloat16 numbers as one 16-byte access. */
struct alignas(16) Bf16x8 {
  __nv_bfloat162 pairs[4];
};

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/** Copies 16 bytes into shared memory without passing through registers; zeros where `valid` is false. */
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/** Four 8x8 matrices of 16-bit numbers; lane l gives the address of row l % 8 of matrix l / 8. */
__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], const void* shared) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(from)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&out)[4], const void* shared) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(from)
               : "memory");
}

/**
 * c[16, 8] += a[16, 16] · b[16, 8] in float32. With g = lane / 4 and t = lane % 4 a thread holds
 * a0 = a[g][2t..], a1 = a[g + 8][2t..], a2 = a[g][2t + 8..], a3 = a[g + 8][2t + 8..], b0 = b[2t..][g],
 * b1 = b[2t + 8..][g], c0 c1 = c[g][2t..], c2 c3 = c[g + 8][2t..]. Source: PTX ISA, mma.m16n8k16.
 */
__device__ __forceinline__ void multiply_add(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                             uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

}  // namespace lorikeet
