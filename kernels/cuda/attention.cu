// Attention over the in-edges of each node, forward and backward: a warp takes one row, slab and head.
//
// `lanes` lanes share an entry, four channels each (two times four above 128), so 32 / lanes entries are in flight.
// Heads of more than 256 channels are cut into tiles of 256, a warp each; all of them compute the scores over all
// channels, reading what the row itself gives from the cache again.
// Each group of lanes keeps an online softmax (Milakov and Gimelshein 2018) of the entries that it saw; the groups are
// merged at the end by exclusive-or shuffles, in a fixed order. Only the logarithm of the sum of exponentials is kept;
// the backward pass computes scores again (Dao et al. 2022): once over the rows, once over the transposed rows, and
// once over the edges where their scores need a gradient. Nothing is stored per edge and channel.
#include "attention.cuh"

namespace stgraph {
namespace device {
namespace {

// ---------------------------------------------------------------- forward
template <typename scalar_t, int kSlots, bool kDot, bool kWide>
__global__ void __launch_bounds__(kThreads, 1) attention_forward(Attention p, Order order) {
  using acc_t = typename Accumulate<scalar_t>::type;
  constexpr int kCount = 4 * kSlots;
  Warp w;
  if (!find_work<kWide>(p, order, w)) return;  // all lanes of a warp together
  const scalar_t *k = cell<const scalar_t>(p.k, w), *v = cell<const scalar_t>(p.v, w);
  const scalar_t* q = cell<const scalar_t>(p.q, w) + w.row * p.q.node;
  acc_t query[kDot && !kWide ? kCount : 1];
  if constexpr (!kDot) query[0] = widen(*q);
  else if constexpr (!kWide) read<kSlots>(p, w, q, query);

  acc_t best = minus_infinity<acc_t>(), mass = 0, sum[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum[i] = 0;
  int64_t end = p.rows.rowptr[w.row + 1];
  for (int64_t first = p.rows.rowptr[w.row]; first < end; first += w.groups) {
    int64_t entry = first + w.group, col = 0, edge = 0;
    bool active = entry < end;
    acc_t value[kCount], given = 0, slope;
    if (active) {
      col = p.rows.source(entry), edge = p.rows.edge_of(entry);
      read<kSlots>(p, w, v + col * p.v.node, value);
      if constexpr (!kDot) {
        given = query[0] + widen(k[col * p.k.node]);
      } else if constexpr (kWide) {
        given = wide_product<acc_t>(p, w, q, k + col * p.k.node);
      } else {
        acc_t key[kCount];
        read<kSlots>(p, w, k + col * p.k.node, key);
        given = product<kCount>(query, key);
      }
    }
    if constexpr (kDot) given = over_lanes(p, given);
    if (!active) continue;
    acc_t own = score<kDot, scalar_t>(p, given, edge, w.head, slope);
    if (own == minus_infinity<acc_t>()) continue;
    acc_t before = best;
    best = own > best ? own : best;
    acc_t rescale = before == best ? acc_t(1) : exponential(before - best), chance = exponential(own - best);
    mass = mass * rescale + chance;
    chance *= mask<acc_t>(p, edge, w);
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum[i] = sum[i] * rescale + chance * value[i];
  }
  __syncwarp(kAllLanes);

  for (int step = p.lanes; step < 32; step *= 2) {
    acc_t other = __shfl_xor_sync(kAllLanes, best, step), top = other > best ? other : best;
    acc_t mine = best == top ? acc_t(1) : exponential(best - top);
    acc_t theirs = other == top ? acc_t(1) : exponential(other - top);
    acc_t other_mass = __shfl_xor_sync(kAllLanes, mass, step);
    mass = mass * mine + other_mass * theirs, best = top;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      acc_t other_sum = __shfl_xor_sync(kAllLanes, sum[i], step);
      sum[i] = sum[i] * mine + other_sum * theirs;
    }
  }
  write<kSlots>(p, w, sum, mass == 0 ? acc_t(0) : 1 / mass, cell<scalar_t>(p.out, w) + w.row * p.out.node);
  if (writes_alone(w))
    cell<acc_t>(p.lse, w)[w.row * p.lse.node] = mass == 0 ? minus_infinity<acc_t>() : best + logarithm(mass);
}

// ---------------------------------------------------------------- backward
// Probability of an edge from its score and the row's lse; 0 throughout a row of -inf.
template <typename acc_t>
__device__ __forceinline__ acc_t probability(acc_t own, acc_t lse) {
  return exponential(own - (lse == minus_infinity<acc_t>() ? acc_t(0) : lse));
}

// Over the rows: delta = grad . out, and the gradient of what the row itself gives to the scores.
template <typename scalar_t, int kSlots, bool kDot, bool kWide>
__global__ void __launch_bounds__(kThreads, 1) attention_rows(Attention p, Order order) {
  using acc_t = typename Accumulate<scalar_t>::type;
  constexpr int kCount = 4 * kSlots, kScores = kDot ? kCount : 1;
  Warp w;
  if (!find_work<kWide>(p, order, w)) return;
  const scalar_t *k = cell<const scalar_t>(p.k, w), *v = cell<const scalar_t>(p.v, w);
  const scalar_t* q = cell<const scalar_t>(p.q, w) + w.row * p.q.node;
  const scalar_t* flow = cell<const scalar_t>(p.grad, w) + w.row * p.grad.node;
  const scalar_t* result = cell<const scalar_t>(p.out, w) + w.row * p.out.node;
  acc_t query[kWide ? 1 : kScores], grad[kWide ? 1 : kCount], sum[kScores], delta;
  if constexpr (kWide) {
    delta = over_lanes(p, wide_product<acc_t>(p, w, flow, result));
  } else {
    acc_t out[kCount];
    read<kSlots>(p, w, flow, grad);
    read<kSlots>(p, w, result, out);
    delta = over_lanes(p, product<kCount>(grad, out));
  }
  if (writes_alone(w)) cell<acc_t>(p.delta, w)[w.row * p.delta.node] = delta;
  acc_t lse = cell<const acc_t>(p.lse, w)[w.row * p.lse.node];
  if constexpr (!kDot) query[0] = widen(*q);
  else if constexpr (!kWide) read<kSlots>(p, w, q, query);
#pragma unroll
  for (int i = 0; i < kScores; ++i) sum[i] = 0;

  int64_t end = p.rows.rowptr[w.row + 1];
  for (int64_t first = p.rows.rowptr[w.row]; first < end; first += w.groups) {
    int64_t entry = first + w.group, edge = 0;
    bool active = entry < end;
    acc_t key[kScores], given = 0, through = 0, slope;
#pragma unroll
    for (int i = 0; i < kScores; ++i) key[i] = 1;
    if (active) {
      int64_t col = p.rows.source(entry);
      edge = p.rows.edge_of(entry);
      if constexpr (kWide) {
        through = wide_product<acc_t>(p, w, flow, v + col * p.v.node);
      } else {
        acc_t value[kCount];
        read<kSlots>(p, w, v + col * p.v.node, value);
        through = product<kCount>(grad, value);
      }
      if constexpr (kDot) {
        read<kSlots>(p, w, k + col * p.k.node, key);
        if constexpr (kWide) given = wide_product<acc_t>(p, w, q, k + col * p.k.node);
        else given = product<kCount>(query, key);
      } else {
        given = query[0] + widen(k[col * p.k.node]);
      }
    }
    through = over_lanes(p, through);
    if constexpr (kDot) given = over_lanes(p, given);
    if (!active) continue;
    acc_t chance = probability(score<kDot, scalar_t>(p, given, edge, w.head, slope), lse);
    acc_t change = chance * (through * mask<acc_t>(p, edge, w) - delta) * slope;
#pragma unroll
    for (int i = 0; i < kScores; ++i) sum[i] += change * key[i];
  }
  __syncwarp(kAllLanes);
#pragma unroll
  for (int i = 0; i < kScores; ++i) sum[i] = over_groups(p, sum[i]);
  scalar_t* to = cell<scalar_t>(p.grad_q, w) + w.row * p.grad_q.node;
  if constexpr (kDot) write<kSlots>(p, w, sum, acc_t(1), to);
  else if (writes_alone(w)) narrow(sum[0], *to);
}

// Over the transposed rows: the gradients of keys (or scores of the sources) and values. `p.rows` is the transpose.
template <typename scalar_t, int kSlots, bool kDot, bool kWide>
__global__ void __launch_bounds__(kThreads, 1) attention_columns(Attention p, Order order) {
  using acc_t = typename Accumulate<scalar_t>::type;
  constexpr int kCount = 4 * kSlots, kScores = kDot ? kCount : 1;
  Warp w;
  if (!find_work<kWide>(p, order, w)) return;
  const scalar_t *q = cell<const scalar_t>(p.q, w), *grad = cell<const scalar_t>(p.grad, w);
  const acc_t *lse = cell<const acc_t>(p.lse, w), *delta = cell<const acc_t>(p.delta, w);
  const scalar_t* k = cell<const scalar_t>(p.k, w) + w.row * p.k.node;
  const scalar_t* v = cell<const scalar_t>(p.v, w) + w.row * p.v.node;
  acc_t key[kWide ? 1 : kScores], value[kWide ? 1 : kCount], sum_key[kScores], sum_value[kCount];
  if constexpr (!kWide) read<kSlots>(p, w, v, value);
  if constexpr (!kDot) key[0] = widen(*k);
  else if constexpr (!kWide) read<kSlots>(p, w, k, key);
#pragma unroll
  for (int i = 0; i < kScores; ++i) sum_key[i] = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum_value[i] = 0;

  int64_t end = p.rows.rowptr[w.row + 1];
  for (int64_t first = p.rows.rowptr[w.row]; first < end; first += w.groups) {
    int64_t entry = first + w.group, row = 0, edge = 0;
    bool active = entry < end;
    acc_t query[kScores], flow[kCount], given = 0, through = 0, slope;
#pragma unroll
    for (int i = 0; i < kScores; ++i) query[i] = 1;
    if (active) {
      row = p.rows.source(entry), edge = p.rows.edge_of(entry);
      read<kSlots>(p, w, grad + row * p.grad.node, flow);
      if constexpr (kWide) through = wide_product<acc_t>(p, w, grad + row * p.grad.node, v);
      else through = product<kCount>(flow, value);
      if constexpr (kDot) {
        read<kSlots>(p, w, q + row * p.q.node, query);
        if constexpr (kWide) given = wide_product<acc_t>(p, w, q + row * p.q.node, k);
        else given = product<kCount>(query, key);
      } else {
        given = key[0] + widen(q[row * p.q.node]);
      }
    }
    through = over_lanes(p, through);
    if constexpr (kDot) given = over_lanes(p, given);
    if (!active) continue;
    acc_t chance = probability(score<kDot, scalar_t>(p, given, edge, w.head, slope), lse[row * p.lse.node]);
    acc_t kept = mask<acc_t>(p, edge, w);
    acc_t change = chance * (through * kept - delta[row * p.delta.node]) * slope;
    chance *= kept;
#pragma unroll
    for (int i = 0; i < kScores; ++i) sum_key[i] += change * query[i];
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum_value[i] += chance * flow[i];
  }
  __syncwarp(kAllLanes);
#pragma unroll
  for (int i = 0; i < kScores; ++i) sum_key[i] = over_groups(p, sum_key[i]);
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum_value[i] = over_groups(p, sum_value[i]);
  write<kSlots>(p, w, sum_value, acc_t(1), cell<scalar_t>(p.grad_v, w) + w.row * p.grad_v.node);
  scalar_t* to = cell<scalar_t>(p.grad_k, w) + w.row * p.grad_k.node;
  if constexpr (kDot) write<kSlots>(p, w, sum_key, acc_t(1), to);
  else if (writes_alone(w)) narrow(sum_key[0], *to);
}

// Over the edges: the gradient of their own scores, summed over batch and time. A warp takes 32 entries of one head.
template <typename scalar_t, int kSlots, bool kDot, bool kWide>
__global__ void __launch_bounds__(kThreads, 1) attention_edges(Attention p, Order order) {
  using acc_t = typename Accumulate<scalar_t>::type;
  Place at = place_of(order);
  int64_t chunk = static_cast<int64_t>(at.item_block) * kWarps + threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  if (chunk * 32 >= p.rows.entries) return;
  Warp w;
  w.first = 0, w.head = at.tile, w.within = lane % p.lanes, w.group = lane / p.lanes, w.groups = 32 / p.lanes;
  int64_t own = chunk * 32 + lane, own_row = 0, own_col = 0, own_edge = -1;
  if (own < p.rows.entries)
    own_row = p.rows.row_of(own), own_col = p.rows.source(own), own_edge = p.rows.edge_of(own);

  for (int turn = 0; turn < p.lanes; ++turn) {
    int of = turn * w.groups + w.group;
    int64_t row = __shfl_sync(kAllLanes, own_row, of), col = __shfl_sync(kAllLanes, own_col, of);
    int64_t edge = __shfl_sync(kAllLanes, own_edge, of);
    bool active = edge >= 0;
    acc_t sum = 0;
    for (w.batch = 0; w.batch < p.batch; ++w.batch) {
      for (w.time = 0; w.time < p.time; ++w.time) {
        acc_t given = 0, through = 0, slope;
        if (active) {
          const scalar_t* grad = cell<const scalar_t>(p.grad, w) + row * p.grad.node;
          const scalar_t* v = cell<const scalar_t>(p.v, w) + col * p.v.node;
          const scalar_t* q = cell<const scalar_t>(p.q, w) + row * p.q.node;
          const scalar_t* k = cell<const scalar_t>(p.k, w) + col * p.k.node;
          through = row_product<kSlots, kWide, acc_t>(p, w, grad, v);
          if constexpr (kDot) given = row_product<kSlots, kWide, acc_t>(p, w, q, k);
          else given = widen(*q) + widen(*k);
        }
        through = over_lanes(p, through);
        if constexpr (kDot) given = over_lanes(p, given);
        if (!active) continue;
        acc_t lse = cell<const acc_t>(p.lse, w)[row * p.lse.node];
        acc_t delta = cell<const acc_t>(p.delta, w)[row * p.delta.node];
        acc_t chance = probability(score<kDot, scalar_t>(p, given, edge, w.head, slope), lse);
        acc_t change = chance * (through * mask<acc_t>(p, edge, w) - delta);
        sum += kDot ? change : change * slope;
      }
    }
    if (active && w.within == 0) static_cast<acc_t*>(p.grad_bias)[edge * p.heads + w.head] = sum;
  }
}

// ---------------------------------------------------------------- launches
enum Pass { kForward, kRows, kColumns, kEdges };

Attention attention_of(const StgraphAttention& call, Pass pass, int64_t bytes) {
  Attention p;
  p.rows = rows_of(pass == kColumns ? call.transpose : call.graph);
  p.q = call.q, p.k = call.k, p.v = call.v, p.out = call.out, p.grad = call.grad;
  p.grad_q = call.grad_q, p.grad_k = call.grad_k, p.grad_v = call.grad_v, p.lse = call.lse, p.delta = call.delta;
  p.bias = call.bias, p.bias_edge = call.bias_edge, p.bias_head = call.bias_head, p.grad_bias = call.grad_bias;
  p.batch = call.batch, p.time = call.time, p.heads = call.heads, p.width = static_cast<int>(call.width);
  p.lanes = power_of_two(divide_up(call.width, 4), 32);
  p.heads_in_block = power_of_two(call.heads, kWarps);
  if (p.heads_in_block > call.heads) p.heads_in_block /= 2;
  bool by_channel = pass == kForward || pass == kColumns || (pass == kRows && call.dot);
  p.channel_tiles = by_channel ? static_cast<int>(divide_up(call.width, kTile)) : 1;
  p.dropout_key = mix(static_cast<uint64_t>(call.seed));
  p.dropped = static_cast<uint64_t>(call.dropout * 16777216.0);
  p.kept_scale = 1.0 / (1.0 - call.dropout), p.factor = call.factor;
  auto fits = [&](const StgraphTensor& t) { return aligned(t, bytes, 4) && t.head % 4 == 0; };
  p.vector = call.width % 4 == 0 && fits(p.v) && (pass == kForward || fits(p.grad)) &&
             (pass == kEdges || pass == kColumns || fits(p.out)) && (pass != kColumns || fits(p.grad_v));
  if (call.dot) p.vector = p.vector && fits(p.q) && fits(p.k) && (pass != kRows || fits(p.grad_q)) &&
                           (pass != kColumns || fits(p.grad_k));
  return p;
}

template <typename scalar_t, int kSlots, bool kDot, bool kWide>
int run(const StgraphAttention& call, Pass pass, void* stream) {
  Attention p = attention_of(call, pass, sizeof(scalar_t));
  if (pass == kEdges) {
    int64_t chunk_blocks = divide_up(p.rows.entries, kThreads);
    return launch(attention_edges<scalar_t, kSlots, kDot, kWide>, chunk_blocks * p.heads, dim3(kThreads), 0, stream, p,
                  order_of(chunk_blocks, p.heads, 1));
  }
  int64_t row_blocks = divide_up(p.rows.count, kWarps / p.heads_in_block);
  int64_t tiles = divide_up(p.heads, p.heads_in_block) * (kWide ? p.channel_tiles : 1);
  auto kernel = pass == kForward ? attention_forward<scalar_t, kSlots, kDot, kWide>
                : pass == kRows  ? attention_rows<scalar_t, kSlots, kDot, kWide>
                                 : attention_columns<scalar_t, kSlots, kDot, kWide>;
  return launch(kernel, row_blocks * tiles * p.batch * p.time, dim3(kThreads), 0, stream, p,
                order_of(row_blocks, tiles, p.time));
}

template <typename scalar_t, bool kDot>
int by_width(const StgraphAttention& call, Pass pass, void* stream) {
  if (call.width > kTile) return run<scalar_t, 2, kDot, true>(call, pass, stream);
  return call.width > 128 ? run<scalar_t, 2, kDot, false>(call, pass, stream)
                          : run<scalar_t, 1, kDot, false>(call, pass, stream);
}

int dispatch(const StgraphAttention& call, Pass pass, void* stream) {
  int64_t rows = pass == kColumns ? call.transpose.rows : pass == kEdges ? call.graph.entries : call.graph.rows;
  if (rows == 0 || call.heads == 0) return 0;
  if (pass != kEdges && call.batch * call.time == 0) return 0;
  return by_type(call.type, [&](auto* number) {
    using scalar_t = std::remove_pointer_t<decltype(number)>;
    return call.dot ? by_width<scalar_t, true>(call, pass, stream) : by_width<scalar_t, false>(call, pass, stream);
  });
}

}  // namespace
}  // namespace device
}  // namespace stgraph

using namespace stgraph::device;

extern "C" int stgraph_cuda_attention(const StgraphAttention* call, void* stream) {
  return dispatch(*call, kForward, stream);
}
extern "C" int stgraph_cuda_attention_rows(const StgraphAttention* call, void* stream) {
  return dispatch(*call, kRows, stream);
}
extern "C" int stgraph_cuda_attention_columns(const StgraphAttention* call, void* stream) {
  return dispatch(*call, kColumns, stream);
}
extern "C" int stgraph_cuda_attention_edges(const StgraphAttention* call, void* stream) {
  return dispatch(*call, kEdges, stream);
}
