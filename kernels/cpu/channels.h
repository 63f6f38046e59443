// What attention does along the channels of a head and along a block of entries, for each number type.
#pragma once

#include <cmath>

#include "common.h"
#include "vectors.h"

namespace stgraph {

constexpr int kBlock = 32;  // entries whose scores are held at once

// One number or one row of channels per [batch, time, node, head]; strides in bytes.
struct Cells {
  char* data = nullptr;
  int64_t batch = 0, time = 0, node = 0, head = 0;
  STGRAPH_INLINE char* at(int64_t b, int64_t t, int64_t n, int64_t h) const {
    return data + b * batch + t * time + n * node + h * head;
  }
};

// The functions that know how features are stored, for the type in which they are summed. Strides in bytes.
template <typename acc_t>
struct Channels {
  // to = from, `width` numbers
  void (*widen)(const char* from, int64_t width, acc_t* to);
  // to = from * factor
  void (*write)(const acc_t* from, acc_t factor, int64_t width, char* to);
  // to[i] = the number at node[i], for whole vectors of entries
  void (*pick)(const char* base, int64_t stride, const int64_t* node, int64_t count, acc_t* to);
  // to[i] = fixed . row node[i], for whole vectors of four entries
  void (*products)(const acc_t* fixed, const char* base, int64_t stride, const int64_t* node, int64_t count,
                   int64_t width, acc_t* to);
  // sum = factor * sum + the sum of weight[i] * row node[i]; `fresh`: there is no sum yet
  void (*gather)(acc_t* sum, bool fresh, acc_t factor, const acc_t* weight, const char* base, int64_t stride,
                 const int64_t* node, int64_t count, int64_t width);
};

// ---------------------------------------------------------------- vectors
inline __attribute__((noinline)) Lanes<double> exponential(Lanes<double> x) {
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}
// For x up to about 80, to 2 units in the last place; below -87 it is 0, a NaN stays one.
STGRAPH_INLINE Lanes<float> exponential(Lanes<float> x) {
  typedef int32_t whole __attribute__((vector_size(64)));
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

template <typename acc_t>
STGRAPH_INLINE acc_t largest(typename Vector<acc_t, 16>::type v) {
  auto low = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
  auto high = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  auto eight = low > high ? low : high;
  auto first = __builtin_shufflevector(eight, eight, 0, 1, 2, 3);
  auto second = __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  auto four = first > second ? first : second;
  acc_t left = four[0] > four[1] ? four[0] : four[1], right = four[2] > four[3] ? four[2] : four[3];
  return left > right ? left : right;
}

template <typename acc_t>
STGRAPH_INLINE typename Vector<acc_t, 8>::type halves(typename Vector<acc_t, 16>::type v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
         __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}
template <typename acc_t>
STGRAPH_INLINE typename Vector<acc_t, 4>::type quarters(typename Vector<acc_t, 8>::type v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
}

// ---------------------------------------------------------------- bodies, inlined into one function per number type
template <typename scalar_t>
STGRAPH_INLINE const scalar_t* row_of(const char* base, int64_t stride, int64_t node) {
  return reinterpret_cast<const scalar_t*>(base + node * stride);
}

template <typename scalar_t, typename acc_t>
STGRAPH_INLINE void widen_row(const scalar_t* from, int64_t width, acc_t* to) {
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) store<acc_t>(to + c, load(from + c));
#pragma GCC unroll 1
  for (; c < width; ++c) to[c] = to_float(from[c]);
}

template <typename scalar_t, typename acc_t>
STGRAPH_INLINE void write_row(const acc_t* from, acc_t factor, int64_t width, scalar_t* to) {
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) store<scalar_t>(to + c, load(from + c) * factor);
#pragma GCC unroll 1
  for (; c < width; ++c) to[c] = from_float<scalar_t>(from[c] * factor);
}

// Vectors are put together in registers: loaded from single numbers just stored, they would wait for those.
template <typename scalar_t, typename acc_t>
STGRAPH_INLINE void pick_of(const char* base, int64_t stride, const int64_t* node, int64_t count, acc_t* to) {
  for (int64_t i = 0; i < count; i += kLanes) {
#define STGRAPH_AT(k) to_float(*row_of<scalar_t>(base, stride, node[i + k]))
    Lanes<scalar_t> value = {STGRAPH_AT(0),  STGRAPH_AT(1),  STGRAPH_AT(2),  STGRAPH_AT(3),
                             STGRAPH_AT(4),  STGRAPH_AT(5),  STGRAPH_AT(6),  STGRAPH_AT(7),
                             STGRAPH_AT(8),  STGRAPH_AT(9),  STGRAPH_AT(10), STGRAPH_AT(11),
                             STGRAPH_AT(12), STGRAPH_AT(13), STGRAPH_AT(14), STGRAPH_AT(15)};
#undef STGRAPH_AT
    store<acc_t>(to + i, value);
  }
}

template <typename scalar_t, typename acc_t>
STGRAPH_INLINE void products_of(const acc_t* fixed, const char* base, int64_t stride, const int64_t* node,
                                int64_t count, int64_t width, acc_t* to) {
  using Four = typename Vector<acc_t, 4>::type;
  using Eight = typename Vector<acc_t, 8>::type;
  for (int64_t i = 0; i < count; i += 4) {
    const scalar_t* from[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) from[k] = row_of<scalar_t>(base, stride, node[i + k]);
    Lanes<scalar_t> wide[4] = {};
    int64_t c = 0;
    for (; c + 16 <= width; c += 16) {
      Lanes<scalar_t> own = load(fixed + c);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) wide[k] += own * load(from[k] + c);
    }
    Eight eight[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) eight[k] = halves<acc_t>(wide[k]);
    if (width & 8) {
      Eight own = load<acc_t, 8>(fixed + c);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) eight[k] += own * load<scalar_t, 8>(from[k] + c);
      c += 8;
    }
    Four four[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) four[k] = quarters<acc_t>(eight[k]);
    if (width & 4) {
      Four own = load<acc_t, 4>(fixed + c);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) four[k] += own * load<scalar_t, 4>(from[k] + c);
      c += 4;
    }
    Four left = __builtin_shufflevector(four[0], four[1], 0, 4, 1, 5) +
                __builtin_shufflevector(four[0], four[1], 2, 6, 3, 7);
    Four right = __builtin_shufflevector(four[2], four[3], 0, 4, 1, 5) +
                 __builtin_shufflevector(four[2], four[3], 2, 6, 3, 7);
    Four sums = __builtin_shufflevector(left, right, 0, 1, 4, 5) + __builtin_shufflevector(left, right, 2, 3, 6, 7);
#pragma GCC unroll 1
    for (; c < width; ++c)
      sums += fixed[c] * Four{to_float(from[0][c]), to_float(from[1][c]), to_float(from[2][c]), to_float(from[3][c])};
    store<acc_t, 4>(to + i, sums);
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
  for (; c + 16 <= width; c += 16)
    gather_tile<16, scalar_t>(sum + c, fresh, factor, weight, base + c * size, stride, node, count);
  if (width & 8) {
    gather_tile<8, scalar_t>(sum + c, fresh, factor, weight, base + c * size, stride, node, count);
    c += 8;
  }
  if (width & 4) {
    gather_tile<4, scalar_t>(sum + c, fresh, factor, weight, base + c * size, stride, node, count);
    c += 4;
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
  STGRAPH_CLONES void widen_##name(const char* from, int64_t width, acc_t* to) {                                     \
    widen_row(reinterpret_cast<const scalar_t*>(from), width, to);                                                   \
  }                                                                                                                  \
  STGRAPH_CLONES void write_##name(const acc_t* from, acc_t factor, int64_t width, char* to) {                       \
    write_row(from, factor, width, reinterpret_cast<scalar_t*>(to));                                                 \
  }                                                                                                                  \
  STGRAPH_CLONES void pick_##name(const char* base, int64_t stride, const int64_t* node, int64_t count, acc_t* to) { \
    pick_of<scalar_t>(base, stride, node, count, to);                                                                \
  }                                                                                                                  \
  STGRAPH_CLONES void products_##name(const acc_t* fixed, const char* base, int64_t stride, const int64_t* node,     \
                                      int64_t count, int64_t width, acc_t* to) {                                     \
    products_of<scalar_t>(fixed, base, stride, node, count, width, to);                                              \
  }                                                                                                                  \
  STGRAPH_CLONES void gather_##name(acc_t* sum, bool fresh, acc_t factor, const acc_t* weight, const char* base,     \
                                    int64_t stride, const int64_t* node, int64_t count, int64_t width) {             \
    gather_of<scalar_t>(sum, fresh, factor, weight, base, stride, node, count, width);                               \
  }                                                                                                                  \
  inline Channels<acc_t> channels_of(const scalar_t*) {                                                              \
    return {widen_##name, write_##name, pick_##name, products_##name, gather_##name};                                \
  }
namespace {
STGRAPH_CHANNELS(f32, float, float)
STGRAPH_CHANNELS(f64, double, double)
STGRAPH_CHANNELS(f16, Half, float)
STGRAPH_CHANNELS(b16, BFloat16, float)
}  // namespace
#undef STGRAPH_CHANNELS

}  // namespace stgraph
