// What the CUDA kernels share: number types, 16-byte accesses, indices of either width, launches.
//
// With STGRAPH_EMULATOR a plain C++ compiler takes this and every kernel, and they run on the CPU.
#pragma once

#ifdef STGRAPH_EMULATOR
#include "../emulator/emulator.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>
#endif

#include <cstdint>
#include <limits>
#include <type_traits>

#include "api.h"

namespace stgraph {
namespace device {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr int kThreads = 256;

// ---------------------------------------------------------------- numbers
struct BFloat16 {
  uint16_t bits;
};
#ifdef STGRAPH_EMULATOR
using Half = _Float16;
__device__ __forceinline__ float widen(Half value) { return static_cast<float>(value); }
__device__ __forceinline__ void narrow(float value, Half& out) { out = static_cast<Half>(value); }
#else
using Half = __half;
__device__ __forceinline__ float widen(Half value) { return __half2float(value); }
__device__ __forceinline__ void narrow(float value, Half& out) { out = __float2half_rn(value); }
#endif
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(BFloat16 value) {
  uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float out;
  memcpy(&out, &bits, 4);
  return out;
}
__device__ __forceinline__ void narrow(float value, float& out) { out = value; }
__device__ __forceinline__ void narrow(double value, double& out) { out = value; }
__device__ __forceinline__ void narrow(float value, BFloat16& out) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  // to nearest, ties to even; a NaN stays a NaN
  bits = value != value ? 0x7FC00000u : bits + 0x7FFFu + ((bits >> 16) & 1u);
  out.bits = static_cast<uint16_t>(bits >> 16);
}

template <typename scalar_t>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};

__device__ __forceinline__ float exponential(float value) { return expf(value); }
__device__ __forceinline__ double exponential(double value) { return exp(value); }
__device__ __forceinline__ float logarithm(float value) { return logf(value); }
__device__ __forceinline__ double logarithm(double value) { return log(value); }

// ---------------------------------------------------------------- memory
// `kCount` numbers as they lie in memory.
template <typename scalar_t, int kCount>
struct Pack {
  scalar_t value[kCount];
};

template <typename scalar_t, int kCount>
__device__ __forceinline__ Pack<scalar_t, kCount> load(const scalar_t* from) {
  constexpr int kBytes = sizeof(scalar_t) * kCount;
  Pack<scalar_t, kCount> out;
  if constexpr (kBytes % 16 == 0) {
    uint4 raw[kBytes / 16];
#pragma unroll
    for (int i = 0; i < kBytes / 16; ++i) raw[i] = __ldg(reinterpret_cast<const uint4*>(from) + i);
    memcpy(&out, raw, kBytes);
  } else if constexpr (kBytes == 8) {
    uint2 raw = __ldg(reinterpret_cast<const uint2*>(from));
    memcpy(&out, &raw, kBytes);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) out.value[i] = from[i];
  }
  return out;
}

// Results are not read again soon: they are not to push the features out of the cache.
template <typename scalar_t, int kCount>
__device__ __forceinline__ void store(scalar_t* to, const Pack<scalar_t, kCount>& pack) {
  constexpr int kBytes = sizeof(scalar_t) * kCount;
  if constexpr (kBytes % 16 == 0) {
    uint4 raw[kBytes / 16];
    memcpy(raw, &pack, kBytes);
#pragma unroll
    for (int i = 0; i < kBytes / 16; ++i) __stcs(reinterpret_cast<uint4*>(to) + i, raw[i]);
  } else if constexpr (kBytes == 8) {
    uint2 raw;
    memcpy(&raw, &pack, kBytes);
    __stcs(reinterpret_cast<uint2*>(to), raw);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = pack.value[i];
  }
}

// Indices of 32 or 64 bits; all places in memory are computed in 64.
struct Index {
  const void* data;
  int wide;
  __device__ __forceinline__ int64_t operator[](int64_t at) const {
    return wide ? __ldg(static_cast<const int64_t*>(data) + at)
                : static_cast<int64_t>(__ldg(static_cast<const int32_t*>(data) + at));
  }
};

struct Rows {
  Index rowptr, col, edge;
  int64_t count, entries;
  __device__ __forceinline__ int64_t source(int64_t entry) const { return col.data ? col[entry] : entry; }
  __device__ __forceinline__ int64_t edge_of(int64_t entry) const { return edge.data ? edge[entry] : entry; }
  // The row that holds an entry.
  __device__ __forceinline__ int64_t row_of(int64_t entry) const {
    int64_t low = 0, high = count;
    while (low < high) {
      int64_t middle = (low + high) / 2;
      if (rowptr[middle + 1] <= entry) low = middle + 1;
      else high = middle;
    }
    return low;
  }
};

inline Rows rows_of(const StgraphGraph& graph) {
  int wide = graph.wide != 0;
  return {{graph.rowptr, wide}, {graph.col, wide}, {graph.edge, wide}, graph.rows, graph.entries};
}

// Where the rows of one step of one batch entry start.
template <typename scalar_t>
__device__ __forceinline__ scalar_t* slab(const StgraphTensor& tensor, int64_t batch, int64_t time) {
  return static_cast<scalar_t*>(tensor.data) + batch * tensor.batch + time * tensor.time;
}

// ---------------------------------------------------------------- launches
// How blocks are numbered: over the items first, then over the tiles of channels, then over the slabs of batch and
// time, so that a tile of x stays in the cache. Counts of blocks fit 32 bits, in which division needs no call.
struct Order {
  unsigned item_blocks, tiles, time;
};
struct Place {
  unsigned item_block, tile;
  int64_t batch, time;
};
__device__ __forceinline__ Place place_of(const Order& order) {
  unsigned rest = blockIdx.x / order.item_blocks, plane = rest / order.tiles;
  return {blockIdx.x % order.item_blocks, rest % order.tiles, plane / order.time, plane % order.time};
}

// Whether all rows can be read `count` numbers at a time.
inline bool aligned(const StgraphTensor& tensor, int64_t bytes, int64_t count) {
  return !tensor.data || (reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(bytes * count) == 0 &&
                          tensor.batch % count == 0 && tensor.time % count == 0 && tensor.node % count == 0);
}

inline Order order_of(int64_t item_blocks, int64_t tiles, int64_t time) {
  return {static_cast<unsigned>(item_blocks), static_cast<unsigned>(tiles), static_cast<unsigned>(time)};
}

inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// The smallest power of two that is not below `value`, at most `limit`.
inline int power_of_two(int64_t value, int limit) {
  int out = 1;
  while (out < value && out < limit) out *= 2;
  return out;
}

template <typename Kernel, typename... Arguments>
int launch(Kernel kernel, int64_t blocks, dim3 block, int64_t shared, void* stream, Arguments... arguments) {
  if (blocks > 0x7FFFFFFF) return kStgraphTooMany;
  dim3 grid(static_cast<unsigned>(blocks));
#ifdef STGRAPH_EMULATOR
  (void)stream;
  auto call = [=] { kernel(arguments...); };
  return emulator::run(grid, block, static_cast<uint64_t>(shared),
                       [](const void* of) { (*static_cast<const decltype(call)*>(of))(); }, &call);
#else
  if (shared > 48 * 1024) {
    cudaError_t raised = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (raised != cudaSuccess) return static_cast<int>(raised);
  }
  kernel<<<grid, block, static_cast<size_t>(shared), static_cast<cudaStream_t>(stream)>>>(arguments...);
  return static_cast<int>(cudaGetLastError());
#endif
}

// Bytes of shared memory that a block may have.
inline int64_t shared_limit() {
#ifdef STGRAPH_EMULATOR
  return static_cast<int64_t>(emulator::shared_limit());
#else
  int number = 0, bytes = 0;
  cudaGetDevice(&number);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, number);
  return bytes;
#endif
}

#ifdef STGRAPH_EMULATOR
#define STGRAPH_SHARED(name) char* name = ::emulator::shared
#else
#define STGRAPH_SHARED(name) extern __shared__ __align__(16) char name[]
#endif

// Calls `body` with a null pointer of the C++ type of the numbers.
template <typename Body>
int by_type(int64_t type, Body body) {
  switch (type) {
    case kStgraphFloat32: return body(static_cast<float*>(nullptr));
#ifndef STGRAPH_FLOAT32_ONLY
    case kStgraphFloat64: return body(static_cast<double*>(nullptr));
    case kStgraphFloat16: return body(static_cast<Half*>(nullptr));
    case kStgraphBFloat16: return body(static_cast<BFloat16*>(nullptr));
#endif
    default: return kStgraphUnknownType;
  }
}

}  // namespace device
}  // namespace stgraph
