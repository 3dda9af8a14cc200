// SPDX-License-Identifier: Apache-2.0

// Writes down the wire format. Names stand beside the fields and enumerators that they name, and the compiler compares
// their order with that of the declarations.

#include "abi.h"

#include <cstddef>
#include <string>

#include "adam.h"
#include "arguments.h"
#include "launch.h"
#include "moments.h"
#include "sizes.h"
#include "tensors.h"

namespace mindspore_offload {
namespace {

struct Name {
  const char* name;
  size_t place;  // the offset of a field, or the number of an enumerator
};

// True if the places are 0, step, 2 * step ... up to `end`.
template <size_t kCount>
constexpr bool AreComplete(const Name (&names)[kCount], size_t step, size_t end) {
  for (size_t i = 0; i < kCount; ++i) {
    if (names[i].place != i * step) return false;
  }
  return kCount * step == end;
}

#define FIELD(type, field) {#field, offsetof(type, field)}

constexpr Name kColumnNames[] = {
    FIELD(AdamCoefficients, learning_rate),
    FIELD(AdamCoefficients, weight_decay),
    FIELD(AdamCoefficients, decoupled_decay),
    FIELD(AdamCoefficients, eps),
    FIELD(AdamCoefficients, clip),
    FIELD(AdamCoefficients, gradient_scale),
    FIELD(AdamCoefficients, step),
    FIELD(AdamCoefficients, skip),
    FIELD(AdamCoefficients, beta1),
    FIELD(AdamCoefficients, beta2),
    FIELD(AdamCoefficients, nesterov),
};
static_assert(AreComplete(kColumnNames, sizeof(float), sizeof(AdamCoefficients)), "the columns in their order");

constexpr Name kRowNames[] = {
    FIELD(ParameterRow, coefficients),
    FIELD(ParameterRow, key),
    FIELD(ParameterRow, piece),
    FIELD(ParameterRow, prepared),
};
static_assert(AreComplete(kRowNames, sizeof(int32_t), sizeof(ParameterRow)), "the columns of the rows in their order");

constexpr Name kRoleNames[] = {
    {"coefficients", kCoefficients}, {"rows", kRows},         {"parameter", kParameter}, {"moment1", kMoment1},
    {"moment2", kMoment2},           {"gradient", kGradient}, {"master", kMaster},
};
static_assert(AreComplete(kRoleNames, 1, kRoles), "the roles in their order");

constexpr Name kStatusNames[] = {
    {"ok", kOk},           {"count", kBadCount}, {"pointer", kBadPointer},
    {"type", kBadType},    {"shape", kBadShape}, {"row", kBadRow},
    {"memory", kNoMemory}, {"decay", kBadDecay}, {"unexpected", kUnexpected},
};
static_assert(AreComplete(kStatusNames, 1, kStatuses), "the statuses in their order");

template <class Values, class NameOfValue>
std::string Line(const char* name, const Values& values, const NameOfValue& name_of) {
  std::string line = std::string(name) + ":";
  for (const auto& value : values) line += std::string(" ") + name_of(value);
  return line + "\n";
}

}  // namespace

const char* DescriptionOfAbi() {
  static const std::string text = [] {
    const auto name_of = [](const Name& name) { return name.name; };
    return Line("columns", kColumnNames, name_of) + Line("rows", kRowNames, name_of) +
           Line("roles", kRoleNames, name_of) + Line("statuses", kStatusNames, name_of) +
           Line("elements", kElements, [](Element type) { return NameOf(type); }) +
           Line("moments", kMomentFormats, DtypeOf) + "block: " + std::to_string(kBlock) + "\n";
  }();
  return text.c_str();
}

}  // namespace mindspore_offload
