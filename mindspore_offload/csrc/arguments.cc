// SPDX-License-Identifier: Apache-2.0

// Finds each parameter's tensors among the arguments of a launch.

#include "arguments.h"

namespace mindspore_offload {
namespace {

constexpr size_t kFloatsOfSum = sizeof(double) / sizeof(float);
constexpr int kLeading = 2;  // coefficients and rows, before the tensors
constexpr size_t kColumns = 11;
static_assert(sizeof(AdamCoefficients) == kColumns * sizeof(float), "a row of the coefficient tensor");

// One row of the rows tensor.
struct ParameterRow {
  int32_t coefficients;  // the row of the coefficient tensor
  int32_t key;           // for stochastic rounding: any number that differs between parameters
  int32_t piece;         // the piece of the parameter that these tensors are: it has `piece` times their size before it
};
constexpr size_t kRowColumns = 3;
static_assert(sizeof(ParameterRow) == kRowColumns * sizeof(int32_t), "a row of the rows tensor");

// The argument indices of one parameter's tensors; -1 for an absent tensor.
struct ArgumentIndices {
  int parameter, moment1, moment2, gradient, master, result;
};

// The order of the arguments of one update.
struct Layout {
  Writeback writeback;
  int tensors;  // number of parameters
  int halves;   // number of parameters with 16 bits

  int Parameters() const { return writeback == Writeback::kInPlace ? tensors : halves; }

  int Inputs() const { return kLeading + Parameters() + 3 * tensors + halves; }

  int Outputs() const { return writeback == Writeback::kInPlace ? 1 : tensors; }

  // The arguments of parameter i. `half` is the number of 16-bit parameters before it, or -1 if it is float32 itself.
  ArgumentIndices Of(int i, int half) const {
    const bool is_half = half >= 0;
    const int lists = kLeading + Parameters();
    ArgumentIndices at{-1, lists + i, lists + tensors + i, lists + 2 * tensors + i, -1, Inputs() + i};
    if (is_half) at.master = lists + 3 * tensors + half;
    if (writeback == Writeback::kInPlace) {
      at.parameter = at.result = kLeading + i;
    } else if (is_half) {
      at.parameter = kLeading + half;
    }
    return at;
  }

  // The argument with the dtype of parameter i: the parameter in place, else its result, counted from the end.
  int TypedBy(int i, int count) const { return writeback == Writeback::kInPlace ? kLeading + i : count - tensors + i; }
};

Status ReadTensors(const Launch& launch, const ArgumentIndices& at, Element parameter_type, AdamTensors* tensors) {
  const size_t size = launch.Size(at.moment1);
  if (size == 0) return kBadShape;
  for (int i : {at.parameter, at.moment2, at.gradient, at.master, at.result}) {
    if (i >= 0 && launch.Size(i) != size) return kBadShape;
  }
  Element gradient_type, moment_type, moment2_type;
  if (!launch.ReadElement(at.gradient, &gradient_type)) return kBadType;
  if (!launch.ReadElement(at.moment1, &moment_type) || moment_type == Element::kFloat16) return kBadType;
  if (!launch.ReadElement(at.moment2, &moment2_type) || moment2_type != moment_type) return kBadType;
  if (at.master >= 0 && !launch.IsFloat32(at.master)) return kBadType;
  *tensors = {};
  tensors->parameter_type = parameter_type;
  tensors->gradient_type = gradient_type;
  tensors->moment_type = moment_type;
  tensors->moment1 = launch.data[at.moment1];
  tensors->moment2 = launch.data[at.moment2];
  tensors->gradient = launch.data[at.gradient];
  tensors->size = size;
  if (at.master >= 0) {
    Element read_type;
    if (!launch.ReadElement(at.parameter, &read_type) || read_type != parameter_type) return kBadType;
    tensors->weight = launch.Floats(at.master);
    tensors->parameter = launch.data[at.parameter];
    tensors->rounded = launch.data[at.result];
  } else if (at.parameter >= 0) {
    tensors->weight = launch.Floats(at.parameter);
  } else {
    tensors->delta = launch.Floats(at.result);
  }
  return kOk;
}

}  // namespace

Status ReadBucket(const Launch& launch, Writeback writeback, std::vector<BucketItem>* bucket) {
  if (launch.count <= kLeading) return kBadCount;
  if (launch.HasNullTable()) return kBadPointer;
  if (!launch.IsFloat32(0) || !launch.HasType(1, "int32")) return kBadType;
  const size_t floats = launch.Size(0);
  if (floats == 0 || floats % kColumns != 0) return kBadShape;
  const size_t rows_size = launch.Size(1), tensors = rows_size / kRowColumns;
  if (tensors == 0 || rows_size % kRowColumns != 0) return kBadShape;
  if (tensors >= static_cast<size_t>(launch.count)) return kBadCount;

  Layout layout{writeback, static_cast<int>(tensors), 0};
  std::vector<Element> types(layout.tensors);
  for (int i = 0; i < layout.tensors; ++i) {
    const int typed_by = layout.TypedBy(i, launch.count);
    if (typed_by < kLeading || typed_by >= launch.count) return kBadCount;
    if (!launch.ReadElement(typed_by, &types[i])) return kBadType;
    layout.halves += types[i] != Element::kFloat32;
  }
  if (launch.count != layout.Inputs() + layout.Outputs()) return kBadCount;
  const int used = writeback == Writeback::kInPlace ? layout.Inputs() : launch.count;  // a token is never written
  if (launch.HasNull(used)) return kBadPointer;

  const auto* coefficients = static_cast<const AdamCoefficients*>(launch.data[0]);
  const auto* rows = static_cast<const ParameterRow*>(launch.data[1]);
  bucket->resize(layout.tensors);
  for (int i = 0, halves = 0; i < layout.tensors; ++i) {
    const ParameterRow& row = rows[i];
    if (row.coefficients < 0 || static_cast<size_t>(row.coefficients) >= floats / kColumns) return kBadRow;
    if (row.piece < 0) return kBadRow;
    BucketItem& item = (*bucket)[i];
    item.coefficients = coefficients[row.coefficients];
    const bool is_half = types[i] != Element::kFloat32;
    const Status status = ReadTensors(launch, layout.Of(i, is_half ? halves++ : -1), types[i], &item.tensors);
    if (status != kOk) return status;
    item.tensors.key = static_cast<uint32_t>(row.key);
    item.tensors.first_element = static_cast<size_t>(row.piece) * item.tensors.size;
    // Only the device has the weight then, so it adds the penalty to the gradient, and this row has none.
    if (item.tensors.weight == nullptr && item.coefficients.weight_decay != 0.0f) return kBadDecay;
  }
  return kOk;
}

Status ReadGradients(const Launch& launch, std::vector<Gradient>* gradients) {
  if (launch.count < 2) return kBadCount;
  if (launch.HasNullTable() || launch.HasNull(launch.count)) return kBadPointer;
  const int output = launch.count - 1;
  if (!launch.IsFloat32(output)) return kBadType;
  gradients->resize(output);
  size_t sums = 0;
  for (int i = 0; i < output; ++i) {
    Gradient& gradient = (*gradients)[i];
    if (!launch.ReadElement(i, &gradient.type)) return kBadType;
    gradient.data = launch.data[i];
    gradient.size = launch.Size(i);
    if (gradient.size == 0) return kBadShape;
    sums += SumsOf(gradient.size);
  }
  return launch.Size(output) == sums * kFloatsOfSum ? kOk : kBadShape;
}

Status ReadSums(const Launch& launch, SumsOfRanks* sums) {
  if (launch.count != 3) return kBadCount;
  if (launch.HasNullTable() || launch.HasNull(launch.count)) return kBadPointer;
  if (!launch.IsFloat32(0) || !launch.HasType(1, "int32") || !launch.IsFloat32(2)) return kBadType;
  const size_t floats = launch.Size(0), numbers = launch.Size(1);
  if (numbers == 0 || numbers % 2 != 0 || launch.Size(2) != 1) return kBadShape;
  const auto* rows = static_cast<const int32_t*>(launch.data[1]);
  size_t sums_of_rank = 0;
  for (size_t i = 0; i < numbers; i += 2) {
    if (rows[i] <= 0) return kBadRow;
    sums->gradients.push_back({static_cast<size_t>(rows[i]), rows[i + 1] != 0});
    sums_of_rank += static_cast<size_t>(rows[i]);
  }
  if (floats == 0 || floats % (sums_of_rank * kFloatsOfSum) != 0) return kBadShape;
  sums->ranks = floats / (sums_of_rank * kFloatsOfSum);
  sums->sums.resize(floats / kFloatsOfSum);
  std::memcpy(sums->sums.data(), launch.data[0], floats * sizeof(float));
  return kOk;
}

}  // namespace mindspore_offload
