/** Weights on their way to the device: conversion from the checkpoint's numbers, or numbers made up on the spot. */
#include <cuda_fp16.h>

#include "device.cuh"
#include "kernels.h"

namespace lorikeet {
namespace {

constexpr int THREADS = 256;
constexpr int MAX_BLOCKS = 8192;

__device__ __forceinline__ float source_value(const void* source, Dtype dtype, int64_t i) {
  if (dtype == Dtype::f32) return static_cast<const float*>(source)[i];
  if (dtype == Dtype::f16) return __half2float(static_cast<const __half*>(source)[i]);
  return __bfloat162float(static_cast<const bf16*>(source)[i]);
}

__device__ __forceinline__ void store(bf16* to, float value) { *to = __float2bfloat16(value); }
__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ float stored(const bf16* at) { return __bfloat162float(*at); }
__device__ __forceinline__ float stored(const float* at) { return *at; }

template <typename Number> __global__ void convert_matrix_kernel(const void* source, Dtype dtype, int rows, int cols, Number* out, int out_stride, uint32_t* bad_row) {
  const int64_t count = static_cast<int64_t>(rows) * cols;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(THREADS) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * THREADS) {
    const int row = static_cast<int>(i / cols);
    Number* to = out + static_cast<int64_t>(row) * out_stride + i % cols;
    store(to, source_value(source, dtype, i));
    /* The largest float32 numbers round up to infinity. */
    if (!isfinite(stored(to))) atomicMin(bad_row, static_cast<uint32_t>(row));
  }
}

__global__ void convert_vector_kernel(const void* source, Dtype dtype, int length, float* out, uint32_t* bad_row) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= length) return;
  out[i] = source_value(source, dtype, i);
  if (!isfinite(out[i])) atomicMin(bad_row, static_cast<uint32_t>(i));
}

/** The finaliser of SplitMix64. Source: Steele et al., "Fast splittable pseudorandom number generators", 2014. */
__device__ __forceinline__ uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

template <typename Number> __global__ void random_matrix_kernel(Number* out, int64_t rows, int cols, int stride, float deviation, uint64_t seed) {
  const int64_t count = rows * cols;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(THREADS) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * THREADS) {
    const uint64_t bits = mix(seed + static_cast<uint64_t>(i + 1) * 0x9E3779B97F4A7C15ull);
    float sum = -2.0f; /* four uniforms, mean taken off */
    for (int part = 0; part < 4; part++) sum += static_cast<float>(bits >> (16 * part) & 0xFFFFu) / 65536.0f;
    store(out + i / cols * stride + i % cols, sum * deviation * 1.7320508f);
  }
}

__global__ void fill_vector_kernel(float* out, int length, float value) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i < length) out[i] = value;
}

int blocks_of(int64_t count) { return static_cast<int>(count / THREADS < MAX_BLOCKS ? count / THREADS + 1 : MAX_BLOCKS); }

}  // namespace

void convert_matrix(const void* source, Dtype dtype, int rows, int cols, bf16* out, int out_stride, uint32_t* bad_row, cudaStream_t stream) {
  convert_matrix_kernel<<<blocks_of(static_cast<int64_t>(rows) * cols), THREADS, 0, stream>>>(source, dtype, rows, cols, out, out_stride, bad_row);
}

void convert_matrix(const void* source, Dtype dtype, int rows, int cols, float* out, int out_stride, uint32_t* bad_row, cudaStream_t stream) {
  convert_matrix_kernel<<<blocks_of(static_cast<int64_t>(rows) * cols), THREADS, 0, stream>>>(source, dtype, rows, cols, out, out_stride, bad_row);
}

void convert_vector(const void* source, Dtype dtype, int length, float* out, uint32_t* bad_row, cudaStream_t stream) {
  convert_vector_kernel<<<blocks_of(length), THREADS, 0, stream>>>(source, dtype, length, out, bad_row);
}

void random_matrix(bf16* out, int64_t rows, int cols, int stride, float deviation, uint64_t seed, cudaStream_t stream) {
  random_matrix_kernel<<<blocks_of(rows * cols), THREADS, 0, stream>>>(out, rows, cols, stride, deviation, seed);
}

void random_matrix(float* out, int64_t rows, int cols, int stride, float deviation, uint64_t seed, cudaStream_t stream) {
  random_matrix_kernel<<<blocks_of(rows * cols), THREADS, 0, stream>>>(out, rows, cols, stride, deviation, seed);
}

void fill_vector(float* out, int length, float value, cudaStream_t stream) {
  fill_vector_kernel<<<blocks_of(length), THREADS, 0, stream>>>(out, length, value);
}

}  // namespace lorikeet
