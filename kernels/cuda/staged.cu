// Sparse times dense where the sources of a block of rows fit shared memory: they are staged there once, then every row
// reads them from there.
//
// Without a halo each block stages all sources (a small graph); with one, each block of rows stages only the distinct
// sources that its rows read (a graph whose nodes stand in an order that keeps neighbours together).
#include "rows.cuh"

namespace stgraph {
namespace device {
namespace {

constexpr int kTile = 64;  // channels staged at once, so that a multiprocessor has room for several blocks

struct Staging {
  Index pointer, halo, local;
  int64_t row_block, staged, tile;
};

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 1) spmm_staged(Product p, Staging s, Order order) {
  STGRAPH_SHARED(shared);
  scalar_t* stage = reinterpret_cast<scalar_t*>(shared);
  Place at = place_of(order);
  int64_t row_block = at.item_block, batch = at.batch, time = at.time;
  int64_t lane = static_cast<int64_t>(threadIdx.x) * kCount, channel = at.tile * s.tile + lane;
  bool inside = channel < p.width;

  int64_t first = s.halo.data ? s.pointer[row_block] : 0;
  int64_t count = s.halo.data ? s.pointer[row_block + 1] - first : s.staged;
  const scalar_t* x = slab<const scalar_t>(p.x, batch, time) + channel;
  if (inside) {
    for (int64_t slot = threadIdx.y; slot < count; slot += blockDim.y) {
      int64_t source = s.halo.data ? s.halo[first + slot] : slot;
      *reinterpret_cast<Pack<scalar_t, kCount>*>(stage + slot * s.tile + lane) =
          load<scalar_t, kCount>(x + source * p.x.node);
    }
  }
  __syncthreads();
  if (!inside) return;

  const scalar_t* weight = weight_of<scalar_t>(p, batch, time, channel);
  int64_t end = (row_block + 1) * s.row_block < p.rows.count ? (row_block + 1) * s.row_block : p.rows.count;
  for (int64_t row = row_block * s.row_block + threadIdx.y; row < end; row += blockDim.y) {
    Reduction<scalar_t, kCount, false> sum;
    for (int64_t entry = p.rows.rowptr[row]; entry < p.rows.rowptr[row + 1]; ++entry) {
      int64_t slot = s.local[entry];
      typename Accumulate<scalar_t>::type by = weight ? widen(weight[p.rows.edge_of(entry) * p.weight.edge]) : 1;
      sum.add(*reinterpret_cast<const Pack<scalar_t, kCount>*>(stage + slot * s.tile + lane), by, entry);
    }
    finish(p, batch, time, row, channel, sum);
  }
}

template <typename scalar_t, int kCount>
int run(const StgraphSpmm& call, const StgraphHalo& halo, void* stream) {
  Product p = product_of(call);
  int wide = call.graph.wide != 0;
  Staging s{{halo.pointer, wide}, {halo.halo, wide}, {halo.halo ? halo.local : call.graph.col, wide},
            halo.row_block, halo.staged, 0};
  // the widest tile that fits
  int lanes = power_of_two(divide_up(p.width, kCount), kTile / kCount);
  auto bytes = [&] { return s.staged * lanes * kCount * static_cast<int64_t>(sizeof(scalar_t)); };
  while (lanes > 1 && bytes() > shared_limit()) lanes /= 2;
  if (bytes() > shared_limit()) return kStgraphSharedMemory;
  s.tile = static_cast<int64_t>(lanes) * kCount;
  dim3 block(static_cast<unsigned>(lanes), static_cast<unsigned>(kThreads / lanes));
  int64_t row_blocks = divide_up(p.rows.count, s.row_block), tiles = divide_up(p.width, s.tile);
  return launch(spmm_staged<scalar_t, kCount>, row_blocks * tiles * p.slabs, block, bytes(), stream, p, s,
                order_of(row_blocks, tiles, call.time));
}

}  // namespace
}  // namespace device
}  // namespace stgraph

// Channels of one row of work: all of batch, time and features where they lie in one piece, else the features.
extern "C" int64_t stgraph_cuda_spmm_channels(const StgraphSpmm* call) {
  return stgraph::device::in_one_piece(*call).width;
}

// Sums and means only. Row blocks without a halo share the work of one slab; each stages all sources.
extern "C" int stgraph_cuda_spmm_staged(const StgraphSpmm* given, const StgraphHalo* halo, void* stream) {
  using namespace stgraph::device;
  StgraphSpmm call = in_one_piece(*given);
  if (call.graph.rows == 0 || call.batch * call.time * call.width == 0) return 0;
  return by_type(call.type, [&](auto* number) {
    using scalar_t = std::remove_pointer_t<decltype(number)>;
    constexpr int kVector = 16 / sizeof(scalar_t);
    return by_vector(call, sizeof(scalar_t)) ? run<scalar_t, kVector>(call, *halo, stream)
                                             : run<scalar_t, 1>(call, *halo, stream);
  });
}
