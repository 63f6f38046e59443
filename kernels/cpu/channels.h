// What attention does along the channels of a head and along a block of entries, for each number type. Part of a body of
// levels.h.
#include "vectors.h"

// ---------------------------------------------------------------- vectors
inline __attribute__((noinline)) Lanes<double> exponential(Lanes<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}
// For x up to about 80, to 2 units in the last place; below -87 it is 0, a NaN stays one.
STGRAPH_INLINE Lanes<float> exponential(Lanes<float> x) {
  using whole = typename Vector<int32_t, kLanes<float>>::type;
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
  Lanes<float> least = x < -87.0f ? Lanes<float>{} - 87.0f : x;
  Lanes<float> shifted = least * 1.44269504f + round;
  Lanes<float> count = shifted - round;
  // ln 2 in two parts, of which the first times a small whole number is exact
  Lanes<float> rest = least - count * 0.693359375f + count * 2.12194440e-4f;
  Lanes<float> sum = rest * (1.0f / 5040) + 1.0f / 720;
  sum = sum * rest + 1.0f / 120;
  sum = sum * rest + 1.0f / 24;
  sum = sum * rest + 1.0f / 6;
  sum = sum * rest + 0.5f;
  sum = sum * rest + 1.0f;
  sum = sum * rest + 1.0f;
  whole power = (((whole)shifted - 0x4B400000) + 127) << 23;
  sum *= (Lanes<float>)power;
  return x < -87.0f ? Lanes<float>{} : sum;
}

// ---------------------------------------------------------------- bodies, inlined into one function per number type
template <typename scalar_t>
STGRAPH_INLINE const scalar_t* row_of(const char* base, int64_t stride, int64_t node) {
  return reinterpret_cast<const scalar_t*>(base + node * stride);
}

template <typename scalar_t, typename acc_t>
STGRAPH_INLINE void widen_row(const scalar_t* from, int64_t width, acc_t* to) {
  int64_t c = 0;
  for (; c + kLanes<scalar_t> <= width; c += kLanes<scalar_t>) store<acc_t>(to + c, load(from + c));
#pragma GCC unroll 1
  for (; c < width; ++c) to[c] = to_float(from[c]);
}

template <typename scalar_t, typename acc_t>
STGRAPH_INLINE void write_row(const acc_t* from, acc_t factor, int64_t width, scalar_t* to) {
  int64_t c = 0;
  for (; c + kLanes<scalar_t> <= width; c += kLanes<scalar_t>) store<scalar_t>(to + c, load(from + c) * factor);
#pragma GCC unroll 1
  for (; c < width; ++c) to[c] = from_float<scalar_t>(from[c] * factor);
}

// Vectors are put together in registers: loaded from single numbers just stored, they would wait for those.
template <typename scalar_t, int... kPlace>
STGRAPH_INLINE Lanes<scalar_t> picked(const char* base, int64_t stride, const int64_t* node,
                                      std::integer_sequence<int, kPlace...>) {
  return Lanes<scalar_t>{to_float(*row_of<scalar_t>(base, stride, node[kPlace]))...};
}

template <typename scalar_t, typename acc_t>
STGRAPH_INLINE void pick_of(const char* base, int64_t stride, const int64_t* node, int64_t count, acc_t* to) {
  constexpr int kCount = kLanes<scalar_t>;
  for (int64_t i = 0; i < count; i += kCount)
    store<acc_t>(to + i, picked<scalar_t>(base, stride, node + i, std::make_integer_sequence<int, kCount>{}));
}

// From four vectors of products to their four sums; channels that do not fill a whole vector come on the way down.
template <int kCount, typename scalar_t, typename acc_t>
STGRAPH_INLINE typename Vector<acc_t, 4>::type four_sums(const typename Vector<acc_t, kCount>::type* wide,
                                                         const acc_t* fixed, const scalar_t* const* from, int64_t c,
                                                         int64_t width) {
  if constexpr (kCount > 4) {
    typename Vector<acc_t, kCount / 2>::type half[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) half[k] = folded<acc_t, kCount>(wide[k]);
    if (width & (kCount / 2)) {
      auto own = load<acc_t, kCount / 2>(fixed + c);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) half[k] += own * load<scalar_t, kCount / 2>(from[k] + c);
      c += kCount / 2;
    }
    return four_sums<kCount / 2>(half, fixed, from, c, width);
  } else {
    using Four = typename Vector<acc_t, 4>::type;
    Four sums;
    if constexpr (kCount == 4) {
      Four left = __builtin_shufflevector(wide[0], wide[1], 0, 4, 1, 5) +
                  __builtin_shufflevector(wide[0], wide[1], 2, 6, 3, 7);
      Four right = __builtin_shufflevector(wide[2], wide[3], 0, 4, 1, 5) +
                   __builtin_shufflevector(wide[2], wide[3], 2, 6, 3, 7);
      sums = __builtin_shufflevector(left, right, 0, 1, 4, 5) + __builtin_shufflevector(left, right, 2, 3, 6, 7);
    } else {
      sums = Four{total<acc_t, kCount>(wide[0]), total<acc_t, kCount>(wide[1]), total<acc_t, kCount>(wide[2]),
                  total<acc_t, kCount>(wide[3])};
    }
#pragma GCC unroll 1
    for (; c < width; ++c)
      sums += fixed[c] * Four{to_float(from[0][c]), to_float(from[1][c]), to_float(from[2][c]), to_float(from[3][c])};
    return sums;
  }
}

template <typename scalar_t, typename acc_t>
STGRAPH_INLINE void products_of(const acc_t* fixed, const char* base, int64_t stride, const int64_t* node,
                                int64_t count, int64_t width, acc_t* to) {
  constexpr int kCount = kLanes<scalar_t>;
  for (int64_t i = 0; i < count; i += 4) {
    const scalar_t* from[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) from[k] = row_of<scalar_t>(base, stride, node[i + k]);
    Lanes<scalar_t> wide[4] = {};
    int64_t c = 0;
    for (; c + kCount <= width; c += kCount) {
      Lanes<scalar_t> own = load(fixed + c);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) wide[k] += own * load(from[k] + c);
    }
    store<acc_t, 4>(to + i, four_sums<kCount>(wide, fixed, from, c, width));
  }
}

// `kWidth` channels of a weighted sum of rows.
template <int kWidth, typename scalar_t, typename acc_t>
STGRAPH_INLINE void gather_tile(acc_t* out, bool fresh, acc_t factor, const acc_t* weight, const char* base,
                                int64_t stride, const int64_t* node, int64_t count) {
  using Tile = Lanes<scalar_t, kWidth>;
  Tile sum[4] = {};  // four chains, so that additions do not wait for each other
  if (!fresh) sum[0] = load<acc_t, kWidth>(out) * factor;
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k)
      sum[k] += weight[i + k] * load<scalar_t, kWidth>(row_of<scalar_t>(base, stride, node[i + k]));
  }
#pragma GCC unroll 1
  for (; i < count; ++i) sum[0] += weight[i] * load<scalar_t, kWidth>(row_of<scalar_t>(base, stride, node[i]));
  store<acc_t, kWidth>(out, (sum[0] + sum[1]) + (sum[2] + sum[3]));
}

template <typename scalar_t, typename acc_t>
STGRAPH_INLINE void gather_of(acc_t* sum, bool fresh, acc_t factor, const acc_t* weight, const char* base,
                              int64_t stride, const int64_t* node, int64_t count, int64_t width) {
  constexpr int64_t size = sizeof(scalar_t);
  int64_t c = 0;
  constexpr int kCount = kLanes<scalar_t>;
  for (; c + kCount <= width; c += kCount)
    gather_tile<kCount, scalar_t>(sum + c, fresh, factor, weight, base + c * size, stride, node, count);
  if constexpr (kCount > 8) {
    if (width & 8) {
      gather_tile<8, scalar_t>(sum + c, fresh, factor, weight, base + c * size, stride, node, count);
      c += 8;
    }
  }
  if constexpr (kCount > 4) {
    if (width & 4) {
      gather_tile<4, scalar_t>(sum + c, fresh, factor, weight, base + c * size, stride, node, count);
      c += 4;
    }
  }
#pragma GCC unroll 1
  for (; c < width; ++c) {
    acc_t one = fresh ? acc_t(0) : sum[c] * factor;
    for (int64_t i = 0; i < count; ++i) one += weight[i] * to_float(row_of<scalar_t>(base, stride, node[i])[c]);
    sum[c] = one;
  }
}

// The table of a number type. Functions, because inlined into every caller they took a minute to compile.
#define STGRAPH_CHANNELS(name, scalar_t, acc_t)                                                                      \
  void widen_##name(const char* from, int64_t width, acc_t* to) {                                     \
    widen_row(reinterpret_cast<const scalar_t*>(from), width, to);                                                   \
  }                                                                                                                  \
  void write_##name(const acc_t* from, acc_t factor, int64_t width, char* to) {                       \
    write_row(from, factor, width, reinterpret_cast<scalar_t*>(to));                                                 \
  }                                                                                                                  \
  void pick_##name(const char* base, int64_t stride, const int64_t* node, int64_t count, acc_t* to) { \
    pick_of<scalar_t>(base, stride, node, count, to);                                                                \
  }                                                                                                                  \
  void products_##name(const acc_t* fixed, const char* base, int64_t stride, const int64_t* node,     \
                                      int64_t count, int64_t width, acc_t* to) {                                     \
    products_of<scalar_t>(fixed, base, stride, node, count, width, to);                                              \
  }                                                                                                                  \
  void gather_##name(acc_t* sum, bool fresh, acc_t factor, const acc_t* weight, const char* base,     \
                                    int64_t stride, const int64_t* node, int64_t count, int64_t width) {             \
    gather_of<scalar_t>(sum, fresh, factor, weight, base, stride, node, count, width);                               \
  }                                                                                                                  \
  constexpr Channels<acc_t> channels_##name{widen_##name, write_##name, pick_##name, products_##name, gather_##name};
STGRAPH_CHANNELS(f32, float, float)
STGRAPH_CHANNELS(f64, double, double)
STGRAPH_CHANNELS(f16, Half, float)
STGRAPH_CHANNELS(b16, BFloat16, float)
#undef STGRAPH_CHANNELS
