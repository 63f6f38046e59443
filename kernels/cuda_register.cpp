// The CUDA implementations of the operators: from tensors to the C functions of cuda/api.h.
//
// With STGRAPH_EMULATOR the emulated kernels take the place of the CPU's, so that the tests of the operators run on the
// device code without a GPU.
#ifndef STGRAPH_EMULATOR
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#endif

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/tensors.h"
#include "cuda/api.h"

namespace stgraph {
namespace {

using Maybe = std::optional<Tensor>;

#ifdef STGRAPH_EMULATOR
extern "C" const char* stgraph_emulator_error();
struct OnDevice {
  explicit OnDevice(const Tensor&) {}
  void* stream = nullptr;
};
void check(int code) { STD_TORCH_CHECK(code == 0, "a kernel failed with code ", code, ": ", stgraph_emulator_error()); }
#else
// Makes the tensor's device the current one, and holds its current stream. The getter of streams is part of
// libtorch_cuda, which a CPU build of torch does not have, so it is looked up in the running process.
struct OnDevice {
  torch::stable::accelerator::DeviceGuard guard;
  void* stream = nullptr;
  explicit OnDevice(const Tensor& tensor) : guard(tensor.get_device_index()) {
    using Getter = int32_t (*)(int32_t, void**);
    static const Getter getter = [] {
      void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
      return library ? reinterpret_cast<Getter>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
    }();
    STD_TORCH_CHECK(getter && getter(tensor.get_device_index(), &stream) == 0, "torch does not say its CUDA stream");
  }
};
void check(int code) { STD_TORCH_CHECK(code == 0, "a kernel failed with code ", code); }
#endif

int64_t type_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return kStgraphFloat32;
    case ScalarType::Double: return kStgraphFloat64;
    case ScalarType::Half: return kStgraphFloat16;
    case ScalarType::BFloat16: return kStgraphBFloat16;
    default: STD_TORCH_CHECK(false, "x: expected float32, float64, float16 or bfloat16"); return -1;
  }
}

// [B, T, N, F], or [B, T, N, H, D] and [B, T, N, H]; an axis of size 1 has no stride that could be off.
StgraphTensor tensor_of(const Tensor& tensor) {
  auto step = [&](int64_t axis) { return tensor.size(axis) == 1 ? 0 : tensor.stride(axis); };
  return {const_cast<void*>(tensor.const_data_ptr()), step(0), step(1), step(2), step(3)};
}

StgraphGraph graph_of(const Tensor& rowptr, const Tensor* col, const Maybe& edge, int64_t entries) {
  return {rowptr.const_data_ptr(), col ? col->const_data_ptr() : nullptr,
          edge.has_value() ? edge->const_data_ptr() : nullptr, rowptr.scalar_type() == ScalarType::Long,
          rowptr.size(0) - 1, entries};
}

// ---------------------------------------------------------------- spmm and segments
// The same limits as in stgraph/ops/regime.py, which decides between these kernels and others.
constexpr int64_t kStagedBytes = 200000;
constexpr int64_t kStagedChannels = 64;
constexpr int64_t kBlocks = 264;  // enough to give every multiprocessor of a large GPU two

// Runs the product: from shared memory where a halo is given or all sources fit, else row by row. `sources` 0: row by
// row.
void run(StgraphSpmm& call, const Tensor& x, int64_t sources, const StgraphHalo* halo = nullptr) {
  OnDevice device(x);
  int64_t size = static_cast<int64_t>(x.element_size());
  int64_t channels = std::min(stgraph_cuda_spmm_channels(&call), kStagedChannels);
  StgraphHalo all{};
  if (!halo && sources > 0 && call.reduce != kStgraphMax && sources * channels * size <= kStagedBytes) {
    int64_t planes = std::max<int64_t>(1, call.batch * call.time * call.width / channels);
    int64_t parts = std::clamp<int64_t>(kBlocks / planes, 1, (call.graph.rows + 31) / 32);
    all.row_block = (call.graph.rows + parts - 1) / parts, all.staged = sources;
    halo = &all;
  }
  if (halo) {
    int code = stgraph_cuda_spmm_staged(&call, halo, device.stream);
    if (code != kStgraphSharedMemory) return check(code);
  }
  int64_t bytes = stgraph_cuda_spmm_workspace(&call);
  Tensor workspace = torch::stable::new_empty(x, {bytes}, ScalarType::Byte);
  call.workspace = bytes ? workspace.mutable_data_ptr() : nullptr;
  check(stgraph_cuda_spmm(&call, device.stream));
}

StgraphSpmm call_of(const Tensor& x, const Tensor& out, const Tensor& argument, int64_t reduce) {
  StgraphSpmm call;
  std::memset(&call, 0, sizeof(call));
  call.x = tensor_of(x), call.out = tensor_of(out);
  call.argument = reduce == kStgraphMax ? static_cast<int64_t*>(argument.mutable_data_ptr()) : nullptr;
  call.type = type_of(x.scalar_type()), call.reduce = reduce;
  call.batch = x.size(0), call.time = x.size(1), call.width = x.size(3), call.heads = 1;
  return call;
}

std::tuple<Tensor, Tensor> results(const Tensor& x, int64_t rows, int64_t reduce) {
  bool by_node = node_major(x);
  return {like(x, rows, by_node), reduce == kStgraphMax ? like(x, rows, by_node, ScalarType::Long)
                                                        : torch::stable::new_empty(x, {0}, ScalarType::Long)};
}

std::tuple<Tensor, Tensor> product(const Tensor& rowptr, const Tensor& col, const Maybe& edge, const Maybe& weight,
                                   const Tensor& x, const Maybe& addend, int64_t reduce, const StgraphHalo* halo) {
  check_features(x, "x");
  check_rows(rowptr, col, edge);
  if (addend.has_value()) check_features(*addend, "addend");
  if (weight.has_value()) check_weight(*weight, x);
  auto [out, argument] = results(x, rowptr.size(0) - 1, reduce);
  if (out.numel() == 0) return {out, argument};
  StgraphSpmm call = call_of(x, out, argument, reduce);
  call.graph = graph_of(rowptr, &col, edge, col.size(0));
  if (addend.has_value()) call.addend = tensor_of(*addend);
  if (weight.has_value()) {
    WeightStrides step = weight_strides(*weight);
    call.weight = {weight->const_data_ptr(), step.edge, step.batch, step.time, step.head};
    call.heads = weight->size(3);
  }
  run(call, x, x.size(2), halo);
  return {out, argument};
}

// Last arguments: the transposed graph, which only the backward pass reads.
std::tuple<Tensor, Tensor> spmm(Tensor rowptr, Tensor col, Maybe edge, Maybe weight, Tensor x, Maybe addend,
                                int64_t reduce, Maybe, Maybe, Maybe) {
  return product(rowptr, col, edge, weight, x, addend, reduce, nullptr);
}

// Last arguments: the transposed graph and its plan, which only the backward pass reads.
Tensor spmm_halo(Tensor rowptr, Tensor col, Maybe edge, Maybe weight, Tensor x, Maybe addend, int64_t reduce,
                 Tensor pointer, Tensor halo, Tensor local, int64_t row_block, int64_t widest, Maybe, Maybe, Maybe,
                 Maybe, Maybe, Maybe, int64_t) {
  STD_TORCH_CHECK(reduce != kStgraphMax, "reduce: a maximum is taken row by row");
  check_rows(pointer, local, halo);
  check_rows(rowptr, col, pointer);
  STD_TORCH_CHECK(row_block > 0 && widest >= 0 && local.size(0) == col.size(0) &&
                      pointer.size(0) - 1 == (rowptr.size(0) - 1 + row_block - 1) / row_block,
                  "pointer, halo and local: expected the plan of this graph");
  StgraphHalo plan{pointer.const_data_ptr(), halo.const_data_ptr(), local.const_data_ptr(), row_block, widest};
  return std::get<0>(product(rowptr, col, edge, weight, x, addend, reduce, &plan));
}

std::tuple<Tensor, Tensor> segment_reduce(Tensor ptr, Tensor src, int64_t reduce) {
  check_features(src, "src");
  check_rows(ptr, ptr, std::nullopt);
  auto [out, argument] = results(src, ptr.size(0) - 1, reduce);
  if (out.numel() == 0) return {out, argument};
  StgraphSpmm call = call_of(src, out, argument, reduce);
  call.graph = graph_of(ptr, nullptr, std::nullopt, src.size(2));
  run(call, src, 0);
  return {out, argument};
}

// ---------------------------------------------------------------- sddmm and rows
Tensor sddmm(Tensor rowptr, Tensor col, Maybe edge, Tensor a, Tensor b, bool by_batch, bool by_time, int64_t heads,
             Maybe, Maybe, Maybe) {
  check_features(a, "a");
  check_features(b, "b");
  check_rows(rowptr, col, edge);
  STD_TORCH_CHECK(heads > 0 && a.size(3) % heads == 0, "heads: expected a divisor of the channels");
  Tensor out = torch::stable::new_empty(a, {col.size(0), by_batch ? a.size(0) : 1, by_time ? a.size(1) : 1, heads});
  if (out.numel() == 0) return out;
  OnDevice device(a);
  StgraphSddmm call{graph_of(rowptr, &col, edge, col.size(0)), tensor_of(a), tensor_of(b), out.mutable_data_ptr(),
                    type_of(a.scalar_type()), a.size(0), a.size(1), a.size(3), heads, by_batch, by_time};
  check(stgraph_cuda_sddmm(&call, device.stream));
  return out;
}

// Last arguments: where each row went, which only the backward pass reads.
Tensor gather_rows(Tensor x, Tensor index, Maybe, Maybe) {
  check_features(x, "x");
  Tensor out = like(x, index.size(0), node_major(x));
  if (out.numel() == 0) return out;
  OnDevice device(x);
  StgraphGather call{index.const_data_ptr(), index.scalar_type() == ScalarType::Long, index.size(0), tensor_of(x),
                     tensor_of(out), static_cast<int64_t>(x.element_size()), x.size(0), x.size(1), x.size(3)};
  check(stgraph_cuda_gather_rows(&call, device.stream));
  return out;
}

// ---------------------------------------------------------------- attention
ScalarType summed(ScalarType type) { return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

// An uninitialised [B, T, rows, heads, width] in the layout of x; without the last axis where width is -1.
Tensor made(const Tensor& x, int64_t rows, int64_t heads, int64_t width, ScalarType type) {
  bool by_node = node_major(x);
  std::vector<int64_t> sizes = by_node ? std::vector<int64_t>{rows, x.size(0), x.size(1), heads}
                                       : std::vector<int64_t>{x.size(0), x.size(1), rows, heads};
  if (width >= 0) sizes.push_back(width);
  Tensor out = torch::stable::new_empty(x, sizes, type);
  return by_node ? torch::stable::transpose(torch::stable::transpose(out, 0, 1), 1, 2) : out;
}

// `query` and `key` are rows where `dot`, else scores.
StgraphAttention call_of(bool dot, const Tensor& rowptr, const Tensor& col, const Maybe& edge, const Tensor& query,
                         const Tensor& key, const Tensor& v, const Maybe& bias, double factor, double dropout,
                         int64_t seed) {
  check_rows(rowptr, col, edge);
  auto fits = [&](const Tensor& x, int64_t axes) {
    return x.dim() == axes && x.scalar_type() == v.scalar_type() && x.size(0) == v.size(0) && x.size(1) == v.size(1) &&
           x.size(3) == v.size(3) && (axes == 4 || (x.size(4) == v.size(4) && (x.stride(4) == 1 || x.size(4) <= 1)));
  };
  STD_TORCH_CHECK(v.dim() == 5 && fits(v, 5), "v: expected [B, T, N_source, H, D], D contiguous");
  STD_TORCH_CHECK(fits(query, dot ? 5 : 4) && query.size(2) == rowptr.size(0) - 1,
                  "q or score_destination: expected the type, heads and leading axes of v, one row per destination");
  STD_TORCH_CHECK(fits(key, dot ? 5 : 4) && key.size(2) == v.size(2),
                  "k or score_source: expected the type, heads and leading axes of v, one row per source");
  STD_TORCH_CHECK(!bias.has_value() || (bias->dim() == 2 && bias->scalar_type() == v.scalar_type() &&
                                        bias->size(1) == v.size(3)),
                  "bias or score_edge: expected [E, H] in the type of v");
  StgraphAttention call;
  std::memset(&call, 0, sizeof(call));
  call.graph = graph_of(rowptr, &col, edge, col.size(0));
  call.q = tensor_of(query), call.k = tensor_of(key), call.v = tensor_of(v);
  if (bias.has_value())
    call.bias = bias->const_data_ptr(), call.bias_edge = bias->stride(0), call.bias_head = bias->stride(1);
  call.type = type_of(v.scalar_type()), call.dot = dot;
  call.batch = v.size(0), call.time = v.size(1), call.heads = v.size(3), call.width = v.size(4);
  call.factor = factor, call.dropout = dropout, call.seed = seed;
  return call;
}

std::tuple<Tensor, Tensor> forward(bool dot, const Tensor& rowptr, const Tensor& col, const Maybe& edge,
                                   const Tensor& query, const Tensor& key, const Tensor& v, const Maybe& bias,
                                   double factor, double dropout, int64_t seed) {
  StgraphAttention call = call_of(dot, rowptr, col, edge, query, key, v, bias, factor, dropout, seed);
  Tensor out = made(v, call.graph.rows, call.heads, call.width, v.scalar_type());
  Tensor lse = made(v, call.graph.rows, call.heads, -1, summed(v.scalar_type()));
  if (lse.numel() == 0) return {out, lse};
  OnDevice device(v);
  call.out = tensor_of(out), call.lse = tensor_of(lse);
  check(stgraph_cuda_attention(&call, device.stream));
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(bool dot, const Tensor& rowptr, const Tensor& col,
                                                    const Maybe& edge, const Tensor& query, const Tensor& key,
                                                    const Tensor& v, const Maybe& bias, const Tensor& grad,
                                                    const Tensor& out, const Tensor& lse, double factor,
                                                    double dropout, int64_t seed, bool by_edge, const Tensor& rowptr_t,
                                                    const Tensor& col_t, const Maybe& edge_t) {
  StgraphAttention call = call_of(dot, rowptr, col, edge, query, key, v, bias, factor, dropout, seed);
  check_rows(rowptr_t, col_t, edge_t);
  STD_TORCH_CHECK(grad.dim() == 5 && (grad.stride(4) == 1 || grad.size(4) <= 1) && out.dim() == 5 &&
                      (out.stride(4) == 1 || out.size(4) <= 1),
                  "grad and out: expected [B, T, N, H, D], D contiguous");
  STD_TORCH_CHECK(grad.size(2) == call.graph.rows && out.size(2) == call.graph.rows &&
                      rowptr_t.size(0) - 1 == v.size(2) && col_t.size(0) == col.size(0),
                  "nodes of the gradient or of the transposed graph do not fit");
  ScalarType type = v.scalar_type(), wide = summed(type);
  Tensor grad_query = made(query, call.graph.rows, call.heads, dot ? call.width : -1, type);
  Tensor grad_key = made(key, v.size(2), call.heads, dot ? call.width : -1, type);
  Tensor grad_value = made(v, v.size(2), call.heads, call.width, type);
  Tensor grad_bias = torch::stable::new_empty(v, {by_edge ? col.size(0) : 0, call.heads}, wide);
  Tensor delta = made(v, call.graph.rows, call.heads, -1, wide);
  OnDevice device(v);
  call.transpose = graph_of(rowptr_t, &col_t, edge_t, col_t.size(0));
  call.grad = tensor_of(grad), call.out = tensor_of(out), call.lse = tensor_of(lse), call.delta = tensor_of(delta);
  call.grad_q = tensor_of(grad_query), call.grad_k = tensor_of(grad_key), call.grad_v = tensor_of(grad_value);
  check(stgraph_cuda_attention_rows(&call, device.stream));
  check(stgraph_cuda_attention_columns(&call, device.stream));
  if (grad_bias.numel() > 0) {
    call.grad_bias = grad_bias.mutable_data_ptr();
    check(stgraph_cuda_attention_edges(&call, device.stream));
  }
  return {grad_query, grad_key, grad_value, grad_bias};
}

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

// ---------------------------------------------------------------- gates
// Runs one kind; `given` are what it reads and then, still empty, what it writes, in the layout of h.
template <int kIn, int kOut>
void gates(int64_t kind, Tensor (&given)[kIn + kOut], const Tensor& h) {
  for (int k = 0; k < kIn; ++k) {
    if (h.numel() > 0) check_features(given[k], "gates and h");
    bool same = given[k].dim() == 4 && h.dim() == 4 && given[k].scalar_type() == h.scalar_type();
    for (int axis = 0; axis < 4; ++axis) same = same && given[k].size(axis) == h.size(axis);
    STD_TORCH_CHECK(same, "gates and h: expected one shape and one type");
  }
  bool by_node = node_major(h);
  for (int k = kIn; k < kIn + kOut; ++k) given[k] = like(h, h.size(2), by_node);
  if (h.numel() == 0) return;
  StgraphGru call;
  std::memset(&call, 0, sizeof(call));
  StgraphTensor* inputs[] = {&call.first, &call.second, &call.third, &call.fourth, &call.fifth};
  StgraphTensor* outputs[] = {&call.out_first, &call.out_second, &call.out_third};
  for (int k = 0; k < kIn + kOut; ++k) *(k < kIn ? inputs[k] : outputs[k - kIn]) = tensor_of(given[k]);
  call.kind = kind, call.type = type_of(h.scalar_type());
  call.batch = h.size(0), call.time = h.size(1), call.nodes = h.size(2), call.width = h.size(3);
  OnDevice device(h);
  check(stgraph_cuda_gru(&call, device.stream));
}

std::tuple<Tensor, Tensor> gru_gate(Tensor z_pre, Tensor r_pre, Tensor h) {
  Tensor given[] = {z_pre, r_pre, h, h, h};
  gates<3, 2>(kStgraphGate, given, h);
  return {given[3], given[4]};
}

std::tuple<Tensor, Tensor, Tensor> gru_gate_backward(Tensor grad_z, Tensor grad_reset, Tensor z, Tensor r_pre,
                                                     Tensor h) {
  Tensor given[] = {grad_z, grad_reset, z, r_pre, h, h, h, h};
  gates<5, 3>(kStgraphGateBackward, given, h);
  return {given[5], given[6], given[7]};
}

Tensor gru_blend(Tensor z, Tensor h, Tensor candidate_pre) {
  Tensor given[] = {z, h, candidate_pre, h};
  gates<3, 1>(kStgraphBlend, given, h);
  return given[3];
}

std::tuple<Tensor, Tensor, Tensor> gru_blend_backward(Tensor grad, Tensor z, Tensor h, Tensor candidate_pre) {
  Tensor given[] = {grad, z, h, candidate_pre, h, h, h};
  gates<4, 3>(kStgraphBlendBackward, given, h);
  return {given[4], given[5], given[6]};
}

}  // namespace

#ifdef STGRAPH_EMULATOR
STABLE_TORCH_LIBRARY_IMPL(stgraph, CPU, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(stgraph, CUDA, m) {
#endif
  m.impl("spmm", TORCH_BOX(&spmm));
  m.impl("spmm_halo", TORCH_BOX(&spmm_halo));
  m.impl("segment_reduce", TORCH_BOX(&segment_reduce));
  m.impl("sddmm", TORCH_BOX(&sddmm));
  m.impl("gather_rows", TORCH_BOX(&gather_rows));
  m.impl("gat_aggregate", TORCH_BOX(&gat_aggregate));
  m.impl("gat_aggregate_backward", TORCH_BOX(&gat_aggregate_backward));
  m.impl("graph_attention", TORCH_BOX(&graph_attention));
  m.impl("graph_attention_backward", TORCH_BOX(&graph_attention_backward));
  m.impl("gru_gate", TORCH_BOX(&gru_gate));
  m.impl("gru_gate_backward", TORCH_BOX(&gru_gate_backward));
  m.impl("gru_blend", TORCH_BOX(&gru_blend));
  m.impl("gru_blend_backward", TORCH_BOX(&gru_blend_backward));
}

}  // namespace stgraph
