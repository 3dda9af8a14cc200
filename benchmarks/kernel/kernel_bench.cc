// SPDX-License-Identifier: Apache-2.0

// Times the kernel alone, without MindSpore: every kind of parameter, with 4 KiB and with huge pages for the tensors
// that MindSpore allocates (the states have huge pages in the package), against bare loops and the read limit.
//
// Usage: kernel_bench [threads] [rounds] [tensors] [elements of a tensor]

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "../../mindspore_offload/csrc/implementation.h"
#include "../../mindspore_offload/csrc/kernel.h"
#include "../../mindspore_offload/csrc/sizes.h"
#include "../../mindspore_offload/csrc/team.h"
#include "../../mindspore_offload/csrc/update.h"
#include "loops.h"

using namespace mindspore_offload;

namespace {

// Memory for `bytes`, touched, in huge pages or not. It lives until the process ends.
char* Allocate(size_t bytes, bool huge) {
  constexpr size_t kHugePage = size_t{2} << 20;
  bytes = (bytes / kHugePage + 2) * kHugePage;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  madvise(memory, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  std::fill_n(static_cast<char*>(memory), bytes, 0);
  return static_cast<char*>(memory);
}

// The memory of one parameter, enough for every kind. States lie in one piece, with the gaps of the package.
struct Parameter {
  static constexpr size_t kGap = 21 * 4096 + 1024;

  Parameter(size_t size, bool huge) {
    const size_t bytes = 4 * size;
    char* states = Allocate(3 * (bytes + kGap), true) + kGap;
    moment1 = reinterpret_cast<float*>(states);
    moment2 = reinterpret_cast<float*>(states + bytes + kGap);
    master = reinterpret_cast<float*>(states + 2 * (bytes + kGap));
    weight = reinterpret_cast<float*>(Allocate(bytes, huge));
    gradient = reinterpret_cast<float*>(Allocate(bytes, huge));
    result = reinterpret_cast<float*>(Allocate(bytes, huge));
  }

  float *moment1, *moment2, *master, *weight, *gradient, *result;
};

struct Configuration {
  std::string name;
  Element type;  // of the parameter and of its gradient
  MomentFormat moments;
  bool assign;
  double bytes;  // read and written, an element
};

Configuration ConfigurationOf(Element type, MomentFormat moments, bool assign) {
  const bool half = type != Element::kFloat32;
  const std::string name =
      std::string(NameOf(type)) + ", moments " + DtypeOf(moments) + (assign ? ", assign" : ", in place");
  const double moment_bytes = 4 * static_cast<double>(BytesOf(moments, kBlock)) / kBlock;
  return {name, type, moments, assign, moment_bytes + (half ? 8 + 4 + 2 : assign ? 4 + 4 : 8 + 4)};
}

void Fill(void* data, Element type, float value, size_t size) {
  if (type == Element::kFloat32) {
    std::fill_n(static_cast<float*>(data), size, value);
  } else {
    const uint32_t bits = type == Element::kFloat16 ? Rounded(value, Float16{}) : Rounded(value, BFloat16{});
    std::fill_n(static_cast<uint16_t*>(data), size, static_cast<uint16_t>(bits));
  }
}

// Fills a gradient with numbers from -0.01 to 0.01, which differ from element to element.
void FillGradient(void* data, Element type, size_t size) {
  uint32_t state = 1;
  for (size_t i = 0; i < size; ++i) {
    state = state * 1664525 + 1013904223;
    const float value = 0.01f * (static_cast<float>(state >> 8) / (1 << 23) - 1.0f);
    const size_t bytes = type == Element::kFloat32 ? 4 : 2;
    Fill(static_cast<char*>(data) + i * bytes, type, value, 1);
  }
}

AdamTensors TensorsOf(const Parameter& p, const Configuration& kind, size_t size) {
  Fill(p.weight, kind.type, 1.0f, size);
  Fill(p.master, Element::kFloat32, 1.0f, size);
  for (void* moment : {p.moment1, p.moment2}) std::memset(moment, 0, BytesOf(kind.moments, size));
  FillGradient(p.gradient, kind.type, size);
  AdamTensors t{};
  t.parameter_type = t.gradient_type = kind.type;
  t.moment_format = kind.moments;
  t.moment1 = p.moment1;
  t.moment2 = p.moment2;
  t.gradient = p.gradient;
  t.size = size;
  if (kind.type != Element::kFloat32) {
    t.kind = Kind::kMaster;
    t.weight = p.master;
    t.parameter = p.weight;
    t.result = kind.assign ? p.result : p.weight;
  } else if (kind.assign) {
    t.kind = Kind::kDifference;
    t.result = p.result;
  } else {
    t.weight = p.weight;
  }
  return t;
}

using Update = void (*)(const AdamCoefficients&, const AdamTensors&, size_t, size_t);

template <size_t kSize, size_t kAhead>
BEST_ISA void Variant(const AdamCoefficients& c, const AdamTensors& t, size_t begin, size_t end) {
  UpdateRange<BestConversion, kSize, kAhead>(c, t, begin, end);
}

struct Contender {
  std::string name;
  std::function<void(const BucketItem&)> run;
  double bytes = 0;  // read and written, an element; 0 if as many as in the kernel
};

Contender Chunked(const std::string& name, Update update, size_t chunk = kChunk) {
  return {name, [=](const BucketItem& item) {
            const size_t size = item.tensors.size;
            RunChunks((size + chunk - 1) / chunk, [&](size_t i) {
              update(item.coefficients, item.tensors, i * chunk, std::min(size, (i + 1) * chunk));
            });
          }};
}

template <size_t kSize, size_t kAhead>
Contender TileAndPrefetch() {
  return Chunked("tile " + std::to_string(kSize) + ", prefetch " + std::to_string(kAhead), Variant<kSize, kAhead>);
}

Contender Kernel() {
  return {"the kernel", [](const BucketItem& item) { UpdateBucket({item}); }};
}

Contender Norm(double bytes) {
  const auto run = [](const BucketItem& item) {
    SumsOfSquares({{item.tensors.gradient_type, item.tensors.gradient, item.tensors.size}});
  };
  return {"the norm", run, bytes};
}

std::vector<Contender> ContendersFor(const Configuration& kind) {
  std::vector<Contender> all = {Kernel(),
                                TileAndPrefetch<512, 0>(),
                                TileAndPrefetch<256, 0>(),
                                TileAndPrefetch<128, 0>(),
                                TileAndPrefetch<128, 256>(),
                                TileAndPrefetch<128, 1024>(),
                                TileAndPrefetch<64, 512>()};
  if (kind.assign) return all;
  all.push_back(Norm(kind.type == Element::kFloat32 ? 4 : 2));
  if (kind.type != Element::kFloat32 || kind.moments != MomentFormat::kFloat32) return all;
  for (size_t shift : {15, 16, 18}) {
    all.push_back(Chunked("chunk 2^" + std::to_string(shift), Variant<kTile, kPrefetch>, size_t{1} << shift));
  }
  all.push_back(Chunked("bare loop", BareLoop<0>));
  all.push_back(Chunked("bare loop, prefetch 256", BareLoop<256>));
  all.push_back(Chunked("bare loop, prefetch 512", BareLoop<512>));
  all.push_back(Chunked("bare loop, prefetch 1024", BareLoop<1024>));
  all.push_back(Chunked("reading alone", ReadOnly));
  all.back().bytes = 16;
  return all;
}

// The kernel with each format of the moments, on tensors of its own.
std::vector<Contender> Formats(const std::vector<std::vector<BucketItem>>& buckets) {
  std::vector<Contender> all;
  for (const std::vector<BucketItem>& bucket : buckets) {
    const AdamTensors& t = bucket[0].tensors;
    const auto run = [&bucket, next = size_t{0}](const BucketItem&) mutable {
      UpdateBucket({bucket[next++ % bucket.size()]});
    };
    const double bytes = ConfigurationOf(t.parameter_type, t.moment_format, false).bytes;
    all.push_back({std::string("moments ") + DtypeOf(t.moment_format), run, bytes});
  }
  return all;
}

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Runs the contenders in turn, each time on the next tensor, so that nothing is left in the caches. Prints quartiles.
void Compare(const std::vector<Contender>& contenders, const std::vector<BucketItem>& bucket, size_t rounds,
             double bytes) {
  std::vector<std::vector<double>> times(contenders.size());
  for (size_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < contenders.size(); ++i) {
      // Order and tensors shift from round to round, so that every contender follows others and meets every tensor.
      const size_t turn = (i + round * 5) % contenders.size();
      const BucketItem& item = bucket[(i + round * 6) % bucket.size()];
      const double seconds = Seconds([&] { contenders[turn].run(item); });
      if (round > 0) times[turn].push_back(seconds * 1e9 / static_cast<double>(item.tensors.size));
    }
  }
  for (size_t i = 0; i < contenders.size(); ++i) {
    std::vector<double>& t = times[i];
    std::sort(t.begin(), t.end());
    const double median = t[t.size() / 2];
    std::printf("  %-36s %6.3f %6.3f %6.3f %6.3f %6.1f\n", contenders[i].name.c_str(), t[0], t[t.size() / 4], median,
                t[t.size() * 3 / 4], (contenders[i].bytes > 0 ? contenders[i].bytes : bytes) / median);
  }
}

constexpr int kFirstSteps = 32;

size_t Option(int argc, char** argv, int i, size_t otherwise) {
  return argc > i ? std::strtoul(argv[i], nullptr, 10) : otherwise;
}

}  // namespace

int main(int argc, char** argv) {
  const size_t threads = Option(argc, argv, 1, 2), rounds = Option(argc, argv, 2, 101);
  const size_t tensors = Option(argc, argv, 3, 8), size = Option(argc, argv, 4, size_t{1} << 21);
  SetTeamSize(threads);
  AdamCoefficients c{};
  c.learning_rate = 0.0f;  // so that a result that no device writes back still is the parameter
  c.eps = 1e-8f;
  c.clip = c.gradient_scale = 1.0f;
  c.beta1 = 0.9f;
  c.beta2 = 0.999f;
  std::printf("%zu threads, %zu tensors of %zu elements; tile %zu, prefetch %zu, chunk %zu\n", threads, tensors, size,
              kTile, kPrefetch, kChunk);
  std::printf("ns a parameter: fastest, quartile, median, quartile; GB/s of the median\n");
  std::vector<Configuration> kinds;
  for (MomentFormat moments : kMomentFormats) {
    for (Element type : {Element::kFloat32, Element::kFloat16, Element::kBFloat16}) {
      for (bool assign : {false, true}) kinds.push_back(ConfigurationOf(type, moments, assign));
    }
  }
  for (Element type : {Element::kFloat32, Element::kBFloat16}) {
    std::vector<std::vector<BucketItem>> buckets;
    for (MomentFormat moments : kMomentFormats) {
      buckets.emplace_back();
      for (size_t i = 0; i < tensors; ++i) {
        const Parameter p(size, false);
        buckets.back().push_back({c, TensorsOf(p, ConfigurationOf(type, moments, false), size)});
      }
    }
    std::istringstream isas(SupportedImplementations());
    for (std::string isa; isas >> isa;) {
      UseImplementation(isa.c_str());
      // In the first steps, v grows so fast that most blocks of codes move to another window, later hardly one.
      for (const std::vector<BucketItem>& bucket : buckets) {
        for (int step = 0; step < kFirstSteps; ++step) UpdateBucket(bucket);
      }
      std::printf("%s, in place, %s, the formats of the moments in turn\n", NameOf(type), isa.c_str());
      Compare(Formats(buckets), buckets[0], rounds, 0);
    }
  }
#ifdef MINDSPORE_OFFLOAD_HAS_AVX2
  if (!UseImplementation("avx2")) {
    std::fprintf(stderr, "The variants are compiled for AVX2, which this machine does not run.\n");
    return 1;
  }
#endif
  for (bool huge : {false, true}) {
    std::vector<Parameter> parameters;
    for (size_t i = 0; i < tensors; ++i) parameters.emplace_back(size, huge);
    for (const Configuration& kind : kinds) {
      std::vector<BucketItem> bucket;
      for (const Parameter& p : parameters) bucket.push_back({c, TensorsOf(p, kind, size)});
      std::printf("%s, %s\n", kind.name.c_str(), huge ? "huge pages" : "4 KiB pages");
      Compare(ContendersFor(kind), bucket, rounds, kind.bytes);
      std::fflush(stdout);
    }
  }
}
