// Sparse times dense on the CPU: out[i] = reduce over the entries e of row i of weight[e] * x[col[e]], plus addend[i].
//
// A row is summed by one thread, always in the same order, so results do not depend on threads.
#pragma once

#include "common.h"

namespace stgraph {

enum Reduce : int64_t { kSum = 0, kMean = 1, kMax = 2 };

// Everything a thread needs to know of one product, whatever its numbers are.
struct Product {
  const void *rowptr, *col, *edge;  // null: entry e has column e, or edge e
  const void* order;                // where the result of each row goes; null: 0, 1, 2, ...
  bool wide_index;
  int64_t rows;
  const void* x;
  Strides x_stride;
  const void* weight;  // null: all ones
  WeightStrides weight_stride;
  const void* addend;  // null: none
  Strides addend_stride;
  void* out;
  Strides out_stride;
  int64_t* argument;  // null unless the maximum is asked for
  int64_t batch, time, nodes, width, heads, size;
  Reduce reduce;
  bool far;  // whether the features of a slab do not stay in the caches of a core
  bool large;  // whether the results of all slabs do not either

  int64_t pointer(int64_t row) const {
    return wide_index ? static_cast<const int64_t*>(rowptr)[row] : static_cast<const int32_t*>(rowptr)[row];
  }
};

// A piece of the work: rows and channels of a slab.
struct Piece {
  int64_t slab, first, last, from, to;
};

// The loops for one type of numbers and indices.
struct ProductLoops {
  void (*piece)(const Product&, const Piece&);
  void (*packed)(const Product&, int64_t first, int64_t last, void* memory);  // null: none
};

constexpr int64_t kPacked = 64;  // channels of several narrow slabs side by side

}  // namespace stgraph
