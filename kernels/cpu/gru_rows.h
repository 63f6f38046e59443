// The loops of gru.cpp. A body of levels.h.
//
// Exponentials are computed a vector at a time, 16-bit numbers as floats.
#include "vectors.h"

// ---------------------------------------------------------------- functions of vectors
template <typename acc_t>
using Real = typename Vector<acc_t, kLanes<acc_t>>::type;
template <typename acc_t>
using Whole = typename Vector<typename Exponential<acc_t>::Whole, kLanes<acc_t>>::type;

// exp(x) = (1 + rest) * 2^power. The rest comes from its series for numbers below ln(2) / 2: what is left out is below
// a tenth of the last place.
template <typename acc_t>
STGRAPH_INLINE Real<acc_t> reduced(Real<acc_t> x, Whole<acc_t>& power) {
  using E = Exponential<acc_t>;
  Real<acc_t> shifted = x * E::kLog + E::kRound;
  power = (Whole<acc_t>)shifted - std::bit_cast<typename E::Whole>(E::kRound);
  Real<acc_t> whole = shifted - E::kRound;
  Real<acc_t> r = x - whole * E::kHigh;
  r = r - whole * E::kLow;
  Real<acc_t> series = Real<acc_t>{} + kSeries<acc_t>.term[E::kTerms];
#pragma GCC unroll 16
  for (int n = E::kTerms - 1; n > 1; --n) series = series * r + kSeries<acc_t>.term[n];
  return r + r * r * series;
}

template <typename acc_t>
STGRAPH_INLINE Real<acc_t> two_to(Whole<acc_t> power) {
  return (Real<acc_t>)((power + Exponential<acc_t>::kBias) << Exponential<acc_t>::kFraction);
}

template <typename acc_t>
STGRAPH_INLINE Whole<acc_t> sign(Real<acc_t> x) {
  return (Whole<acc_t>)x & std::numeric_limits<typename Exponential<acc_t>::Whole>::min();
}
template <typename acc_t>
STGRAPH_INLINE Real<acc_t> magnitude(Real<acc_t> x) {
  return (Real<acc_t>)((Whole<acc_t>)x ^ sign<acc_t>(x));
}

template <typename acc_t>
STGRAPH_INLINE Real<acc_t> sigmoid(Real<acc_t> x) {
  constexpr acc_t kLowest = Exponential<acc_t>::kLowest;
  Real<acc_t> below = -magnitude<acc_t>(x);
  below = below < kLowest ? Real<acc_t>{} + kLowest : below;  // a NaN stays
  Whole<acc_t> power;
  Real<acc_t> rest = reduced<acc_t>(below, power);
  Whole<acc_t> half = power >> 1;  // in two steps, because the smallest numbers are no powers that `two_to` can make
  Real<acc_t> e = (1 + rest) * two_to<acc_t>(half) * two_to<acc_t>(power - half);
  return (x >= 0 ? Real<acc_t>{} + 1 : e) / (1 + e);
}

// By exp(2|x|) - 1, which keeps its digits where x is small.
template <typename acc_t>
STGRAPH_INLINE Real<acc_t> hyperbolic_tangent(Real<acc_t> x) {
  constexpr acc_t kFlat = Exponential<acc_t>::kFlat;
  Real<acc_t> twice = magnitude<acc_t>(x) * 2;
  twice = twice > kFlat ? Real<acc_t>{} + kFlat : twice;  // a NaN stays
  Whole<acc_t> power;
  Real<acc_t> rest = reduced<acc_t>(twice, power);
  Real<acc_t> scale = two_to<acc_t>(power);
  Real<acc_t> grown = scale * rest + (scale - 1);
  Real<acc_t> out = grown / (grown + 2);
  return (Real<acc_t>)((Whole<acc_t>)out | sign<acc_t>(x));
}

// ---------------------------------------------------------------- what is done with each number
// z_pre, r_pre, h -> z, r * h
struct Gate {
  static constexpr int kIn = 3, kOut = 2;
  template <typename acc_t>
  STGRAPH_INLINE static void run(const Real<acc_t>* in, Real<acc_t>* out) {
    out[0] = sigmoid<acc_t>(in[0]);
    out[1] = sigmoid<acc_t>(in[1]) * in[2];
  }
};
// gradients of z and r * h, z, r_pre, h -> gradients of z_pre, r_pre, h
struct GateBack {
  static constexpr int kIn = 5, kOut = 3;
  template <typename acc_t>
  STGRAPH_INLINE static void run(const Real<acc_t>* in, Real<acc_t>* out) {
    Real<acc_t> r = sigmoid<acc_t>(in[3]);
    out[0] = in[0] * in[2] * (1 - in[2]);
    out[1] = in[1] * in[4] * r * (1 - r);
    out[2] = in[1] * r;
  }
};
// z, h, candidate_pre -> z * h + (1 - z) * tanh(candidate_pre)
struct Blend {
  static constexpr int kIn = 3, kOut = 1;
  template <typename acc_t>
  STGRAPH_INLINE static void run(const Real<acc_t>* in, Real<acc_t>* out) {
    out[0] = in[0] * in[1] + (1 - in[0]) * hyperbolic_tangent<acc_t>(in[2]);
  }
};
// gradient, z, h, candidate_pre -> gradients of z, h, candidate_pre
struct BlendBack {
  static constexpr int kIn = 4, kOut = 3;
  template <typename acc_t>
  STGRAPH_INLINE static void run(const Real<acc_t>* in, Real<acc_t>* out) {
    Real<acc_t> candidate = hyperbolic_tangent<acc_t>(in[3]);
    out[0] = in[0] * (in[2] - candidate);
    out[1] = in[0] * in[1];
    out[2] = in[0] * (1 - in[1]) * (1 - candidate * candidate);
  }
};

// ---------------------------------------------------------------- the pass
template <typename scalar_t, typename Work>
STGRAPH_INLINE void piece(char* const* at, int64_t count) {
  using acc_t = typename Accumulate<scalar_t>::type;
  constexpr int kCount = kLanes<scalar_t>;
  Real<acc_t> in[Work::kIn], out[Work::kOut];
  int64_t first = 0;
  for (; first + kCount <= count; first += kCount) {
#pragma GCC unroll 8
    for (int k = 0; k < Work::kIn; ++k) in[k] = load(reinterpret_cast<const scalar_t*>(at[k]) + first);
    Work::template run<acc_t>(in, out);
#pragma GCC unroll 8
    for (int k = 0; k < Work::kOut; ++k) store(reinterpret_cast<scalar_t*>(at[Work::kIn + k]) + first, out[k]);
  }
  if (first == count) return;
  scalar_t padded[kCount];
  int64_t bytes = (count - first) * static_cast<int64_t>(sizeof(scalar_t));
#pragma GCC unroll 8
  for (int k = 0; k < Work::kIn; ++k) {
    std::memset(padded, 0, sizeof(padded));
    std::memcpy(padded, reinterpret_cast<const scalar_t*>(at[k]) + first, bytes);
    in[k] = load(padded);
  }
  Work::template run<acc_t>(in, out);
#pragma GCC unroll 8
  for (int k = 0; k < Work::kOut; ++k) {
    store(padded, out[k]);
    std::memcpy(reinterpret_cast<scalar_t*>(at[Work::kIn + k]) + first, padded, bytes);
  }
}

template <typename scalar_t, typename Work>
STGRAPH_INLINE void work(const GruPass& pass, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    int64_t row = unit / pass.pieces, start = unit % pass.pieces * kGruPiece;
    int64_t place[3] = {row / pass.size[2] / pass.size[1], row / pass.size[2] % pass.size[1], row % pass.size[2]};
    char* at[Work::kIn + Work::kOut];
    for (int k = 0; k < Work::kIn + Work::kOut; ++k)
      at[k] = pass.data[k] + place[0] * pass.step[k][0] + place[1] * pass.step[k][1] + place[2] * pass.step[k][2] +
              start * static_cast<int64_t>(sizeof(scalar_t));
    piece<scalar_t, Work>(at, std::min(kGruPiece, pass.width - start));
  }
}

void gate_f32(const GruPass& p, int64_t begin, int64_t end) { work<float, Gate>(p, begin, end); }
void gate_f64(const GruPass& p, int64_t begin, int64_t end) { work<double, Gate>(p, begin, end); }
void gate_f16(const GruPass& p, int64_t begin, int64_t end) { work<Half, Gate>(p, begin, end); }
void gate_b16(const GruPass& p, int64_t begin, int64_t end) { work<BFloat16, Gate>(p, begin, end); }
void gate_back_f32(const GruPass& p, int64_t begin, int64_t end) { work<float, GateBack>(p, begin, end); }
void gate_back_f64(const GruPass& p, int64_t begin, int64_t end) { work<double, GateBack>(p, begin, end); }
void gate_back_f16(const GruPass& p, int64_t begin, int64_t end) { work<Half, GateBack>(p, begin, end); }
void gate_back_b16(const GruPass& p, int64_t begin, int64_t end) { work<BFloat16, GateBack>(p, begin, end); }
void blend_f32(const GruPass& p, int64_t begin, int64_t end) { work<float, Blend>(p, begin, end); }
void blend_f64(const GruPass& p, int64_t begin, int64_t end) { work<double, Blend>(p, begin, end); }
void blend_f16(const GruPass& p, int64_t begin, int64_t end) { work<Half, Blend>(p, begin, end); }
void blend_b16(const GruPass& p, int64_t begin, int64_t end) { work<BFloat16, Blend>(p, begin, end); }
void blend_back_f32(const GruPass& p, int64_t begin, int64_t end) { work<float, BlendBack>(p, begin, end); }
void blend_back_f64(const GruPass& p, int64_t begin, int64_t end) { work<double, BlendBack>(p, begin, end); }
void blend_back_f16(const GruPass& p, int64_t begin, int64_t end) { work<Half, BlendBack>(p, begin, end); }
void blend_back_b16(const GruPass& p, int64_t begin, int64_t end) { work<BFloat16, BlendBack>(p, begin, end); }
