// SPDX-License-Identifier: Apache-2.0

// The kernels of libcuda_ops and cuBLAS that the tests' graphs launch. They run on the host, each in its stream. The
// signatures are those that MindSpore's GPU plugin links against; `nm -DC libmindspore_gpu.so.11.6` lists them. Every
// other one is a stub that ends the process with its name.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "memory.h"
#include "streams.h"

using second_memory::Launch;
using second_memory::OfKernel;
using second_memory::What;
using Shape = std::vector<int64_t>;

// The name is part of the mangled signatures.
struct __half {
  _Float16 value;
};

namespace {
float Value(float x) { return x; }
float Value(__half x) { return x.value; }
float Value(int x) { return static_cast<float>(x); }

template <class T>
void Store(T* to, float x) {
  *to = x;
}
void Store(__half* to, float x) { to->value = static_cast<_Float16>(x); }
}  // namespace

// The mangled names have these numbers.
enum class BinaryOpType {
  kGreater = 0,
  kLess,
  kEqual,
  kGreaterEqual,
  kLessEqual,
  kNotEqual,
  kLogicalAnd,
  kLogicalOr,
  kMaximum,
  kMinimum,
  kAdd,
  kSub,
  kMul,
  kDiv,
  kPow,
  kRealDiv,
  kInvalid = INT_MAX
};

namespace {
// Half arithmetic rounds the float32 result: for + - * / that is the correctly rounded one.
template <BinaryOpType kOperation, class T>
auto Binary(T a, T b) {
  if constexpr (kOperation == BinaryOpType::kGreater) return a > b;
  if constexpr (kOperation == BinaryOpType::kLessEqual) return a <= b;
  if constexpr (kOperation == BinaryOpType::kEqual) return a == b;
  if constexpr (kOperation == BinaryOpType::kNotEqual) return a != b;
  if constexpr (kOperation == BinaryOpType::kMaximum) return a > b ? a : b;
  if constexpr (kOperation == BinaryOpType::kMinimum) return a < b ? a : b;
  if constexpr (kOperation == BinaryOpType::kAdd) return a + b;
  if constexpr (kOperation == BinaryOpType::kSub) return a - b;
  if constexpr (kOperation == BinaryOpType::kMul) return a * b;
  if constexpr (kOperation == BinaryOpType::kDiv || kOperation == BinaryOpType::kRealDiv) return a / b;
}

// The offset, in a tensor of `shape`, of element `i` of the broadcast result.
size_t Offset(const Shape& shape, const Shape& result, size_t i) {
  size_t offset = 0, stride = 1;
  const size_t added = result.size() - shape.size();
  for (size_t d = result.size(); d-- > 0; i /= result[d]) {
    if (d < added) continue;
    if (shape[d - added] != 1) offset += i % result[d] * stride;
    stride *= shape[d - added];
  }
  return offset;
}
}  // namespace

template <BinaryOpType kOperation, class A, class B, class C>
cudaError_t BinaryOpWithBroadcastCudaFunc(bool, const Shape& shape_a, const Shape& shape_b, const Shape& result, A* a,
                                          B* b, C* c, size_t, cudaStream_t stream) {
  a = OfKernel(a), b = OfKernel(b), c = OfKernel(c);
  size_t count = 1;
  for (const int64_t extent : result) count *= extent;
  return Launch(stream, What::kKernel, count * sizeof(C), [=] {
    for (size_t i = 0; i < count; ++i) {
      Store(&c[i], Binary<kOperation>(Value(a[Offset(shape_a, result, i)]), Value(b[Offset(shape_b, result, i)])));
    }
  });
}
#define BINARY(operation, in, out)                                                          \
  template cudaError_t BinaryOpWithBroadcastCudaFunc<BinaryOpType::operation, in, in, out>( \
      bool, const Shape&, const Shape&, const Shape&, in*, in*, out*, size_t, cudaStream_t);
BINARY(kAdd, float, float)
BINARY(kSub, float, float)
BINARY(kMul, float, float)
BINARY(kDiv, float, float)
BINARY(kRealDiv, float, float)
BINARY(kMaximum, float, float)
BINARY(kMinimum, float, float)
BINARY(kGreater, float, bool)
BINARY(kLessEqual, float, bool)
BINARY(kEqual, float, bool)
BINARY(kNotEqual, float, bool)
BINARY(kAdd, __half, __half)
BINARY(kSub, __half, __half)
BINARY(kMul, __half, __half)
BINARY(kAdd, int, int)
BINARY(kSub, int, int)
BINARY(kMul, int, int)
BINARY(kMinimum, int, int)

// The mangled names have these numbers.
enum class ElwiseOpType { kLogicalNot = 23, kReciprocal = 27 };

template <ElwiseOpType kOperation, class A, class B>
cudaError_t UnaryOpsCudaFunc(size_t count, const A* from, B* to, cudaStream_t stream) {
  from = OfKernel(from), to = OfKernel(to);
  return Launch(stream, What::kKernel, count * sizeof(B), [=] {
    for (size_t i = 0; i < count; ++i) {
      if constexpr (kOperation == ElwiseOpType::kLogicalNot) to[i] = !from[i];
      if constexpr (kOperation == ElwiseOpType::kReciprocal) to[i] = 1 / from[i];
    }
  });
}
template cudaError_t UnaryOpsCudaFunc<ElwiseOpType::kLogicalNot>(size_t, const bool*, bool*, cudaStream_t);
template cudaError_t UnaryOpsCudaFunc<ElwiseOpType::kReciprocal>(size_t, const float*, float*, cudaStream_t);

// 1 if an element is not finite, else 0.
template <class T>
cudaError_t CalFloatStatus(size_t count, const T* from, float* to, cudaStream_t stream) {
  from = OfKernel(from), to = OfKernel(to);
  return Launch(stream, What::kKernel, sizeof(float),
                [=] { *to = !std::all_of(from, from + count, [](T x) { return std::isfinite(x); }); });
}
template cudaError_t CalFloatStatus(size_t, const float*, float*, cudaStream_t);

template <class From, class To>
cudaError_t Cast(int count, const From* from, To* to, cudaStream_t stream) {
  from = OfKernel(from), to = OfKernel(to);
  return Launch(stream, What::kKernel, count * sizeof(To), [=] {
    for (int i = 0; i < count; ++i) Store(&to[i], Value(from[i]));
  });
}
template cudaError_t Cast(int, const float*, __half*, cudaStream_t);
template cudaError_t Cast(int, const __half*, float*, cudaStream_t);
template cudaError_t Cast(int, const int*, float*, cudaStream_t);

// The steps, in the condition, both values and the result, from one index of a dimension to the next.
struct TrinaryBroadcastStrideInfo {
  size_t condition[8], a[8], b[8], result[8];
};

namespace {
void FillStrides(const Shape& shape, const Shape& result, size_t* strides) {
  size_t stride = 1;
  const size_t added = result.size() - shape.size();
  for (size_t d = result.size(); d-- > 0;) {
    const int64_t extent = d < added ? 1 : shape[d - added];
    strides[d] = extent == 1 ? 0 : stride;
    stride *= extent;
  }
}
}  // namespace

TrinaryBroadcastStrideInfo TrinaryBroadcastCalStride(size_t, const Shape& condition, const Shape& a, const Shape& b,
                                                     const Shape& result) {
  TrinaryBroadcastStrideInfo strides{};
  FillStrides(condition, result, strides.condition);
  FillStrides(a, result, strides.a);
  FillStrides(b, result, strides.b);
  FillStrides(result, result, strides.result);
  return strides;
}

template <class T>
cudaError_t CalSelectBroadcast(const bool* condition, const T* a, const T* b, T* to, size_t dimensions, size_t count,
                               const TrinaryBroadcastStrideInfo& strides, uint32_t, cudaStream_t stream) {
  condition = OfKernel(condition), a = OfKernel(a), b = OfKernel(b), to = OfKernel(to);
  return Launch(stream, What::kKernel, count * sizeof(T), [=] {
    for (size_t i = 0; i < count; ++i) {
      size_t of_condition = 0, of_a = 0, of_b = 0, rest = i;
      for (size_t d = 0; d < dimensions; ++d) {
        if (strides.result[d] == 0) continue;
        const size_t index = rest / strides.result[d];
        rest %= strides.result[d];
        of_condition += index * strides.condition[d];
        of_a += index * strides.a[d];
        of_b += index * strides.b[d];
      }
      to[i] = condition[of_condition] ? a[of_a] : b[of_b];
    }
  });
}
template cudaError_t CalSelectBroadcast(const bool*, const float*, const float*, float*, size_t, size_t,
                                        const TrinaryBroadcastStrideInfo&, uint32_t, cudaStream_t);

template <class T>
cudaError_t CalSelect(const bool* condition, const T* a, const T* b, T* to, size_t count, cudaStream_t stream) {
  condition = OfKernel(condition), a = OfKernel(a), b = OfKernel(b), to = OfKernel(to);
  return Launch(stream, What::kKernel, count * sizeof(T), [=] {
    for (size_t i = 0; i < count; ++i) to[i] = condition[i] ? a[i] : b[i];
  });
}
template cudaError_t CalSelect(const bool*, const float*, const float*, float*, size_t, cudaStream_t);

// to[i][j][k] = from[i][indices[j]][k], or 0 where the index is outside.
template <class T, class Index>
cudaError_t Gather(T* from, Index* indices, T* to, size_t batch, size_t n_i, size_t n_j, size_t n_k, size_t from_j,
                   cudaStream_t stream) {
  if (batch != 1) second_memory::Fail("Gather of batches");
  from = OfKernel(from), indices = OfKernel(indices), to = OfKernel(to);
  return Launch(stream, What::kKernel, n_i * n_j * n_k * sizeof(T), [=] {
    for (size_t i = 0; i < n_i; ++i) {
      for (size_t j = 0; j < n_j; ++j) {
        const bool inside = indices[j] >= 0 && static_cast<size_t>(indices[j]) < from_j;
        for (size_t k = 0; k < n_k; ++k) {
          to[(i * n_j + j) * n_k + k] = inside ? from[(i * from_j + indices[j]) * n_k + k] : T{};
        }
      }
    }
  });
}
template cudaError_t Gather(float*, int*, float*, size_t, size_t, size_t, size_t, size_t, cudaStream_t);

template <class T>
cudaError_t StridedSlice(const std::vector<size_t>& shape, const Shape& begin, const Shape& steps,
                         const std::vector<size_t>& result, const T* from, T* to, cudaStream_t stream) {
  from = OfKernel(from), to = OfKernel(to);
  size_t count = 1;
  for (const size_t extent : result) count *= extent;
  return Launch(stream, What::kKernel, count * sizeof(T), [=] {
    for (size_t i = 0; i < count; ++i) {
      size_t rest = i, offset = 0, stride = 1;
      for (size_t d = result.size(); d-- > 0;) {
        offset += (begin[d] + static_cast<int64_t>(rest % result[d]) * steps[d]) * stride;
        rest /= result[d];
        stride *= shape[d];
      }
      to[i] = from[offset];
    }
  });
}
template cudaError_t StridedSlice(const std::vector<size_t>&, const Shape&, const Shape&, const std::vector<size_t>&,
                                  const float*, float*, cudaStream_t);
template cudaError_t StridedSlice(const std::vector<size_t>&, const Shape&, const Shape&, const std::vector<size_t>&,
                                  const __half*, __half*, cudaStream_t);

template <class T>
cudaError_t FillDeviceArray(size_t count, T* to, float value, cudaStream_t stream) {
  to = OfKernel(to);
  return Launch(stream, What::kKernel, count * sizeof(T), [=] {
    for (size_t i = 0; i < count; ++i) Store(&to[i], value);
  });
}
template cudaError_t FillDeviceArray(size_t, float*, float, cudaStream_t);
template cudaError_t FillDeviceArray(size_t, __half*, float, cudaStream_t);

template <class T>
cudaError_t CalAssignAdd(size_t count, T* to, const T* value, T* out, const uint32_t&, cudaStream_t stream) {
  to = OfKernel(to), value = OfKernel(value), out = OfKernel(out);
  return Launch(stream, What::kKernel, count * sizeof(T), [=] {
    for (size_t i = 0; i < count; ++i) {
      if constexpr (std::is_integral_v<T>) {
        to[i] += value[i];
      } else {
        Store(&to[i], Value(to[i]) + Value(value[i]));
      }
      out[i] = to[i];
    }
  });
}
template cudaError_t CalAssignAdd(size_t, float*, const float*, float*, const uint32_t&, cudaStream_t);
template cudaError_t CalAssignAdd(size_t, int*, const int*, int*, const uint32_t&, cudaStream_t);
template cudaError_t CalAssignAdd(size_t, __half*, const __half*, __half*, const uint32_t&, cudaStream_t);

template <class T>
cudaError_t CalAssignSub(size_t count, T* to, const T* value, T* out, uint32_t, cudaStream_t stream) {
  to = OfKernel(to), value = OfKernel(value), out = OfKernel(out);
  return Launch(stream, What::kKernel, count * sizeof(T), [=] {
    for (size_t i = 0; i < count; ++i) out[i] = to[i] = to[i] - value[i];
  });
}
template cudaError_t CalAssignSub(size_t, float*, const float*, float*, uint32_t, cudaStream_t);

// nn.Adam's operation, which also updates the parameters that are smaller than `min_offload_size`.
template <class T>
cudaError_t ApplyAdam(size_t size, int64_t batch, const T* gradient, const T* beta1_power, const T* beta2_power,
                      const T* learning_rate, const T* beta1, const T* beta2, const T* epsilon, T* weight, T* moment1,
                      T* moment2, bool use_nesterov, cudaStream_t stream) {
  gradient = OfKernel(gradient), weight = OfKernel(weight), moment1 = OfKernel(moment1), moment2 = OfKernel(moment2);
  beta1_power = OfKernel(beta1_power), beta2_power = OfKernel(beta2_power), learning_rate = OfKernel(learning_rate);
  beta1 = OfKernel(beta1), beta2 = OfKernel(beta2), epsilon = OfKernel(epsilon);
  return Launch(stream, What::kKernel, size * batch * sizeof(T), [=] {
    const T b1 = *beta1, b2 = *beta2;
    const T rate = *learning_rate * std::sqrt(1 - *beta2_power) / (1 - *beta1_power);
    for (size_t i = 0; i < size * batch; ++i) {
      const T g = gradient[i];
      T &m = moment1[i], &v = moment2[i];
      m += (g - m) * (1 - b1);
      v += (g * g - v) * (1 - b2);
      const T direction = use_nesterov ? m * b1 + (1 - b1) * g : m;
      weight[i] -= rate * direction / (std::sqrt(v) + *epsilon);
    }
  });
}
template cudaError_t ApplyAdam(size_t, int64_t, const float*, const float*, const float*, const float*, const float*,
                               const float*, const float*, float*, float*, float*, bool, cudaStream_t);

namespace {
// C = alpha * op(A) * op(B) + beta * C, column-major.
template <class T>
void Multiply(bool transpose_a, bool transpose_b, int m, int n, int k, float alpha, const T* a, int lda, const T* b,
              int ldb, float beta, T* c, int ldc) {
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < m; ++i) {
      float sum = 0;
      for (int64_t l = 0; l < k; ++l) {
        const T& x = transpose_a ? a[l + i * lda] : a[i + l * lda];
        const T& y = transpose_b ? b[j + l * ldb] : b[l + j * ldb];
        sum += Value(x) * Value(y);
      }
      T& to = c[i + j * ldc];
      Store(&to, alpha * sum + (beta != 0 ? beta * Value(to) : 0));
    }
  }
}
}  // namespace

// MindSpore has one handle, and sets its stream before each product.
static cudaStream_t stream_of_products = nullptr;

extern "C" int cublasSetStream_v2(void*, cudaStream_t stream) {
  stream_of_products = stream;
  return 0;
}

extern "C" int cublasGemmEx(void*, int transpose_a, int transpose_b, int m, int n, int k, const void* alpha,
                            const void* a, int type, int lda, const void* b, int, int ldb, const void* beta, void* c,
                            int, int ldc, int, int) {
  constexpr int kHalf = 2;  // CUDA_R_16F
  const float scale = *static_cast<const float*>(alpha), added = *static_cast<const float*>(beta);
  const auto multiply = [&](auto element) {
    using T = decltype(element);
    const auto *from_a = OfKernel(static_cast<const T*>(a)), *from_b = OfKernel(static_cast<const T*>(b));
    auto* to = OfKernel(static_cast<T*>(c));
    Launch(stream_of_products, What::kProduct, size_t(m) * n * sizeof(T),
           [=] { Multiply(transpose_a, transpose_b, m, n, k, scale, from_a, lda, from_b, ldb, added, to, ldc); });
  };
  type == kHalf ? multiply(__half{}) : multiply(float{});
  return 0;
}
