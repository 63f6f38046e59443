// Sparse times dense, wide rows: every thread holds 16 bytes of one row and walks its entries, four loads in flight.
//
// Rows of more than kWindow entries would leave one thread with all the work. The entries are cut into windows of
// kWindow; a second kernel sums what each window holds of a long row, a third adds these parts up in their order. A
// window touches at most two long rows, the one it begins in and the one it ends in, so its parts have fixed places.
#include "rows.cuh"

namespace stgraph {
namespace device {
namespace {

constexpr int64_t kWindow = 512;

// The row or window of this thread, and its first channel.
struct Work {
  int64_t batch, time, item, channel;
};
template <int kCount>
__device__ __forceinline__ Work work_of(const Order& order) {
  Place at = place_of(order);
  return {at.batch, at.time, static_cast<int64_t>(at.item_block) * blockDim.y + threadIdx.y,
          (static_cast<int64_t>(at.tile) * blockDim.x + threadIdx.x) * kCount};
}

template <typename scalar_t, int kCount, bool kMax>
__global__ void __launch_bounds__(kThreads, 1) spmm_rows(Product p, Order order) {
  Work at = work_of<kCount>(order);
  int64_t row = at.item;
  if (row >= p.rows.count || at.channel >= p.width) return;
  int64_t begin = p.rows.rowptr[row], end = p.rows.rowptr[row + 1];
  if (p.partial && end - begin > kWindow) return;
  Reduction<scalar_t, kCount, kMax> sum;
  reduce_entries(p.rows, p.rows.col, begin, end, slab<const scalar_t>(p.x, at.batch, at.time) + at.channel, p.x.node,
                 weight_of<scalar_t>(p, at.batch, at.time, at.channel), p.weight.edge, sum);
  finish(p, at.batch, at.time, row, at.channel, sum);
}

__device__ __forceinline__ int64_t degree(const Rows& rows, int64_t row) {
  return rows.rowptr[row + 1] - rows.rowptr[row];
}

__device__ __forceinline__ int64_t part_place(const Product& p, const Order& order, const Work& at, int64_t part) {
  int64_t parts = 2 * ((p.rows.entries + kWindow - 1) / kWindow);
  return ((at.batch * order.time + at.time) * parts + part) * p.width + at.channel;
}

template <typename scalar_t, int kCount, bool kMax>
__global__ void __launch_bounds__(kThreads, 1) spmm_windows(Product p, Order order) {
  using acc_t = typename Accumulate<scalar_t>::type;
  Work at = work_of<kCount>(order);
  int64_t window = at.item, first = window * kWindow;
  if (first >= p.rows.entries || at.channel >= p.width) return;
  int64_t last = first + kWindow < p.rows.entries ? first + kWindow : p.rows.entries;
  int64_t opens = p.rows.row_of(first), closes = p.rows.row_of(last - 1);
  for (int side = 0; side < 2; ++side) {
    int64_t row = side ? closes : opens;
    if ((side && closes == opens) || degree(p.rows, row) <= kWindow) continue;
    int64_t begin = p.rows.rowptr[row] > first ? p.rows.rowptr[row] : first;
    int64_t end = p.rows.rowptr[row + 1] < last ? p.rows.rowptr[row + 1] : last;
    Reduction<scalar_t, kCount, kMax> sum;
    reduce_entries(p.rows, p.rows.col, begin, end, slab<const scalar_t>(p.x, at.batch, at.time) + at.channel,
                   p.x.node, weight_of<scalar_t>(p, at.batch, at.time, at.channel), p.weight.edge, sum);
    int64_t place = part_place(p, order, at, 2 * window + side);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      static_cast<acc_t*>(p.partial)[place + i] = sum.value[i];
      if constexpr (kMax) p.partial_argument[place + i] = sum.entry[i];
    }
  }
}

// The window in which a long row begins adds up its parts.
template <typename scalar_t, int kCount, bool kMax>
__global__ void __launch_bounds__(kThreads, 1) spmm_long_rows(Product p, Order order) {
  using acc_t = typename Accumulate<scalar_t>::type;
  Work at = work_of<kCount>(order);
  int64_t window = at.item, first = window * kWindow;
  if (first >= p.rows.entries || at.channel >= p.width) return;
  int64_t last = first + kWindow < p.rows.entries ? first + kWindow : p.rows.entries;
  int64_t row = p.rows.row_of(last - 1);
  if (p.rows.rowptr[row] < first || degree(p.rows, row) <= kWindow) return;
  int64_t parts_end = (p.rows.rowptr[row + 1] + kWindow - 1) / kWindow;
  int side = p.rows.rowptr[row] > first;
  Reduction<scalar_t, kCount, kMax> sum;
  for (int64_t part = window; part < parts_end; ++part, side = 0) {
    int64_t place = part_place(p, order, at, 2 * part + side);
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      sum.take(i, static_cast<const acc_t*>(p.partial)[place + i], kMax ? p.partial_argument[place + i] : 0);
  }
  finish(p, at.batch, at.time, row, at.channel, sum);
}

int64_t windows_of(const StgraphSpmm& call) { return divide_up(call.graph.entries, kWindow); }

// Bytes of the sums of all parts; the places of maxima come after them.
int64_t sums_bytes(const StgraphSpmm& call) {
  int64_t numbers = 2 * windows_of(call) * call.batch * call.time * call.width;
  return divide_up(numbers * (call.type == kStgraphFloat64 ? 8 : 4), 16) * 16;
}

template <typename scalar_t, int kCount, bool kMax>
int run(const StgraphSpmm& call, void* stream) {
  Product p = product_of(call);
  bool split = call.workspace && call.graph.entries > kWindow;
  if (split) {
    p.partial = call.workspace;
    p.partial_argument = reinterpret_cast<int64_t*>(static_cast<char*>(call.workspace) + sums_bytes(call));
  }
  int lanes = power_of_two(divide_up(p.width, kCount), 64);
  dim3 block(static_cast<unsigned>(lanes), static_cast<unsigned>(kThreads / lanes));
  int64_t tiles = divide_up(p.width, static_cast<int64_t>(lanes) * kCount);
  auto over = [&](auto kernel, int64_t items) {
    int64_t item_blocks = divide_up(items, block.y);
    return launch(kernel, item_blocks * tiles * p.slabs, block, 0, stream, p, order_of(item_blocks, tiles, call.time));
  };
  int code = over(spmm_rows<scalar_t, kCount, kMax>, p.rows.count);
  if (code || !split) return code;
  code = over(spmm_windows<scalar_t, kCount, kMax>, windows_of(call));
  return code ? code : over(spmm_long_rows<scalar_t, kCount, kMax>, windows_of(call));
}

}  // namespace
}  // namespace device
}  // namespace stgraph

// Bytes of workspace that let long rows be split; 0 where none can be long.
extern "C" int64_t stgraph_cuda_spmm_workspace(const StgraphSpmm* call) {
  using namespace stgraph::device;
  if (call->graph.entries <= kWindow) return 0;
  int64_t numbers = 2 * windows_of(*call) * call->batch * call->time * call->width;
  return sums_bytes(*call) + (call->reduce == kStgraphMax ? numbers * 8 : 0);
}

extern "C" int stgraph_cuda_spmm(const StgraphSpmm* given, void* stream) {
  using namespace stgraph::device;
  StgraphSpmm call = in_one_piece(*given);
  if (call.graph.rows == 0 || call.batch * call.time * call.width == 0) return 0;
  return by_type(call.type, [&](auto* number) {
    using scalar_t = std::remove_pointer_t<decltype(number)>;
    constexpr int kVector = 16 / sizeof(scalar_t);
    bool vector = by_vector(call, sizeof(scalar_t));
    if (call.reduce == kStgraphMax)
      return vector ? run<scalar_t, kVector, true>(call, stream) : run<scalar_t, 1, true>(call, stream);
    return vector ? run<scalar_t, kVector, false>(call, stream) : run<scalar_t, 1, false>(call, stream);
  });
}
