#include "cublaslt.h"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <vector>

namespace lorikeet::cublaslt {
namespace {

template <typename Function> bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

/** @returns the name of a function that is missing, or null */
const char* bind(void* library, Functions& f) {
#define BIND(field, name) \
  if (!find(library, name, f.field)) return name;
  BIND(create, "cublasLtCreate")
  BIND(destroy, "cublasLtDestroy")
  BIND(get_version, "cublasLtGetVersion")
  BIND(desc_create, "cublasLtMatmulDescCreate")
  BIND(desc_set_attribute, "cublasLtMatmulDescSetAttribute")
  BIND(desc_destroy, "cublasLtMatmulDescDestroy")
  BIND(layout_create, "cublasLtMatrixLayoutCreate")
  BIND(layout_destroy, "cublasLtMatrixLayoutDestroy")
  BIND(preference_create, "cublasLtMatmulPreferenceCreate")
  BIND(preference_set_attribute, "cublasLtMatmulPreferenceSetAttribute")
  BIND(preference_destroy, "cublasLtMatmulPreferenceDestroy")
  BIND(get_heuristic, "cublasLtMatmulAlgoGetHeuristic")
  BIND(matmul, "cublasLtMatmul")
#undef BIND
  return nullptr;
}

Library try_load(const std::string& override_path) {
  Library library;
  if (override_path == "none") {
    library.reason = "it was switched off";
    return library;
  }
  std::vector<std::string> candidates = {override_path};
  if (override_path.empty()) {
    candidates = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so", "/usr/local/cuda/lib64/libcublasLt.so.13",
                  "/usr/local/cuda/lib64/libcublasLt.so.12", "/usr/local/cuda/targets/x86_64-linux/lib/libcublasLt.so.13"};
  }
  for (const std::string& path : candidates) {
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      if (library.reason.empty()) library.reason = dlerror();
      continue;
    }
    if (const char* missing = bind(handle, library.functions)) {
      library.reason = path + " has no function " + missing;
      dlclose(handle);
      continue;
    }
    library.loaded = true;
    library.path = path;
    library.version = library.functions.get_version();
    library.reason.clear();
    break;
  }
  return library;
}

}  // namespace

const Library& load(const std::string& override_path) {
  static std::mutex mutex;
  static std::map<std::string, Library> libraries;
  const std::lock_guard lock(mutex);
  const auto found = libraries.find(override_path);
  return found != libraries.end() ? found->second : libraries.emplace(override_path, try_load(override_path)).first->second;
}

}  // namespace lorikeet::cublaslt
