// The CUDA kernels as plain C functions: pointers into device memory, sizes, strides in elements, a stream.
//
// All features are [B, T, N, F] with a contiguous last axis, heads being groups of it. Nothing here allocates, copies
// to the host or waits. Every function returns 0, a cudaError above 0, or one of StgraphProblem.
#pragma once

#include <stdint.h>

enum StgraphType { kStgraphFloat32 = 0, kStgraphFloat64 = 1, kStgraphFloat16 = 2, kStgraphBFloat16 = 3 };
enum StgraphReduce { kStgraphSum = 0, kStgraphMean = 1, kStgraphMax = 2 };
enum StgraphProblem {
  kStgraphUnknownType = -1,
  kStgraphSharedMemory = -2,  // the rows to stage do not fit the shared memory of a block
  kStgraphTooMany = -3        // more blocks than a grid may have
};

// In-edges of each row. `col` null: entry e reads row e. `edge` null: entry e is edge e, where weights stand.
struct StgraphGraph {
  const void* rowptr;
  const void* col;
  const void* edge;
  int64_t wide;  // 1: int64 indices, 0: int32
  int64_t rows;
  int64_t entries;
};

struct StgraphTensor {
  void* data;  // null: not there
  int64_t batch;
  int64_t time;
  int64_t node;
  int64_t head;  // attention only; elsewhere the heads of a node lie in one piece
};

// One number per edge, batch entry, step and head; a stride of 0 shares it along that axis.
struct StgraphWeight {
  const void* data;
  int64_t edge;
  int64_t batch;
  int64_t time;
  int64_t head;
};

struct StgraphSpmm {
  StgraphGraph graph;
  StgraphTensor x;
  StgraphTensor addend;
  StgraphTensor out;
  StgraphWeight weight;
  int64_t* argument;  // [B, T, rows, F] with the strides of out: the edge that gave the maximum, -1 where there is none
  void* workspace;    // of stgraph_cuda_spmm_workspace bytes; null: long rows are not split
  int64_t type;
  int64_t reduce;
  int64_t batch;
  int64_t time;
  int64_t width;
  int64_t heads;
};

// Blocks of `row_block` rows and the distinct sources that each reads, its halo. `halo` null: every block stages all
// `staged` sources, and entries name them by `col`.
struct StgraphHalo {
  const void* pointer;  // [blocks + 1] into halo
  const void* halo;     // sources of each block
  const void* local;    // [entries] position of an entry's source in the halo of its block
  int64_t row_block;
  int64_t staged;       // rows of the largest halo
};

struct StgraphSddmm {
  StgraphGraph graph;
  StgraphTensor a;  // of the rows
  StgraphTensor b;  // of the columns
  void* out;        // [edges, B or 1, T or 1, heads] contiguous
  int64_t type;
  int64_t batch;
  int64_t time;
  int64_t width;
  int64_t heads;
  int64_t by_batch;
  int64_t by_time;
};

struct StgraphGather {
  const void* index;
  int64_t wide;
  int64_t rows;  // of out
  StgraphTensor x;
  StgraphTensor out;
  int64_t element;  // bytes
  int64_t batch;
  int64_t time;
  int64_t width;
};

// Attention over in-edges. dot = 1: score = factor * q[i] . k[j] + bias[edge]; dot = 0: score = leaky(destination[i] +
// source[j] + bias[edge]). q, k, v, out and their gradients hold heads * width channels, scores one number per head.
struct StgraphAttention {
  StgraphGraph graph;      // forward, and gradients by rows and by edges
  StgraphGraph transpose;  // gradients by columns
  StgraphTensor q;         // dot = 0: score of the destinations
  StgraphTensor k;         // dot = 0: score of the sources
  StgraphTensor v;
  StgraphTensor out;
  StgraphTensor grad;  // of out
  StgraphTensor grad_q;
  StgraphTensor grad_k;
  StgraphTensor grad_v;
  const void* bias;  // [edges, heads]; null: none
  int64_t bias_edge;
  int64_t bias_head;
  void* grad_bias;      // [edges, heads] contiguous; of the type of sums: float64 for float64, else float32
  StgraphTensor lse;    // [B, T, rows, heads] of the type of sums, log of the sum of exp(score)
  StgraphTensor delta;  // the same shape and type; written by the gradient by rows, read by the others
  int64_t type;
  int64_t dot;
  int64_t batch;
  int64_t time;
  int64_t heads;
  int64_t width;  // channels per head
  double factor;  // scale of the products, or slope of the leaky ReLU
  double dropout;
  int64_t seed;
};

enum StgraphGates { kStgraphGate = 0, kStgraphGateBackward = 1, kStgraphBlend = 2, kStgraphBlendBackward = 3 };

// Gates of a recurrent unit, number by number. The inputs and outputs of each kind stand in gru.cu.
struct StgraphGru {
  int64_t kind;  // of StgraphGates
  StgraphTensor first;
  StgraphTensor second;
  StgraphTensor third;
  StgraphTensor fourth;
  StgraphTensor fifth;
  StgraphTensor out_first;
  StgraphTensor out_second;
  StgraphTensor out_third;
  int64_t type;
  int64_t batch;
  int64_t time;
  int64_t nodes;
  int64_t width;
};

#ifdef __cplusplus
extern "C" {
#endif
int64_t stgraph_cuda_spmm_workspace(const StgraphSpmm* call);
int stgraph_cuda_spmm(const StgraphSpmm* call, void* stream);
int64_t stgraph_cuda_spmm_channels(const StgraphSpmm* call);
int stgraph_cuda_spmm_staged(const StgraphSpmm* call, const StgraphHalo* halo, void* stream);
int stgraph_cuda_sddmm(const StgraphSddmm* call, void* stream);
int stgraph_cuda_gather_rows(const StgraphGather* call, void* stream);
int stgraph_cuda_gru(const StgraphGru* call, void* stream);
int stgraph_cuda_attention(const StgraphAttention* call, void* stream);
int stgraph_cuda_attention_rows(const StgraphAttention* call, void* stream);
int stgraph_cuda_attention_columns(const StgraphAttention* call, void* stream);
int stgraph_cuda_attention_edges(const StgraphAttention* call, void* stream);
#ifdef __cplusplus
}
#endif
