// SPDX-License-Identifier: Apache-2.0

// Tests of the argument reader: it finds every tensor, and refuses every broken argument for the right reason.

#include "../../mindspore_offload/csrc/arguments.h"

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "expect.h"
#include "tests.h"

using namespace mindspore_offload;

namespace {

struct Argument {
  std::string dtype;
  std::vector<int64_t> shape;
  void* data;
};

// The arrays of pointers that MindSpore passes.
class Call {
 public:
  std::vector<Argument> arguments;

  Launch Read() {
    data_.clear(), ndims_.clear(), shapes_.clear(), dtypes_.clear();
    for (const Argument& one : arguments) {
      data_.push_back(one.data);
      ndims_.push_back(static_cast<int>(one.shape.size()));
      shapes_.push_back(one.shape.data());
      dtypes_.push_back(one.dtype.c_str());
    }
    return {static_cast<int>(arguments.size()), data_.data(), ndims_.data(), shapes_.data(), dtypes_.data()};
  }

 private:
  std::vector<void*> data_;
  std::vector<int> ndims_;
  std::vector<const int64_t*> shapes_;
  std::vector<const char*> dtypes_;
};

// A bucket of four parameters: float32, bfloat16, float32, float16. Every tensor has an address of its own, and the
// gradients have other types than their parameters.
class Bucket : public Call {
 public:
  explicit Bucket(Writeback writeback) : writeback_(writeback) {
    coefficients_[1].learning_rate = 1.0f;
    arguments = {{"float32", {2, 11}, coefficients_}, {"int32", {kTensors, 4}, rows}};
    for (int i = 0; i < kTensors; ++i) {
      if (writeback == Writeback::kInPlace || IsHalf(i)) Add(kKinds[i], i, &at[i].parameter);
    }
    for (int i = 0; i < kTensors; ++i) AddArray(DtypeOf(kMoments[i]), i, &at[i].moment1);
    for (int i = 0; i < kTensors; ++i) AddArray(DtypeOf(kMoments[i]), i, &at[i].moment2);
    for (int i = 0; i < kTensors; ++i) Add(kGradients[i], i, &at[i].gradient);
    for (int i = 0; i < kTensors; ++i) {
      if (IsHalf(i)) Add(Element::kFloat32, i, &at[i].master);
    }
    if (writeback == Writeback::kInPlace) {
      arguments.push_back({"float32", {1}, nullptr});  // a token is never written
    } else {
      for (int i = 0; i < kTensors; ++i) Add(kKinds[i], i, &at[i].result);
    }
  }

  void SetWeightDecay() { coefficients_[0].weight_decay = coefficients_[1].weight_decay = 0.1f; }

  Status Read(std::vector<BucketItem>* items) { return ReadBucket(Call::Read(), writeback_, items); }

  // True if `tensors` are those of parameter i.
  bool Matches(int i, const AdamTensors& t) const {
    const bool in_place = writeback_ == Writeback::kInPlace;
    const float* weight = static_cast<float*>(DataOf(IsHalf(i) ? at[i].master : at[i].parameter));
    const void* result = DataOf(in_place ? at[i].parameter : at[i].result);
    return t.parameter_type == kKinds[i] && t.gradient_type == kGradients[i] && t.size == SizeOf(i) &&
           t.moment_format == kMoments[i] && t.key == static_cast<uint32_t>(rows[i][1]) &&
           t.first_element == rows[i][2] * SizeOf(i) && t.moment1 == DataOf(at[i].moment1) &&
           t.moment2 == DataOf(at[i].moment2) && t.gradient == DataOf(at[i].gradient) && t.weight == weight &&
           t.kind == KindOf(i) && t.parameter == (IsHalf(i) ? DataOf(at[i].parameter) : nullptr) &&
           t.result == (t.kind == Kind::kInPlace ? nullptr : result);
  }

  static constexpr int kTensors = 4;
  static bool IsHalf(int i) { return kKinds[i] != Element::kFloat32; }

  int32_t rows[kTensors][4] = {{1, 17, 0, 0}, {0, -1, 2, 0}, {0, 5, 1, 0}, {1, 0, 0, 0}};
  struct {
    int parameter = -1, moment1 = -1, moment2 = -1, gradient = -1, master = -1, result = -1;
  } at[kTensors];

 private:
  static constexpr Element kKinds[kTensors] = {Element::kFloat32, Element::kBFloat16, Element::kFloat32,
                                               Element::kFloat16};
  static constexpr MomentFormat kMoments[kTensors] = {MomentFormat::kFloat32, MomentFormat::kBFloat16,
                                                      MomentFormat::kBFloat16, MomentFormat::kFloat32};
  static constexpr Element kGradients[kTensors] = {Element::kFloat16, Element::kFloat32, Element::kFloat32,
                                                   Element::kBFloat16};

  static size_t SizeOf(int i) { return 3 * (i + 2); }

  Kind KindOf(int i) const {
    return IsHalf(i) ? Kind::kMaster : writeback_ == Writeback::kInPlace ? Kind::kInPlace : Kind::kDifference;
  }

  void Add(Element type, int i, int* index) { AddArray(NameOf(type), i, index); }

  void AddArray(const char* dtype, int i, int* index) {
    *index = static_cast<int>(arguments.size());
    memory_.emplace_back(new float[SizeOf(i)]);
    arguments.push_back({dtype, {3, i + 2}, memory_.back().get()});
  }

  void* DataOf(int index) const { return index < 0 ? nullptr : arguments[index].data; }

  Writeback writeback_;
  AdamCoefficients coefficients_[2] = {};
  std::vector<std::unique_ptr<float[]>> memory_;
};

std::string NameOf(Writeback writeback) { return writeback == Writeback::kInPlace ? "in place" : "assign"; }

void TestGoodBucket(Writeback writeback) {
  Bucket bucket(writeback);
  std::vector<BucketItem> items;
  Expect(bucket.Read(&items) == kOk && items.size() == Bucket::kTensors, NameOf(writeback) + ": a good bucket");
  for (size_t i = 0; i < items.size(); ++i) {
    const bool matches = bucket.Matches(static_cast<int>(i), items[i].tensors) &&
                         items[i].coefficients.learning_rate == static_cast<float>(bucket.rows[i][0]);
    Expect(matches, NameOf(writeback) + ": tensors of parameter " + std::to_string(i));
  }
}

void TestBadBucket(Writeback writeback, Status expected, const std::string& what,
                   const std::function<void(Bucket*)>& damage) {
  Bucket bucket(writeback);
  damage(&bucket);
  std::vector<BucketItem> items;
  Expect(bucket.Read(&items) == expected, NameOf(writeback) + ": " + what);
}

void TestBadBuckets(Writeback writeback) {
  const int tensors = Bucket(writeback).arguments.size() - (writeback == Writeback::kInPlace ? 1 : 0);
  for (int i = 0; i < tensors; ++i) {
    const std::string what = " of argument " + std::to_string(i);
    TestBadBucket(writeback, kBadPointer, "pointer" + what, [=](Bucket* b) { b->arguments[i].data = nullptr; });
    TestBadBucket(writeback, kBadType, "dtype" + what, [=](Bucket* b) { b->arguments[i].dtype = "int64"; });
    if (i < 2) continue;
    TestBadBucket(writeback, kBadShape, "size" + what, [=](Bucket* b) { b->arguments[i].shape[1] += 1; });
    TestBadBucket(writeback, kBadShape, "zero" + what, [=](Bucket* b) { b->arguments[i].shape[0] = 0; });
    TestBadBucket(writeback, kBadShape, "overflow" + what, [=](Bucket* b) {
      b->arguments[i].shape = {int64_t{1} << 62, 4, b->arguments[i].shape[0], b->arguments[i].shape[1]};
    });
  }
  TestBadBucket(writeback, kBadCount, "no arguments", [](Bucket* b) { b->arguments.clear(); });
  TestBadBucket(writeback, kBadCount, "no tensors", [](Bucket* b) { b->arguments.resize(2); });
  TestBadBucket(writeback, kBadShape, "width of the coefficients", [](Bucket* b) { b->arguments[0].shape[1] = 9; });
  TestBadBucket(writeback, kBadCount, "more rows", [](Bucket* b) { b->arguments[1].shape[0] = 99; });
  TestBadBucket(writeback, kBadRow, "a negative row", [](Bucket* b) { b->rows[2][0] = -1; });
  TestBadBucket(writeback, kBadRow, "a row too large", [](Bucket* b) { b->rows[2][0] = 2; });
  TestBadBucket(writeback, kBadRow, "a negative piece", [](Bucket* b) { b->rows[2][2] = -1; });
  TestBadBucket(writeback, kBadShape, "an incomplete row", [](Bucket* b) { b->arguments[1].shape = {4 * 4 - 1}; });
  for (int prepared : {-1, 2}) {
    TestBadBucket(writeback, kBadRow, "prepared neither 0 nor 1", [=](Bucket* b) { b->rows[2][3] = prepared; });
  }
  TestBadBucket(writeback, kBadType, "moments of two types",
                [](Bucket* b) { b->arguments[b->at[0].moment2].dtype = "bfloat16"; });
  TestBadBucket(writeback, kBadType, "float16 moment",
                [](Bucket* b) { b->arguments[b->at[0].moment1].dtype = "float16"; });
  TestBadBucket(writeback, kBadType, "float16 master",
                [](Bucket* b) { b->arguments[b->at[1].master].dtype = "float16"; });
}

// Moments of 8 bits are rows of a block each, as many as the gradient needs.
void TestCodes() {
  for (int64_t rows : {0, 1, 2}) {
    Bucket bucket(Writeback::kInPlace);
    for (int i : {bucket.at[2].moment1, bucket.at[2].moment2}) {
      bucket.arguments[i].dtype = "uint8";
      bucket.arguments[i].shape = {rows, 260};
    }
    std::vector<BucketItem> items;
    const std::string what = "codes in " + std::to_string(rows) + " rows";
    Expect(bucket.Read(&items) == (rows == 1 ? kOk : kBadShape), what);
    Expect(rows != 1 || items[2].tensors.moment_format == MomentFormat::kUint8, what + ": the format");
  }
}

void TestBadCounts() {
  TestBadBucket(Writeback::kInPlace, kBadCount, "one missing", [](Bucket* b) { b->arguments.pop_back(); });
  TestBadBucket(Writeback::kInPlace, kBadCount, "one too many",
                [](Bucket* b) { b->arguments.push_back(b->arguments.back()); });
}

// An assign can't penalize a float32 parameter, which it does not have. The others it can. A prepared gradient is
// neither clipped nor penalized again.
void TestDecay() {
  std::vector<BucketItem> items;
  Bucket in_place(Writeback::kInPlace), assign(Writeback::kAssign);
  in_place.SetWeightDecay();
  assign.SetWeightDecay();
  Expect(in_place.Read(&items) == kOk, "in place: a penalty");
  Expect(assign.Read(&items) == kBadDecay, "assign: a penalty for a float32 parameter");
  assign.rows[0][3] = assign.rows[2][3] = 1;
  Expect(assign.Read(&items) == kOk, "assign: prepared float32 parameters");
  for (int i = 0; i < 4; ++i) {
    const AdamCoefficients& c = items[i].coefficients;
    const bool is_prepared = i % 2 == 0;
    Expect((c.clip == 1.0f) == is_prepared && (c.weight_decay == 0.0f) == is_prepared, "assign: prepared coefficients");
  }
}

void TestAssignReadsAnotherType() {
  TestBadBucket(Writeback::kAssign, kBadType, "parameter and result differ in dtype",
                [](Bucket* b) { b->arguments[b->at[1].parameter].dtype = "float16"; });
}

void TestNullTables() {
  std::vector<BucketItem> items;
  std::vector<Gradient> gradients;
  Bucket bucket(Writeback::kInPlace);
  const Launch good = bucket.Call::Read();
  for (int table = 0; table < 4; ++table) {
    Launch launch = good;
    if (table == 0) launch.data = nullptr;
    if (table == 1) launch.ndims = nullptr;
    if (table == 2) launch.shapes = nullptr;
    if (table == 3) launch.dtypes = nullptr;
    Expect(ReadBucket(launch, Writeback::kInPlace, &items) == kBadPointer, "null table " + std::to_string(table));
    Expect(ReadGradients(launch, &gradients) == kBadPointer, "norm: null table " + std::to_string(table));
  }
}

void TestGradients() {
  float wide[6], sums[4];
  uint16_t half[2];
  std::vector<Gradient> found;
  const auto read = [&](const std::function<void(Call*)>& damage) {
    Call call;
    call.arguments = {{"float32", {2, 3}, wide}, {"bfloat16", {2}, half}, {"float32", {4}, sums}};
    damage(&call);
    return ReadGradients(call.Read(), &found);
  };
  Expect(read([](Call*) {}) == kOk && found.size() == 2, "sums of squares: good gradients");
  Expect(found[0].type == Element::kFloat32 && found[0].data == wide && found[0].size == 6, "sums: first gradient");
  Expect(found[1].type == Element::kBFloat16 && found[1].data == half && found[1].size == 2, "sums: second gradient");
  Expect(read([](Call* c) { c->arguments.resize(1); }) == kBadCount, "sums: no gradient");
  Expect(read([](Call* c) { c->arguments[1].data = nullptr; }) == kBadPointer, "sums: null pointer");
  Expect(read([](Call* c) { c->arguments[1].dtype = "int16"; }) == kBadType, "sums: dtype of a gradient");
  Expect(read([](Call* c) { c->arguments[2].dtype = "float16"; }) == kBadType, "sums: dtype of the sums");
  Expect(read([](Call* c) { c->arguments[0].shape[1] = 0; }) == kBadShape, "sums: empty gradient");
  Expect(read([](Call* c) { c->arguments[2].shape[0] = 2; }) == kBadShape, "sums: number of sums");
}

void TestSums() {
  double sums[6] = {1, 2, 3, 4, 5, 6};
  int32_t rows[2][2] = {{2, 1}, {1, 0}};
  float norm;
  SumsOfRanks found;
  const auto read = [&](const std::function<void(Call*)>& damage) {
    Call call;
    call.arguments = {{"float32", {12}, sums}, {"int32", {2, 2}, rows}, {"float32", {1}, &norm}};
    damage(&call);
    found = {};
    return ReadSums(call.Read(), &found);
  };
  Expect(read([](Call*) {}) == kOk && found.ranks == 2, "norm: good sums of two ranks");
  Expect(found.sums == std::vector<double>(sums, sums + 6), "norm: sums");
  Expect(found.gradients.size() == 2 && found.gradients[0].count == 2 && found.gradients[0].is_piece &&
             found.gradients[1].count == 1 && !found.gradients[1].is_piece,
         "norm: gradients");
  Expect(read([](Call* c) { c->arguments.resize(2); }) == kBadCount, "norm: no output");
  Expect(read([](Call* c) { c->arguments[0].data = nullptr; }) == kBadPointer, "norm: null pointer");
  Expect(read([](Call* c) { c->arguments[0].dtype = "float64"; }) == kBadType, "norm: dtype of the sums");
  Expect(read([](Call* c) { c->arguments[1].dtype = "int64"; }) == kBadType, "norm: dtype of the rows");
  Expect(read([](Call* c) { c->arguments[2].dtype = "float16"; }) == kBadType, "norm: dtype of the norm");
  Expect(read([](Call* c) { c->arguments[0].shape[0] = 8; }) == kBadShape, "norm: number of sums");
  Expect(read([](Call* c) { c->arguments[1].shape = {3}; }) == kBadShape, "norm: number of rows");
  Expect(read([](Call* c) { c->arguments[2].shape[0] = 2; }) == kBadShape, "norm: shape of the norm");
  rows[0][0] = -2;
  Expect(read([](Call*) {}) == kBadRow, "norm: a negative number of sums");
}

// A gradient that lies in memory of the bucket is copied before anything is written, another one is not.
void TestSharedGradients() {
  float weights[2][8] = {}, gradients[8] = {}, moments[4][8] = {};
  uint16_t rounded[8] = {};
  const auto item = [&](int i, const void* gradient, size_t size) {
    BucketItem made{};
    made.tensors.weight = weights[i];
    made.tensors.moment1 = moments[2 * i];
    made.tensors.moment2 = moments[2 * i + 1];
    made.tensors.gradient = gradient;
    made.tensors.size = size;
    return made;
  };
  weights[1][3] = 7.0f;
  struct Place {
    const char* name;
    const void* gradient;
    bool is_shared;
  };
  for (const Place& place : {Place{"of its own", gradients, false},
                             {"another parameter", weights[1], true},
                             {"a part of another parameter", weights[1] + 3, true},
                             {"a moment", moments[3], true},
                             {"a parameter with 16 bits", rounded, true}}) {
    const std::string what = std::string("a gradient whose memory is ") + place.name;
    std::vector<BucketItem> bucket = {item(0, place.gradient, 4), item(1, gradients, 8)};
    bucket[1].tensors.kind = Kind::kMaster;
    bucket[1].tensors.result = rounded;
    bucket[1].tensors.parameter_type = Element::kFloat16;
    const GradientCopies copies = CopySharedGradients(&bucket);
    Expect(copies.size() == (place.is_shared ? 1 : 0), what + ", copies");
    Expect((bucket[0].tensors.gradient != place.gradient) == place.is_shared, what + ", is read elsewhere");
    Expect(std::memcmp(bucket[0].tensors.gradient, place.gradient, 4 * sizeof(float)) == 0, what + ", is the same");
    Expect(bucket[1].tensors.gradient == gradients, what + ", and the other one");
  }
}

}  // namespace

void TestArguments() {
  for (Writeback writeback : {Writeback::kInPlace, Writeback::kAssign}) {
    TestGoodBucket(writeback);
    TestBadBuckets(writeback);
  }
  TestBadCounts();
  TestCodes();
  TestDecay();
  TestAssignReadsAnotherType();
  TestNullTables();
  TestGradients();
  TestSums();
  TestSharedGradients();
}
