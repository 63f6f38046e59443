// The loops of gradients.cpp. A body of levels.h.
#include "vectors.h"

constexpr int64_t kMost = 32768;  // entries whose weights and products stand beside each other while slabs go by
constexpr int64_t kAhead = 8;     // entries

// Rows `first` to `last`, with what belongs to their entries, which start at `entry`.
template <typename acc_t>
struct Block {
  int64_t first, last, entry, entries;
  acc_t *weight, *product;
};

// Channels of one slab, and how far away those of the slab that comes next are; 0: none does.
template <typename scalar_t>
struct Slab {
  const scalar_t *x, *grad;
  scalar_t* out;
  int64_t next_x, next_grad;
  bool streamed;
};

// Loads a vector that is used twice; compilers would load it twice.
template <typename scalar_t>
STGRAPH_INLINE Lanes<scalar_t> load_once(const scalar_t* from) {
  Lanes<scalar_t> value = load(from);
#if defined(__x86_64__)
  asm("" : "+v"(value));
#endif
  return value;
}

template <int kBytes, typename scalar_t>
STGRAPH_INLINE void fetch(const scalar_t* from) {
#pragma GCC unroll 8
  for (int byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(reinterpret_cast<const char*>(from) + byte);
}

// `kVectors` vectors of channels of a block, in one slab.
template <int kVectors, typename scalar_t, typename index_t>
__attribute__((noinline)) void tile(const Gradients& p, const Block<typename Accumulate<scalar_t>::type>& given,
                                    const Slab<scalar_t>& slab) {
  using acc_t = typename Accumulate<scalar_t>::type;
  constexpr int kCount = kLanes<scalar_t>, kBytes = kVectors * kCount * sizeof(scalar_t);
  constexpr bool kStream = std::is_same_v<scalar_t, float> && kVectors == 4;
  const Block<acc_t> block = given;  // where stores cannot change them
  const Slab<scalar_t> s = slab;
  const index_t *rowptr = static_cast<const index_t*>(p.rowptr), *order = static_cast<const index_t*>(p.order);
  const index_t* col = static_cast<const index_t*>(p.col) + block.entry;
  const int64_t width = p.width, columns = p.columns, rows = block.last - block.first;
  const int64_t fetched = p.far ? block.entries - kAhead : 0;
  int64_t entry = 0, foreseen = 0;
  for (int64_t place = block.first; place < block.last; ++place) {
    int64_t row = order ? static_cast<int64_t>(order[place]) : place, end = rowptr[place + 1] - block.entry;
    if (s.next_x) {  // of the slab that comes next, this row, and little by little the gradient
      fetch<kBytes>(s.x + s.next_x + row * width);
      for (; foreseen * rows < (place - block.first + 1) * columns; ++foreseen)
        fetch<kBytes>(s.grad + s.next_grad + foreseen * width);
    }
    Lanes<scalar_t> own[kVectors], sum[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) own[v] = load(s.x + row * width + v * kCount), sum[v] = Lanes<scalar_t>{};
    for (; entry < end; ++entry) {
      const scalar_t* from = s.grad + static_cast<int64_t>(col[entry]) * width;
      if (entry < fetched) fetch<kBytes>(s.grad + static_cast<int64_t>(col[entry + kAhead]) * width);
      acc_t factor = block.weight[entry];
      Lanes<scalar_t> value = load_once(from), product = own[0] * value;
      sum[0] += value * factor;
#pragma GCC unroll 8
      for (int v = 1; v < kVectors; ++v) {
        value = load_once(from + v * kCount);
        product += own[v] * value;
        sum[v] += value * factor;
      }
      block.product[entry] += total<acc_t>(product);
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      scalar_t* to = s.out + row * width + v * kCount;
      if constexpr (kStream) {
        if (s.streamed) {
          stream(to, sum[v]);
          continue;
        }
      }
      store(to, sum[v]);
    }
  }
#if defined(__x86_64__)
  if (kStream && s.streamed) _mm_sfence();
#endif
}

// All slabs and channels of a block, in one order, so that products do not depend on how rows were put into blocks.
template <typename scalar_t, typename index_t>
STGRAPH_INLINE void work_block(const Gradients& p, const Block<typename Accumulate<scalar_t>::type>& block) {
  constexpr int kCount = kLanes<scalar_t>;
  int64_t of_rows = p.rows * p.width, of_columns = p.columns * p.width;
  for (int64_t slab = 0; slab < p.slabs; ++slab) {
    bool more = slab + 1 < p.slabs && !p.far;
    Slab<scalar_t> s{static_cast<const scalar_t*>(p.x) + slab * of_rows,
                     static_cast<const scalar_t*>(p.grad) + slab * of_columns,
                     static_cast<scalar_t*>(p.out) + slab * of_rows, more ? of_rows : 0, more ? of_columns : 0, false};
    s.streamed = p.large && reinterpret_cast<uintptr_t>(s.out) % 64 == 0 && p.width * sizeof(scalar_t) % 64 == 0;
    int64_t left = p.width;
    auto step = [&](int64_t channels) { left -= channels, s.x += channels, s.grad += channels, s.out += channels; };
    for (; left >= 4 * kCount; step(4 * kCount)) tile<4, scalar_t, index_t>(p, block, s);
    for (; left > 0; step(kCount)) tile<1, scalar_t, index_t>(p, block, s);
  }
}

// Rows `first` to `last`, in blocks of at most so many entries, or of one row.
template <typename scalar_t, typename index_t>
STGRAPH_INLINE void work(const Gradients& p, int64_t first, int64_t last) {
  using acc_t = typename Accumulate<scalar_t>::type;
  const index_t *rowptr = static_cast<const index_t*>(p.rowptr), *edge = static_cast<const index_t*>(p.edge);
  const scalar_t* weight = static_cast<const scalar_t*>(p.weight);
  std::unique_ptr<acc_t[]> memory;
  int64_t room = 0;
  while (first < last) {
    int64_t begin = rowptr[first], stop = first + 1;
    while (stop < last && rowptr[stop + 1] - begin <= kMost) ++stop;
    int64_t entries = rowptr[stop] - begin;
    if (entries > room) {
      room = std::max(entries, std::min<int64_t>(kMost, rowptr[last] - begin));
      memory.reset(new acc_t[2 * room]);
    }
    Block<acc_t> block{first, stop, begin, entries, memory.get(), memory.get() + room};
    auto edge_of = [&](int64_t at) { return edge ? static_cast<int64_t>(edge[begin + at]) : begin + at; };
    for (int64_t at = 0; at < entries; ++at) {
      block.weight[at] = to_float(weight[edge_of(at) * p.weight_edge]);
      block.product[at] = 0;
    }
    work_block<scalar_t, index_t>(p, block);
    for (int64_t at = 0; at < entries; ++at)
      static_cast<scalar_t*>(p.out_weight)[edge_of(at)] = from_float<scalar_t>(block.product[at]);
    first = stop;
  }
}

#define STGRAPH_WORK(suffix, scalar_t)                                  \
  void work_##suffix(const Gradients& p, int64_t first, int64_t last) { \
    if (p.wide_index) work<scalar_t, int64_t>(p, first, last);          \
    else work<scalar_t, int32_t>(p, first, last);                       \
  }
STGRAPH_WORK(f32, float)
STGRAPH_WORK(f64, double)
STGRAPH_WORK(f16, Half)
STGRAPH_WORK(b16, BFloat16)
#undef STGRAPH_WORK
