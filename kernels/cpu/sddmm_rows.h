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

template <typename scalar_t>
STGRAPH_INLINE void work(const Sampled& p, int64_t first, int64_t last) {
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
