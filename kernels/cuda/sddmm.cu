// Products of the rows at the two ends of every edge, per head; summed over the batch and time axes that are not kept.
//
// A warp takes 32 entries: each lane finds the ends of one, then groups of lanes take one entry each, 16 bytes per
// lane, and add their parts up in a fixed order.
#include "common.cuh"

namespace stgraph {
namespace device {
namespace {

struct Products {
  Rows rows;
  StgraphTensor a, b;
  void* out;
  int64_t kept_batch, kept_time, batch, time, heads, head_width;
  int lanes;  // of a group, a power of two
};

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 1) sddmm(Products p, Order order) {
  using acc_t = typename Accumulate<scalar_t>::type;
  Place at = place_of(order);
  int64_t chunk = static_cast<int64_t>(at.item_block) * (kThreads / 32) + threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  if (chunk * 32 >= p.rows.entries) return;  // all lanes of a warp together
  // an axis that is not kept has one place in `order`, and is summed here
  int64_t batch_first = at.batch, batch_last = p.kept_batch > 1 ? batch_first + 1 : p.batch;
  int64_t time_first = at.time, time_last = p.kept_time > 1 ? time_first + 1 : p.time;
  int64_t planes = p.kept_batch * p.kept_time, plane = at.batch * p.kept_time + at.time;

  int64_t own = chunk * 32 + lane;
  int64_t own_row = 0, own_col = 0, own_edge = -1;
  if (own < p.rows.entries)
    own_row = p.rows.row_of(own), own_col = p.rows.source(own), own_edge = p.rows.edge_of(own);

  int groups = 32 / p.lanes, within = lane % p.lanes;
  for (int turn = 0; turn < p.lanes; ++turn) {
    int of = turn * groups + lane / p.lanes;
    int64_t row = __shfl_sync(kAllLanes, own_row, of), col = __shfl_sync(kAllLanes, own_col, of);
    int64_t edge = __shfl_sync(kAllLanes, own_edge, of);
    for (int64_t head = 0; head < p.heads; ++head) {
      acc_t sum = 0;
      for (int64_t batch = batch_first; edge >= 0 && batch < batch_last; ++batch) {
        for (int64_t time = time_first; time < time_last; ++time) {
          const scalar_t* a = slab<const scalar_t>(p.a, batch, time) + row * p.a.node + head * p.head_width;
          const scalar_t* b = slab<const scalar_t>(p.b, batch, time) + col * p.b.node + head * p.head_width;
          for (int64_t channel = within * kCount; channel < p.head_width; channel += p.lanes * kCount) {
            Pack<scalar_t, kCount> left = load<scalar_t, kCount>(a + channel);
            Pack<scalar_t, kCount> right = load<scalar_t, kCount>(b + channel);
#pragma unroll
            for (int i = 0; i < kCount; ++i) sum += widen(left.value[i]) * widen(right.value[i]);
          }
        }
      }
      for (int step = p.lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
      if (within == 0 && edge >= 0)
        narrow(sum, static_cast<scalar_t*>(p.out)[(edge * planes + plane) * p.heads + head]);
    }
  }
}

template <typename scalar_t, int kCount>
int run(const StgraphSddmm& call, void* stream) {
  Products p{rows_of(call.graph), call.a, call.b, call.out, call.by_batch ? call.batch : 1,
             call.by_time ? call.time : 1, call.batch, call.time, call.heads, call.width / call.heads, 1};
  p.lanes = power_of_two(divide_up(p.head_width, kCount), 32);
  int64_t chunk_blocks = divide_up(p.rows.entries, kThreads);  // a warp takes as many entries as it has lanes
  return launch(sddmm<scalar_t, kCount>, chunk_blocks * p.kept_batch * p.kept_time, dim3(kThreads), 0, stream, p,
                order_of(chunk_blocks, 1, p.kept_time));
}

}  // namespace
}  // namespace device
}  // namespace stgraph

extern "C" int stgraph_cuda_sddmm(const StgraphSddmm* given, void* stream) {
  using namespace stgraph::device;
  StgraphSddmm call = *given;
  if (call.graph.entries == 0 || call.heads == 0 || (call.by_batch && !call.batch) || (call.by_time && !call.time))
    return 0;
  // where nothing is kept and nodes are wide rows, all channels are one product
  auto packed = [&](const StgraphTensor& t) {
    return (call.time == 1 || t.time == call.width) && (call.batch == 1 || t.batch == call.time * call.width);
  };
  bool summed = (!call.by_batch || call.batch == 1) && (!call.by_time || call.time == 1);
  if (summed && call.heads == 1 && packed(call.a) && packed(call.b))
    call.width *= call.batch * call.time, call.batch = 1, call.time = 1;
  return by_type(call.type, [&](auto* number) {
    using scalar_t = std::remove_pointer_t<decltype(number)>;
    constexpr int kVector = 16 / sizeof(scalar_t);
    bool vector = call.width / call.heads % kVector == 0 && aligned(call.a, sizeof(scalar_t), kVector) &&
                  aligned(call.b, sizeof(scalar_t), kVector);
    return vector ? run<scalar_t, kVector>(call, stream) : run<scalar_t, 1>(call, stream);
  });
}
