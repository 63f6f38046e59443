// From tensors of the stable interface to pointers and strides, with checks before any memory is touched.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "common.h"

namespace stgraph {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename type>
const type* data(const Tensor& tensor) {
  return static_cast<const type*>(tensor.const_data_ptr());
}
template <typename type>
const type* data(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const type*>(tensor->const_data_ptr()) : nullptr;
}

// Calls `body` with a null pointer of the C++ type of the tensor's numbers.
template <typename Body>
void by_scalar(ScalarType type, Body body) {
  switch (type) {
    case ScalarType::Float: return body(static_cast<float*>(nullptr));
    case ScalarType::Double: return body(static_cast<double*>(nullptr));
    case ScalarType::Half: return body(static_cast<Half*>(nullptr));
    case ScalarType::BFloat16: return body(static_cast<BFloat16*>(nullptr));
    default: STD_TORCH_CHECK(false, "x: expected float32, float64, float16 or bfloat16");
  }
}

template <typename Body>
void by_index(ScalarType type, Body body) {
  switch (type) {
    case ScalarType::Int: return body(static_cast<int32_t*>(nullptr));
    case ScalarType::Long: return body(static_cast<int64_t*>(nullptr));
    default: STD_TORCH_CHECK(false, "col: expected int32 or int64");
  }
}

inline void check_rows(const Tensor& rowptr, const Tensor& col, const std::optional<Tensor>& edge,
                       int64_t least = 1) {
  STD_TORCH_CHECK(col.scalar_type() == ScalarType::Int || col.scalar_type() == ScalarType::Long,
                  "col: expected int32 or int64");
  STD_TORCH_CHECK(rowptr.scalar_type() == col.scalar_type() &&
                      (!edge.has_value() || edge->scalar_type() == col.scalar_type()),
                  "rowptr, col and edge: expected one integer type for all");
  STD_TORCH_CHECK(rowptr.is_contiguous() && col.is_contiguous() && (!edge.has_value() || edge->is_contiguous()),
                  "rowptr, col and edge: expected contiguous tensors");
  STD_TORCH_CHECK(rowptr.dim() == 1 && rowptr.size(0) >= least && col.dim() == 1, "rowptr: expected [N + 1]; col: [E]");
}

template <typename index_t>
Rows<index_t> rows_of(const Tensor& rowptr, const Tensor& col, const std::optional<Tensor>& edge) {
  check_rows(rowptr, col, edge);
  return {data<index_t>(rowptr), data<index_t>(col), data<index_t>(edge), rowptr.size(0) - 1};
}

// Whether the nodes are the slowest axis of [B, T, N, F], so that all of one node lies together.
inline bool node_major(const Tensor& x) {
  int64_t node = x.stride(2);
  return (x.size(0) > 1 || x.size(1) > 1) && x.size(2) > 1 && (x.size(0) == 1 || node > x.stride(0)) &&
         (x.size(1) == 1 || node > x.stride(1));
}

// An uninitialised [B, T, rows, F] in the layout of x.
inline Tensor like(const Tensor& x, int64_t rows, bool by_node, std::optional<ScalarType> type = std::nullopt) {
  int64_t b = x.size(0), t = x.size(1), f = x.size(3);
  if (!by_node) return torch::stable::new_empty(x, {b, t, rows, f}, type);
  Tensor out = torch::stable::new_empty(x, {rows, b, t, f}, type);
  return torch::stable::transpose(torch::stable::transpose(out, 0, 1), 1, 2);
}

// An uninitialised tensor of the type and on the device of x. With new_empty a small call takes a sixth longer.
inline Tensor empty(const Tensor& x, torch::headeronly::IntHeaderOnlyArrayRef sizes,
                    torch::headeronly::IntHeaderOnlyArrayRef strides) {
  int32_t type = 0, device = 0, number = 0;
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &number));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                         strides.data(), type, device, number, &made));
  return Tensor(made);
}

inline void check_features(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4 && (x.stride(3) == 1 || x.size(3) <= 1 || x.numel() == 0), name,
                  ": expected [B, T, N, F] with F contiguous");
}

inline void check_weight(const Tensor& weight, const Tensor& x) {
  STD_TORCH_CHECK(weight.dim() == 4 && (weight.size(1) == 1 || weight.size(1) == x.size(0)) &&
                      (weight.size(2) == 1 || weight.size(2) == x.size(1)) && weight.size(3) > 0 &&
                      x.size(3) % weight.size(3) == 0 && weight.scalar_type() == x.scalar_type(),
                  "weight: expected [E, B or 1, T or 1, H] of the type of the features, where H divides F");
}

inline Strides strides_of(const Tensor& tensor) { return {tensor.stride(0), tensor.stride(1), tensor.stride(2)}; }

inline WeightStrides weight_strides(const Tensor& weight) {
  auto step = [&](int64_t axis) { return weight.size(axis) == 1 ? 0 : weight.stride(axis); };
  return {weight.stride(0), step(1), step(2), step(3)};
}

// First row of range number `part` of `parts` with about equal rows and entries, so that threads end together.
template <typename index_t>
int64_t boundary(const Rows<index_t>& graph, int64_t part, int64_t parts) {
  if (part == 0 || part == parts) return part == 0 ? 0 : graph.rows;
  int64_t whole = graph.rows + static_cast<int64_t>(graph.rowptr[graph.rows]);
  int64_t wanted = whole / parts * part + whole % parts * part / parts;
  int64_t low = 0, high = graph.rows;
  while (low < high) {
    int64_t middle = (low + high) / 2;
    if (middle + static_cast<int64_t>(graph.rowptr[middle]) < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

}  // namespace stgraph
