#include "../engine/device.h"

#include <doctest/doctest.h>

#include <string>

#include "../engine/cublaslt.h"

using namespace lorikeet;

namespace {

bool has_driver() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess && version != 0;
}

template <typename Make> std::string code_of(Make make) {
  try {
    make();
    return "made";
  } catch (const Error& error) {
    return error.code;
  }
}

}  // namespace

TEST_CASE("the probe answers with devices, or with a code and a sentence, as often as it is asked") {
  for (int time = 0; time < 3; time++) {
    const Probe probe = probe_devices();
    CHECK(probe.runtime_version >= 12000);
    CHECK(probe.devices.empty() == !probe.code.empty());
    CHECK(probe.code.empty() == probe.reason.empty());
    for (const DeviceInfo& device : probe.devices) {
      CHECK(device.major >= 3);
      CHECK(device.num_multiprocessors > 0);
      CHECK(device.free_bytes <= device.total_bytes);
    }
    if (has_driver()) continue;
    CHECK(probe.code == "no_driver");
    CHECK(probe.reason == "no NVIDIA driver is installed");
  }
}

TEST_CASE("without a driver, what needs one throws and never crashes") {
  if (has_driver()) return;
  CHECK(code_of([] { PinnedMemory(4096); }) == "out_of_memory");
  CHECK(code_of([] { DeviceMemory(4096, "weights"); }) == "out_of_memory");
  CHECK(code_of([] { Stream stream; }) == "cuda_failed");
  CHECK(code_of([] { Event event; }) == "cuda_failed");
}

TEST_CASE("memory of no bytes needs no device") {
  CHECK(PinnedMemory(0).as<void>() == nullptr);
  CHECK(DeviceMemory(0, "nothing").as<void>() == nullptr);
}

TEST_CASE("errors name what was tried and what CUDA says") {
  CHECK_NOTHROW(check(cudaSuccess, "nothing"));
  CHECK_THROWS_WITH_AS(check(cudaErrorInvalidValue, "copying"), "copying: invalid argument (cudaErrorInvalidValue)", Error);
  CHECK(code_of([] { check(cudaErrorInvalidValue, "copying"); }) == "cuda_failed");
  CHECK(code_of([] { check(cudaErrorMemoryAllocation, "taking memory"); }) == "out_of_memory");
}

TEST_CASE("cuBLASLt that is switched off is not loaded") {
  const cublaslt::Library& library = cublaslt::load("none");
  CHECK_FALSE(library.loaded);
  CHECK(library.reason == "it was switched off");
}

TEST_CASE("a path of cuBLASLt is the only one tried, and the reason names it") {
  const cublaslt::Library& library = cublaslt::load("/no/such/libcublasLt.so");
  CHECK_FALSE(library.loaded);
  CHECK(library.reason.find("/no/such/libcublasLt.so") != std::string::npos);
}

TEST_CASE("a library that is another one is refused by the function that it lacks") {
  const cublaslt::Library& library = cublaslt::load("libm.so.6");
  CHECK_FALSE(library.loaded);
  CHECK(library.reason == "libm.so.6 has no function cublasLtCreate");
}
