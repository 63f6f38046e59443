// The CPU implementation of stgraph::weighted_sum_gradients.
#include "gradients.h"

#include <memory>

#include "tensors.h"

#define STGRAPH_BODY "gradients_rows.h"
#include "levels.h"

namespace stgraph {
namespace {

constexpr int64_t kSmall = 32768;       // multiplications that are not worth a second thread
constexpr int64_t kNear = 512 * 1024;   // bytes of a slab that stay near a core while rows gather from them
constexpr int64_t kLarge = 4 << 20;     // bytes of results that will not be read again from a core's own caches
constexpr int64_t kTurn = 32768;        // entries of a turn of a thread, where there are slabs to go through
constexpr int64_t kWidths = 16;         // channels: whole vectors on every processor

void (*gradients_of(ScalarType type))(const Gradients&, int64_t, int64_t) {
  switch (type) {
    case ScalarType::Float: return STGRAPH_AT_LEVEL(work_f32);
    case ScalarType::Double: return STGRAPH_AT_LEVEL(work_f64);
    case ScalarType::Half: return STGRAPH_AT_LEVEL(work_f16);
    case ScalarType::BFloat16: return STGRAPH_AT_LEVEL(work_b16);
    default: STD_TORCH_CHECK(false, "x: expected float32, float64, float16 or bfloat16");
  }
}

// The graph is the transposed one; results are the gradients of x and of the weights.
std::tuple<Tensor, Tensor> weighted_sum_gradients(Tensor rowptr, Tensor col, std::optional<Tensor> edge, Tensor weight,
                                                  Tensor x, Tensor grad, std::optional<Tensor> order) {
  check_rows(rowptr, col, edge);
  int64_t axes = x.dim(), slabs = 1;
  STD_TORCH_CHECK(axes >= 2 && grad.dim() == axes && x.is_contiguous() && grad.is_contiguous() &&
                      x.size(axes - 1) % kWidths == 0 && x.size(axes - 1) == grad.size(axes - 1) &&
                      x.size(axes - 2) == rowptr.size(0) - 1 && x.scalar_type() == grad.scalar_type(),
                  "x, grad: expected contiguous [.., N, F] of one type, F a multiple of 16");
  for (int64_t axis = 0; axis + 2 < axes; ++axis) {
    STD_TORCH_CHECK(x.size(axis) == grad.size(axis), "grad: expected the leading axes of x");
    slabs *= x.size(axis);
  }
  STD_TORCH_CHECK(weight.dim() == 1 && weight.size(0) == col.size(0) && weight.scalar_type() == x.scalar_type(),
                  "weight: expected [E] of the type of the features");
  Tensor out = torch::stable::empty_like(x), out_weight = torch::stable::new_empty(weight, {col.size(0)});
  Gradients p{};
  p.rows = x.size(axes - 2), p.columns = grad.size(axes - 2), p.width = x.size(axes - 1), p.slabs = slabs;
  p.rowptr = rowptr.const_data_ptr(), p.col = col.const_data_ptr();
  p.edge = edge.has_value() ? edge->const_data_ptr() : nullptr;
  p.order = order.has_value() ? order->const_data_ptr() : nullptr;
  p.wide_index = col.scalar_type() == ScalarType::Long;
  p.x = x.const_data_ptr(), p.grad = grad.const_data_ptr();
  p.weight = weight.const_data_ptr(), p.weight_edge = weight.stride(0);
  p.out = out.mutable_data_ptr(), p.out_weight = out_weight.mutable_data_ptr();
  int64_t size = static_cast<int64_t>(x.element_size()), entries = col.size(0);
  p.far = p.columns * p.width * size > kNear, p.large = p.rows * p.width * slabs * size > kLarge;
  auto loop = gradients_of(x.scalar_type());
  int64_t threads = (entries + p.rows) * p.width * slabs < kSmall ? 1 : torch::stable::get_num_threads();
  int64_t turns = slabs == 1 ? 4 : (entries + threads * kTurn - 1) / (threads * kTurn);
  int64_t parts = threads * std::max<int64_t>(turns, 1);
  if (threads == 1) {
    loop(p, 0, p.rows);
  } else {
    by_index(col.scalar_type(), [&](auto* index) {
      auto graph = rows_of<std::remove_pointer_t<decltype(index)>>(rowptr, col, edge);
      torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
        for (int64_t part = begin; part < end; ++part)
          loop(p, boundary(graph, part, parts), boundary(graph, part + 1, parts));
      });
    });
  }
  return {out, out_weight};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgraph, CPU, m) { m.impl("weighted_sum_gradients", TORCH_BOX(&weighted_sum_gradients)); }

}  // namespace stgraph
