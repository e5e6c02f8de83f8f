/** What the adapter of a row has at a site. */
#pragma once
#include "kernels.h"

namespace lorikeet {

/** Null for a row without an adapter, and where the step has no forms. */
__device__ __forceinline__ const FormRecord* form_of(const FormTable& forms, int site, int row) {
  if (forms.records == nullptr) return nullptr;
  const int slot = forms.row_slot[row];
  return slot < 0 ? nullptr : forms.records + static_cast<int64_t>(slot) * forms.num_sites + site;
}

/** A row's weight of a norm. */
__device__ __forceinline__ const float* norm_weight(const float* base, const FormTable& forms, int site, int row) {
  const FormRecord* const form = form_of(forms, site, row);
  return form != nullptr && form->norm != nullptr ? form->norm : base;
}

}  // namespace lorikeet
