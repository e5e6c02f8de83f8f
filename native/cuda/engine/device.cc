#include "device.h"

namespace lorikeet {

Probe probe_devices() {
  Probe probe = {};
  cudaRuntimeGetVersion(&probe.runtime_version);
  /* Version 0 means that there is no driver; the device count then fails with a text about an old one. */
  if (cudaDriverGetVersion(&probe.driver_version) != cudaSuccess || probe.driver_version == 0) {
    probe.code = "no_driver";
    probe.reason = "no NVIDIA driver is installed";
    return probe;
  }
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    probe.code = "old_driver";
    probe.reason = "the NVIDIA driver is for CUDA " + std::to_string(probe.driver_version / 1000) + " and this build needs CUDA " +
                   std::to_string(probe.runtime_version / 1000) + "; update the driver";
    return probe;
  }
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    probe.code = "no_device";
    probe.reason = status == cudaSuccess || status == cudaErrorNoDevice ? "no NVIDIA device is visible" : cudaGetErrorString(status);
    return probe;
  }
  for (int i = 0; i < count; i++) {
    cudaDeviceProp properties = {};
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    size_t free_bytes = 0, total_bytes = 0;
    if (cudaSetDevice(i) != cudaSuccess || cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) continue;
    probe.devices.push_back({i, properties.name, properties.major, properties.minor, properties.multiProcessorCount, total_bytes, free_bytes});
  }
  if (probe.devices.empty()) {
    probe.code = "no_device";
    probe.reason = "no NVIDIA device answers";
  }
  return probe;
}

DeviceMemory::DeviceMemory(size_t bytes, const char* what) : bytes_(bytes) {
  if (bytes == 0) return;
  if (cudaMalloc(&data_, bytes) != cudaSuccess) {
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    throw Error("out_of_memory", std::string(what) + " take " + std::to_string(bytes) + " bytes of device memory, and " +
                                     std::to_string(free_bytes) + " of " + std::to_string(total_bytes) + " are free");
  }
  check(cudaMemset(data_, 0, bytes), what);
  /* Streams here do not wait for the default one: zeros could come after what is copied there next. */
  check(cudaStreamSynchronize(cudaStreamLegacy), what);
}

PinnedMemory::PinnedMemory(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  if (cudaHostAlloc(&data_, bytes, cudaHostAllocPortable) != cudaSuccess) {
    cudaGetLastError();
    throw Error("out_of_memory", "the system gave no page-locked memory of " + std::to_string(bytes) + " bytes");
  }
}

}  // namespace lorikeet
