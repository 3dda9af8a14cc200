// SPDX-License-Identifier: Apache-2.0

// Finds each parameter's tensors among the arguments of a launch.

#include "arguments.h"

#include <algorithm>
#include <cstring>

namespace mindspore_offload {
namespace {

constexpr size_t kFloatsOfSum = sizeof(double) / sizeof(float);
constexpr int kLeading = kParameter;  // coefficients and rows, before the tensors
constexpr size_t kColumns = sizeof(AdamCoefficients) / sizeof(float);
constexpr size_t kRowColumns = sizeof(ParameterRow) / sizeof(int32_t);

// The argument indices of one parameter's tensors; -1 for an absent tensor.
struct ArgumentIndices {
  int parameter, moment1, moment2, gradient, master, result;
};

// Where the arguments of one update are.
struct Layout {
  Writeback writeback;
  int tensors;  // number of parameters
  int halves;   // number of parameters with 16 bits

  // The number of arguments of a role.
  int Count(Role role) const {
    switch (role) {
      case kCoefficients:
      case kRows:
        return 1;
      case kParameter:
        return writeback == Writeback::kInPlace ? tensors : halves;
      case kMoment1:
      case kMoment2:
      case kGradient:
        return tensors;
      case kMaster:
        return halves;
    }
    __builtin_unreachable();
  }

  // The first argument of a role.
  int First(Role role) const {
    int first = 0;
    for (int before = 0; before < role; ++before) first += Count(static_cast<Role>(before));
    return first;
  }

  int Inputs() const { return First(kMaster) + Count(kMaster); }

  int Outputs() const { return writeback == Writeback::kInPlace ? 1 : tensors; }

  // The arguments of parameter i. `half` is the number of 16-bit parameters before it, or -1 if it is float32 itself.
  ArgumentIndices Of(int i, int half) const {
    ArgumentIndices at{-1, First(kMoment1) + i, First(kMoment2) + i, First(kGradient) + i, -1, Inputs() + i};
    if (half >= 0) at.master = First(kMaster) + half;
    if (writeback == Writeback::kInPlace) {
      at.parameter = at.result = First(kParameter) + i;
    } else if (half >= 0) {
      at.parameter = First(kParameter) + half;
    }
    return at;
  }
};

// Reads the number of parameters from the coefficients and rows, the only arguments that every bucket has.
Status ReadNumberOfTensors(const Launch& launch, int* tensors) {
  if (launch.count <= kLeading) return kBadCount;
  if (launch.HasNullTable()) return kBadPointer;
  if (!launch.IsFloat32(kCoefficients) || !launch.HasType(kRows, "int32")) return kBadType;
  const size_t floats = launch.Size(kCoefficients), numbers = launch.Size(kRows);
  if (floats == 0 || floats % kColumns != 0) return kBadShape;
  if (numbers == 0 || numbers % kRowColumns != 0) return kBadShape;
  if (numbers / kRowColumns >= static_cast<size_t>(launch.count)) return kBadCount;
  *tensors = static_cast<int>(numbers / kRowColumns);
  return kOk;
}

// Reads the element type of each parameter: from the parameter in place, else from its result, counted from the end.
Status ReadTypes(const Launch& launch, Writeback writeback, std::vector<Element>* types) {
  const int tensors = static_cast<int>(types->size());
  const int first = writeback == Writeback::kInPlace ? kLeading : launch.count - tensors;
  if (first < kLeading || first + tensors > launch.count) return kBadCount;
  for (int i = 0; i < tensors; ++i) {
    if (!launch.ReadElement(first + i, &(*types)[i])) return kBadType;
  }
  return kOk;
}

// Checks that the arguments are as many as the layout has, and none is missing.
Status CheckArguments(const Launch& launch, const Layout& layout) {
  if (launch.count != layout.Inputs() + layout.Outputs()) return kBadCount;
  const int used =
      layout.writeback == Writeback::kInPlace ? layout.Inputs() : launch.count;  // a token is never written
  return launch.HasNull(used) ? kBadPointer : kOk;
}

// Reads the gradient and the moments of a parameter, and with the gradient its size.
Status ReadGradientAndMoments(const Launch& launch, const ArgumentIndices& at, AdamTensors* tensors) {
  if (!launch.ReadElement(at.gradient, &tensors->gradient_type)) return kBadType;
  tensors->size = launch.Size(at.gradient);
  if (tensors->size == 0) return kBadShape;
  if (!launch.ReadMomentFormat(at.moment1, &tensors->moment_format)) return kBadType;
  for (int i : {at.moment1, at.moment2}) {
    if (!launch.HasType(i, DtypeOf(tensors->moment_format))) return kBadType;
    if (launch.Size(i) != ItemsOf(tensors->moment_format, tensors->size)) return kBadShape;
  }
  tensors->gradient = launch.data[at.gradient];
  tensors->moment1 = launch.data[at.moment1];
  tensors->moment2 = launch.data[at.moment2];
  return kOk;
}

// Reads the parameter, its master and its result, and with them its kind.
Status ReadParameter(const Launch& launch, const ArgumentIndices& at, AdamTensors* tensors) {
  for (int i : {at.parameter, at.master, at.result}) {
    if (i >= 0 && launch.Size(i) != tensors->size) return kBadShape;
  }
  if (at.master >= 0) {
    if (!launch.IsFloat32(at.master) || !launch.HasType(at.parameter, NameOf(tensors->parameter_type))) return kBadType;
    tensors->kind = Kind::kMaster;
    tensors->weight = launch.Floats(at.master);
    tensors->parameter = launch.data[at.parameter];
    tensors->result = launch.data[at.result];
  } else if (at.parameter >= 0) {
    tensors->kind = Kind::kInPlace;
    tensors->weight = launch.Floats(at.parameter);
  } else {
    tensors->kind = Kind::kDifference;
    tensors->result = launch.data[at.result];
  }
  return kOk;
}

// Reads row i: the coefficients of a parameter, and what its rounding depends on.
Status ReadRow(const Launch& launch, int i, BucketItem* item) {
  const ParameterRow& row = static_cast<const ParameterRow*>(launch.data[kRows])[i];
  if (row.coefficients < 0 || static_cast<size_t>(row.coefficients) >= launch.Size(kCoefficients) / kColumns) {
    return kBadRow;
  }
  if (row.piece < 0 || row.prepared < 0 || row.prepared > 1) return kBadRow;
  item->coefficients = static_cast<const AdamCoefficients*>(launch.data[kCoefficients])[row.coefficients];
  item->tensors.key = static_cast<uint32_t>(row.key);
  item->tensors.first_element = static_cast<size_t>(row.piece) * item->tensors.size;
  if (row.prepared != 0) {
    item->coefficients.clip = 1.0f;
    item->coefficients.weight_decay = 0.0f;
  }
  // Only the device has the weight of a difference, so only it can add the penalty to the gradient.
  const bool has_weight = item->tensors.kind != Kind::kDifference;
  return has_weight || item->coefficients.weight_decay == 0.0f ? kOk : kBadDecay;
}

}  // namespace

Status ReadBucket(const Launch& launch, Writeback writeback, std::vector<BucketItem>* bucket) {
  int tensors = 0;
  Status status = ReadNumberOfTensors(launch, &tensors);
  if (status != kOk) return status;
  std::vector<Element> types(tensors);
  status = ReadTypes(launch, writeback, &types);
  if (status != kOk) return status;
  const auto floats = std::count(types.begin(), types.end(), Element::kFloat32);
  const Layout layout{writeback, tensors, tensors - static_cast<int>(floats)};
  status = CheckArguments(launch, layout);
  if (status != kOk) return status;
  bucket->assign(tensors, {});
  for (int i = 0, halves = 0; status == kOk && i < tensors; ++i) {
    BucketItem& item = (*bucket)[i];
    item.tensors.parameter_type = types[i];
    const ArgumentIndices at = layout.Of(i, types[i] == Element::kFloat32 ? -1 : halves++);
    status = ReadGradientAndMoments(launch, at, &item.tensors);
    if (status == kOk) status = ReadParameter(launch, at, &item.tensors);
    if (status == kOk) status = ReadRow(launch, i, &item);
  }
  return status;
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
