// The CPU implementation of stgraph::sddmm: for every edge the dot product of the rows at its ends, for each head.
//
// Entries are taken in blocks whose sums stand in a small array while the slabs are gone through, so that a slab is read
// from the cache and sums of 16-bit numbers are rounded once. Every sum has one order, whatever the threads do.
#include <algorithm>
#include <memory>

#include "tensors.h"

namespace stgraph {
namespace {

constexpr int64_t kBlock = 4096;   // sums of a block
constexpr int64_t kSmall = 32768;  // multiplications that are not worth a second thread

struct Sampled {
  const void *rowptr, *col, *edge;
  bool wide_index;
  int64_t rows, entries;
  const void *a, *b;
  Strides a_stride, b_stride;
  void* out;  // [E, B or 1, T or 1, H], contiguous
  int64_t batch, time, width, heads;
  bool by_batch, by_time;
};

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
  int64_t each = std::max<int64_t>(1, kBlock / p.heads), head_width = p.width / p.heads;
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

STGRAPH_CLONES void work_f32(const Sampled& p, int64_t first, int64_t last) { work<float>(p, first, last); }
STGRAPH_CLONES void work_f64(const Sampled& p, int64_t first, int64_t last) { work<double>(p, first, last); }
STGRAPH_CLONES void work_f16(const Sampled& p, int64_t first, int64_t last) { work<Half>(p, first, last); }
STGRAPH_CLONES void work_b16(const Sampled& p, int64_t first, int64_t last) { work<BFloat16>(p, first, last); }

void (*loop_of(ScalarType type))(const Sampled&, int64_t, int64_t) {
  switch (type) {
    case ScalarType::Float: return work_f32;
    case ScalarType::Double: return work_f64;
    case ScalarType::Half: return work_f16;
    case ScalarType::BFloat16: return work_b16;
    default: STD_TORCH_CHECK(false, "a: expected float32, float64, float16 or bfloat16");
  }
}

// The features of each node side by side in memory.
Tensor by_node(const Tensor& x) {
  Tensor moved = torch::stable::transpose(torch::stable::transpose(x, 1, 2), 0, 1);
  moved = torch::stable::contiguous(moved);
  return torch::stable::transpose(torch::stable::transpose(moved, 0, 1), 1, 2);
}

// Last arguments: the transposed graph, which only the backward pass reads.
Tensor sddmm(Tensor rowptr, Tensor col, std::optional<Tensor> edge, Tensor a, Tensor b, bool by_batch, bool by_time,
             int64_t heads, std::optional<Tensor>, std::optional<Tensor>, std::optional<Tensor>) {
  check_features(a, "a");
  check_features(b, "b");
  check_rows(rowptr, col, edge);
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type() && a.size(0) == b.size(0) && a.size(1) == b.size(1) &&
                      a.size(3) == b.size(3),
                  "b: expected the type and all axes of a but the nodes");
  STD_TORCH_CHECK(heads > 0 && a.size(3) % heads == 0, "heads: expected a divisor of the channels");
  bool summed = (a.size(0) == 1 || !by_batch) && (a.size(1) == 1 || !by_time);
  if (summed && heads == 1 && a.size(3) < kLanes && a.size(0) * a.size(1) >= 4 && col.size(0) >= 4 * a.size(2))
    a = by_node(a), b = by_node(b);  // narrow slabs side by side fill vectors
  Sampled p{};
  p.batch = a.size(0), p.time = a.size(1), p.width = a.size(3), p.heads = heads;
  p.by_batch = by_batch, p.by_time = by_time;
  p.entries = col.size(0), p.rows = rowptr.size(0) - 1;
  Tensor out = torch::stable::new_empty(a, {p.entries, by_batch ? p.batch : 1, by_time ? p.time : 1, heads});
  if (out.numel() == 0) return out;
  p.rowptr = rowptr.const_data_ptr(), p.col = col.const_data_ptr();
  p.edge = edge.has_value() ? edge->const_data_ptr() : nullptr;
  p.wide_index = col.scalar_type() == ScalarType::Long;
  p.a = a.const_data_ptr(), p.b = b.const_data_ptr(), p.a_stride = strides_of(a), p.b_stride = strides_of(b);
  p.out = out.mutable_data_ptr();
  auto flat = [&](const Strides& s) {
    return (p.time == 1 || s.time == p.width) && (p.batch == 1 || s.batch == p.time * p.width);
  };
  if (summed && heads == 1 && flat(p.a_stride) && flat(p.b_stride)) p.width *= p.batch * p.time, p.batch = p.time = 1;
  auto loop = loop_of(a.scalar_type());
  int64_t amount = p.entries * p.width * p.batch * p.time;
  int64_t threads = amount < kSmall ? 1 : torch::stable::get_num_threads();
  if (threads == 1) loop(p, 0, p.entries);
  else
    torch::stable::parallel_for(0, p.entries, std::max<int64_t>(1, p.entries / (4 * threads)),
                                [&](int64_t begin, int64_t end) { loop(p, begin, end); });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgraph, CPU, m) { m.impl("sddmm", TORCH_BOX(&sddmm)); }

}  // namespace stgraph
