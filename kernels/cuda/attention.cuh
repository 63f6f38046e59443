// What the passes of attention share: where a warp works, its channels, sums over lanes, scores and dropout.
#pragma once

#include "common.cuh"

namespace stgraph {
namespace device {

constexpr int kWarps = kThreads / 32;
constexpr int kTile = 256;  // channels that a warp holds

struct Attention {
  Rows rows;
  StgraphTensor q, k, v, out, grad, grad_q, grad_k, grad_v, lse, delta;
  const void* bias;
  int64_t bias_edge, bias_head;
  void* grad_bias;
  int64_t batch, time, heads;
  int width;           // channels per head
  int lanes;           // that share an entry, a power of two
  int vector;          // whether four channels may be read at once
  int heads_in_block;  // a power of two
  int channel_tiles;   // of kTile channels, where a warp does not hold all of them
  uint64_t dropout_key, dropped;
  double kept_scale, factor;
};

// Which row, slab and head a warp works on, and which entry and channels a lane.
struct Warp {
  int64_t row, head, batch, time;
  int within, group, groups;
  int first;  // channel of its tile
};

template <bool kWide>
__device__ __forceinline__ bool find_work(const Attention& p, const Order& order, Warp& w) {
  Place at = place_of(order);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tile = static_cast<int>(at.tile);
  w.first = 0;
  if constexpr (kWide) w.first = tile % p.channel_tiles * kTile, tile /= p.channel_tiles;
  w.row = static_cast<int64_t>(at.item_block) * (kWarps / p.heads_in_block) + warp / p.heads_in_block;
  w.head = static_cast<int64_t>(tile) * p.heads_in_block + warp % p.heads_in_block;
  w.batch = at.batch, w.time = at.time;
  w.within = lane % p.lanes, w.group = lane / p.lanes, w.groups = 32 / p.lanes;
  return w.row < p.rows.count && w.head < p.heads;
}

// What one head of one slab holds, from row 0 on.
template <typename type>
__device__ __forceinline__ type* cell(const StgraphTensor& tensor, const Warp& w) {
  return slab<type>(tensor, w.batch, w.time) + w.head * tensor.head;
}

// This lane's channels of a row from channel `first` on, 0 beyond the last.
template <int kSlots, typename scalar_t, typename acc_t>
__device__ __forceinline__ void read_from(const Attention& p, const Warp& w, int first, const scalar_t* from,
                                          acc_t* to) {
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    int channel = first + (slot * p.lanes + w.within) * 4;
    if (p.vector && channel < p.width) {
      Pack<scalar_t, 4> pack = load<scalar_t, 4>(from + channel);
#pragma unroll
      for (int i = 0; i < 4; ++i) to[slot * 4 + i] = widen(pack.value[i]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) to[slot * 4 + i] = channel + i < p.width ? widen(from[channel + i]) : acc_t(0);
    }
  }
}

template <int kSlots, typename scalar_t, typename acc_t>
__device__ __forceinline__ void read(const Attention& p, const Warp& w, const scalar_t* from, acc_t* to) {
  read_from<kSlots>(p, w, w.first, from, to);
}

template <int kSlots, typename scalar_t, typename acc_t>
__device__ __forceinline__ void write(const Attention& p, const Warp& w, const acc_t* from, acc_t factor,
                                      scalar_t* to) {
  if (w.group != 0) return;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    int channel = w.first + (slot * p.lanes + w.within) * 4;
    Pack<scalar_t, 4> pack;
#pragma unroll
    for (int i = 0; i < 4; ++i) narrow(from[slot * 4 + i] * factor, pack.value[i]);
    if (p.vector && channel < p.width) {
      store(to + channel, pack);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (channel + i < p.width) to[channel + i] = pack.value[i];
    }
  }
}

// The sum over the lanes that share an entry; every lane of the warp takes part.
template <typename acc_t>
__device__ __forceinline__ acc_t over_lanes(const Attention& p, acc_t value) {
  for (int step = p.lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// The sum over the groups of lanes.
template <typename acc_t>
__device__ __forceinline__ acc_t over_groups(const Attention& p, acc_t value) {
  for (int step = p.lanes; step < 32; step *= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

template <int kCount, typename acc_t>
__device__ __forceinline__ acc_t product(const acc_t* left, const acc_t* right) {
  acc_t sum = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum += left[i] * right[i];
  return sum;
}

// This lane's share of the product of two rows of more channels than a warp holds.
template <typename acc_t, typename scalar_t>
__device__ __forceinline__ acc_t wide_product(const Attention& p, const Warp& w, const scalar_t* left,
                                              const scalar_t* right) {
  acc_t sum = 0;
#pragma unroll 1
  for (int first = 0; first < p.width; first += 4 * p.lanes) {
    acc_t a[4], b[4];
    read_from<1>(p, w, first, left, a);
    read_from<1>(p, w, first, right, b);
    sum += product<4>(a, b);
  }
  return sum;
}

template <int kSlots, bool kWide, typename acc_t, typename scalar_t>
__device__ __forceinline__ acc_t row_product(const Attention& p, const Warp& w, const scalar_t* left,
                                             const scalar_t* right) {
  if constexpr (kWide) return wide_product<acc_t>(p, w, left, right);
  acc_t a[4 * kSlots], b[4 * kSlots];
  read<kSlots>(p, w, left, a);
  read<kSlots>(p, w, right, b);
  return product<4 * kSlots>(a, b);
}

// Whether this lane writes what there is one of per row and head.
__device__ __forceinline__ bool writes_alone(const Warp& w) { return threadIdx.x % 32 == 0 && w.first == 0; }

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
__host__ __device__ __forceinline__ uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// 0 or 1 / (1 - rate), the same for an edge, slab and head in every pass.
template <typename acc_t>
__device__ __forceinline__ acc_t mask(const Attention& p, int64_t edge, const Warp& w) {
  if (!p.dropped) return 1;
  uint64_t slab = static_cast<uint64_t>(w.batch * p.time + w.time);
  uint64_t place = (static_cast<uint64_t>(edge) * static_cast<uint64_t>(p.batch * p.time) + slab) *
                       static_cast<uint64_t>(p.heads) + static_cast<uint64_t>(w.head);
  return (mix(p.dropout_key + 0x9E3779B97F4A7C15ull * place) >> 40) < p.dropped ? acc_t(0)
                                                                               : static_cast<acc_t>(p.kept_scale);
}

// From the product of query and key, or the sum of the scores at the two ends, to the score of an edge; `slope` is the
// derivative of the one by the other.
template <bool kDot, typename scalar_t, typename acc_t>
__device__ __forceinline__ acc_t score(const Attention& p, acc_t given, int64_t edge, int64_t head, acc_t& slope) {
  acc_t factor = static_cast<acc_t>(p.factor);
  acc_t bias = p.bias ? widen(static_cast<const scalar_t*>(p.bias)[edge * p.bias_edge + head * p.bias_head]) : acc_t(0);
  if constexpr (kDot) {
    slope = factor;
    return given * factor + bias;
  } else {
    acc_t sum = given + bias;
    slope = sum > 0 ? acc_t(1) : factor;
    return sum * slope;
  }
}

template <typename acc_t>
__device__ __forceinline__ acc_t minus_infinity() {
  return -static_cast<acc_t>(INFINITY);
}

}  // namespace device
}  // namespace stgraph
