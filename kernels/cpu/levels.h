// Compiles the file STGRAPH_BODY once for each level of x86-64, in a namespace of its own with vectors as wide as the
// registers there are; one library then serves all processors. Wider vectors than registers would live in memory.
// Where the compiler was told the level (-march), only for that one, which takes it a third of the time.
//
// Not once: each file that has a body includes this.
#include "common.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__AVX2__)
#define STGRAPH_LEVELS 3

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,lzcnt,movbe,popcnt")
#define STGRAPH_VECTOR_BYTES 64
namespace stgraph {
namespace {
namespace avx512 {
#include STGRAPH_BODY
}
}  // namespace
}  // namespace stgraph
#undef STGRAPH_VECTOR_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,lzcnt,movbe,popcnt")
#define STGRAPH_VECTOR_BYTES 32
namespace stgraph {
namespace {
namespace avx2 {
#include STGRAPH_BODY
}
}  // namespace
}  // namespace stgraph
#undef STGRAPH_VECTOR_BYTES
#pragma GCC pop_options

#else
#define STGRAPH_LEVELS 1
#endif

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define STGRAPH_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define STGRAPH_VECTOR_BYTES 32
#else
#define STGRAPH_VECTOR_BYTES 16
#endif
namespace stgraph {
namespace {
namespace baseline {
#include STGRAPH_BODY
}
}  // namespace
}  // namespace stgraph
#undef STGRAPH_VECTOR_BYTES
#undef STGRAPH_BODY

// The version of `name` for this processor.
#if STGRAPH_LEVELS == 3
#define STGRAPH_AT_LEVEL(name)                                     \
  (level() == Level::kAvx512 ? avx512::name : level() == Level::kAvx2 ? avx2::name : baseline::name)
#else
#define STGRAPH_AT_LEVEL(name) baseline::name
#endif
