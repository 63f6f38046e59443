// The CPU implementation of the gates of a recurrent unit, each in one pass over memory: stgraph::gru_gate,
// stgraph::gru_blend and their gradients.
#include "gru.h"

#include "tensors.h"

#define STGRAPH_BODY "gru_rows.h"
#include "levels.h"

namespace stgraph {
namespace {

constexpr int64_t kGrain = 1 << 14;  // numbers that are worth a thread

using Loop = void (*)(const GruPass&, int64_t, int64_t);

Loop of_type(const Tensor& h, Loop f32, Loop f64, Loop f16, Loop b16) {
  switch (h.scalar_type()) {
    case ScalarType::Float: return f32;
    case ScalarType::Double: return f64;
    case ScalarType::Half: return f16;
    case ScalarType::BFloat16: return b16;
    default: STD_TORCH_CHECK(false, "h: expected float32, float64, float16 or bfloat16");
  }
}
#define STGRAPH_GRU_LOOP(name, h)                                                                          \
  of_type(h, STGRAPH_AT_LEVEL(name##_f32), STGRAPH_AT_LEVEL(name##_f64), STGRAPH_AT_LEVEL(name##_f16),     \
          STGRAPH_AT_LEVEL(name##_b16))

// The axes of the tensors, those that lie together in all of them as one; the order of memory of the results.
GruPass pass_of(const Tensor* tensors, int count, bool by_node) {
  const Tensor& shape = tensors[0];
  GruPass pass{};
  pass.width = shape.size(3);
  int kept = 3;  // axes from the last on; 3: none
  std::fill_n(pass.size, 3, 1);
  const int slow_to_fast[2][3] = {{0, 1, 2}, {2, 0, 1}};
  for (int k = 0; k < count; ++k) pass.data[k] = static_cast<char*>(const_cast<void*>(tensors[k].const_data_ptr()));
  for (int i = 2; i >= 0; --i) {
    int axis = slow_to_fast[by_node][i];
    if (shape.size(axis) == 1) continue;
    bool together = kept == 3 && std::all_of(tensors, tensors + count, [&](const Tensor& tensor) {
      return tensor.stride(axis) == pass.width;
    });
    if (together) {
      pass.width *= shape.size(axis);
      continue;
    }
    pass.size[--kept] = shape.size(axis);
    for (int k = 0; k < count; ++k)
      pass.step[k][kept] = tensors[k].stride(axis) * static_cast<int64_t>(tensors[k].element_size());
  }
  pass.pieces = (pass.width + kGruPiece - 1) / kGruPiece;
  return pass;
}

// Runs a pass; the results are in the layout of the tensor `layout`, which is h.
template <int kIn, int kOut>
void run(Loop loop, Tensor (&tensors)[kIn + kOut], int layout) {
  const Tensor& h = tensors[layout];
  for (int k = 0; k < kIn; ++k) {
    if (h.numel() > 0) check_features(tensors[k], "gates and h");
    bool same = tensors[k].dim() == 4 && h.dim() == 4 && tensors[k].scalar_type() == h.scalar_type();
    for (int axis = 0; axis < 4; ++axis) same = same && tensors[k].size(axis) == h.size(axis);
    STD_TORCH_CHECK(same, "gates and h: expected one shape and one type");
  }
  bool by_node = node_major(h);
  for (int k = kIn; k < kIn + kOut; ++k) tensors[k] = like(h, h.size(2), by_node);
  if (h.numel() == 0) return;
  GruPass pass = pass_of(tensors, kIn + kOut, by_node);
  int64_t units = pass.size[0] * pass.size[1] * pass.size[2] * pass.pieces;
  int64_t grain = std::max<int64_t>(1, kGrain / std::min(pass.width, kGruPiece));
  if (units <= grain) loop(pass, 0, units);
  else torch::stable::parallel_for(0, units, grain, [&](int64_t begin, int64_t end) { loop(pass, begin, end); });
}

std::tuple<Tensor, Tensor> gru_gate(Tensor z_pre, Tensor r_pre, Tensor h) {
  Tensor tensors[] = {z_pre, r_pre, h, h, h};
  run<3, 2>(STGRAPH_GRU_LOOP(gate, h), tensors, 2);
  return {tensors[3], tensors[4]};
}

std::tuple<Tensor, Tensor, Tensor> gru_gate_backward(Tensor grad_z, Tensor grad_reset, Tensor z, Tensor r_pre,
                                                     Tensor h) {
  Tensor tensors[] = {grad_z, grad_reset, z, r_pre, h, h, h, h};
  run<5, 3>(STGRAPH_GRU_LOOP(gate_back, h), tensors, 4);
  return {tensors[5], tensors[6], tensors[7]};
}

Tensor gru_blend(Tensor z, Tensor h, Tensor candidate_pre) {
  Tensor tensors[] = {z, h, candidate_pre, h};
  run<3, 1>(STGRAPH_GRU_LOOP(blend, h), tensors, 1);
  return tensors[3];
}

std::tuple<Tensor, Tensor, Tensor> gru_blend_backward(Tensor grad, Tensor z, Tensor h, Tensor candidate_pre) {
  Tensor tensors[] = {grad, z, h, candidate_pre, h, h, h};
  run<4, 3>(STGRAPH_GRU_LOOP(blend_back, h), tensors, 2);
  return {tensors[4], tensors[5], tensors[6]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgraph, CPU, m) {
  m.impl("gru_gate", TORCH_BOX(&gru_gate));
  m.impl("gru_gate_backward", TORCH_BOX(&gru_gate_backward));
  m.impl("gru_blend", TORCH_BOX(&gru_blend));
  m.impl("gru_blend_backward", TORCH_BOX(&gru_blend_backward));
}

}  // namespace stgraph
