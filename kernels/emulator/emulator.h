// Runs device code on the CPU: the words of CUDA for a C++ compiler, every thread of a block a fiber.
//
// Threads of a block run one at a time, in an order drawn anew at each turn, from one meeting point to the next:
// `__syncthreads`, `__syncwarp` and the shuffles are such points. A block's shared memory is of exactly the size asked
// for and full of NaN. Misuse that a GPU would answer with a hang or with wrong numbers ends the launch with an error:
// barriers that not all threads reach, masks that name lanes which have left, shuffles that read a lane outside the
// mask, vector accesses off their alignment, launches beyond the limits of the hardware. Accesses out of bounds are
// found by AddressSanitizer. Not shown here: memory order between blocks, bank conflicts, occupancy, speed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace emulator {

constexpr int kWarp = 32;

// What the running thread sees of itself, and of its block.
struct Thread {
  dim3 index;
  int number;
};
extern Thread* running;
extern dim3 grid, block, block_index;
extern char* shared;

uint64_t shared_limit();
// Runs `kernel` for all threads of all blocks; 0, or an error code.
int run(dim3 grid, dim3 block, uint64_t shared_bytes, void (*kernel)(const void*), const void* arguments);
void meet_block(int line);
uint64_t meet_warp(unsigned mask, uint64_t given, int source, int line);
[[noreturn]] void off_alignment(int bytes, int line);

template <typename type>
uint64_t bits(type value) {
  static_assert(sizeof(type) <= 8);
  uint64_t out = 0;
  std::memcpy(&out, &value, sizeof(type));
  return out;
}
template <typename type>
type value(uint64_t from) {
  type out;
  std::memcpy(&out, &from, sizeof(type));
  return out;
}

template <typename type>
void check_alignment(const type* at, int line) {
  if (reinterpret_cast<uintptr_t>(at) % sizeof(type))
    off_alignment(sizeof(type), line);
}

}  // namespace emulator

#define threadIdx (::emulator::running->index)
#define blockIdx (::emulator::block_index)
#define blockDim (::emulator::block)
#define gridDim (::emulator::grid)

// The caller's line stands for the place in the program.
inline void __syncthreads(int line = __builtin_LINE()) { emulator::meet_block(line); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, int line = __builtin_LINE()) {
  emulator::meet_warp(mask, 0, emulator::running->number % emulator::kWarp, line);
}
template <typename type>
type __shfl_sync(unsigned mask, type value, int source, int width = 32, int line = __builtin_LINE()) {
  int lane = emulator::running->number % emulator::kWarp;
  source = lane / width * width + source % width;
  return emulator::value<type>(emulator::meet_warp(mask, emulator::bits(value), source, line));
}
template <typename type>
type __shfl_xor_sync(unsigned mask, type value, int lanes, int width = 32, int line = __builtin_LINE()) {
  int lane = emulator::running->number % emulator::kWarp, source = lane ^ lanes;
  if (source / width != lane / width) source = lane;
  return emulator::value<type>(emulator::meet_warp(mask, emulator::bits(value), source, line));
}
template <typename type>
type __ldg(const type* at, int line = __builtin_LINE()) {
  emulator::check_alignment(at, line);
  return *at;
}
template <typename type>
void __stcs(type* at, type value, int line = __builtin_LINE()) {
  emulator::check_alignment(at, line);
  *at = value;
}
