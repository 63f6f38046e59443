// The gates of a recurrent unit and their gradients: every number by itself, each tensor read or written once.
#include "common.cuh"

namespace stgraph {
namespace device {
namespace {

constexpr int kMost = 8;  // tensors of one pass

__device__ __forceinline__ float tangent(float value) { return tanhf(value); }
__device__ __forceinline__ double tangent(double value) { return tanh(value); }

// Below 0 by the exponential itself, which keeps the digits of small results.
template <typename acc_t>
__device__ __forceinline__ acc_t sigmoid(acc_t x) {
  acc_t e = exponential(x < 0 ? x : -x);
  return (x < 0 ? e : acc_t(1)) / (1 + e);
}

// z_pre, r_pre, h -> z, r * h
struct Gate {
  static constexpr int kIn = 3, kOut = 2;
  template <typename acc_t>
  __device__ __forceinline__ static void run(const acc_t (&in)[kIn], acc_t (&out)[kOut]) {
    out[0] = sigmoid(in[0]);
    out[1] = sigmoid(in[1]) * in[2];
  }
};
// gradients of z and r * h, z, r_pre, h -> gradients of z_pre, r_pre, h
struct GateBack {
  static constexpr int kIn = 5, kOut = 3;
  template <typename acc_t>
  __device__ __forceinline__ static void run(const acc_t (&in)[kIn], acc_t (&out)[kOut]) {
    acc_t r = sigmoid(in[3]);
    out[0] = in[0] * in[2] * (1 - in[2]);
    out[1] = in[1] * in[4] * r * (1 - r);
    out[2] = in[1] * r;
  }
};
// z, h, candidate_pre -> z * h + (1 - z) * tanh(candidate_pre)
struct Blend {
  static constexpr int kIn = 3, kOut = 1;
  template <typename acc_t>
  __device__ __forceinline__ static void run(const acc_t (&in)[kIn], acc_t (&out)[kOut]) {
    out[0] = in[0] * in[1] + (1 - in[0]) * tangent(in[2]);
  }
};
// gradient, z, h, candidate_pre -> gradients of z, h, candidate_pre
struct BlendBack {
  static constexpr int kIn = 4, kOut = 3;
  template <typename acc_t>
  __device__ __forceinline__ static void run(const acc_t (&in)[kIn], acc_t (&out)[kOut]) {
    acc_t candidate = tangent(in[3]);
    out[0] = in[0] * (in[2] - candidate);
    out[1] = in[0] * in[1];
    out[2] = in[0] * (1 - in[1]) * (1 - candidate * candidate);
  }
};

struct Pass {
  StgraphTensor part[kMost];  // what is read, then what is written
  int64_t nodes, width;
};

template <typename Work, typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 1) each(Pass p, Order order) {
  using acc_t = typename Accumulate<scalar_t>::type;
  Place at = place_of(order);
  int64_t node = static_cast<int64_t>(at.item_block) * blockDim.y + threadIdx.y;
  int64_t channel = (static_cast<int64_t>(at.tile) * blockDim.x + threadIdx.x) * kCount;
  if (node >= p.nodes || channel >= p.width) return;
  Pack<scalar_t, kCount> in[Work::kIn], out[Work::kOut];
#pragma unroll
  for (int k = 0; k < Work::kIn; ++k)
    in[k] =
        load<scalar_t, kCount>(slab<const scalar_t>(p.part[k], at.batch, at.time) + node * p.part[k].node + channel);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    acc_t given[Work::kIn], made[Work::kOut];
#pragma unroll
    for (int k = 0; k < Work::kIn; ++k) given[k] = widen(in[k].value[i]);
    Work::run(given, made);
#pragma unroll
    for (int k = 0; k < Work::kOut; ++k) narrow(made[k], out[k].value[i]);
  }
#pragma unroll
  for (int k = 0; k < Work::kOut; ++k) {
    const StgraphTensor& to = p.part[Work::kIn + k];
    store<scalar_t, kCount>(slab<scalar_t>(to, at.batch, at.time) + node * to.node + channel, out[k]);
  }
}

template <typename Work>
int run(const StgraphGru& given, void* stream) {
  StgraphGru call = given;
  const StgraphTensor inputs[] = {call.first, call.second, call.third, call.fourth, call.fifth};
  const StgraphTensor outputs[] = {call.out_first, call.out_second, call.out_third};
  constexpr int kParts = Work::kIn + Work::kOut;
  Pass p{};
  for (int k = 0; k < kParts; ++k) p.part[k] = k < Work::kIn ? inputs[k] : outputs[k - Work::kIn];
  if (call.batch * call.time * call.nodes * call.width == 0) return 0;
  // Axes that lie side by side in all tensors become one long row, from the last on: nodes where they are next to the
  // channels, then steps, then batch entries.
  auto join = [&](int64_t& size, int64_t StgraphTensor::*step) {
    for (int k = 0; k < kParts; ++k)
      if (size > 1 && p.part[k].*step != call.width) return false;
    for (int k = 0; k < kParts; ++k) p.part[k].*step = 0;
    call.width *= size, size = 1;
    return true;
  };
  join(call.nodes, &StgraphTensor::node);
  if (join(call.time, &StgraphTensor::time)) join(call.batch, &StgraphTensor::batch);
  join(call.nodes, &StgraphTensor::node);
  p.nodes = call.nodes, p.width = call.width;
  return by_type(call.type, [&](auto* type) {
    using scalar_t = std::remove_pointer_t<decltype(type)>;
    constexpr int kCount = 16 / static_cast<int>(sizeof(scalar_t));
    bool wide = p.width % kCount == 0;
    for (int k = 0; k < kParts; ++k) wide = wide && aligned(p.part[k], sizeof(scalar_t), kCount);
    auto go = [&](auto kernel, int64_t count) {
      int64_t units = p.width / count;
      int lanes = power_of_two(units, p.nodes == 1 ? kThreads : 64);
      dim3 block(static_cast<unsigned>(lanes), static_cast<unsigned>(kThreads / lanes));
      int64_t node_blocks = divide_up(p.nodes, block.y), tiles = divide_up(units, lanes);
      return launch(kernel, node_blocks * tiles * call.batch * call.time, block, 0, stream, p,
                    order_of(node_blocks, tiles, call.time));
    };
    return wide ? go(each<Work, scalar_t, kCount>, kCount) : go(each<Work, scalar_t, 1>, 1);
  });
}

}  // namespace
}  // namespace device
}  // namespace stgraph

extern "C" int stgraph_cuda_gru(const StgraphGru* call, void* stream) {
  using namespace stgraph::device;
  switch (call->kind) {
    case kStgraphGate: return run<Gate>(*call, stream);
    case kStgraphGateBackward: return run<GateBack>(*call, stream);
    case kStgraphBlend: return run<Blend>(*call, stream);
    case kStgraphBlendBackward: return run<BlendBack>(*call, stream);
    default: return kStgraphUnknownType;
  }
}
