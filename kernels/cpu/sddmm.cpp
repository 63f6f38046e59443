// The CPU implementation of stgraph::sddmm: for every edge the dot product of the rows at its ends, for each head.
//
// Entries are taken in blocks whose sums stand in a small array while the slabs are gone through, so that a slab is read
// from the cache and sums of 16-bit numbers are rounded once. Every sum has one order, whatever the threads do.
#include "sddmm.h"

#include <memory>

#include "tensors.h"

#define STGRAPH_BODY "sddmm_rows.h"
#include "levels.h"

namespace stgraph {
namespace {

constexpr int64_t kSmall = 32768;  // multiplications that are not worth a second thread
constexpr int64_t kFar = 8 << 20;  // bytes of features that do not stay in any cache of a core
constexpr int64_t kNarrow = 16;    // fewer channels than these do not fill a vector

void (*loop_of(ScalarType type))(const Sampled&, int64_t, int64_t) {
  switch (type) {
    case ScalarType::Float: return STGRAPH_AT_LEVEL(work_f32);
    case ScalarType::Double: return STGRAPH_AT_LEVEL(work_f64);
    case ScalarType::Half: return STGRAPH_AT_LEVEL(work_f16);
    case ScalarType::BFloat16: return STGRAPH_AT_LEVEL(work_b16);
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
  if (summed && heads == 1 && a.size(3) < kNarrow && a.size(0) * a.size(1) >= 4 && col.size(0) >= 4 * a.size(2))
    a = by_node(a), b = by_node(b);  // narrow slabs side by side fill vectors
  Sampled p{};
  p.batch = a.size(0), p.time = a.size(1), p.width = a.size(3), p.heads = heads;
  p.by_batch = by_batch, p.by_time = by_time;
  p.entries = col.size(0), p.rows = rowptr.size(0) - 1, p.columns = b.size(2);
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
  p.far = b.size(2) * p.b_stride.node * static_cast<int64_t>(b.element_size()) > kFar;
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
