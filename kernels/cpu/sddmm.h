// What the loops of stgraph::sddmm read.
#pragma once

#include "common.h"

namespace stgraph {

struct Sampled {
  const void *rowptr, *col, *edge;
  bool wide_index;
  int64_t rows, columns, entries;
  const void *a, *b;
  Strides a_stride, b_stride;
  void* out;  // [E, B or 1, T or 1, H], contiguous
  int64_t batch, time, width, heads;
  bool by_batch, by_time;
  bool far;  // whether the features of a slab do not stay in the caches of a core
};

}  // namespace stgraph
