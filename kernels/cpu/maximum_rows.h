// The loops of maximum.cpp. A body of levels.h.
STGRAPH_INLINE int64_t offset(const Strides& s, int64_t b, int64_t t, int64_t node) {
  return b * s.batch + t * s.time + node * s.node;
}

// Rows of sources collect weight * grad from the places that chose one of their edges.
template <typename scalar_t>
STGRAPH_INLINE void features(const Chosen& p, int64_t first, int64_t last) {
  using acc_t = typename Accumulate<scalar_t>::type;
  constexpr int64_t kTile = 64;
  const scalar_t *grad = static_cast<const scalar_t*>(p.grad), *weight = static_cast<const scalar_t*>(p.weight);
  int64_t head_width = p.width / p.heads;
  for (int64_t slab = 0; slab < p.batch * p.time; ++slab) {
    int64_t b = slab / p.time, t = slab % p.time;
    for (int64_t row = first; row < last; ++row) {
      int64_t begin = p.read(p.rowptr, row), end = p.read(p.rowptr, row + 1);
      scalar_t* out = static_cast<scalar_t*>(p.out) + offset(p.out_stride, b, t, row);
      for (int64_t head = 0; head < p.heads; ++head)
        for (int64_t from = head * head_width; from < (head + 1) * head_width; from += kTile) {
          int64_t width = std::min(kTile, (head + 1) * head_width - from);
          acc_t sum[kTile] = {};
          for (int64_t entry = begin; entry < end; ++entry) {
            int64_t node = p.read(p.col, entry), edge = p.edge_of(entry);
            acc_t factor = weight ? to_float(weight[edge * p.weight_stride.edge + b * p.weight_stride.batch +
                                                    t * p.weight_stride.time + head * p.weight_stride.head])
                                  : acc_t(1);
            const scalar_t* given = grad + offset(p.grad_stride, b, t, node) + from;
            const int64_t* chose = p.argument + offset(p.argument_stride, b, t, node) + from;
            for (int64_t c = 0; c < width; ++c)
              if (chose[c] == edge) sum[c] += factor * to_float(given[c]);
          }
          for (int64_t c = 0; c < width; ++c) out[from + c] = from_float<scalar_t>(sum[c]);
        }
    }
  }
}

// Edges collect grad * x from the places of their destination that chose them.
template <typename scalar_t>
STGRAPH_INLINE void weights(const Chosen& p, int64_t first, int64_t last) {
  using acc_t = typename Accumulate<scalar_t>::type;
  const scalar_t *grad = static_cast<const scalar_t*>(p.grad), *x = static_cast<const scalar_t*>(p.x);
  int64_t head_width = p.width / p.heads;
  for (int64_t row = first; row < last; ++row)
    for (int64_t entry = p.read(p.rowptr, row); entry < p.read(p.rowptr, row + 1); ++entry) {
      int64_t node = p.read(p.col, entry), edge = p.edge_of(entry);
      scalar_t* out = static_cast<scalar_t*>(p.out) + edge * p.weight_batch * p.weight_time * p.heads;
      for (int64_t kept = 0; kept < p.weight_batch * p.weight_time; ++kept)
        for (int64_t head = 0; head < p.heads; ++head) {
          bool by_batch = p.weight_batch > 1, by_time = p.weight_time > 1;
          int64_t from_batch = by_batch ? kept / p.weight_time : 0, to_batch = by_batch ? from_batch + 1 : p.batch;
          int64_t from_time = by_time ? kept % p.weight_time : 0, to_time = by_time ? from_time + 1 : p.time;
          acc_t sum = 0;
          for (int64_t b = from_batch; b < to_batch; ++b)
            for (int64_t t = from_time; t < to_time; ++t) {
              const scalar_t* given = grad + offset(p.grad_stride, b, t, row);
              const scalar_t* source = x + offset(p.x_stride, b, t, node);
              const int64_t* chose = p.argument + offset(p.argument_stride, b, t, row);
              for (int64_t c = head * head_width; c < (head + 1) * head_width; ++c)
                if (chose[c] == edge) sum += to_float(given[c]) * to_float(source[c]);
            }
          out[kept * p.heads + head] = from_float<scalar_t>(sum);
        }
    }
}

void features_f32(const Chosen& p, int64_t first, int64_t last) { features<float>(p, first, last); }
void features_f64(const Chosen& p, int64_t first, int64_t last) { features<double>(p, first, last); }
void features_f16(const Chosen& p, int64_t first, int64_t last) { features<Half>(p, first, last); }
void features_b16(const Chosen& p, int64_t first, int64_t last) { features<BFloat16>(p, first, last); }
void weights_f32(const Chosen& p, int64_t first, int64_t last) { weights<float>(p, first, last); }
void weights_f64(const Chosen& p, int64_t first, int64_t last) { weights<double>(p, first, last); }
void weights_f16(const Chosen& p, int64_t first, int64_t last) { weights<Half>(p, first, last); }
void weights_b16(const Chosen& p, int64_t first, int64_t last) { weights<BFloat16>(p, first, last); }
