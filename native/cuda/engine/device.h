/** What the machine has, and memory that frees itself. */
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace lorikeet {

struct DeviceInfo {
  int index;
  std::string name;
  int major, minor, num_multiprocessors;
  size_t total_bytes, free_bytes;
};

struct Probe {
  std::vector<DeviceInfo> devices;
  /** Why there is none; empty when there is one. */
  std::string code, reason;
  int driver_version, runtime_version;
};

/** Never throws: a machine without a driver is a fact, not a failure. */
Probe probe_devices();

/** Device memory; all of it is taken when the engine opens, none while it runs. */
class DeviceMemory {
 public:
  DeviceMemory() = default;
  /** Zero-filled. @throws Error `out_of_memory`, naming what for and how many bytes */
  DeviceMemory(size_t bytes, const char* what);
  ~DeviceMemory() { release(); }
  DeviceMemory(DeviceMemory&& other) noexcept { swap(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    swap(other);
    return *this;
  }
  template <typename T> T* as() const { return static_cast<T*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void release() noexcept {
    if (data_ != nullptr) cudaFree(data_);
    data_ = nullptr;
  }
  void swap(DeviceMemory& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/** Page-locked host memory, which the device copies from and to by itself. */
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(size_t bytes);
  ~PinnedMemory() {
    if (data_ != nullptr) cudaFreeHost(data_);
  }
  PinnedMemory(PinnedMemory&& other) noexcept { swap(other); }
  PinnedMemory& operator=(PinnedMemory&& other) noexcept {
    swap(other);
    return *this;
  }
  template <typename T> T* as() const { return static_cast<T*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void swap(PinnedMemory& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

class Stream {
 public:
  explicit Stream(int priority = 0) { check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, priority), "creating a stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  explicit Event(unsigned flags = cudaEventDisableTiming) { check(cudaEventCreateWithFlags(&event_, flags), "creating an event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace lorikeet
