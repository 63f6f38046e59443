// Kernels that do what the emulator must refuse, one by one, and one that is right.
#include "../cuda/common.cuh"

namespace {

using stgraph::device::kAllLanes;

struct Arguments {
  float* out;
  int kind;
};

__global__ void misuse(Arguments a) {
  STGRAPH_SHARED(shared);
  float* stage = reinterpret_cast<float*>(shared);
  int thread = threadIdx.x, value = thread;
  switch (a.kind) {
    case 0:  // right: every thread reads what its neighbour wrote
      stage[thread] = static_cast<float>(thread);
      __syncthreads();
      value = __shfl_xor_sync(kAllLanes, value, 1);
      a.out[thread] = stage[(thread + 1) % blockDim.x] + static_cast<float>(value - value);
      return;
    case 1:  // a barrier that some threads never reach
      if (thread < 40) __syncthreads();
      break;
    case 2:  // two barriers where one was meant
      if (thread < 32) __syncthreads();
      else __syncthreads();
      break;
    case 3:  // a mask with lanes that have left
      if (thread % 32 >= 16) return;
      value = __shfl_xor_sync(kAllLanes, value, 1);
      break;
    case 4:  // a shuffle from outside of the mask
      if (thread % 32 < 16) value = __shfl_sync(0x0000FFFFu, value, 20);
      break;
    case 5:  // lanes of one mask at different places
      if (thread % 2) value = __shfl_xor_sync(kAllLanes, value, 1);
      else __syncwarp(kAllLanes);
      break;
    case 6:  // a lane that is not in its own mask
      __syncwarp(0x0000FFFFu);
      break;
    case 7:  // a vector off its alignment
      value = static_cast<int>(__ldg(reinterpret_cast<const uint4*>(a.out + 1)).x);
      break;
    case 8:  // shared memory that nobody wrote
      a.out[thread] = stage[thread];
      return;
  }
  a.out[thread] = static_cast<float>(value);
}

}  // namespace

extern "C" int stgraph_test_misuse(float* out, int kind, int64_t blocks, int threads, int64_t shared) {
  return stgraph::device::launch(misuse, blocks, dim3(static_cast<unsigned>(threads)), shared, nullptr,
                                 Arguments{out, kind});
}
extern "C" int stgraph_test_grid(unsigned x, unsigned y, unsigned z) {
  return emulator::run(dim3(x, y, z), dim3(1), 0, [](const void*) {}, nullptr);
}
