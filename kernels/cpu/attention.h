// Attention over the in-edges of each node on the CPU, forward and backward, one head of one slab of one row at a time:
//
//   out[i] = sum over the entries e of row i of p[e] * keep[e] * value[col[e]],  p = softmax of the row's scores.
//
// Scores are `scale * query[i] . key[j] + bias[e]`, or `leaky_relu(score_destination[i] + score_source[j] + bias[e])`.
// The softmax is online (Milakov and Gimelshein 2018): entries come in blocks, what was summed is scaled when a larger
// score turns up. Only the logarithm of the sum of exponentials is kept; the backward pass computes scores again
// (Dao et al. 2022), once over the rows and once over the transposed rows, so that every number is summed by one thread
// in the order of the entries. Nothing is stored per edge and channel.
#pragma once

#include <cmath>
#include <limits>

#include "common.h"

namespace stgraph {

constexpr int kBlock = 32;  // entries whose scores are held at once

// One number or one row of channels per [batch, time, node, head]; strides in bytes.
struct Cells {
  char* data = nullptr;
  int64_t batch = 0, time = 0, node = 0, head = 0;
  STGRAPH_INLINE char* at(int64_t b, int64_t t, int64_t n, int64_t h) const {
    return data + b * batch + t * time + n * node + h * head;
  }
};

// The functions that know how features are stored, for the type in which they are summed. Strides in bytes.
template <typename acc_t>
struct Channels {
  // to = from, `width` numbers
  void (*widen)(const char* from, int64_t width, acc_t* to);
  // to = from * factor
  void (*write)(const acc_t* from, acc_t factor, int64_t width, char* to);
  // to[i] = the number at node[i], for whole vectors of entries
  void (*pick)(const char* base, int64_t stride, const int64_t* node, int64_t count, acc_t* to);
  // to[i] = fixed . row node[i], for whole vectors of four entries
  void (*products)(const acc_t* fixed, const char* base, int64_t stride, const int64_t* node, int64_t count,
                   int64_t width, acc_t* to);
  // sum = factor * sum + the sum of weight[i] * row node[i]; `fresh`: there is no sum yet
  void (*gather)(acc_t* sum, bool fresh, acc_t factor, const acc_t* weight, const char* base, int64_t stride,
                 const int64_t* node, int64_t count, int64_t width);
};

// Compressed rows with indices of a width known at run time: a block of them is widened at once.
struct Entries {
  const void* rowptr = nullptr;
  const void* col = nullptr;
  const void* edge = nullptr;  // null: the entry is the edge
  bool wide = false;
  int64_t rows = 0, count = 0;
  STGRAPH_INLINE int64_t start(int64_t row) const {
    return wide ? static_cast<const int64_t*>(rowptr)[row] : static_cast<const int32_t*>(rowptr)[row];
  }
};

// Everything a thread needs to know of one attention. What is stored in the type of the features is reached through
// `channels`, so that all of them share the code below.
template <typename acc_t>
struct Attention {
  Channels<acc_t> channels;
  Entries graph;
  bool product = false;     // whether scores are products of rows, or sums of scores
  Cells query, key, value;  // query and key: or the scores of destinations and of sources
  const char* bias = nullptr;  // [E, H]; null: none
  int64_t bias_edge = 0, bias_head = 0;
  acc_t factor = 1;          // scale of the products, or slope of the leaky ReLU
  uint64_t dropout_key = 0;  // the seed, mixed
  uint64_t dropped = 0;      // of 2^24 hashes; 0: no dropout
  acc_t kept_scale = 1;
  int64_t batch = 0, time = 0, heads = 0, width = 0;
  bool by_slab = false;  // whether the rows of one slab follow each other
  Cells out, lse;
  Cells grad, delta;  // backward: delta is the sum of grad * out over the channels
  Cells grad_query, grad_key, grad_value;
  acc_t* grad_bias = nullptr;  // [E, H], all zeros at first; null: not wanted
};

constexpr int64_t kStream = 8;  // how many rows ahead the cache is asked for what is read once

// What one call works on.
struct Span {
  int64_t row_from, row_to, slab_from, slab_to, head_from, head_to;
};

enum Pass { kForward, kBackwardRows, kBackwardColumns };

// The loops for one type of sums, by pass.
template <typename acc_t>
struct AttentionPasses {
  void (*pass[3])(const Attention<acc_t>&, const Span&, acc_t* space);
};

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
STGRAPH_INLINE uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

}  // namespace stgraph
