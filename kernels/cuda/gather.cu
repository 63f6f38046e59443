// Rows of x by their positions. Numbers are only moved, so kernels differ by how many bytes a thread moves.
#include "common.cuh"

namespace stgraph {
namespace device {
namespace {

struct Gather {
  Index index;
  StgraphTensor x, out;  // strides in units
  int64_t rows, width;
};

template <typename unit_t>
__global__ void __launch_bounds__(kThreads, 1) gather(Gather g, Order order) {
  Place at = place_of(order);
  int64_t row = static_cast<int64_t>(at.item_block) * blockDim.y + threadIdx.y;
  int64_t unit = static_cast<int64_t>(at.tile) * blockDim.x + threadIdx.x;
  if (row >= g.rows || unit >= g.width) return;
  const unit_t* from = slab<const unit_t>(g.x, at.batch, at.time) + g.index[row] * g.x.node + unit;
  __stcs(slab<unit_t>(g.out, at.batch, at.time) + row * g.out.node + unit, __ldg(from));
}

template <typename unit_t>
int run(const StgraphGather& call, void* stream) {
  int64_t per_unit = static_cast<int64_t>(sizeof(unit_t)) / call.element;
  auto in_units = [&](const StgraphTensor& t) {
    return StgraphTensor{t.data, t.batch / per_unit, t.time / per_unit, t.node / per_unit, 0};
  };
  Gather g{{call.index, call.wide != 0}, in_units(call.x), in_units(call.out), call.rows,
           call.width / per_unit};
  int lanes = power_of_two(g.width, 64);
  dim3 block(static_cast<unsigned>(lanes), static_cast<unsigned>(kThreads / lanes));
  int64_t row_blocks = divide_up(g.rows, block.y), tiles = divide_up(g.width, lanes);
  return launch(gather<unit_t>, row_blocks * tiles * call.batch * call.time, block, 0, stream, g,
                order_of(row_blocks, tiles, call.time));
}

}  // namespace
}  // namespace device
}  // namespace stgraph

extern "C" int stgraph_cuda_gather_rows(const StgraphGather* given, void* stream) {
  using namespace stgraph::device;
  StgraphGather call = *given;
  auto packed = [&](const StgraphTensor& t) {
    return (call.time == 1 || t.time == call.width) && (call.batch == 1 || t.batch == call.time * call.width);
  };
  if (packed(call.x) && packed(call.out)) call.width *= call.batch * call.time, call.batch = 1, call.time = 1;
  if (call.rows == 0 || call.batch * call.time * call.width == 0) return 0;
  int64_t count = 16 / call.element;
  if (call.width % count == 0 && aligned(call.x, call.element, count) && aligned(call.out, call.element, count))
    return run<uint4>(call, stream);
  switch (call.element) {
    case 2: return run<uint16_t>(call, stream);
    case 4: return run<uint32_t>(call, stream);
    case 8: return run<uint64_t>(call, stream);
    default: return kStgraphUnknownType;
  }
}
