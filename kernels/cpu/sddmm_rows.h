// The loops of sddmm.cpp. A body of levels.h.
#include "vectors.h"

constexpr int64_t kBlock = 4096;  // sums of a block

STGRAPH_INLINE int64_t read(const Sampled& p, const void* base, int64_t at) {
  return p.wide_index ? static_cast<const int64_t*>(base)[at] : static_cast<const int32_t*>(base)[at];
}

// The row of an entry.
inline int64_t row_of(const Sampled& p, int64_t entry) {
  int64_t low = 0, high = p.rows - 1;
  while (low < high) {
    int64_t middle = (low + high + 1) / 2;
    if (read(p, p.rowptr, middle) <= entry) low = middle;
    else high = middle - 1;
  }
  return low;
}

// Adds the products of entries `first` to `last` of one slab to their sums.
template <typename scalar_t, typename index_t>
STGRAPH_INLINE void dots(const Sampled& p, const scalar_t* left, const scalar_t* right, int64_t first, int64_t last,
                         int64_t row, typename Accumulate<scalar_t>::type* sum) {
  const index_t *rowptr = static_cast<const index_t*>(p.rowptr), *col = static_cast<const index_t*>(p.col);
  int64_t left_node = p.a_stride.node, right_node = p.b_stride.node, heads = p.heads, width = p.width / heads;
  int64_t entry = first;
  for (; entry < last; ++row) {
    int64_t end = std::min<int64_t>(last, rowptr[row + 1]);
    const scalar_t* x = left + row * left_node;
    for (; entry < end; ++entry) {
      const scalar_t* y = right + static_cast<int64_t>(col[entry]) * right_node;
      for (int64_t head = 0; head < heads; ++head) *sum++ += dot(x + head * width, y + head * width, width);
    }
  }
}

constexpr int64_t kWhole = 8192;  // entries whose sums are kept as whole vectors while the slabs are gone through
constexpr int64_t kAhead = 8;     // entries

// Adds the products of the channels of `kVectors` vectors of entries `first` to `last` of one slab to vectors of sums.
template <int kVectors, typename scalar_t, typename index_t>
__attribute__((noinline)) void vector_dots(const Sampled& p, const scalar_t* left, const scalar_t* right, int64_t first,
                                           int64_t last, int64_t row, int64_t next_slab,
                                           typename Accumulate<scalar_t>::type* sum) {
  using acc_t = typename Accumulate<scalar_t>::type;
  constexpr int kCount = kLanes<scalar_t>;
  const index_t *rowptr = static_cast<const index_t*>(p.rowptr), *col = static_cast<const index_t*>(p.col);
  int64_t left_node = p.a_stride.node, right_node = p.b_stride.node, columns = p.columns;
  int64_t fetched = p.far ? last - kAhead : first;
  for (int64_t entry = first; entry < last; ++row) {
    int64_t end = std::min<int64_t>(last, rowptr[row + 1]);
    if (entry >= end) continue;
    if (next_slab)  // of the slab that comes next, what stands at this row
      for (int64_t byte = 0; byte < kVectors * kCount * static_cast<int64_t>(sizeof(scalar_t)); byte += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(left + next_slab + row * left_node) + byte);
        if (row < columns)
          __builtin_prefetch(reinterpret_cast<const char*>(right + next_slab + row * right_node) + byte);
      }
    Lanes<scalar_t> x[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) x[v] = load(left + row * left_node + v * kCount);
    for (; entry < end; ++entry) {
      const scalar_t* y = right + static_cast<int64_t>(col[entry]) * right_node;
      if (entry < fetched) {
        const char* next = reinterpret_cast<const char*>(right + static_cast<int64_t>(col[entry + kAhead]) * right_node);
#pragma GCC unroll 8
        for (int byte = 0; byte < static_cast<int>(kVectors * kCount * sizeof(scalar_t)); byte += 64)
          __builtin_prefetch(next + byte);
      }
      Lanes<scalar_t> product = x[0] * load(y);
#pragma GCC unroll 8
      for (int v = 1; v < kVectors; ++v) product += x[v] * load(y + v * kCount);
      acc_t* to = sum + (entry - first) * kCount;
      store<acc_t>(to, load(to) + product);
    }
  }
}

// One sum per edge over all slabs and channels, these filling whole vectors.
template <typename scalar_t, typename index_t>
STGRAPH_INLINE void work_whole(const Sampled& p, int64_t first, int64_t last) {
  using acc_t = typename Accumulate<scalar_t>::type;
  constexpr int kCount = kLanes<scalar_t>;
  const scalar_t *a = static_cast<const scalar_t*>(p.a), *b = static_cast<const scalar_t*>(p.b);
  std::unique_ptr<acc_t[]> sums(new acc_t[std::min(kWhole, last - first) * kCount]);
  for (int64_t block = first; block < last; block += kWhole) {
    int64_t stop = std::min(last, block + kWhole), row = row_of(p, block);
    std::fill_n(sums.get(), (stop - block) * kCount, acc_t(0));
    for (int64_t slab = 0; slab < p.batch * p.time; ++slab) {
      int64_t i = slab / p.time, t = slab % p.time, c = 0;
      const scalar_t* left = a + i * p.a_stride.batch + t * p.a_stride.time;
      const scalar_t* right = b + i * p.b_stride.batch + t * p.b_stride.time;
      bool more = t + 1 < p.time || (p.time == 1 && slab + 1 < p.batch);
      bool alike = p.time > 1 ? p.a_stride.time == p.b_stride.time : p.a_stride.batch == p.b_stride.batch;
      int64_t next = !more || !alike || p.far ? 0 : p.time > 1 ? p.a_stride.time : p.a_stride.batch;
      for (; c + 4 * kCount <= p.width; c += 4 * kCount)
        vector_dots<4, scalar_t, index_t>(p, left + c, right + c, block, stop, row, next, sums.get());
      for (; c < p.width; c += kCount)
        vector_dots<1, scalar_t, index_t>(p, left + c, right + c, block, stop, row, next, sums.get());
    }
    for (int64_t entry = block; entry < stop; ++entry)
      static_cast<scalar_t*>(p.out)[p.edge ? read(p, p.edge, entry) : entry] =
          from_float<scalar_t>(total<acc_t>(load(sums.get() + (entry - block) * kCount)));
  }
}

template <typename scalar_t>
STGRAPH_INLINE void work(const Sampled& p, int64_t first, int64_t last) {
  bool one = p.heads == 1 && (!p.by_batch || p.batch == 1) && (!p.by_time || p.time == 1);
  if (one && p.width > 0 && p.width % kLanes<scalar_t> == 0) {
    if (p.wide_index) return work_whole<scalar_t, int64_t>(p, first, last);
    return work_whole<scalar_t, int32_t>(p, first, last);
  }
  using acc_t = typename Accumulate<scalar_t>::type;
  const scalar_t *a = static_cast<const scalar_t*>(p.a), *b = static_cast<const scalar_t*>(p.b);
  int64_t each = std::max<int64_t>(1, kBlock / p.heads);
  int64_t kept_batch = p.by_batch ? p.batch : 1, kept_time = p.by_time ? p.time : 1;
  std::unique_ptr<acc_t[]> sums(new acc_t[each * p.heads]);
  for (int64_t block = first; block < last; block += each) {
    int64_t stop = std::min(last, block + each), start_row = row_of(p, block);
    for (int64_t kept = 0; kept < kept_batch * kept_time; ++kept) {
      std::fill_n(sums.get(), (stop - block) * p.heads, acc_t(0));
      int64_t from_batch = p.by_batch ? kept / kept_time : 0, to_batch = p.by_batch ? from_batch + 1 : p.batch;
      int64_t from_time = p.by_time ? kept % kept_time : 0, to_time = p.by_time ? from_time + 1 : p.time;
      for (int64_t i = from_batch; i < to_batch; ++i)
        for (int64_t t = from_time; t < to_time; ++t) {
          const scalar_t* left = a + i * p.a_stride.batch + t * p.a_stride.time;
          const scalar_t* right = b + i * p.b_stride.batch + t * p.b_stride.time;
          if (p.wide_index) dots<scalar_t, int64_t>(p, left, right, block, stop, start_row, sums.get());
          else dots<scalar_t, int32_t>(p, left, right, block, stop, start_row, sums.get());
        }
      for (int64_t entry = block; entry < stop; ++entry) {
        int64_t edge = p.edge ? read(p, p.edge, entry) : entry;
        scalar_t* out = static_cast<scalar_t*>(p.out) + (edge * kept_batch * kept_time + kept) * p.heads;
        for (int64_t head = 0; head < p.heads; ++head)
          out[head] = from_float<scalar_t>(sums[(entry - block) * p.heads + head]);
      }
    }
  }
}

void work_f32(const Sampled& p, int64_t first, int64_t last) { work<float>(p, first, last); }
void work_f64(const Sampled& p, int64_t first, int64_t last) { work<double>(p, first, last); }
void work_f16(const Sampled& p, int64_t first, int64_t last) { work<Half>(p, first, last); }
void work_b16(const Sampled& p, int64_t first, int64_t last) { work<BFloat16>(p, first, last); }
