/* SPDX-License-Identifier: Apache-2.0
 * NoisyStore: bit errors of a memory on one write of a tensor, y = load(flip(store(x))).
 *
 * The library needs neither ONNX Runtime nor Python. ONNX Runtime loads it through
 * RegisterCustomOps; everything else here works on plain memory. All functions are reentrant.
 */
#ifndef NOISYSTORE_H_
#define NOISYSTORE_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define NOISYSTORE_API __attribute__((visibility("default")))
#else
#define NOISYSTORE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the noise model: libraries of equal noise model give equal bits. */
#define NOISYSTORE_NOISE_MODEL 1

/* Element types, numbered as ONNX numbers them. */
enum noisystore_type {
  NOISYSTORE_FLOAT = 1,
  NOISYSTORE_UINT8 = 2,
  NOISYSTORE_INT8 = 3,
  NOISYSTORE_INT32 = 6,
  NOISYSTORE_FLOAT16 = 10,
  NOISYSTORE_DOUBLE = 11,
  NOISYSTORE_BFLOAT16 = 16
};

/* One call. Zero it, set struct_size to sizeof(noisystore_call), then fill it in. */
typedef struct noisystore_call {
  uint32_t struct_size;
  int32_t type;               /* enum noisystore_type: element type of x and y */
  const char* storage_format; /* "native" or NULL: the element type itself; for a float type also
                                 float16, bfloat16, float32, float64, float8e4m3fn, float8e5m2,
                                 int8, uint8, int4 or uint4; for an integer type its own name */
  float scale;                /* of a float stored as an integer: finite, above 0 */
  int32_t zero_point;         /* of a float stored as an integer: within the format's range */
  const int64_t* shape;       /* rank extents; axis 0 runs over the batch */
  uint32_t rank;
  uint32_t site;
  int64_t rows_per_sample;     /* rows of axis 0 that make a sample; 0: all is sample 0;
                                  -1: all is sample sample_index[0] */
  const int64_t* sample_index; /* one value (the first sample's), or one a sample; modulo 2^32 */
  uint64_t sample_index_count;
  double p01;        /* probability that a stored 0 is read as 1 */
  double p10;        /* probability that a stored 1 is read as 0 */
  uint64_t bit_mask; /* set bits may flip; only the stored word's low bits count */
  int64_t seed;
} noisystore_call;

/* Writes the noisy tensor to y, which may be x but must not overlap it otherwise; neither is null.
 * Returns 0, or 1 with one line in `message` (zero-terminated, cut to message_size) and y
 * untouched. */
NOISYSTORE_API int noisystore_apply(const noisystore_call* call, const void* x, void* y,
                                    char* message, size_t message_size);

/* The same on a CUDA device: x and y are addresses of the current device, aligned to their
 * elements, and `stream` is a cudaStream_t (NULL: the default stream). What `call` points to lies
 * in host memory and may be freed on return, when the work is queued. A library that was built
 * without CUDA returns 1. */
NOISYSTORE_API int noisystore_apply_cuda(const noisystore_call* call, const void* x, void* y,
                                         void* stream, char* message, size_t message_size);

/* Compute capabilities that the library holds code for, as in "87 90"; "" where it was built
 * without CUDA. */
NOISYSTORE_API const char* noisystore_cuda_architectures(void);

/* Flips of every sample, without any data: exact where p01 == p10, else the candidates at the
 * larger rate, an upper bound. `flips` has noisystore_samples(call) elements. */
NOISYSTORE_API int noisystore_count_flips(const noisystore_call* call, int64_t* flips,
                                          char* message, size_t message_size);

/* Number of samples that the call's shape and rows_per_sample give. */
NOISYSTORE_API uint64_t noisystore_samples(const noisystore_call* call);

/* "0.1.0" and so on. */
NOISYSTORE_API const char* noisystore_version(void);

/* NOISYSTORE_NOISE_MODEL of the library. */
NOISYSTORE_API int noisystore_noise_model(void);

/* The instruction set in use: "avx512", "avx2" or "portable". */
NOISYSTORE_API const char* noisystore_instruction_set(void);

/* ONNX Runtime's entry point (OrtSessionOptions*, const OrtApiBase*) -> OrtStatus*. */
struct OrtSessionOptions;
struct OrtApiBase;
struct OrtStatus;
NOISYSTORE_API struct OrtStatus* RegisterCustomOps(struct OrtSessionOptions* options,
                                                   const struct OrtApiBase* base);

#ifdef __cplusplus
}
#endif

#endif /* NOISYSTORE_H_ */
