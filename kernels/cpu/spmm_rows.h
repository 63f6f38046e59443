// The loops of spmm.h. A body of levels.h.
#include "vectors.h"

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

// How weights are read: there are none, they lie side by side in the order of the entries, or anyhow.
enum class Weights { kNone, kInOrder, kAny };

// One slab of a product: features of the nodes, weights of the edges.
template <typename scalar_t, typename index_t>
struct Slab {
  index_t rowptr, col, edge, order;  // edge, order (of the results): empty where they are 0, 1, 2, ...
  const scalar_t* x;
  int64_t x_node;
  const scalar_t* weight;
  int64_t weight_edge;
  const scalar_t* addend;  // null: none
  int64_t addend_node;
  scalar_t* out;
  int64_t out_node;
  int64_t fetched;  // sources of entries before this one are fetched ahead; 0: they are in the cache
  bool streamed = false;  // whether results go past the caches
  const char* next = nullptr;  // features of the slab that comes next, fetched row by row; null: none
  int64_t next_bytes = 0;
};

constexpr int64_t kAhead = 8;  // entries

template <Weights kWeights, typename scalar_t, typename index_t>
STGRAPH_INLINE typename Accumulate<scalar_t>::type weight_of(const Slab<scalar_t, index_t>& s, int64_t entry) {
  if constexpr (kWeights == Weights::kInOrder) return to_float(s.weight[entry]);
  else if (!s.weight) return 1;
  else return to_float(s.weight[(s.edge ? s.edge[entry] : entry) * s.weight_edge]);
}

// Asks the cache for the sources of the entries a few places on, which are too scattered for it to foresee.
template <int kBytes, typename scalar_t, typename index_t>
STGRAPH_INLINE void fetch(const Slab<scalar_t, index_t>& s, const scalar_t* x, int64_t begin, int64_t end) {
  for (int64_t entry = begin + kAhead; entry < std::min(end + kAhead, s.fetched); ++entry) {
    const char* next = reinterpret_cast<const char*>(x + s.col[entry] * s.x_node);
#pragma GCC unroll 8
    for (int byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(next + byte);
  }
}

// Sums of rows in `kVectors` vectors of `kCount` channels from `channel` on, in registers. Where these are few, entries
// go to two sums in turn, so that additions do not wait for each other. A function, so that what it needs fits the
// registers, and for the compiler's sake. `kStride` is the distance of nodes where it is known; 0: it is not.
template <int kVectors, int kCount, Weights kWeights, int kStride = 0, typename scalar_t, typename index_t>
__attribute__((noinline)) void tile_rows(const Slab<scalar_t, index_t>& slab, int64_t first, int64_t last,
                                         int64_t channel, bool mean) {
  using acc_t = typename Accumulate<scalar_t>::type;
  constexpr int kChains = kVectors < 4 ? 2 : 1;
  constexpr bool kStream = std::is_same_v<scalar_t, float> && kVectors == 4;
  const Slab<scalar_t, index_t> s = slab;  // where stores cannot change it, so that it need not be read again
  const scalar_t* x = s.x + channel;
  auto add = [&](Lanes<scalar_t, kCount>* to, int64_t entry) __attribute__((always_inline)) {
    const scalar_t* source = x + s.col[entry] * (kStride ? kStride : s.x_node);
    if constexpr (kWeights == Weights::kNone) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) to[v] += load<scalar_t, kCount>(source + v * kCount);
    } else {
      auto factor = weight_of<kWeights>(s, entry);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) to[v] += load<scalar_t, kCount>(source + v * kCount) * factor;
    }
  };
  for (int64_t place = first; place < last; ++place) {
    int64_t row = s.order ? s.order[place] : place;
    int64_t entry = s.rowptr[place], end = s.rowptr[place + 1];
    if (kVectors == 4 && s.next)
      for (int64_t byte = 0; byte < s.next_bytes; byte += 64) __builtin_prefetch(s.next + place * s.next_bytes + byte);
    if (s.fetched) fetch<kVectors * kCount * sizeof(scalar_t)>(s, x, entry, end);
    acc_t scale = mean && end > entry ? acc_t(1) / static_cast<acc_t>(end - entry) : acc_t(1);
    Lanes<scalar_t, kCount> sum[kChains][kVectors];
#pragma GCC unroll 8
    for (int chain = 0; chain < kChains; ++chain)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[chain][v] = Lanes<scalar_t, kCount>{};
#pragma GCC unroll 2
    for (; entry + kChains <= end; entry += kChains) {
#pragma GCC unroll 8
      for (int chain = 0; chain < kChains; ++chain) add(sum[chain], entry + chain);
    }
    if constexpr (kChains == 2) {
      if (entry < end) add(sum[0], entry);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[0][v] += sum[1][v];
    }
    scalar_t* out = s.out + row * s.out_node + channel;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Lanes<scalar_t, kCount> value = mean ? sum[0][v] * scale : sum[0][v];
      if (s.addend) value += load<scalar_t, kCount>(s.addend + row * s.addend_node + channel + v * kCount);
      if constexpr (kStream) {
        if (s.streamed) {
          stream(out + v * kCount, value);
          continue;
        }
      }
      store<scalar_t, kCount>(out + v * kCount, value);
    }
  }
#if defined(__x86_64__)
  if (kStream && s.streamed) _mm_sfence();
#endif
}

// Fewer channels than a vector has.
template <int kCount, Weights kWeights, typename scalar_t, typename index_t>
STGRAPH_INLINE void rest_rows(const Slab<scalar_t, index_t>& s, int64_t first, int64_t last, int64_t channel, int64_t to,
                              bool mean) {
  if constexpr (kCount > 0) {
    if (channel + kCount <= to) {
      tile_rows<1, kCount, kWeights>(s, first, last, channel, mean);
      channel += kCount;
    }
    if (channel < to) rest_rows<kCount / 2, kWeights>(s, first, last, channel, to, mean);
  }
}

// Places `first` to `last` of one slab, channels `from` to `to`: some rows at a time, tile after tile.
template <Weights kWeights, typename scalar_t, typename index_t>
STGRAPH_INLINE void sum_rows(const Slab<scalar_t, index_t>& s, int64_t first, int64_t last, bool mean, int64_t from,
                             int64_t to) {
  constexpr int kCount = kLanes<scalar_t>, kTile = 4 * kCount;
  constexpr int64_t kRows = 64;
  int64_t step = to - from <= kTile ? last - first : kRows;
  for (int64_t row = first; row < last; row += step) {
    int64_t stop = std::min(last, row + step), channel = from;
    if constexpr (std::is_same_v<scalar_t, float> && std::is_same_v<index_t, Indices32>) {
      if (s.x_node == 64)  // the most common width: a shift in place of a multiplication, a tenth of the time
        for (; channel + kTile <= to; channel += kTile) tile_rows<4, kCount, kWeights, 64>(s, row, stop, channel, mean);
    }
    for (; channel + kTile <= to; channel += kTile) tile_rows<4, kCount, kWeights>(s, row, stop, channel, mean);
    if (channel + 2 * kCount <= to) {
      tile_rows<2, kCount, kWeights>(s, row, stop, channel, mean);
      channel += 2 * kCount;
    }
    if (channel + kCount <= to) {
      tile_rows<1, kCount, kWeights>(s, row, stop, channel, mean);
      channel += kCount;
    }
    if (channel < to) rest_rows<kCount / 2, kWeights>(s, row, stop, channel, to, mean);
  }
}

// One channel, without vectors; `out` and `x` of the nodes lie side by side.
template <Weights kWeights, typename scalar_t, typename index_t>
__attribute__((noinline)) void single_rows(const Slab<scalar_t, index_t>& slab, int64_t first, int64_t last) {
  const Slab<scalar_t, index_t> s = slab;
  auto value = [&](int64_t at) __attribute__((always_inline)) {
    return kWeights == Weights::kNone ? s.x[s.col[at]] : s.x[s.col[at]] * weight_of<kWeights>(s, at);
  };
  int64_t entry = first < last ? s.rowptr[first] : 0;
  for (int64_t row = first; row < last; ++row) {
    int64_t end = s.rowptr[row + 1];
    float sum[4] = {0, 0, 0, 0};
    for (; entry + 4 <= end; entry += 4) {
#pragma GCC unroll 4
      for (int chain = 0; chain < 4; ++chain) sum[chain] += value(entry + chain);
    }
    for (; entry < end; ++entry) sum[0] += value(entry);
    s.out[row] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
}

template <Weights kWeights, typename scalar_t, typename index_t>
void sum_some(const Slab<scalar_t, index_t>& s, int64_t first, int64_t last, bool mean, int64_t from, int64_t to) {
  if constexpr (std::is_same_v<scalar_t, float> && std::is_same_v<index_t, Indices32>) {
    if (!mean && !s.addend && !s.order && to == 1 && s.x_node == 1 && s.out_node == 1)
      return single_rows<kWeights>(s, first, last);
  }
  sum_rows<kWeights>(s, first, last, mean, from, to);
}

// Positions as wide as the numbers they belong to.
template <typename acc_t>
using Position = std::conditional_t<sizeof(acc_t) == 4, int32_t, int64_t>;

// The same for the maximum of `kCount` channels; `argument` gets the edge of the largest message, -1 in an empty row.
template <int kCount, typename scalar_t, typename index_t>
STGRAPH_INLINE void max_tile(const Slab<scalar_t, index_t>& s, int64_t row, int64_t begin, int64_t end, int64_t channel,
                             int64_t* argument) {
  using acc_t = typename Accumulate<scalar_t>::type;
  using positions = typename Vector<Position<acc_t>, kCount>::type;
  const scalar_t* x = s.x + channel;
  Lanes<scalar_t, kCount> best{};
  positions chosen = positions{} - 1;
  for (int64_t entry = begin; entry < end; ++entry) {
    auto value = load<scalar_t, kCount>(x + s.col[entry] * s.x_node) * weight_of<Weights::kAny>(s, entry);
    // a NaN wins and stays, so that it is seen
    positions better = (chosen < 0) | (value > best) | ((value != value) & (best == best));
    best = better ? value : best;
    chosen = better ? positions{} + static_cast<Position<acc_t>>(entry - begin) : chosen;
  }
  if (s.addend) best += load<scalar_t, kCount>(s.addend + row * s.addend_node + channel);
  store<scalar_t, kCount>(s.out + row * s.out_node + channel, best);
  for (int c = 0; c < kCount; ++c) {
    int64_t entry = begin + chosen[c];
    argument[row * s.out_node + channel + c] = chosen[c] < 0 ? -1 : s.edge ? s.edge[entry] : entry;
  }
}

template <typename scalar_t, typename index_t>
STGRAPH_INLINE void max_rows(const Slab<scalar_t, index_t>& s, int64_t first, int64_t last, int64_t* argument,
                             int64_t from, int64_t to) {
  constexpr int kCount = kLanes<scalar_t>;
  for (int64_t place = first; place < last; ++place) {
    int64_t row = s.order ? s.order[place] : place;
    int64_t begin = s.rowptr[place], end = s.rowptr[place + 1], channel = from;
    for (; channel + kCount <= to; channel += kCount) max_tile<kCount>(s, row, begin, end, channel, argument);
    for (; channel < to; ++channel) max_tile<1>(s, row, begin, end, channel, argument);
  }
}

// ---------------------------------------------------------------- from a product to its slabs
template <typename type>
STGRAPH_INLINE const type* place_of(const void* base, int64_t offset) {
  return base ? static_cast<const type*>(base) + offset : nullptr;
}

template <typename index_t>
STGRAPH_INLINE index_t indices(const Product& p, const void* base) {
  if constexpr (std::is_same_v<index_t, Indices32>) return {place_of<int32_t>(base, 0)};
  else if (!base) return {};
  else if (p.wide_index) return {nullptr, place_of<int64_t>(base, 0)};
  else return {place_of<int32_t>(base, 0), nullptr};
}

template <typename scalar_t, typename index_t>
void sum_piece(const Product& p, const Slab<scalar_t, index_t>& s, const Piece& piece, int64_t from,
                              int64_t to) {
  bool mean = p.reduce == kMean;
  if constexpr (std::is_same_v<scalar_t, float> && std::is_same_v<index_t, Indices32>) {
    if (!s.weight) return sum_some<Weights::kNone>(s, piece.first, piece.last, mean, from, to);
    if (!s.edge && s.weight_edge == 1)
      return sum_some<Weights::kInOrder>(s, piece.first, piece.last, mean, from, to);
  }
  sum_some<Weights::kAny>(s, piece.first, piece.last, mean, from, to);
}

template <typename scalar_t, typename index_t>
STGRAPH_INLINE void work(const Product& p, const Piece& piece) {
  int64_t b = piece.slab / p.time, t = piece.slab % p.time;
  int64_t head_width = p.width / p.heads, start = b * p.out_stride.batch + t * p.out_stride.time;
  Slab<scalar_t, index_t> s;
  s.rowptr = indices<index_t>(p, p.rowptr), s.col = indices<index_t>(p, p.col);
  s.edge = indices<index_t>(p, p.edge), s.order = indices<index_t>(p, p.order);
  s.x = place_of<scalar_t>(p.x, b * p.x_stride.batch + t * p.x_stride.time), s.x_node = p.x_stride.node;
  s.addend = place_of<scalar_t>(p.addend, b * p.addend_stride.batch + t * p.addend_stride.time);
  s.addend_node = p.addend_stride.node;
  s.out = static_cast<scalar_t*>(p.out) + start, s.out_node = p.out_stride.node;
  s.weight_edge = p.weight_stride.edge;
  s.fetched = p.far ? p.pointer(p.rows) : 0;
  if (piece.to - piece.from == p.width && p.heads == 1 && p.x_stride.node == p.width && p.nodes <= p.rows &&
      piece.slab + 1 < p.batch * p.time && p.large) {
    int64_t slab = piece.slab + 1;
    s.next = reinterpret_cast<const char*>(
        place_of<scalar_t>(p.x, slab / p.time * p.x_stride.batch + slab % p.time * p.x_stride.time));
    s.next_bytes = p.width * sizeof(scalar_t);
  }
  s.streamed = p.large && reinterpret_cast<uintptr_t>(s.out) % 64 == 0 && s.out_node * p.size % 64 == 0;
  int64_t of_slab = b * p.weight_stride.batch + t * p.weight_stride.time;
  for (int64_t head = piece.from / head_width; head * head_width < piece.to; ++head) {
    int64_t from = std::max(piece.from, head * head_width), to = std::min(piece.to, (head + 1) * head_width);
    s.weight = place_of<scalar_t>(p.weight, of_slab + head * p.weight_stride.head);
    if (p.reduce == kMax) max_rows(s, piece.first, piece.last, p.argument + start, from, to);
    else sum_piece(p, s, piece, from, to);
  }
}

// Channels of a slab to or from their place among those of others; `kWidth` 0: as many as there are.
template <int kWidth, typename scalar_t>
STGRAPH_INLINE void move(const scalar_t* from, int64_t from_node, scalar_t* to, int64_t to_node, int64_t nodes,
                         int64_t width) {
  for (int64_t n = 0; n < nodes; ++n)
    std::memcpy(to + n * to_node, from + n * from_node, (kWidth ? kWidth : width) * sizeof(scalar_t));
}
template <typename scalar_t>
STGRAPH_INLINE void move_slab(const scalar_t* from, int64_t from_node, scalar_t* to, int64_t to_node, int64_t nodes,
                              int64_t width) {
  if (width == 1) move<1>(from, from_node, to, to_node, nodes, width);
  else if (width == 2) move<2>(from, from_node, to, to_node, nodes, width);
  else if (width == 4) move<4>(from, from_node, to, to_node, nodes, width);
  else move<0>(from, from_node, to, to_node, nodes, width);
}

// Slabs `first` to `last` of few channels each, side by side in `memory`, so that rows fill vectors.
template <typename scalar_t, typename index_t>
STGRAPH_INLINE void work_packed(const Product& p, int64_t first, int64_t last, void* memory) {
  constexpr int64_t kRows = 16, kCount = kLanes<scalar_t>;
  scalar_t* scratch = static_cast<scalar_t*>(memory);
  int64_t slabs = last - first, channels = slabs * p.width, padded = (channels + kCount - 1) / kCount * kCount;
  for (int64_t node = 0; node < p.nodes; node += kRows) {
    int64_t nodes = std::min(p.nodes - node, kRows);
    scalar_t* to = scratch + node * padded;
    for (int64_t slab = 0; slab < slabs; ++slab) {
      int64_t b = (first + slab) / p.time, t = (first + slab) % p.time;
      const scalar_t* x = place_of<scalar_t>(p.x, b * p.x_stride.batch + t * p.x_stride.time);
      move_slab(x + node * p.x_stride.node, p.x_stride.node, to + slab * p.width, padded, nodes, p.width);
    }
    for (int64_t n = 0; n < nodes; ++n)
      for (int64_t c = channels; c < padded; ++c) to[n * padded + c] = 0;
  }
  scalar_t sums[kRows * kPacked];
  Slab<scalar_t, index_t> s{indices<index_t>(p, p.rowptr), indices<index_t>(p, p.col), indices<index_t>(p, p.edge), {},
                            scratch, padded, place_of<scalar_t>(p.weight, 0), p.weight_stride.edge, nullptr, 0,
                            nullptr, padded, 0};
  for (int64_t row = 0; row < p.rows; row += kRows) {
    int64_t rows = std::min(p.rows - row, kRows);
    s.out = sums - row * padded;
    sum_piece(p, s, {0, row, row + rows, 0, padded}, 0, padded);
    for (int64_t slab = 0; slab < slabs; ++slab) {
      int64_t b = (first + slab) / p.time, t = (first + slab) % p.time;
      scalar_t* out = static_cast<scalar_t*>(p.out) + b * p.out_stride.batch + t * p.out_stride.time;
      move_slab(sums + slab * p.width, padded, out + row * p.out_stride.node, p.out_stride.node, rows, p.width);
    }
  }
}

#define STGRAPH_WORK(suffix, scalar_t, index_t) \
  void work_##suffix(const Product& p, const Piece& piece) { work<scalar_t, index_t>(p, piece); }
#define STGRAPH_PACKED(suffix, scalar_t, index_t)                                          \
  void packed_##suffix(const Product& p, int64_t first, int64_t last, void* memory) {      \
    work_packed<scalar_t, index_t>(p, first, last, memory);                                \
  }
STGRAPH_WORK(f32_i32, float, Indices32)
STGRAPH_WORK(f32, float, Indices)
STGRAPH_WORK(f64, double, Indices)
STGRAPH_WORK(f16, Half, Indices)
STGRAPH_WORK(b16, BFloat16, Indices)
STGRAPH_PACKED(f32_i32, float, Indices32)
STGRAPH_PACKED(f32, float, Indices)
STGRAPH_PACKED(f64, double, Indices)
#undef STGRAPH_WORK
#undef STGRAPH_PACKED

constexpr ProductLoops f32_i32{work_f32_i32, packed_f32_i32}, f32{work_f32, packed_f32}, f64{work_f64, packed_f64},
    f16{work_f16, nullptr}, b16{work_b16, nullptr};
