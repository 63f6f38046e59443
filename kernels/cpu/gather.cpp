// The CPU implementation of stgraph::gather_rows: copies of rows, whatever their numbers are.
#include <algorithm>

#include "tensors.h"

namespace stgraph {
namespace {

struct Copy {
  const char* x;
  char* out;
  const void* index;
  bool wide_index;
  int64_t x_node, out_node, bytes;  // in bytes
};

template <int64_t kBytes>
void copy_rows(const Copy& copy, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    int64_t from = copy.wide_index ? static_cast<const int64_t*>(copy.index)[row]
                                   : static_cast<const int32_t*>(copy.index)[row];
    std::memcpy(copy.out + row * copy.out_node, copy.x + from * copy.x_node, kBytes ? kBytes : copy.bytes);
  }
}

// Last arguments: where each row went, which only the backward pass reads.
Tensor gather_rows(Tensor x, Tensor index, std::optional<Tensor>, std::optional<Tensor>) {
  check_features(x, "x");
  check_rows(index, index, std::nullopt, 0);
  int64_t rows = index.size(0), batch = x.size(0), time = x.size(1), size = static_cast<int64_t>(x.element_size());
  Tensor out = like(x, rows, node_major(x));
  if (out.numel() == 0) return out;
  Strides from = strides_of(x), to = strides_of(out);
  Copy whole{static_cast<const char*>(x.const_data_ptr()), static_cast<char*>(out.mutable_data_ptr()),
             index.const_data_ptr(), index.scalar_type() == ScalarType::Long, from.node * size, to.node * size,
             x.size(3) * size};
  auto rows_of_slab = whole.bytes == 2   ? copy_rows<2>
                      : whole.bytes == 4 ? copy_rows<4>
                      : whole.bytes == 8 ? copy_rows<8>
                                         : copy_rows<0>;
  int64_t grain = std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(whole.bytes, 16));
  for (int64_t slab = 0; slab < batch * time; ++slab) {
    Copy copy = whole;
    int64_t b = slab / time, t = slab % time;
    copy.x += (b * from.batch + t * from.time) * size, copy.out += (b * to.batch + t * to.time) * size;
    if (rows <= grain) rows_of_slab(copy, 0, rows);
    else
      torch::stable::parallel_for(0, rows, grain,
                                  [&](int64_t begin, int64_t end) { rows_of_slab(copy, begin, end); });
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgraph, CPU, m) { m.impl("gather_rows", TORCH_BOX(&gather_rows)); }

}  // namespace stgraph
