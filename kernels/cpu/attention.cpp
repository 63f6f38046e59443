// The CPU implementations of stgraph::gat_aggregate, stgraph::graph_attention and their gradients: from tensors to
// pointers, choice of loops, threads, and number types.
#include "attention.h"

#include <vector>

#include "tensors.h"

#define STGRAPH_BODY "attention_rows.h"
#include "levels.h"

namespace stgraph {
namespace {

Channels<float> channels_of(const float*) { return STGRAPH_AT_LEVEL(channels_f32); }
Channels<double> channels_of(const double*) { return STGRAPH_AT_LEVEL(channels_f64); }
Channels<float> channels_of(const Half*) { return STGRAPH_AT_LEVEL(channels_f16); }
Channels<float> channels_of(const BFloat16*) { return STGRAPH_AT_LEVEL(channels_b16); }

template <Pass kPass, typename acc_t>
void work(const Attention<acc_t>& p, const Span& span, acc_t* space) {
  if constexpr (std::is_same_v<acc_t, float>) STGRAPH_AT_LEVEL(passes_f32).pass[kPass](p, span, space);
  else STGRAPH_AT_LEVEL(passes_f64).pass[kPass](p, span, space);
}

// First row of part `part` of `parts` with about equal rows and entries each.
int64_t first_row(const Entries& graph, int64_t part, int64_t parts) {
  int64_t total = graph.rows + graph.start(graph.rows);
  int64_t wanted = total / parts * part + total % parts * part / parts;
  int64_t low = 0, high = graph.rows;
  while (low < high) {
    int64_t middle = (low + high) / 2;
    if (middle + graph.start(middle) < wanted) low = middle + 1;
    else high = middle;
  }
  return part == parts ? graph.rows : low;
}

// Nodes that are the slowest axis are gone through once, with all their slabs; else slab by slab, and head by head
// where a head fills a cache line, so that what is gathered stays in the cache.
template <Pass kPass, typename acc_t>
void run(const Attention<acc_t>& p, int64_t number_size) {
  int64_t slabs = p.batch * p.time;
  int64_t slabs_each = p.by_slab ? 1 : slabs;
  int64_t heads_each = !p.by_slab || p.width * number_size < 64 ? p.heads : 1;
  int64_t groups = p.heads / heads_each, pieces = slabs / slabs_each * groups;
  // the gradient of an edge sums over the slabs: they are left to the thread that has the edge
  int64_t sequence = p.grad_bias ? pieces : 1, alone = pieces / sequence;
  int64_t threads = torch::stable::get_num_threads();
  int64_t parts = std::clamp<int64_t>((4 * threads + alone - 1) / alone, 1, std::max<int64_t>(1, p.graph.rows / 16));
  if (threads == 1) parts = 1;
  int64_t operations = (p.graph.start(p.graph.rows) + p.graph.rows) * slabs * p.heads * (p.width + 8);
  int64_t grain = operations < 65536 ? alone * parts : 1;
  torch::stable::parallel_for(0, alone * parts, grain, [&](int64_t begin, int64_t end) {
    std::vector<acc_t> space(4 * p.width + 1);
    for (int64_t item = begin; item < end; ++item) {
      int64_t part = item % parts;
      int64_t from = first_row(p.graph, part, parts), to = first_row(p.graph, part + 1, parts);
      for (int64_t piece = item / parts * sequence; piece < (item / parts + 1) * sequence; ++piece) {
        int64_t slab = piece / groups * slabs_each, head = piece % groups * heads_each;
        work<kPass>(p, {from, to, slab, slab + slabs_each, head, head + heads_each}, space.data());
      }
    }
  });
}

template <typename scalar_t>
Cells cells(const Tensor& tensor) {
  constexpr int64_t size = sizeof(scalar_t);
  return {static_cast<char*>(const_cast<void*>(tensor.const_data_ptr())), tensor.stride(0) * size,
          tensor.stride(1) * size, tensor.stride(2) * size, tensor.stride(3) * size};
}

Entries entries_of(const Tensor& rowptr, const Tensor& col, const std::optional<Tensor>& edge) {
  Entries out;
  by_index(col.scalar_type(), [&](auto* index) {
    using index_t = std::remove_pointer_t<decltype(index)>;
    Rows<index_t> rows = rows_of<index_t>(rowptr, col, edge);
    out = {rows.rowptr, rows.col, rows.edge, std::is_same_v<index_t, int64_t>, rows.rows, col.size(0)};
  });
  return out;
}

// An uninitialised [B, T, rows, ...] in the layout of `like`.
Tensor made(const Tensor& like, int64_t rows, int64_t heads, int64_t width, ScalarType type) {
  bool by_node = node_major(like);
  int64_t b = like.size(0), t = like.size(1);
  std::vector<int64_t> sizes{b, t, rows, heads};
  if (by_node) sizes = {rows, b, t, heads};
  if (width >= 0) sizes.push_back(width);
  Tensor out = torch::stable::new_empty(like, sizes, type);
  return by_node ? torch::stable::transpose(torch::stable::transpose(out, 0, 1), 1, 2) : out;
}

ScalarType summed(ScalarType type) { return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

void expect_cells(const Tensor& tensor, const Tensor& v, int64_t axes, const char* problem) {
  STD_TORCH_CHECK(tensor.dim() == axes && tensor.scalar_type() == v.scalar_type() && tensor.size(0) == v.size(0) &&
                      tensor.size(1) == v.size(1) && tensor.size(3) == v.size(3) &&
                      (axes == 4 || (tensor.size(4) == v.size(4) && (tensor.stride(4) == 1 || v.size(4) <= 1))),
                  problem);
}

template <typename scalar_t, typename acc_t = typename Accumulate<scalar_t>::type>
Attention<acc_t> attention(bool product, const Tensor& query, const Tensor& key, const Tensor& v,
                           const std::optional<Tensor>& bias, double factor, double dropout, int64_t seed) {
  Attention<acc_t> p;
  p.channels = channels_of(static_cast<const scalar_t*>(nullptr)), p.product = product;
  p.query = cells<scalar_t>(query), p.key = cells<scalar_t>(key), p.value = cells<scalar_t>(v);
  p.bias = reinterpret_cast<const char*>(data<scalar_t>(bias));
  if (bias.has_value()) {
    p.bias_edge = bias->stride(0) * static_cast<int64_t>(sizeof(scalar_t));
    p.bias_head = bias->stride(1) * static_cast<int64_t>(sizeof(scalar_t));
  }
  p.factor = static_cast<acc_t>(factor);
  p.dropout_key = mix(static_cast<uint64_t>(seed));
  p.dropped = static_cast<uint64_t>(dropout * 16777216.0);
  p.kept_scale = static_cast<acc_t>(1.0 / (1.0 - dropout));
  p.batch = v.size(0), p.time = v.size(1), p.heads = v.size(3), p.width = v.size(4);
  return p;
}

void check(const Tensor& query, const Tensor& key, const Tensor& v, const std::optional<Tensor>& bias, int64_t rows,
           bool product) {
  expect_cells(v, v, 5, "v: expected [B, T, N_source, H, D], D contiguous");
  expect_cells(query, v, product ? 5 : 4, "q or score_destination: expected the type, heads and leading axes of v");
  expect_cells(key, v, product ? 5 : 4, "k or score_source: expected the type, heads and leading axes of v");
  STD_TORCH_CHECK(query.size(2) == rows && key.size(2) == v.size(2), "nodes of the scores do not fit the graph");
  STD_TORCH_CHECK(!bias.has_value() || (bias->dim() == 2 && bias->scalar_type() == v.scalar_type() &&
                                        bias->size(1) == v.size(3)),
                  "bias or score_edge: expected [E, H] in the type of v");
}

std::tuple<Tensor, Tensor> forward(bool product, const Tensor& rowptr, const Tensor& col,
                                   const std::optional<Tensor>& edge,
                                   const Tensor& query, const Tensor& key, const Tensor& v,
                                   const std::optional<Tensor>& bias, double factor, double dropout, int64_t seed) {
  int64_t rows = rowptr.size(0) - 1, heads = v.size(3), width = v.size(4);
  check(query, key, v, bias, rows, product);
  Tensor out = made(v, rows, heads, width, v.scalar_type());
  Tensor lse = made(v, rows, heads, -1, summed(v.scalar_type()));
  if (lse.numel() == 0) return {out, lse};
  by_scalar(v.scalar_type(), [&](auto* number) {
    using scalar_t = std::remove_pointer_t<decltype(number)>;
    using acc_t = typename Accumulate<scalar_t>::type;
    auto p = attention<scalar_t>(product, query, key, v, bias, factor, dropout, seed);
    p.graph = entries_of(rowptr, col, edge), p.by_slab = !node_major(v);
    p.out = cells<scalar_t>(out), p.lse = cells<acc_t>(lse);
    run<kForward>(p, sizeof(scalar_t));
  });
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    bool product, const Tensor& rowptr, const Tensor& col, const std::optional<Tensor>& edge, const Tensor& query,
    const Tensor& key,
    const Tensor& v, const std::optional<Tensor>& bias, const Tensor& grad, const Tensor& out, const Tensor& lse,
    double factor, double dropout, int64_t seed, bool by_edge, const Tensor& rowptr_t, const Tensor& col_t,
    const std::optional<Tensor>& edge_t) {
  int64_t rows = rowptr.size(0) - 1, columns = v.size(2), heads = v.size(3), width = v.size(4);
  check(query, key, v, bias, rows, product);
  expect_cells(grad, v, 5, "grad: expected the result's type and shape, D contiguous");
  expect_cells(out, v, 5, "out: expected the result's type and shape, D contiguous");
  STD_TORCH_CHECK(grad.size(2) == rows && out.size(2) == rows && rowptr_t.size(0) - 1 == columns,
                  "nodes of the gradient or of the transposed graph do not fit");
  ScalarType type = v.scalar_type(), wide = summed(type);
  Tensor grad_query = made(query, rows, heads, product ? width : -1, type);
  Tensor grad_key = made(key, columns, heads, product ? width : -1, type);
  Tensor grad_value = made(v, columns, heads, width, type);
  Tensor grad_bias = torch::stable::new_empty(v, {by_edge ? col.size(0) : 0, heads}, wide);
  Tensor delta = made(v, rows, heads, -1, wide);
  by_scalar(type, [&](auto* number) {
    using scalar_t = std::remove_pointer_t<decltype(number)>;
    using acc_t = typename Accumulate<scalar_t>::type;
    auto p = attention<scalar_t>(product, query, key, v, bias, factor, dropout, seed);
    if (by_edge) {
      p.grad_bias = static_cast<acc_t*>(grad_bias.mutable_data_ptr());
      std::fill_n(p.grad_bias, grad_bias.numel(), acc_t(0));
    }
    p.grad = cells<scalar_t>(grad), p.out = cells<scalar_t>(out), p.lse = cells<acc_t>(lse);
    p.delta = cells<acc_t>(delta), p.by_slab = !node_major(v);
    p.grad_query = cells<scalar_t>(grad_query), p.grad_key = cells<scalar_t>(grad_key);
    p.grad_value = cells<scalar_t>(grad_value);
    if (lse.numel() > 0) {
      p.graph = entries_of(rowptr, col, edge);
      run<kBackwardRows>(p, sizeof(scalar_t));
    }
    p.grad_bias = nullptr;
    if (v.size(0) * v.size(1) * columns * heads > 0) {
      p.graph = entries_of(rowptr_t, col_t, edge_t);
      run<kBackwardColumns>(p, sizeof(scalar_t));
    }
  });
  return {grad_query, grad_key, grad_value, grad_bias};
}

using Maybe = std::optional<Tensor>;

// Last arguments: the transposed graph, which only the backward pass reads.
std::tuple<Tensor, Tensor> gat_aggregate(Tensor rowptr, Tensor col, Maybe edge, Tensor score_destination,
                                         Tensor score_source, Tensor v, Maybe score_edge, double slope, double dropout,
                                         int64_t seed, Maybe, Maybe, Maybe) {
  return forward(false, rowptr, col, edge, score_destination, score_source, v, score_edge, slope, dropout, seed);
}

std::tuple<Tensor, Tensor> graph_attention(Tensor rowptr, Tensor col, Maybe edge, Tensor q, Tensor k, Tensor v,
                                           Maybe bias, double scale, double dropout, int64_t seed, Maybe, Maybe,
                                           Maybe) {
  return forward(true, rowptr, col, edge, q, k, v, bias, scale, dropout, seed);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gat_aggregate_backward(
    Tensor rowptr, Tensor col, Maybe edge, Tensor score_destination, Tensor score_source, Tensor v, Maybe score_edge,
    Tensor grad, Tensor out, Tensor lse, double slope, double dropout, int64_t seed, bool by_edge, Tensor rowptr_t,
    Tensor col_t, Maybe edge_t) {
  return backward(false, rowptr, col, edge, score_destination, score_source, v, score_edge, grad, out, lse, slope,
                         dropout, seed, by_edge, rowptr_t, col_t, edge_t);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> graph_attention_backward(
    Tensor rowptr, Tensor col, Maybe edge, Tensor q, Tensor k, Tensor v, Maybe bias, Tensor grad, Tensor out,
    Tensor lse, double scale, double dropout, int64_t seed, bool by_edge, Tensor rowptr_t, Tensor col_t,
    Maybe edge_t) {
  return backward(true, rowptr, col, edge, q, k, v, bias, grad, out, lse, scale, dropout, seed, by_edge, rowptr_t,
                        col_t, edge_t);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgraph, CPU, m) {
  m.impl("gat_aggregate", TORCH_BOX(&gat_aggregate));
  m.impl("gat_aggregate_backward", TORCH_BOX(&gat_aggregate_backward));
  m.impl("graph_attention", TORCH_BOX(&graph_attention));
  m.impl("graph_attention_backward", TORCH_BOX(&graph_attention_backward));
}

}  // namespace stgraph
