// What the loops of the gates of a recurrent unit read.
#pragma once

#include <bit>
#include <limits>

#include "common.h"

namespace stgraph {

// What exponentials of a type need.
template <typename acc_t>
struct Exponential;
template <>
struct Exponential<float> {
  using Whole = int32_t;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to whole numbers, in the low bits
  static constexpr float kLog = 1.44269504f;    // 1 / ln(2)
  static constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;  // ln(2); multiples of the first are exact
  static constexpr float kLowest = -104.0f;     // below, exp is 0
  static constexpr float kFlat = 20.0f;         // above, (exp - 1) / (exp + 1) is 1
  static constexpr int kFraction = 23, kBias = 127, kTerms = 7;
};
template <>
struct Exponential<double> {
  using Whole = int64_t;
  static constexpr double kRound = 6755399441055744.0;
  static constexpr double kLog = 1.4426950408889634;
  static constexpr double kHigh = 0.69314718036912382, kLow = 1.9082149292705877e-10;
  static constexpr double kLowest = -746.0;
  static constexpr double kFlat = 44.0;
  static constexpr int kFraction = 52, kBias = 1023, kTerms = 13;
};

// 1 / n! for n up to the number of terms.
template <typename acc_t>
struct Series {
  acc_t term[Exponential<acc_t>::kTerms + 1];
  constexpr Series() : term{} {
    double factorial = 1.0;
    for (int n = 0; n <= Exponential<acc_t>::kTerms; factorial *= ++n) term[n] = static_cast<acc_t>(1.0 / factorial);
  }
};
template <typename acc_t>
constexpr Series<acc_t> kSeries{};

constexpr int kGruTensors = 8;       // of one pass at most: those that are read, then those that are written
constexpr int64_t kGruPiece = 4096;  // numbers of a row that are taken at a time

// Rows of `width` numbers that lie together in every tensor, and up to three axes over them, the last the fastest.
struct GruPass {
  char* data[kGruTensors];
  int64_t step[kGruTensors][3];  // in bytes
  int64_t size[3];
  int64_t width, pieces;  // of a row
};

}  // namespace stgraph
