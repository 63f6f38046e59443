// What the loops of the gradients of a maximum read.
#pragma once

#include "common.h"

namespace stgraph {

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

}  // namespace stgraph
