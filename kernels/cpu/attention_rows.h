// The loops of attention.h. A body of levels.h.
#include "channels.h"

constexpr int64_t kPad = 16;  // entries of a block come in so many, a whole number of vectors and of groups of four

// The entries of a row at hand; beyond `count`, the first one fills up whole vectors.
template <typename acc_t>
struct Block {
  alignas(64) int64_t node[kBlock];
  alignas(64) int64_t edge[kBlock];
  alignas(64) acc_t score[kBlock];   // later weights
  alignas(64) acc_t slope[kBlock];   // derivative of the leaky ReLU
  alignas(64) acc_t change[kBlock];  // grad . value, later the gradients of the scores
  alignas(64) acc_t shift[kBlock], delta[kBlock];
  int64_t count, padded;
};

// ---------------------------------------------------------------- dropout
// Multiplies by 0 or 1 / (1 - rate); the same for an edge, slab and head in every pass. A NaN stays one.
template <typename acc_t>
__attribute__((noinline)) void drop(const Attention<acc_t>& p, const int64_t* edge, int64_t count, int64_t slab,
                                    int64_t head, acc_t* weight) {
  for (int64_t i = 0; i < count; ++i) {
    uint64_t place = static_cast<uint64_t>((edge[i] * p.batch * p.time + slab) * p.heads + head);
    uint64_t hash = mix(p.dropout_key + 0x9E3779B97F4A7C15ull * place);
    weight[i] *= (hash >> 40) < p.dropped ? acc_t(0) : p.kept_scale;
  }
}

// ---------------------------------------------------------------- scores
inline __attribute__((noinline)) void read_entries(const Entries& graph, const void* from, int64_t first, int64_t count,
                                                   int64_t* to) {
  if (!from) {
    for (int64_t i = 0; i < count; ++i) to[i] = first + i;
  } else if (graph.wide) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<const int64_t*>(from)[first + i];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<const int32_t*>(from)[first + i];
  }
  for (int64_t i = count; i % kPad; ++i) to[i] = to[0];  // padding: an entry of this row, so that it may be read
}

// Asks the cache for the rows of the entries that come next, which are too scattered for it to foresee.
inline __attribute__((noinline)) void fetch_ahead(const Entries& graph, int64_t first, int64_t count, const char* one,
                                                  int64_t one_stride, const char* two, int64_t two_stride) {
  int64_t last = first + count < graph.count ? first + count : graph.count;
  for (int64_t entry = first; entry < last; ++entry) {
    int64_t node = graph.wide ? static_cast<const int64_t*>(graph.col)[entry]
                              : static_cast<const int32_t*>(graph.col)[entry];
    __builtin_prefetch(one + node * one_stride);
    if (two) __builtin_prefetch(two + node * two_stride);
  }
}

template <typename acc_t>
STGRAPH_INLINE void open(const Attention<acc_t>& p, int64_t entry, int64_t end, const char* one, int64_t one_stride,
                         const char* two, int64_t two_stride, Block<acc_t>& block) {
  block.count = end - entry < kBlock ? end - entry : kBlock;
  block.padded = (block.count + kPad - 1) / kPad * kPad;
  read_entries(p.graph, p.graph.col, entry, block.count, block.node);
  if (p.bias || p.dropped) read_entries(p.graph, p.graph.edge, entry, block.count, block.edge);
  if (p.by_slab) fetch_ahead(p.graph, entry + block.count, block.count, one, one_stride, two, two_stride);
}

// `value` in the lanes of entries, `otherwise` in those beyond the last one.
template <typename acc_t>
STGRAPH_INLINE Lanes<acc_t> bounded(Lanes<acc_t> value, int64_t first, int64_t count, acc_t otherwise) {
  static constexpr acc_t kOrder[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(kOrder) < static_cast<acc_t>(count - first) ? value : Lanes<acc_t>{} + otherwise;
}

// Scores of a block: `fixed` is what the row gives, `base` what the nodes at the other end of its entries give.
template <typename acc_t>
STGRAPH_INLINE void score(const Attention<acc_t>& p, const acc_t* fixed, const char* base, int64_t stride, int64_t head,
                          Block<acc_t>& block) {
  alignas(64) acc_t bias[kBlock];
  if (p.product) p.channels.products(fixed, base, stride, block.node, block.count, p.width, block.score);
  else p.channels.pick(base, stride, block.node, block.count, block.score);
  if (p.bias) p.channels.pick(p.bias + head * p.bias_head, p.bias_edge, block.edge, block.count, bias);
  for (int64_t i = 0; i < block.padded; i += kLanes<acc_t>) {
    Lanes<acc_t> value = load(block.score + i);
    value = p.product ? value * p.factor : value + fixed[0];
    if (p.bias) value += load(bias + i);
    if (!p.product) {
      Lanes<acc_t> slope = value > 0 ? Lanes<acc_t>{} + acc_t(1) : Lanes<acc_t>{} + p.factor;
      store<acc_t>(block.slope + i, slope);
      value *= slope;
    }
    store<acc_t>(block.score + i, bounded(value, i, block.count, -std::numeric_limits<acc_t>::infinity()));
  }
}

// ---------------------------------------------------------------- forward
template <typename acc_t>
STGRAPH_INLINE void forward_one(const Attention<acc_t>& p, int64_t row, int64_t slab, int64_t head, acc_t* space) {
  const acc_t none = -std::numeric_limits<acc_t>::infinity();
  int64_t begin = p.graph.start(row), end = p.graph.start(row + 1), b = slab / p.time, t = slab % p.time;
  acc_t *fixed = space, *sum = space + p.width;
  if (p.by_slab) __builtin_prefetch(p.query.at(b, t, row + kStream, head));
  p.channels.widen(p.query.at(b, t, row, head), p.product ? p.width : 1, fixed);
  const char *key = p.key.at(b, t, 0, head), *value = p.value.at(b, t, 0, head);
  acc_t best = none, mass = 0;
  Block<acc_t> block;
  for (int64_t entry = begin; entry < end; entry += kBlock) {
    open(p, entry, end, value, p.value.node, p.product ? key : nullptr, p.key.node, block);
    score(p, fixed, key, p.key.node, head, block);
    Lanes<acc_t> top = load(block.score);
    for (int64_t i = kLanes<acc_t>; i < block.padded; i += kLanes<acc_t>) {
      Lanes<acc_t> more = load(block.score + i);
      top = more > top ? more : top;
    }
    acc_t highest = largest<acc_t>(top), before = best;
    best = highest > best ? highest : best;
    acc_t shift = best == none ? acc_t(0) : best;  // a row of -inf only
    Lanes<acc_t> masses{};
    for (int64_t i = 0; i < block.padded; i += kLanes<acc_t>) {
      Lanes<acc_t> mine = exponential(load(block.score + i) - shift);
      masses += mine;
      store<acc_t>(block.score + i, mine);
    }
    bool fresh = entry == begin;
    acc_t rescale = fresh || before == best ? acc_t(1) : std::exp(before - shift);
    mass = mass * rescale + total<acc_t>(masses);
    if (p.dropped) drop(p, block.edge, block.count, slab, head, block.score);
    p.channels.gather(sum, fresh, rescale, block.score, value, p.value.node, block.node, block.count, p.width);
  }
  if (begin == end) p.channels.gather(sum, true, 0, nullptr, nullptr, 0, nullptr, 0, p.width);
  *reinterpret_cast<acc_t*>(p.lse.at(b, t, row, head)) = mass == 0 ? none : best + std::log(mass);
  p.channels.write(sum, mass == 0 ? acc_t(0) : 1 / mass, p.width, p.out.at(b, t, row, head));
}

// ---------------------------------------------------------------- backward
// From scores and products grad . value (in `change`) to weights after dropout (in `score`) and gradients of the scores
// (in `change`).
template <typename acc_t>
STGRAPH_INLINE void score_gradients(const Attention<acc_t>& p, int64_t slab, int64_t head, Block<acc_t>& block) {
  alignas(64) acc_t mask[kBlock];
  if (p.dropped) {
    for (int64_t i = 0; i < kBlock; i += kLanes<acc_t>) store<acc_t>(mask + i, Lanes<acc_t>{} + acc_t(1));
    drop(p, block.edge, block.count, slab, head, mask);
  }
  for (int64_t i = 0; i < block.padded; i += kLanes<acc_t>) {
    Lanes<acc_t> chance = exponential(load(block.score + i) - load(block.shift + i));
    Lanes<acc_t> through = load(block.change + i), kept = chance;
    if (p.dropped) through *= load(mask + i), kept *= load(mask + i);
    through = chance * (through - load(block.delta + i));
    if (!p.product) through *= load(block.slope + i);
    store<acc_t>(block.change + i, bounded(through, i, block.count, acc_t(0)));
    store<acc_t>(block.score + i, kept);
  }
}

template <typename acc_t>
STGRAPH_INLINE acc_t changes(const Block<acc_t>& block) {
  Lanes<acc_t> sum = load(block.change);
  for (int64_t i = kLanes<acc_t>; i < block.padded; i += kLanes<acc_t>) sum += load(block.change + i);
  return total<acc_t>(sum);
}

// Over the rows: delta, and the gradients of what the row itself and its edges give.
template <typename acc_t>
STGRAPH_INLINE void backward_row_one(const Attention<acc_t>& p, int64_t row, int64_t slab, int64_t head, acc_t* space) {
  const acc_t none = -std::numeric_limits<acc_t>::infinity();
  int64_t begin = p.graph.start(row), end = p.graph.start(row + 1), b = slab / p.time, t = slab % p.time;
  acc_t *fixed = space, *grad = space + p.width, *sum = grad + p.width;
  Block<acc_t> block;
  if (p.by_slab) {
    __builtin_prefetch(p.grad.at(b, t, row + kStream, head));
    __builtin_prefetch(p.out.at(b, t, row + kStream, head));
    __builtin_prefetch(p.query.at(b, t, row + kStream, head));
  }
  p.channels.widen(p.grad.at(b, t, row, head), p.width, grad);
  const int64_t itself[4] = {row, row, row, row};
  p.channels.products(grad, p.out.at(b, t, 0, head), p.out.node, itself, 1, p.width, block.delta);
  *reinterpret_cast<acc_t*>(p.delta.at(b, t, row, head)) = block.delta[0];
  acc_t lse = *reinterpret_cast<const acc_t*>(p.lse.at(b, t, row, head));
  Lanes<acc_t> shift = Lanes<acc_t>{} + (lse == none ? acc_t(0) : lse), delta = Lanes<acc_t>{} + block.delta[0];
  for (int64_t i = 0; i < kBlock; i += kLanes<acc_t>) {
    store<acc_t>(block.shift + i, shift);
    store<acc_t>(block.delta + i, delta);
  }
  p.channels.widen(p.query.at(b, t, row, head), p.product ? p.width : 1, fixed);
  const char *key = p.key.at(b, t, 0, head), *value = p.value.at(b, t, 0, head);
  acc_t single = 0;
  for (int64_t entry = begin; entry < end; entry += kBlock) {
    open(p, entry, end, value, p.value.node, p.product ? key : nullptr, p.key.node, block);
    score(p, fixed, key, p.key.node, head, block);
    p.channels.products(grad, value, p.value.node, block.node, block.count, p.width, block.change);
    score_gradients(p, slab, head, block);
    if (p.grad_bias)
      for (int64_t i = 0; i < block.count; ++i) p.grad_bias[block.edge[i] * p.heads + head] += block.change[i];
    if (p.product)
      p.channels.gather(sum, entry == begin, 1, block.change, key, p.key.node, block.node, block.count, p.width);
    else single += changes(block);
  }
  if (p.product && begin == end) p.channels.gather(sum, true, 0, nullptr, nullptr, 0, nullptr, 0, p.width);
  p.channels.write(p.product ? sum : &single, p.product ? p.factor : acc_t(1), p.product ? p.width : 1,
                   p.grad_query.at(b, t, row, head));
}

// Over the transposed rows: the gradients of what a source gives.
template <typename acc_t>
STGRAPH_INLINE void backward_column_one(const Attention<acc_t>& p, int64_t row, int64_t slab, int64_t head,
                                        acc_t* space) {
  const acc_t none = -std::numeric_limits<acc_t>::infinity();
  int64_t begin = p.graph.start(row), end = p.graph.start(row + 1), b = slab / p.time, t = slab % p.time;
  acc_t *fixed = space, *own = space + p.width, *sum = own + p.width, *value_sum = sum + p.width;
  if (p.by_slab) {
    __builtin_prefetch(p.key.at(b, t, row + kStream, head));
    __builtin_prefetch(p.value.at(b, t, row + kStream, head));
  }
  p.channels.widen(p.key.at(b, t, row, head), p.product ? p.width : 1, fixed);
  p.channels.widen(p.value.at(b, t, row, head), p.width, own);
  const char *query = p.query.at(b, t, 0, head), *grad = p.grad.at(b, t, 0, head);
  const char *lse = p.lse.at(b, t, 0, head), *deltas = p.delta.at(b, t, 0, head);
  acc_t single = 0;
  Block<acc_t> block;
  for (int64_t entry = begin; entry < end; entry += kBlock) {
    open(p, entry, end, grad, p.grad.node, p.product ? query : nullptr, p.query.node, block);
    for (int64_t i = 0; i < block.count; ++i) {
      acc_t level = *reinterpret_cast<const acc_t*>(lse + block.node[i] * p.lse.node);
      block.shift[i] = level == none ? acc_t(0) : level;
      block.delta[i] = *reinterpret_cast<const acc_t*>(deltas + block.node[i] * p.delta.node);
    }
    score(p, fixed, query, p.query.node, head, block);
    p.channels.products(own, grad, p.grad.node, block.node, block.count, p.width, block.change);
    score_gradients(p, slab, head, block);
    bool fresh = entry == begin;
    p.channels.gather(value_sum, fresh, 1, block.score, grad, p.grad.node, block.node, block.count, p.width);
    if (p.product)
      p.channels.gather(sum, fresh, 1, block.change, query, p.query.node, block.node, block.count, p.width);
    else single += changes(block);
  }
  if (begin == end) {
    p.channels.gather(value_sum, true, 0, nullptr, nullptr, 0, nullptr, 0, p.width);
    p.channels.gather(sum, true, 0, nullptr, nullptr, 0, nullptr, 0, p.width);
  }
  p.channels.write(p.product ? sum : &single, p.product ? p.factor : acc_t(1), p.product ? p.width : 1,
                   p.grad_key.at(b, t, row, head));
  p.channels.write(value_sum, 1, p.width, p.grad_value.at(b, t, row, head));
}

template <Pass kPass, typename acc_t>
STGRAPH_INLINE void attend(const Attention<acc_t>& p, const Span& span, acc_t* space) {
  for (int64_t row = span.row_from; row < span.row_to; ++row) {
    for (int64_t slab = span.slab_from; slab < span.slab_to; ++slab) {
      for (int64_t head = span.head_from; head < span.head_to; ++head) {
        if constexpr (kPass == kForward) forward_one(p, row, slab, head, space);
        else if constexpr (kPass == kBackwardRows) backward_row_one(p, row, slab, head, space);
        else backward_column_one(p, row, slab, head, space);
      }
    }
  }
}

#define STGRAPH_PASSES(suffix, acc_t)                                                             \
  void forward_##suffix(const Attention<acc_t>& p, const Span& span, acc_t* space) {              \
    attend<kForward>(p, span, space);                                                             \
  }                                                                                               \
  void backward_rows_##suffix(const Attention<acc_t>& p, const Span& span, acc_t* space) {        \
    attend<kBackwardRows>(p, span, space);                                                        \
  }                                                                                               \
  void backward_columns_##suffix(const Attention<acc_t>& p, const Span& span, acc_t* space) {     \
    attend<kBackwardColumns>(p, span, space);                                                     \
  }                                                                                               \
  constexpr AttentionPasses<acc_t> passes_##suffix{forward_##suffix, backward_rows_##suffix, backward_columns_##suffix};
STGRAPH_PASSES(f32, float)
STGRAPH_PASSES(f64, double)
#undef STGRAPH_PASSES
