// What the CPU kernels share: number types, vectors of 64 bytes, indices of either width.
#pragma once

#include <cstdint>
#include <cstring>

#define STGRAPH_INLINE inline __attribute__((always_inline))
// One copy of a function for each level of x86-64, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define STGRAPH_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define STGRAPH_CLONES
#endif

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

// A graph as compressed rows. `edge` maps an entry to its edge, where weights stand; null: the entry is the edge.
template <typename index_t>
struct Rows {
  const index_t* rowptr;
  const index_t* col;
  const index_t* edge;
  int64_t rows;
};

}  // namespace stgraph
