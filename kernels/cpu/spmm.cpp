// The CPU implementation of stgraph::spmm and stgraph::segment_reduce: choice of loops, threads, and number types.
#include "spmm.h"

#include <memory>

#include "tensors.h"

#define STGRAPH_BODY "spmm_rows.h"
#include "levels.h"

namespace stgraph {
namespace {

constexpr int64_t kNear = 512 * 1024;        // bytes of features that stay near a core while rows gather from them
constexpr int64_t kFar = 8 << 20;             // bytes of features that do not stay in any cache of a core
constexpr int64_t kLarge = 4 << 20;          // bytes of results that will not be read again from a core's own caches
constexpr int64_t kSmall = 8192;              // entries and rows, by vectors of channels, not worth a second thread
constexpr int64_t kWidest = 512;             // channels of a wide row that are summed over all rows before the next ones
constexpr int64_t kNarrow = 16;              // fewer channels than these do not fill a vector
constexpr int64_t kPackedBytes = 1 << 20;    // most bytes of narrow slabs side by side

ProductLoops loops_of(ScalarType type, bool narrow_index) {
  switch (type) {
    case ScalarType::Float: return narrow_index ? STGRAPH_AT_LEVEL(f32_i32) : STGRAPH_AT_LEVEL(f32);
    case ScalarType::Double: return STGRAPH_AT_LEVEL(f64);
    case ScalarType::Half: return STGRAPH_AT_LEVEL(f16);
    case ScalarType::BFloat16: return STGRAPH_AT_LEVEL(b16);
    default: STD_TORCH_CHECK(false, "x: expected float32, float64, float16 or bfloat16");
  }
}

// Several narrow slabs at once, where that pays: enough entries a node, and one weight for all of them.
bool packs(const Product& p) {
  return p.width < kNarrow && p.batch * p.time >= 4 && p.heads == 1 && p.reduce != kMax && !p.addend &&
         p.weight_stride.batch == 0 && p.weight_stride.time == 0 && p.pointer(p.rows) >= 4 * p.nodes &&
         p.nodes * kPacked * p.size <= kPackedBytes;
}

void run_packed(const Product& p, const ProductLoops& loops, int64_t threads) {
  int64_t slabs = p.batch * p.time;
  // two groups at least, however many threads there are: how sums are taken depends on the channels of a group
  int64_t each = std::clamp<int64_t>((slabs + 1) / 2, (15 + p.width) / p.width, kPacked / p.width);
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

void run(const Product& p, const ProductLoops& loops) {
  int64_t slabs = p.batch * p.time;
  int64_t vectors = std::max<int64_t>(1, p.width * slabs / kNarrow);
  int64_t threads = (p.pointer(p.rows) + p.rows) * vectors < kSmall ? 1 : torch::stable::get_num_threads();
  if (loops.packed && packs(p)) return run_packed(p, loops, threads);
  int64_t bytes = std::max<int64_t>(p.nodes * p.size, 1);
  int64_t tile = bytes * 64 > kNear ? kWidest : std::min(kNear / bytes / 64 * 64, kWidest);
  int64_t tiles = (p.width + tile - 1) / tile, pieces = slabs * tiles;
  int64_t parts = threads == 1 ? 1 : std::clamp<int64_t>((4 * threads + pieces - 1) / pieces, 1, 4 * threads);
  auto part = [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      int64_t piece = item / parts, range = item % parts, from = piece % tiles * tile;
      loops.piece(p, {piece / tiles, boundary(p, range, parts), boundary(p, range + 1, parts), from,
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

Product product_of(const Tensor& x, const Tensor& out, const Tensor& argument, int64_t reduce) {
  Product p{};
  p.x = x.const_data_ptr(), p.x_stride = strides_of(x);
  p.out = out.mutable_data_ptr(), p.out_stride = strides_of(out);
  p.argument = reduce == kMax ? static_cast<int64_t*>(argument.mutable_data_ptr()) : nullptr;
  p.batch = x.size(0), p.time = x.size(1), p.nodes = x.size(2), p.width = x.size(3), p.rows = out.size(2);
  p.heads = 1;
  p.size = static_cast<int64_t>(x.element_size());
  p.reduce = static_cast<Reduce>(reduce);
  return p;
}

void finish(Product& p, ScalarType type) {
  p.far = p.nodes * p.x_stride.node * p.size > kFar;
  p.large = p.rows * p.width * p.batch * p.time * p.size > kLarge;
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

// Sums and means of features of two to four axes, without gradient: what a call outside of a traced program runs. What
// does not fit is refused in few words; the caller says it in more.
Tensor weighted_sum(Tensor rowptr, Tensor col, std::optional<Tensor> edge, std::optional<Tensor> weight, Tensor x,
                    bool mean, std::optional<Tensor> order) {
  check_rows(rowptr, col, edge);
  int64_t axes = x.dim(), rows = rowptr.size(0) - 1;
  STD_TORCH_CHECK(axes >= 2 && axes <= 4 && (x.stride(axes - 1) == 1 || x.size(axes - 1) <= 1),
                  "x: expected [.., N, F] with F contiguous");
  Product p{};
  p.batch = axes > 2 ? x.size(0) : 1, p.time = axes > 3 ? x.size(1) : 1;
  p.nodes = x.size(axes - 2), p.width = x.size(axes - 1), p.rows = rows, p.heads = 1;
  p.x = x.const_data_ptr(), p.x_stride.node = x.stride(axes - 2);
  if (axes > 2) p.x_stride.batch = x.stride(0);
  if (axes > 3) p.x_stride.time = x.stride(1);
  bool by_node = p.nodes > 1 && (p.batch > 1 || p.time > 1) && (p.batch == 1 || p.x_stride.node > p.x_stride.batch) &&
                 (p.time == 1 || p.x_stride.node > p.x_stride.time);
  p.out_stride = by_node ? Strides{p.time * p.width, p.width, p.batch * p.time * p.width}
                         : Strides{p.time * rows * p.width, rows * p.width, p.width};
  const int64_t sizes[4] = {p.batch, p.time, rows, p.width};
  const int64_t steps[4] = {p.out_stride.batch, p.out_stride.time, p.out_stride.node, 1};
  Tensor out = axes == 3 ? empty(x, {p.batch, rows, p.width}, {steps[0], steps[2], 1})
                         : empty(x, {sizes + 4 - axes, size_t(axes)}, {steps + 4 - axes, size_t(axes)});
  if (rows == 0 || p.batch * p.time * p.width == 0) return out;
  p.out = out.mutable_data_ptr();
  if (weight.has_value()) {
    STD_TORCH_CHECK(weight->dim() == 1 && weight->size(0) == col.size(0) && weight->scalar_type() == x.scalar_type(),
                    "weight: expected [E] of the type of the features");
    p.weight = weight->const_data_ptr(), p.weight_stride.edge = weight->stride(0);
  }
  p.rowptr = rowptr.const_data_ptr(), p.col = col.const_data_ptr();
  p.edge = edge.has_value() ? edge->const_data_ptr() : nullptr;
  p.order = order.has_value() ? order->const_data_ptr() : nullptr;
  p.wide_index = col.scalar_type() == ScalarType::Long;
  p.size = static_cast<int64_t>(x.element_size()), p.reduce = mean ? kMean : kSum;
  finish(p, x.scalar_type());
  return out;
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
  m.impl("weighted_sum", TORCH_BOX(&weighted_sum));
  m.impl("segment_reduce", TORCH_BOX(&segment_reduce));
}

}  // namespace stgraph
