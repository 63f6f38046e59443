// The engine of the emulator: fibers, meeting points, and the checks.
#include "emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

Thread* running = nullptr;
dim3 grid, block, block_index;
char* shared = nullptr;

namespace {

constexpr size_t kStack = 128 * 1024;
constexpr int kLaunchFailed = 719;  // what a GPU reports for a kernel that broke off

enum class State { kReady, kBlock, kWarp, kDone };

struct Fiber : Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state = State::kDone;
  // at a meeting point: where in the source, with whom, what is given, whose is taken
  int line = 0;
  unsigned mask = 0;
  int source = 0;
  uint64_t given = 0, taken = 0;
  void* fake_stack = nullptr;
};

class Machine {
 public:
  uint64_t seed = 0;
  size_t shared_limit = 227 * 1024;
  std::string error;
  int64_t meetings = 0, blocks = 0, last_shared = 0;

  static Machine& get() {
    static Machine machine;
    return machine;
  }

  // Runs a grid; 0, or an error code with the reason in `error`.
  int run(dim3 grid_, dim3 block_, size_t shared_bytes, void (*kernel)(const void*), const void* given) {
    try {
      check_launch(grid_, block_, shared_bytes);
      grid = grid_, block = block_, body = kernel, arguments = given;
      last_shared = static_cast<int64_t>(shared_bytes);
      prepare(static_cast<int>(block.x * block.y * block.z));
      std::vector<uint64_t> order(static_cast<size_t>(grid.x) * grid.y * grid.z);
      std::iota(order.begin(), order.end(), 0);
      random = seed * 0x9E3779B97F4A7C15ull + 1;
      shuffle(order);
      for (uint64_t at : order) {
        block_index = dim3(at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y);
        run_block(shared_bytes);
      }
      return 0;
    } catch (const std::exception& problem) {
      error = problem.what();
      fibers.clear();  // the others hang in the middle of their work
      return kLaunchFailed;
    }
  }

  void meet_block(int line) {
    ++meetings;
    current->state = State::kBlock, current->line = line;
    if (++waiting == static_cast<int>(threads)) {
      waiting = 0;
      for (size_t i = 0; i < threads; ++i) {
        if (fibers[i]->line != line)
          fail("threads meet at different barriers, lines " + std::to_string(fibers[i]->line) + " and " +
               std::to_string(line));
        fibers[i]->state = State::kReady;
      }
    }
    pause();
  }

  uint64_t meet_warp(unsigned mask, uint64_t given, int source, int line) {
    ++meetings;
    int lane = current->number % kWarp, first = current->number - lane;
    if (!(mask >> lane & 1)) fail("a lane is not in its own mask, line " + std::to_string(line));
    current->state = State::kWarp, current->line = line, current->mask = mask;
    current->given = given, current->source = source;
    bool all = true;
    for (int other = 0; other < kWarp; ++other) {
      if (!(mask >> other & 1)) continue;
      if (first + other >= static_cast<int>(threads)) fail("a mask names lanes that do not exist, line " +
                                                           std::to_string(line));
      const Fiber& fiber = *fibers[first + other];
      if (fiber.state == State::kDone) fail("a mask names a lane that has left, line " + std::to_string(line));
      if (fiber.state == State::kWarp && (fiber.mask != mask || fiber.line != line))
        fail("lanes of one mask meet at different places, lines " + std::to_string(fiber.line) + " and " +
             std::to_string(line));
      all = all && fiber.state == State::kWarp;
    }
    if (all) {
      for (int other = 0; other < kWarp; ++other) {
        if (!(mask >> other & 1)) continue;
        Fiber& fiber = *fibers[first + other];
        if (fiber.source < 0 || fiber.source >= kWarp || !(mask >> fiber.source & 1))
          fail("a shuffle reads a lane outside of its mask, line " + std::to_string(line));
        fiber.taken = fibers[first + fiber.source]->given;
        fiber.state = State::kReady;
      }
    }
    pause();
    return current->taken;
  }

  [[noreturn]] void fail(const std::string& problem) { throw std::runtime_error(problem); }

 private:
  ucontext_t main;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<int> turns;
  void (*body)(const void*) = nullptr;
  const void* arguments = nullptr;
  Fiber* current = nullptr;
  size_t threads = 0;
  int waiting = 0;
  uint64_t random = 1;
  std::string broken;
  void* main_fake = nullptr;
  const void* main_bottom = nullptr;
  size_t main_size = 0;

  void check_launch(dim3 g, dim3 b, size_t shared_bytes) {
    if (!g.x || !g.y || !g.z || !b.x || !b.y || !b.z) fail("an empty grid or block");
    if (static_cast<uint64_t>(b.x) * b.y * b.z > 1024 || b.x > 1024 || b.y > 1024 || b.z > 64)
      fail("a block of more than 1024 threads");
    if (g.x > 0x7FFFFFFFu || g.y > 65535 || g.z > 65535) fail("a grid beyond 2^31 - 1 by 65535 by 65535 blocks");
    if (shared_bytes > shared_limit)
      fail("a block asks for " + std::to_string(shared_bytes) + " bytes of shared memory, there are " +
           std::to_string(shared_limit));
  }

  uint64_t draw() {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    return random;
  }
  template <typename type>
  void shuffle(std::vector<type>& of) {
    if (seed == 0) return;  // in order
    for (size_t i = of.size(); i > 1; --i) std::swap(of[i - 1], of[draw() % i]);
  }

  void prepare(int count) {
    while (static_cast<int>(fibers.size()) < count) {
      auto fiber = std::make_unique<Fiber>();
      fiber->number = static_cast<int>(fibers.size());
      fiber->stack.reset(new char[kStack]);
      getcontext(&fiber->context);
      fiber->context.uc_stack.ss_sp = fiber->stack.get();
      fiber->context.uc_stack.ss_size = kStack;
      fiber->context.uc_link = nullptr;
      makecontext(&fiber->context, &Machine::live, 0);
      fibers.push_back(std::move(fiber));
    }
    threads = count;
    turns.resize(threads);
    std::iota(turns.begin(), turns.end(), 0);
  }

  // A fiber runs its thread of one block after the other.
  static void live() {
    Machine& machine = get();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &machine.main_bottom, &machine.main_size);
#endif
    for (;;) {
      try {
        machine.body(machine.arguments);
      } catch (const std::exception& problem) {
        machine.broken = problem.what();
      }
      machine.current->state = State::kDone;
      machine.pause();
    }
  }

  void pause() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&current->fake_stack, main_bottom, main_size);
#endif
    Fiber* self = current;
    swapcontext(&self->context, &main);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self->fake_stack, nullptr, nullptr);
#endif
  }

  void resume(Fiber& fiber) {
    current = &fiber, running = &fiber;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&main_fake, fiber.stack.get(), kStack);
#endif
    swapcontext(&main, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(main_fake, nullptr, nullptr);
#endif
    if (!broken.empty()) fail(std::exchange(broken, std::string()));
  }

  void run_block(size_t shared_bytes) {
    ++blocks;
    std::unique_ptr<char, void (*)(void*)> memory(static_cast<char*>(std::malloc(std::max<size_t>(shared_bytes, 1))),
                                                  std::free);
    shared = memory.get();
    std::memset(shared, 0xFF, shared_bytes);  // NaN in every floating type
    waiting = 0;
    for (size_t i = 0; i < threads; ++i) {
      fibers[i]->index = dim3(i % block.x, i / block.x % block.y, i / block.x / block.y);
      fibers[i]->state = State::kReady;
    }
    for (bool any = true; any;) {
      any = false;
      shuffle(turns);
      for (int turn : turns) {
        if (fibers[turn]->state != State::kReady) continue;
        resume(*fibers[turn]);
        any = true;
      }
    }
    for (size_t i = 0; i < threads; ++i)
      if (fibers[i]->state != State::kDone)
        fail("threads wait at line " + std::to_string(fibers[i]->line) + " for others that left or wait elsewhere");
  }
};

}  // namespace

uint64_t shared_limit() { return Machine::get().shared_limit; }
int run(dim3 grid, dim3 block, uint64_t shared_bytes, void (*kernel)(const void*), const void* arguments) {
  return Machine::get().run(grid, block, shared_bytes, kernel, arguments);
}
void meet_block(int line) { Machine::get().meet_block(line); }
uint64_t meet_warp(unsigned mask, uint64_t given, int source, int line) {
  return Machine::get().meet_warp(mask, given, source, line);
}
void off_alignment(int bytes, int line) {
  Machine::get().fail("an access off its alignment of " + std::to_string(bytes) + " bytes, line " +
                      std::to_string(line));
}

}  // namespace emulator

extern "C" {

// The order of blocks and threads, 0: as numbered; the shared memory that a block may ask for, in bytes.
void stgraph_emulator_configure(uint64_t seed, uint64_t shared_limit) {
  auto& machine = emulator::Machine::get();
  machine.seed = seed, machine.shared_limit = shared_limit;
  machine.error.clear(), machine.meetings = machine.blocks = 0;
}

const char* stgraph_emulator_error() { return emulator::Machine::get().error.c_str(); }
int64_t stgraph_emulator_meetings() { return emulator::Machine::get().meetings; }
int64_t stgraph_emulator_blocks() { return emulator::Machine::get().blocks; }
// Bytes of shared memory that a block of the last launch had.
int64_t stgraph_emulator_shared() { return emulator::Machine::get().last_shared; }

}  // extern "C"
