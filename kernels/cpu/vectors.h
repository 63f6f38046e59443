// Vectors of 64 bytes in the type sums are taken in, and how they come from and go to stored numbers.
#pragma once

#include <type_traits>

#include "common.h"

namespace stgraph {

template <typename acc_t, int kLanes>
struct Vector {
  typedef acc_t type __attribute__((vector_size(sizeof(acc_t) * kLanes), aligned(sizeof(acc_t)), may_alias));
};

// `kCount` numbers as a vector of the type they are summed in; sixteen where nothing else is said.
constexpr int kLanes = 16;
template <typename scalar_t, int kCount = kLanes>
using Lanes = typename Vector<typename Accumulate<scalar_t>::type, kCount>::type;

template <typename scalar_t, int kCount = kLanes>
STGRAPH_INLINE Lanes<scalar_t, kCount> load(const scalar_t* from) {
  using wanted = Lanes<scalar_t, kCount>;
  if constexpr (sizeof(scalar_t) == sizeof(typename Accumulate<scalar_t>::type)) {
    return *reinterpret_cast<const wanted*>(from);
  } else if constexpr (kCount < 8) {
    wanted out;
    for (int lane = 0; lane < kCount; ++lane) out[lane] = to_float(from[lane]);
    return out;
  } else if constexpr (std::is_same_v<scalar_t, BFloat16>) {
    using stored = typename Vector<uint16_t, kCount>::type;
    using wide = typename Vector<uint32_t, kCount>::type;
    return (wanted)(__builtin_convertvector(*reinterpret_cast<const stored*>(from), wide) << 16);
  } else {
    using stored = typename Vector<Half, kCount>::type;
    return __builtin_convertvector(*reinterpret_cast<const stored*>(from), wanted);
  }
}

template <typename scalar_t, int kCount = kLanes>
STGRAPH_INLINE void store(scalar_t* to, Lanes<scalar_t, kCount> value) {
  if constexpr (sizeof(scalar_t) == sizeof(typename Accumulate<scalar_t>::type)) {
    *reinterpret_cast<Lanes<scalar_t, kCount>*>(to) = value;
  } else if constexpr (kCount < 8) {
    for (int lane = 0; lane < kCount; ++lane) to[lane] = from_float<scalar_t>(value[lane]);
  } else if constexpr (std::is_same_v<scalar_t, BFloat16>) {
    using stored = typename Vector<uint16_t, kCount>::type;
    using wide = typename Vector<uint32_t, kCount>::type;
    wide bits = (wide)value;
    wide rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even; a NaN stays a NaN
    rounded = value != value ? wide{} + 0x7FC0 : rounded;
    *reinterpret_cast<stored*>(to) = __builtin_convertvector(rounded, stored);
  } else {
    using stored = typename Vector<Half, kCount>::type;
    *reinterpret_cast<stored*>(to) = __builtin_convertvector(value, stored);
  }
}

// Sum of the lanes, always in the same order.
template <typename acc_t>
STGRAPH_INLINE acc_t total(typename Vector<acc_t, 16>::type v) {
  auto eight = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  auto four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  auto two = __builtin_shufflevector(four, four, 0, 1) + __builtin_shufflevector(four, four, 2, 3);
  return two[0] + two[1];
}

// Sum of a[c] * b[c] over `width` channels.
template <typename scalar_t>
STGRAPH_INLINE typename Accumulate<scalar_t>::type dot(const scalar_t* a, const scalar_t* b, int64_t width) {
  using acc_t = typename Accumulate<scalar_t>::type;
  acc_t sum = 0;
  int64_t channel = 0;
  if (width >= kLanes) {
    Lanes<scalar_t> lanes{}, more{};  // two sums at a time, so that one need not wait for the other
    for (; channel + 2 * kLanes <= width; channel += 2 * kLanes) {
      lanes += load(a + channel) * load(b + channel);
      more += load(a + channel + kLanes) * load(b + channel + kLanes);
    }
    if (channel + kLanes <= width) lanes += load(a + channel) * load(b + channel), channel += kLanes;
    sum = total<acc_t>(lanes + more);
  }
  for (; channel < width; ++channel) sum += to_float(a[channel]) * to_float(b[channel]);
  return sum;
}

// Strides in elements of a [B, T, N, F] tensor whose last axis is contiguous.
struct Strides {
  int64_t batch = 0, time = 0, node = 0;
};
// Strides of a [E, B, T, H] weight; 0 where it is the same all along an axis.
struct WeightStrides {
  int64_t edge = 0, batch = 0, time = 0, head = 0;
};

}  // namespace stgraph
