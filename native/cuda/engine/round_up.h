#pragma once

namespace lorikeet {

/** The least multiple of `unit` that is not below `value`. */
template <typename T> constexpr T round_up(T value, T unit) { return (value + unit - 1) / unit * unit; }

}  // namespace lorikeet
