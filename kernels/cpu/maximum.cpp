// The CPU implementation of the gradients of a maximum: stgraph::spmm_max_x and stgraph::spmm_max_weight.
#include <algorithm>

#include "tensors.h"

namespace stgraph {
namespace {

// What both gradients read. `graph` has sources as rows for the features, destinations as rows for the weights.
struct Chosen {
  const void *rowptr, *col, *edge;
  bool wide_index;
  const void* weight;  // null: all ones
  WeightStrides weight_stride;
  int64_t weight_batch, weight_time;
  const void* x;  // null for the gradient of the features
  Strides x_stride;
  const void* grad;
  Strides grad_stride;
  const int64_t* argument;
  Strides argument_stride;
  void* out;
  Strides out_stride;
  int64_t batch, time, width, heads;

  STGRAPH_INLINE int64_t read(const void* base, int64_t at) const {
    return wide_index ? static_cast<const int64_t*>(base)[at] : static_cast<const int32_t*>(base)[at];
  }
  STGRAPH_INLINE int64_t edge_of(int64_t entry) const { return edge ? read(edge, entry) : entry; }
};

STGRAPH_INLINE int64_t offset(const Strides& s, int64_t b, int64_t t, int64_t node) {
  return b * s.batch + t * s.time + node * s.node;
}

// Rows of sources collect weight * grad from the places that chose one of their edges.
template <typename scalar_t>
STGRAPH_INLINE void features(const Chosen& p, int64_t first, int64_t last) {
  using acc_t = typename Accumulate<scalar_t>::type;
  constexpr int64_t kTile = 64;
  const scalar_t *grad = static_cast<const scalar_t*>(p.grad), *weight = static_cast<const scalar_t*>(p.weight);
  int64_t head_width = p.width / p.heads;
  for (int64_t slab = 0; slab < p.batch * p.time; ++slab) {
    int64_t b = slab / p.time, t = slab % p.time;
    for (int64_t row = first; row < last; ++row) {
      int64_t begin = p.read(p.rowptr, row), end = p.read(p.rowptr, row + 1);
      scalar_t* out = static_cast<scalar_t*>(p.out) + offset(p.out_stride, b, t, row);
      for (int64_t head = 0; head < p.heads; ++head)
        for (int64_t from = head * head_width; from < (head + 1) * head_width; from += kTile) {
          int64_t width = std::min(kTile, (head + 1) * head_width - from);
          acc_t sum[kTile] = {};
          for (int64_t entry = begin; entry < end; ++entry) {
            int64_t node = p.read(p.col, entry), edge = p.edge_of(entry);
            acc_t factor = weight ? to_float(weight[edge * p.weight_stride.edge + b * p.weight_stride.batch +
                                                    t * p.weight_stride.time + head * p.weight_stride.head])
                                  : acc_t(1);
            const scalar_t* given = grad + offset(p.grad_stride, b, t, node) + from;
            const int64_t* chose = p.argument + offset(p.argument_stride, b, t, node) + from;
            for (int64_t c = 0; c < width; ++c)
              if (chose[c] == edge) sum[c] += factor * to_float(given[c]);
          }
          for (int64_t c = 0; c < width; ++c) out[from + c] = from_float<scalar_t>(sum[c]);
        }
    }
  }
}

// Edges collect grad * x from the places of their destination that chose them.
template <typename scalar_t>
STGRAPH_INLINE void weights(const Chosen& p, int64_t first, int64_t last) {
  using acc_t = typename Accumulate<scalar_t>::type;
  const scalar_t *grad = static_cast<const scalar_t*>(p.grad), *x = static_cast<const scalar_t*>(p.x);
  int64_t head_width = p.width / p.heads;
  for (int64_t row = first; row < last; ++row)
    for (int64_t entry = p.read(p.rowptr, row); entry < p.read(p.rowptr, row + 1); ++entry) {
      int64_t node = p.read(p.col, entry), edge = p.edge_of(entry);
      scalar_t* out = static_cast<scalar_t*>(p.out) + edge * p.weight_batch * p.weight_time * p.heads;
      for (int64_t kept = 0; kept < p.weight_batch * p.weight_time; ++kept)
        for (int64_t head = 0; head < p.heads; ++head) {
          bool by_batch = p.weight_batch > 1, by_time = p.weight_time > 1;
          int64_t from_batch = by_batch ? kept / p.weight_time : 0, to_batch = by_batch ? from_batch + 1 : p.batch;
          int64_t from_time = by_time ? kept % p.weight_time : 0, to_time = by_time ? from_time + 1 : p.time;
          acc_t sum = 0;
          for (int64_t b = from_batch; b < to_batch; ++b)
            for (int64_t t = from_time; t < to_time; ++t) {
              const scalar_t* given = grad + offset(p.grad_stride, b, t, row);
              const scalar_t* source = x + offset(p.x_stride, b, t, node);
              const int64_t* chose = p.argument + offset(p.argument_stride, b, t, row);
              for (int64_t c = head * head_width; c < (head + 1) * head_width; ++c)
                if (chose[c] == edge) sum += to_float(given[c]) * to_float(source[c]);
            }
          out[kept * p.heads + head] = from_float<scalar_t>(sum);
        }
    }
}

#define STGRAPH_CHOSEN(name)                                                                                         \
  STGRAPH_CLONES void name##_f32(const Chosen& p, int64_t first, int64_t last) { name<float>(p, first, last); }      \
  STGRAPH_CLONES void name##_f64(const Chosen& p, int64_t first, int64_t last) { name<double>(p, first, last); }     \
  STGRAPH_CLONES void name##_f16(const Chosen& p, int64_t first, int64_t last) { name<Half>(p, first, last); }       \
  STGRAPH_CLONES void name##_b16(const Chosen& p, int64_t first, int64_t last) { name<BFloat16>(p, first, last); }   \
  using Loop_##name = void (*)(const Chosen&, int64_t, int64_t);                                                     \
  Loop_##name name##_of(ScalarType type) {                                                                           \
    switch (type) {                                                                                                  \
      case ScalarType::Float: return name##_f32;                                                                     \
      case ScalarType::Double: return name##_f64;                                                                    \
      case ScalarType::Half: return name##_f16;                                                                      \
      case ScalarType::BFloat16: return name##_b16;                                                                  \
      default: STD_TORCH_CHECK(false, "grad: expected float32, float64, float16 or bfloat16");                       \
    }                                                                                                                \
  }
STGRAPH_CHOSEN(features)
STGRAPH_CHOSEN(weights)
#undef STGRAPH_CHOSEN

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

template <typename Loop>
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
