// Both gradients of a weighted sum in one go: that of the features is the sum over the transposed graph, that of an
// edge's weight the product of the features at its ends, and both read the same rows of the gradient from above.
#pragma once

#include "common.h"

namespace stgraph {

struct Gradients {
  const void *rowptr, *col, *edge;  // the transposed graph; edge null: entry e is edge e
  const void* order;                // where the result of each row goes; null: 0, 1, 2, ...
  bool wide_index;
  int64_t rows, columns;
  const void *x, *grad;  // [slabs, rows, width] and [slabs, columns, width], contiguous
  const void* weight;
  int64_t weight_edge;
  void *out, *out_weight;  // [slabs, rows, width] and [E]
  int64_t slabs, width;
  bool far;    // whether the gradient of a slab does not stay near a core
  bool large;  // whether the results of all slabs do not stay in its caches
};

}  // namespace stgraph
