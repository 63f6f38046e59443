// The CPU implementation of the gradients of a maximum: stgraph::spmm_max_x and stgraph::spmm_max_weight.
#include "maximum.h"

#include "tensors.h"

#define STGRAPH_BODY "maximum_rows.h"
#include "levels.h"

namespace stgraph {
namespace {

using Loop = void (*)(const Chosen&, int64_t, int64_t);

Loop features_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return STGRAPH_AT_LEVEL(features_f32);
    case ScalarType::Double: return STGRAPH_AT_LEVEL(features_f64);
    case ScalarType::Half: return STGRAPH_AT_LEVEL(features_f16);
    case ScalarType::BFloat16: return STGRAPH_AT_LEVEL(features_b16);
    default: STD_TORCH_CHECK(false, "grad: expected float32, float64, float16 or bfloat16");
  }
}

Loop weights_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return STGRAPH_AT_LEVEL(weights_f32);
    case ScalarType::Double: return STGRAPH_AT_LEVEL(weights_f64);
    case ScalarType::Half: return STGRAPH_AT_LEVEL(weights_f16);
    case ScalarType::BFloat16: return STGRAPH_AT_LEVEL(weights_b16);
    default: STD_TORCH_CHECK(false, "grad: expected float32, float64, float16 or bfloat16");
  }
}

Chosen chosen_of(const Tensor& rowptr, const Tensor& col, const std::optional<Tensor>& edge, const Tensor& grad,
                 const Tensor& argument) {
  check_rows(rowptr, col, edge);
  check_features(grad, "grad");
  check_features(argument, "argument");
  STD_TORCH_CHECK(argument.scalar_type() == ScalarType::Long && argument.size(2) == grad.size(2),
                  "argument: expected int64 of the shape of grad");
  Chosen p{};
  p.rowptr = rowptr.const_data_ptr(), p.col = col.const_data_ptr();
  p.edge = edge.has_value() ? edge->const_data_ptr() : nullptr;
  p.wide_index = col.scalar_type() == ScalarType::Long;
  p.grad = grad.const_data_ptr(), p.grad_stride = strides_of(grad);
  p.argument = static_cast<const int64_t*>(argument.const_data_ptr()), p.argument_stride = strides_of(argument);
  p.batch = grad.size(0), p.time = grad.size(1), p.width = grad.size(3), p.heads = 1;
  return p;
}

void add_weight(Chosen& p, const Tensor& weight, const Tensor& grad) {
  check_weight(weight, grad);
  p.weight = weight.const_data_ptr(), p.weight_stride = weight_strides(weight);
  p.weight_batch = weight.size(1), p.weight_time = weight.size(2), p.heads = weight.size(3);
}

void over_rows(const Chosen& p, int64_t rows, Loop loop) {
  int64_t grain = std::max<int64_t>(16, 65536 / std::max<int64_t>(1, p.batch * p.time * p.width));
  if (rows <= grain) loop(p, 0, rows);
  else torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) { loop(p, begin, end); });
}

Tensor spmm_max_x(Tensor rowptr, Tensor col, std::optional<Tensor> edge, std::optional<Tensor> weight, Tensor grad,
                  Tensor argument, std::optional<Tensor>, std::optional<Tensor>, std::optional<Tensor>) {
  Chosen p = chosen_of(rowptr, col, edge, grad, argument);
  if (weight.has_value()) add_weight(p, *weight, grad);
  int64_t rows = rowptr.size(0) - 1;
  Tensor out = like(grad, rows, node_major(grad));
  if (out.numel() == 0) return out;
  p.out = out.mutable_data_ptr(), p.out_stride = strides_of(out);
  over_rows(p, rows, features_of(grad.scalar_type()));
  return out;
}

Tensor spmm_max_weight(Tensor rowptr, Tensor col, std::optional<Tensor> edge, Tensor weight, Tensor x, Tensor grad,
                       Tensor argument, std::optional<Tensor>, std::optional<Tensor>, std::optional<Tensor>) {
  Chosen p = chosen_of(rowptr, col, edge, grad, argument);
  check_features(x, "x");
  add_weight(p, weight, grad);
  Tensor out = torch::stable::new_empty(weight, {weight.size(0), weight.size(1), weight.size(2), weight.size(3)});
  if (out.numel() == 0) return out;
  p.x = x.const_data_ptr(), p.x_stride = strides_of(x);
  p.out = out.mutable_data_ptr();
  over_rows(p, rowptr.size(0) - 1, weights_of(grad.scalar_type()));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgraph, CPU, m) {
  m.impl("spmm_max_x", TORCH_BOX(&spmm_max_x));
  m.impl("spmm_max_weight", TORCH_BOX(&spmm_max_weight));
}

}  // namespace stgraph
