// Sparse times dense on the CPU: out[i] = reduce over the entries e of row i of weight[e] * x[col[e]], plus addend[i].
//
// A row is summed by one thread in the order of its entries, in registers, so results do not depend on threads.
#pragma once

#include <algorithm>

#include "vectors.h"

namespace stgraph {

enum Reduce : int64_t { kSum = 0, kMean = 1, kMax = 2 };

// Indices of either width, read through branches that are always taken the same way; empty ones count 0, 1, 2, ...
// Only the most used combination of types has loops of its own for int32; each further one costs the compiler a second.
struct Indices {
  const int32_t* narrow = nullptr;
  const int64_t* wide = nullptr;
  STGRAPH_INLINE int64_t operator[](int64_t at) const { return wide ? wide[at] : narrow ? narrow[at] : at; }
  STGRAPH_INLINE explicit operator bool() const { return wide || narrow; }
};
struct Indices32 {
  const int32_t* narrow = nullptr;
  STGRAPH_INLINE int64_t operator[](int64_t at) const { return narrow[at]; }
  STGRAPH_INLINE explicit operator bool() const { return narrow; }
};

// One slab of a product: features of the nodes, weights of the edges (with stride 0 where all are the same).
template <typename scalar_t, typename index_t>
struct Slab {
  index_t rowptr, col, edge;  // edge: empty where entries are edges
  const scalar_t* x;
  int64_t x_node;
  const scalar_t* weight;
  int64_t weight_edge;
  const scalar_t* addend;  // null: none
  int64_t addend_node;
  scalar_t* out;
  int64_t out_node;
  int64_t entries;  // sources of entries before this one are fetched ahead; 0: they are in the cache
};

constexpr int64_t kAhead = 8;  // entries

// Sums of one row in `kVectors` vectors of `kCount` channels, all in registers.
template <typename scalar_t, typename index_t, int kVectors, int kCount>
STGRAPH_INLINE void sum_entries(const Slab<scalar_t, index_t>& s, int64_t begin, int64_t end, int64_t channel,
                                Lanes<scalar_t, kCount>* sum) {
  const scalar_t* x = s.x + channel;
  const index_t col = s.col, edge = s.edge;
  for (int64_t entry = begin; entry < end; ++entry) {
    if (kVectors * kCount >= 64 && entry + kAhead < s.entries) {
      const char* next = reinterpret_cast<const char*>(x + col[entry + kAhead] * s.x_node);
#pragma GCC unroll 8
      for (int64_t line = 0; line < static_cast<int64_t>(kVectors * kCount * sizeof(scalar_t)); line += 64)
        __builtin_prefetch(next + line);
    }
    const scalar_t* source = x + col[entry] * s.x_node;
    auto factor = to_float(s.weight[(edge ? edge[entry] : entry) * s.weight_edge]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[v] += load<scalar_t, kCount>(source + v * kCount) * factor;
  }
}

template <typename scalar_t, typename index_t, int kVectors, int kCount>
STGRAPH_INLINE void sum_tile(const Slab<scalar_t, index_t>& s, int64_t row, int64_t begin, int64_t end, int64_t channel,
                             typename Accumulate<scalar_t>::type scale) {
  Lanes<scalar_t, kCount> sum[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sum[v] = Lanes<scalar_t, kCount>{};
  sum_entries<scalar_t, index_t, kVectors, kCount>(s, begin, end, channel, sum);
  scalar_t* out = s.out + row * s.out_node + channel;
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    Lanes<scalar_t, kCount> value = sum[v] * scale;
    if (s.addend) value += load<scalar_t, kCount>(s.addend + row * s.addend_node + channel + v * kCount);
    store<scalar_t, kCount>(out + v * kCount, value);
  }
}

// Rows `first` to `last` of one slab, channels `from` to `to`: tiles of 64 and 16 channels, and what is left.
template <typename scalar_t, typename index_t>
STGRAPH_INLINE void sum_rows(const Slab<scalar_t, index_t>& s, int64_t first, int64_t last, bool mean, int64_t from,
                             int64_t to) {
  using acc_t = typename Accumulate<scalar_t>::type;
  if constexpr (std::is_same_v<scalar_t, float> && std::is_same_v<index_t, Indices32>) {
    if (!mean && !s.addend && from == 0 && (to == 1 || to == 2 || to == 4)) {
      if (to == 1) return narrow_rows<scalar_t, index_t, 1>(s, first, last);
      if (to == 2) return narrow_rows<scalar_t, index_t, 2>(s, first, last);
      return narrow_rows<scalar_t, index_t, 4>(s, first, last);
    }
  }
  for (int64_t row = first; row < last; ++row) {
    int64_t begin = s.rowptr[row], end = s.rowptr[row + 1], channel = from;
    acc_t scale = mean && end > begin ? acc_t(1) / static_cast<acc_t>(end - begin) : acc_t(1);
    for (; channel + 64 <= to; channel += 64) sum_tile<scalar_t, index_t, 4, 16>(s, row, begin, end, channel, scale);
    for (; channel + 16 <= to; channel += 16) sum_tile<scalar_t, index_t, 1, 16>(s, row, begin, end, channel, scale);
    if (channel + 8 <= to) sum_tile<scalar_t, index_t, 1, 8>(s, row, begin, end, channel, scale), channel += 8;
    if (channel + 4 <= to) sum_tile<scalar_t, index_t, 1, 4>(s, row, begin, end, channel, scale), channel += 4;
    if (channel + 2 <= to) sum_tile<scalar_t, index_t, 1, 2>(s, row, begin, end, channel, scale), channel += 2;
    if (channel < to) sum_tile<scalar_t, index_t, 1, 1>(s, row, begin, end, channel, scale);
  }
}

// All channels of rows of 1, 2 or 4: nothing to decide inside of a row.
template <typename scalar_t, typename index_t, int kCount>
STGRAPH_INLINE void narrow_rows(const Slab<scalar_t, index_t>& s, int64_t first, int64_t last) {
  const index_t rowptr = s.rowptr;
  scalar_t* out = s.out + first * s.out_node;
  int64_t out_node = s.out_node, begin = rowptr[first];
  for (int64_t row = first; row < last; ++row, out += out_node) {
    int64_t end = rowptr[row + 1];
    Lanes<scalar_t, kCount> sum{};
    sum_entries<scalar_t, index_t, 1, kCount>(s, begin, end, 0, &sum);
    store<scalar_t, kCount>(out, sum);
    begin = end;
  }
}

// The same for all channels of rows that fill whole vectors.
template <typename scalar_t, typename index_t>
STGRAPH_INLINE void full_rows(const Slab<scalar_t, index_t>& s, int64_t first, int64_t last, bool mean, int64_t width) {
  using acc_t = typename Accumulate<scalar_t>::type;
  for (int64_t row = first; row < last; ++row) {
    int64_t begin = s.rowptr[row], end = s.rowptr[row + 1], channel = 0;
    acc_t scale = mean && end > begin ? acc_t(1) / static_cast<acc_t>(end - begin) : acc_t(1);
    for (; channel + 64 <= width; channel += 64) sum_tile<scalar_t, index_t, 4, 16>(s, row, begin, end, channel, scale);
    for (; channel < width; channel += 16) sum_tile<scalar_t, index_t, 1, 16>(s, row, begin, end, channel, scale);
  }
}

// Positions as wide as the numbers they belong to.
template <typename acc_t>
using Position = std::conditional_t<sizeof(acc_t) == 4, int32_t, int64_t>;

// The same for the maximum of `kCount` channels; `argument` gets the edge of the largest message, -1 in an empty row.
template <typename scalar_t, typename index_t, int kCount>
STGRAPH_INLINE void max_tile(const Slab<scalar_t, index_t>& s, int64_t row, int64_t begin, int64_t end, int64_t channel,
                             int64_t* argument) {
  using acc_t = typename Accumulate<scalar_t>::type;
  using positions = typename Vector<Position<acc_t>, kCount>::type;
  const scalar_t* x = s.x + channel;
  Lanes<scalar_t, kCount> best{};
  positions chosen = positions{} - 1;
  for (int64_t entry = begin; entry < end; ++entry) {
    auto factor = to_float(s.weight[(s.edge ? s.edge[entry] : entry) * s.weight_edge]);
    auto value = load<scalar_t, kCount>(x + s.col[entry] * s.x_node) * factor;
    // a NaN wins and stays, so that it is seen
    positions better = (chosen < 0) | (value > best) | ((value != value) & (best == best));
    best = better ? value : best;
    chosen = better ? positions{} + static_cast<Position<acc_t>>(entry - begin) : chosen;
  }
  if (s.addend) best += load<scalar_t, kCount>(s.addend + row * s.addend_node + channel);
  store<scalar_t, kCount>(s.out + row * s.out_node + channel, best);
  for (int c = 0; c < kCount; ++c) {
    int64_t entry = begin + chosen[c];
    argument[row * s.out_node + channel + c] =
        chosen[c] < 0 ? -1 : s.edge ? s.edge[entry] : entry;
  }
}

template <typename scalar_t, typename index_t>
STGRAPH_INLINE void max_rows(const Slab<scalar_t, index_t>& s, int64_t first, int64_t last, int64_t* argument,
                             int64_t from, int64_t to) {
  for (int64_t row = first; row < last; ++row) {
    int64_t begin = s.rowptr[row], end = s.rowptr[row + 1], channel = from;
    for (; channel + 16 <= to; channel += 16) max_tile<scalar_t, index_t, 16>(s, row, begin, end, channel, argument);
    for (; channel < to; ++channel) max_tile<scalar_t, index_t, 1>(s, row, begin, end, channel, argument);
  }
}

}  // namespace stgraph
