// Vectors of one register in the type sums are taken in, and how they come from and go to stored numbers.
// Part of a body of levels.h: STGRAPH_VECTOR_BYTES says how wide they are.

template <typename acc_t, int kCount>
struct Vector {
  typedef acc_t type __attribute__((vector_size(sizeof(acc_t) * kCount), aligned(sizeof(acc_t)), may_alias));
};

// How many numbers of the type that `scalar_t` is summed in fill a register.
template <typename scalar_t>
constexpr int kLanes = STGRAPH_VECTOR_BYTES / sizeof(typename Accumulate<scalar_t>::type);

// `kCount` numbers as a vector of the type they are summed in.
template <typename scalar_t, int kCount = kLanes<scalar_t>>
using Lanes = typename Vector<typename Accumulate<scalar_t>::type, kCount>::type;

template <typename scalar_t, int kCount = kLanes<scalar_t>>
STGRAPH_INLINE Lanes<scalar_t, kCount> load(const scalar_t* from) {
  using wanted = Lanes<scalar_t, kCount>;
  if constexpr (sizeof(scalar_t) == sizeof(typename Accumulate<scalar_t>::type)) {
    return *reinterpret_cast<const wanted*>(from);
  } else if constexpr (kCount < 4) {
    wanted out{};
    for (int lane = 0; lane < kCount; ++lane) out[lane] = to_float(from[lane]);
    return out;
  } else if constexpr (std::is_same_v<scalar_t, BFloat16>) {
    using stored = typename Vector<uint16_t, kCount>::type;
    using wide = typename Vector<uint32_t, kCount>::type;
    return (wanted)(__builtin_convertvector(*reinterpret_cast<const stored*>(from), wide) << 16);
  } else {
    using stored = typename Vector<Half, kCount>::type;
    return __builtin_convertvector(*reinterpret_cast<const stored*>(from), wanted);
  }
}

template <typename scalar_t, int kCount = kLanes<scalar_t>>
STGRAPH_INLINE void store(scalar_t* to, Lanes<scalar_t, kCount> value) {
  if constexpr (sizeof(scalar_t) == sizeof(typename Accumulate<scalar_t>::type)) {
    *reinterpret_cast<Lanes<scalar_t, kCount>*>(to) = value;
  } else if constexpr (kCount < 4) {
    for (int lane = 0; lane < kCount; ++lane) to[lane] = from_float<scalar_t>(value[lane]);
  } else if constexpr (std::is_same_v<scalar_t, BFloat16>) {
    using stored = typename Vector<uint16_t, kCount>::type;
    using wide = typename Vector<uint32_t, kCount>::type;
    wide bits = (wide)value;
    wide rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even; a NaN stays a NaN
    rounded = value != value ? wide{} + 0x7FC0 : rounded;
    *reinterpret_cast<stored*>(to) = __builtin_convertvector(rounded, stored);
  } else {
    using stored = typename Vector<Half, kCount>::type;
    *reinterpret_cast<stored*>(to) = __builtin_convertvector(value, stored);
  }
}

// Stores a whole register past the caches, which then need not read what it replaces; `to` lies on its boundary.
STGRAPH_INLINE void stream(float* to, Lanes<float> value) {
#if !defined(__x86_64__)
  store(to, value);
#elif STGRAPH_VECTOR_BYTES == 64
  _mm512_stream_ps(to, (__m512)value);
#elif STGRAPH_VECTOR_BYTES == 32
  _mm256_stream_ps(to, (__m256)value);
#else
  _mm_stream_ps(to, (__m128)value);
#endif
}

template <typename acc_t, int kCount, int... kPlace>
STGRAPH_INLINE auto low(typename Vector<acc_t, kCount>::type v, std::integer_sequence<int, kPlace...>) {
  return __builtin_shufflevector(v, v, kPlace...);
}
template <typename acc_t, int kCount, int... kPlace>
STGRAPH_INLINE auto high(typename Vector<acc_t, kCount>::type v, std::integer_sequence<int, kPlace...>) {
  return __builtin_shufflevector(v, v, (kPlace + kCount / 2)...);
}

// The two halves of a vector, added up.
template <typename acc_t, int kCount>
STGRAPH_INLINE typename Vector<acc_t, kCount / 2>::type folded(typename Vector<acc_t, kCount>::type v) {
  using half = std::make_integer_sequence<int, kCount / 2>;
  return low<acc_t, kCount>(v, half{}) + high<acc_t, kCount>(v, half{});
}

// Sum of the lanes, always in the same order.
template <typename acc_t, int kCount = kLanes<acc_t>>
STGRAPH_INLINE acc_t total(typename Vector<acc_t, kCount>::type v) {
  if constexpr (kCount == 2) return v[0] + v[1];
  else return total<acc_t, kCount / 2>(folded<acc_t, kCount>(v));
}

template <typename acc_t, int kCount = kLanes<acc_t>>
STGRAPH_INLINE acc_t largest(typename Vector<acc_t, kCount>::type v) {
  if constexpr (kCount == 2) {
    return v[0] > v[1] ? v[0] : v[1];
  } else {
    using half = std::make_integer_sequence<int, kCount / 2>;
    auto one = low<acc_t, kCount>(v, half{}), two = high<acc_t, kCount>(v, half{});
    return largest<acc_t, kCount / 2>(one > two ? one : two);
  }
}

// Sum of a[c] * b[c] over `width` channels.
template <typename scalar_t>
STGRAPH_INLINE typename Accumulate<scalar_t>::type dot(const scalar_t* a, const scalar_t* b, int64_t width) {
  using acc_t = typename Accumulate<scalar_t>::type;
  constexpr int kCount = kLanes<scalar_t>;
  acc_t sum = 0;
  int64_t channel = 0;
  if (width >= kCount) {
    Lanes<scalar_t> lanes{}, more{};  // two sums at a time, so that one need not wait for the other
    for (; channel + 2 * kCount <= width; channel += 2 * kCount) {
      lanes += load(a + channel) * load(b + channel);
      more += load(a + channel + kCount) * load(b + channel + kCount);
    }
    if (channel + kCount <= width) lanes += load(a + channel) * load(b + channel), channel += kCount;
    sum = total<acc_t>(lanes + more);
  }
  for (; channel < width; ++channel) sum += to_float(a[channel]) * to_float(b[channel]);
  return sum;
}
