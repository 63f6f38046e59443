// What the CPU kernels share: number types, strides, and what the processor can do.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define STGRAPH_INLINE inline __attribute__((always_inline))

namespace stgraph {

// bfloat16 as stored: the upper half of a float.
struct BFloat16 {
  uint16_t bits;
};
using Half = _Float16;

STGRAPH_INLINE float to_float(float value) { return value; }
STGRAPH_INLINE double to_float(double value) { return value; }
STGRAPH_INLINE float to_float(Half value) { return static_cast<float>(value); }
STGRAPH_INLINE float to_float(BFloat16 value) {
  uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

template <typename scalar_t>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};

template <typename scalar_t>
STGRAPH_INLINE scalar_t from_float(typename Accumulate<scalar_t>::type value) {
  return static_cast<scalar_t>(value);
}
template <>
STGRAPH_INLINE BFloat16 from_float<BFloat16>(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  // round to nearest, ties to even; a NaN stays a NaN
  uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return BFloat16{static_cast<uint16_t>(value != value ? 0x7FC0 : rounded)};
}

// Strides in elements of a [B, T, N, F] tensor whose last axis is contiguous.
struct Strides {
  int64_t batch = 0, time = 0, node = 0;
};
// Strides of a [E, B, T, H] weight; 0 where it is the same all along an axis.
struct WeightStrides {
  int64_t edge = 0, batch = 0, time = 0, head = 0;
};

// A graph as compressed rows. `edge` maps an entry to its edge, where weights stand; null: the entry is the edge.
template <typename index_t>
struct Rows {
  const index_t* rowptr;
  const index_t* col;
  const index_t* edge;
  int64_t rows;
};

// Instructions that kernels are compiled for; the environment variable STGRAPH_CPU (avx512, avx2, baseline) may ask for
// fewer than the processor has, so that all of them can be tested on one machine.
enum class Level { kBaseline, kAvx2, kAvx512 };
inline Level level() {
  static const Level found = [] {
    Level best = Level::kBaseline;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Level::kAvx2;
    if (best == Level::kAvx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      best = Level::kAvx512;
#endif
    const char* asked = std::getenv("STGRAPH_CPU");
    std::string_view name = asked ? asked : "";
    if (name == "baseline") best = Level::kBaseline;
    if (name == "avx2") best = std::min(best, Level::kAvx2);
    return best;
  }();
  return found;
}

}  // namespace stgraph
