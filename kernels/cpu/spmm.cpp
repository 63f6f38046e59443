// The CPU implementation of stgraph::spmm and stgraph::segment_reduce: choice of loops, threads, and number types.
#include "spmm.h"

#include <memory>

#include "tensors.h"

namespace stgraph {
namespace {

constexpr int64_t kNear = 512 * 1024;        // bytes of features that stay near a core while rows gather from them
constexpr int64_t kFar = 8 << 20;             // bytes of features that do not stay in any cache of a core
constexpr int64_t kSmall = 32768;            // multiplications that are not worth a second thread
constexpr int64_t kWidest = 512;             // channels of a wide row that are summed over all rows before the next ones
constexpr int64_t kNarrow = 16;              // fewer channels than these do not fill a vector
constexpr int64_t kPacked = 64;              // channels of several narrow slabs side by side
constexpr int64_t kPackedBytes = 1 << 20;    // most bytes of them

// Everything a thread needs to know of one product, whatever its numbers are.
struct Product {
  const void *rowptr, *col, *edge;  // null: entry e has column e, or edge e
  bool wide_index;
  int64_t rows;
  const void* x;
  Strides x_stride;
  const void* weight;
  WeightStrides weight_stride;
  const void* addend;  // null: none
  Strides addend_stride;
  void* out;
  Strides out_stride;
  int64_t* argument;  // null unless the maximum is asked for
  int64_t batch, time, nodes, width, heads, size;
  Reduce reduce;

  int64_t pointer(int64_t row) const {
    return wide_index ? static_cast<const int64_t*>(rowptr)[row] : static_cast<const int32_t*>(rowptr)[row];
  }
};

// A piece of the work: rows and channels of a slab.
struct Piece {
  int64_t slab, first, last, from, to;
};

template <typename type>
STGRAPH_INLINE const type* place(const void* base, int64_t offset) {
  return base ? static_cast<const type*>(base) + offset : nullptr;
}

template <typename index_t>
STGRAPH_INLINE index_t indices(const Product& p, const void* base) {
  if constexpr (std::is_same_v<index_t, Indices32>) return {place<int32_t>(base, 0)};
  else if (!base) return {};
  else if (p.wide_index) return {nullptr, place<int64_t>(base, 0)};
  else return {place<int32_t>(base, 0), nullptr};
}

template <typename scalar_t, typename index_t>
STGRAPH_INLINE void work(const Product& p, const Piece& piece) {
  int64_t b = piece.slab / p.time, t = piece.slab % p.time;
  int64_t head_width = p.width / p.heads, start = b * p.out_stride.batch + t * p.out_stride.time;
  Slab<scalar_t, index_t> s;
  s.rowptr = indices<index_t>(p, p.rowptr), s.col = indices<index_t>(p, p.col), s.edge = indices<index_t>(p, p.edge);
  s.x = place<scalar_t>(p.x, b * p.x_stride.batch + t * p.x_stride.time), s.x_node = p.x_stride.node;
  s.addend = place<scalar_t>(p.addend, b * p.addend_stride.batch + t * p.addend_stride.time);
  s.addend_node = p.addend_stride.node;
  s.out = static_cast<scalar_t*>(p.out) + start, s.out_node = p.out_stride.node;
  s.weight_edge = p.weight_stride.edge;
  s.entries = p.nodes * p.x_stride.node * p.size > kFar ? p.pointer(p.rows) : 0;
  int64_t of_slab = b * p.weight_stride.batch + t * p.weight_stride.time;
  for (int64_t head = piece.from / head_width; head * head_width < piece.to; ++head) {
    int64_t from = std::max(piece.from, head * head_width), to = std::min(piece.to, (head + 1) * head_width);
    s.weight = place<scalar_t>(p.weight, of_slab + head * p.weight_stride.head);
    if (p.reduce == kMax) max_rows(s, piece.first, piece.last, p.argument + start, from, to);
    else sum_rows(s, piece.first, piece.last, p.reduce == kMean, from, to);
  }
}

// Slabs `first` to `last` of few channels each, side by side in `memory`, so that rows fill vectors.
template <typename scalar_t, typename index_t>
STGRAPH_INLINE void work_packed(const Product& p, int64_t first, int64_t last, void* memory) {
  constexpr int64_t kRows = 16;
  scalar_t* scratch = static_cast<scalar_t*>(memory);
  int64_t slabs = last - first, channels = slabs * p.width, padded = (channels + 15) / 16 * 16;
  for (int64_t node = 0; node < p.nodes; node += kRows) {
    int64_t stop = std::min(p.nodes, node + kRows);
    for (int64_t slab = 0; slab < slabs; ++slab) {
      int64_t b = (first + slab) / p.time, t = (first + slab) % p.time;
      const scalar_t* x = place<scalar_t>(p.x, b * p.x_stride.batch + t * p.x_stride.time);
      for (int64_t n = node; n < stop; ++n)
        for (int64_t c = 0; c < p.width; ++c)
          scratch[n * padded + slab * p.width + c] = x[n * p.x_stride.node + c];
    }
    for (int64_t n = node; n < stop; ++n)
      for (int64_t c = channels; c < padded; ++c) scratch[n * padded + c] = 0;
  }
  scalar_t sums[kRows * kPacked];
  Slab<scalar_t, index_t> s{indices<index_t>(p, p.rowptr), indices<index_t>(p, p.col), indices<index_t>(p, p.edge),
                            scratch, padded, place<scalar_t>(p.weight, 0), p.weight_stride.edge, nullptr, 0, nullptr,
                            padded, 0};
  for (int64_t row = 0; row < p.rows; row += kRows) {
    int64_t stop = std::min(p.rows, row + kRows);
    s.out = sums - row * padded;
    full_rows(s, row, stop, p.reduce == kMean, padded);
    for (int64_t slab = 0; slab < slabs; ++slab) {
      int64_t b = (first + slab) / p.time, t = (first + slab) % p.time;
      scalar_t* out = static_cast<scalar_t*>(p.out) + b * p.out_stride.batch + t * p.out_stride.time;
      for (int64_t r = row; r < stop; ++r)
        for (int64_t c = 0; c < p.width; ++c)
          out[r * p.out_stride.node + c] = sums[(r - row) * padded + slab * p.width + c];
    }
  }
}

// The two loops for each type of numbers and indices.
struct Loops {
  void (*work)(const Product&, const Piece&);
  void (*packed)(const Product&, int64_t, int64_t, void*);  // null: none
};
#define STGRAPH_WORK(suffix, scalar_t, index_t) \
  STGRAPH_CLONES void work_##suffix(const Product& p, const Piece& piece) { work<scalar_t, index_t>(p, piece); }
#define STGRAPH_PACKED(suffix, scalar_t, index_t)                                                         \
  STGRAPH_CLONES void packed_##suffix(const Product& p, int64_t first, int64_t last, void* memory) {      \
    work_packed<scalar_t, index_t>(p, first, last, memory);                                               \
  }
STGRAPH_WORK(f32_i32, float, Indices32)
STGRAPH_WORK(f32, float, Indices)
STGRAPH_WORK(f64, double, Indices)
STGRAPH_WORK(f16, Half, Indices)
STGRAPH_WORK(b16, BFloat16, Indices)
STGRAPH_PACKED(f32, float, Indices)
STGRAPH_PACKED(f64, double, Indices)
#undef STGRAPH_WORK
#undef STGRAPH_PACKED

Loops loops_of(ScalarType type, bool narrow_index) {
  switch (type) {
    case ScalarType::Float: return {narrow_index ? work_f32_i32 : work_f32, packed_f32};
    case ScalarType::Double: return {work_f64, packed_f64};
    case ScalarType::Half: return {work_f16, nullptr};
    case ScalarType::BFloat16: return {work_b16, nullptr};
    default: STD_TORCH_CHECK(false, "x: expected float32, float64, float16 or bfloat16");
  }
}

// Several narrow slabs at once, where that pays: enough entries a node, and one weight for all of them.
bool packs(const Product& p) {
  return p.width < kNarrow && p.batch * p.time >= 4 && p.heads == 1 && p.reduce != kMax && !p.addend &&
         p.weight_stride.batch == 0 && p.weight_stride.time == 0 && p.pointer(p.rows) >= 4 * p.nodes &&
         p.nodes * kPacked * p.size <= kPackedBytes;
}

void run_packed(const Product& p, const Loops& loops, int64_t threads) {
  int64_t slabs = p.batch * p.time;
  int64_t each = std::clamp<int64_t>((slabs + threads - 1) / threads, (15 + p.width) / p.width, kPacked / p.width);
  int64_t groups = (slabs + each - 1) / each;
  auto part = [&](int64_t begin, int64_t end) {
    std::unique_ptr<char[]> scratch(new char[p.nodes * kPacked * p.size]);
    for (int64_t group = begin; group < end; ++group)
      loops.packed(p, group * each, std::min(slabs, (group + 1) * each), scratch.get());
  };
  if (threads == 1) part(0, groups);
  else torch::stable::parallel_for(0, groups, 1, part);
}

// First row of range number `part` of `parts` with about equal rows and entries, so that threads end together.
int64_t boundary(const Product& p, int64_t part, int64_t parts) {
  if (part == 0 || part == parts) return part == 0 ? 0 : p.rows;
  int64_t whole = p.rows + p.pointer(p.rows), wanted = whole / parts * part + whole % parts * part / parts;
  int64_t low = 0, high = p.rows;
  while (low < high) {
    int64_t middle = (low + high) / 2;
    if (middle + p.pointer(middle) < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

void run(const Product& p, const Loops& loops) {
  int64_t slabs = p.batch * p.time;
  int64_t threads = (p.pointer(p.rows) + p.rows) * p.width * slabs < kSmall ? 1 : torch::stable::get_num_threads();
  if (loops.packed && packs(p)) return run_packed(p, loops, threads);
  int64_t bytes = std::max<int64_t>(p.nodes * p.size, 1);
  int64_t tile = bytes * 64 > kNear ? kWidest : std::min(kNear / bytes / 64 * 64, kWidest);
  int64_t tiles = (p.width + tile - 1) / tile, pieces = slabs * tiles;
  int64_t parts = threads == 1 ? 1 : std::clamp<int64_t>((4 * threads + pieces - 1) / pieces, 1, 4 * threads);
  auto part = [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      int64_t piece = item / parts, range = item % parts, from = piece % tiles * tile;
      loops.work(p, {piece / tiles, boundary(p, range, parts), boundary(p, range + 1, parts), from,
                     std::min(p.width, from + tile)});
    }
  };
  if (threads == 1) part(0, pieces * parts);
  else torch::stable::parallel_for(0, pieces * parts, 1, part);
}

// Where all channels of a node lie in one piece and share a weight, they are one wide row.
bool one_piece(const Product& p) {
  auto flat = [&](const Strides& s) {
    return (p.time == 1 || s.time == p.width) && (p.batch == 1 || s.batch == p.time * p.width);
  };
  return p.weight_stride.batch == 0 && p.weight_stride.time == 0 && p.heads == 1 && p.batch * p.time > 1 &&
         flat(p.x_stride) && flat(p.out_stride) && (!p.addend || flat(p.addend_stride));
}

// The number one in every type, for products without weights.
const void* one_of(ScalarType type) {
  static const float f32 = 1;
  static const double f64 = 1;
  static const uint16_t f16 = 0x3C00, b16 = 0x3F80;
  switch (type) {
    case ScalarType::Float: return &f32;
    case ScalarType::Double: return &f64;
    case ScalarType::Half: return &f16;
    default: return &b16;
  }
}

Product product_of(const Tensor& x, const Tensor& out, const Tensor& argument, int64_t reduce) {
  Product p{};
  p.x = x.const_data_ptr(), p.x_stride = strides_of(x);
  p.weight = one_of(x.scalar_type());
  p.out = out.mutable_data_ptr(), p.out_stride = strides_of(out);
  p.argument = reduce == kMax ? static_cast<int64_t*>(argument.mutable_data_ptr()) : nullptr;
  p.batch = x.size(0), p.time = x.size(1), p.nodes = x.size(2), p.width = x.size(3), p.rows = out.size(2);
  p.heads = 1;
  p.size = static_cast<int64_t>(x.element_size());
  p.reduce = static_cast<Reduce>(reduce);
  return p;
}

void finish(Product& p, ScalarType type) {
  if (one_piece(p)) p.width *= p.batch * p.time, p.batch = 1, p.time = 1;
  run(p, loops_of(type, p.col && !p.wide_index));
}

// Uninitialised results: the reduced features, and for the maximum where they came from.
std::tuple<Tensor, Tensor> results(const Tensor& x, int64_t rows, int64_t reduce) {
  bool by_node = node_major(x);
  return {like(x, rows, by_node), reduce == kMax ? like(x, rows, by_node, ScalarType::Long)
                                                 : torch::stable::new_empty(x, {0}, ScalarType::Long)};
}

// Last arguments: the transposed graph, which only the backward pass reads.
std::tuple<Tensor, Tensor> spmm(Tensor rowptr, Tensor col, std::optional<Tensor> edge, std::optional<Tensor> weight,
                                Tensor x, std::optional<Tensor> addend, int64_t reduce, std::optional<Tensor>,
                                std::optional<Tensor>, std::optional<Tensor>) {
  check_features(x, "x");
  check_rows(rowptr, col, edge);
  if (addend.has_value()) check_features(*addend, "addend");
  if (weight.has_value()) check_weight(*weight, x);
  auto [out, argument] = results(x, rowptr.size(0) - 1, reduce);
  if (out.numel() == 0) return {out, argument};
  Product p = product_of(x, out, argument, reduce);
  p.rowptr = rowptr.const_data_ptr(), p.col = col.const_data_ptr();
  p.edge = edge.has_value() ? edge->const_data_ptr() : nullptr;
  p.wide_index = col.scalar_type() == ScalarType::Long;
  if (weight.has_value()) p.weight = weight->const_data_ptr(), p.weight_stride = weight_strides(*weight);
  if (weight.has_value()) p.heads = weight->size(3);
  if (addend.has_value()) p.addend = addend->const_data_ptr(), p.addend_stride = strides_of(*addend);
  finish(p, x.scalar_type());
  return {out, argument};
}

std::tuple<Tensor, Tensor> segment_reduce(Tensor ptr, Tensor src, int64_t reduce) {
  check_features(src, "src");
  check_rows(ptr, ptr, std::nullopt);
  auto [out, argument] = results(src, ptr.size(0) - 1, reduce);
  if (out.numel() == 0) return {out, argument};
  Product p = product_of(src, out, argument, reduce);
  p.rowptr = ptr.const_data_ptr();
  p.wide_index = ptr.scalar_type() == ScalarType::Long;
  finish(p, src.scalar_type());
  return {out, argument};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgraph, CPU, m) {
  m.impl("spmm", TORCH_BOX(&spmm));
  m.impl("segment_reduce", TORCH_BOX(&segment_reduce));
}

}  // namespace stgraph
