// Reducing the entries of one row over a few neighbouring channels, in the order of the entries, in registers.
#pragma once

#include "common.cuh"

namespace stgraph {
namespace device {

constexpr int kInFlight = 4;  // loads that are on their way before the first is used

// The sum or the largest of what came so far, for `kCount` channels.
template <typename scalar_t, int kCount, bool kMax>
struct Reduction {
  using acc_t = typename Accumulate<scalar_t>::type;
  acc_t value[kCount];
  int64_t entry[kMax ? kCount : 1];

  __device__ __forceinline__ Reduction() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) value[i] = 0;
    if constexpr (kMax) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) entry[i] = -1;
    }
  }
  __device__ __forceinline__ void take(int channel, acc_t given, int64_t from) {
    if constexpr (kMax) {
      // the first of equals; a NaN wins and stays, so that it is seen
      bool wins = entry[channel] < 0 || given > value[channel] || (given != given && value[channel] == value[channel]);
      if (wins && from >= 0) value[channel] = given, entry[channel] = from;
    } else {
      value[channel] += given;
    }
  }
  __device__ __forceinline__ void add(const Pack<scalar_t, kCount>& pack, acc_t weight, int64_t from) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) take(i, widen(pack.value[i]) * weight, from);
  }
};

// Everything a thread needs to know of one product. `staged` rows of x are read from shared memory where there are any.
struct Product {
  Rows rows;
  StgraphTensor x, addend, out;
  StgraphWeight weight;
  int64_t* argument;
  void* partial;              // [slabs, 2 * windows, width] of the type of sums
  int64_t* partial_argument;  // the same shape
  int64_t width, slabs;
  uint32_t head_width;
  int mean;
};

inline Product product_of(const StgraphSpmm& call) {
  Product p;
  p.rows = rows_of(call.graph);
  p.x = call.x, p.addend = call.addend, p.out = call.out, p.weight = call.weight, p.argument = call.argument;
  p.partial = nullptr, p.partial_argument = nullptr;
  p.width = call.width, p.slabs = call.batch * call.time;
  p.head_width = static_cast<uint32_t>(call.heads > 1 ? call.width / call.heads : 1);
  p.mean = call.reduce == kStgraphMean;
  return p;
}

// Where all channels of a node lie in one piece and share a weight, they are one wide row.
inline StgraphSpmm in_one_piece(StgraphSpmm call) {
  auto packed = [&](const StgraphTensor& t) {
    return !t.data || ((call.time == 1 || t.time == call.width) &&
                       (call.batch == 1 || t.batch == call.time * call.width));
  };
  bool shared = !call.weight.data || (call.weight.batch == 0 && call.weight.time == 0 &&
                                      (call.heads <= 1 || call.weight.head == 0));
  if (call.batch * call.time > 1 && shared && packed(call.x) && packed(call.addend) && packed(call.out))
    call.width *= call.batch * call.time, call.batch = 1, call.time = 1, call.heads = 1;
  return call;
}

// Whether rows can be read 16 bytes at a time.
inline bool by_vector(const StgraphSpmm& call, int64_t bytes) {
  int64_t count = 16 / bytes;
  bool one_head = !call.weight.data || call.heads <= 1 || call.width / call.heads % count == 0;
  return one_head && call.width % count == 0 && aligned(call.x, bytes, count) &&
         aligned(call.addend, bytes, count) && aligned(call.out, bytes, count);
}

// Reduces entries begin .. end of a row: `x` points at the channel of row 0, `row_stride` is from row to row.
template <typename scalar_t, int kCount, bool kMax>
__device__ __forceinline__ void reduce_entries(const Rows& rows, const Index& source, int64_t begin, int64_t end,
                                               const scalar_t* x, int64_t row_stride, const scalar_t* weight,
                                               int64_t weight_edge, Reduction<scalar_t, kCount, kMax>& sum) {
  using acc_t = typename Accumulate<scalar_t>::type;
  int64_t entry = begin;
  for (; entry + kInFlight <= end; entry += kInFlight) {
    Pack<scalar_t, kCount> pack[kInFlight];
    acc_t by[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      int64_t from = source.data ? source[entry + k] : entry + k;
      pack[k] = load<scalar_t, kCount>(x + from * row_stride);
      by[k] = weight ? widen(weight[rows.edge_of(entry + k) * weight_edge]) : acc_t(1);
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) sum.add(pack[k], by[k], entry + k);
  }
  for (; entry < end; ++entry) {
    int64_t from = source.data ? source[entry] : entry;
    acc_t by = weight ? widen(weight[rows.edge_of(entry) * weight_edge]) : acc_t(1);
    sum.add(load<scalar_t, kCount>(x + from * row_stride), by, entry);
  }
}

template <typename scalar_t>
__device__ __forceinline__ const scalar_t* weight_of(const Product& p, int64_t batch, int64_t time, int64_t channel) {
  if (!p.weight.data) return nullptr;
  const scalar_t* weight = static_cast<const scalar_t*>(p.weight.data) + batch * p.weight.batch + time * p.weight.time;
  return p.weight.head ? weight + static_cast<uint32_t>(channel) / p.head_width * p.weight.head : weight;
}

// Divides by the number of entries, adds the addend and writes one row.
template <typename scalar_t, int kCount, bool kMax>
__device__ __forceinline__ void finish(const Product& p, int64_t batch, int64_t time, int64_t row, int64_t channel,
                                       Reduction<scalar_t, kCount, kMax>& sum) {
  using acc_t = typename Accumulate<scalar_t>::type;
  int64_t place = batch * p.out.batch + time * p.out.time + row * p.out.node + channel;
  if (p.mean) {
    int64_t entries = p.rows.rowptr[row + 1] - p.rows.rowptr[row];
    acc_t scale = acc_t(1) / static_cast<acc_t>(entries > 0 ? entries : 1);
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum.value[i] *= scale;
  }
  if (p.addend.data) {
    Pack<scalar_t, kCount> pack =
        load<scalar_t, kCount>(slab<const scalar_t>(p.addend, batch, time) + row * p.addend.node + channel);
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum.value[i] += widen(pack.value[i]);
  }
  Pack<scalar_t, kCount> pack;
#pragma unroll
  for (int i = 0; i < kCount; ++i) narrow(sum.value[i], pack.value[i]);
  store(static_cast<scalar_t*>(p.out.data) + place, pack);
  if constexpr (kMax) {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      p.argument[place + i] = sum.entry[i] < 0 ? -1 : p.rows.edge_of(sum.entry[i]);
  }
}

}  // namespace device
}  // namespace stgraph
