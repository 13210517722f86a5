// A body of a request, in either encoding -> ids and an answer, for the fields of a real bundle.
//
// The core stays within its memory; every id is one of its field; a body gives the same ids twice; and whatever a
// body leaves behind in the encoder, also one that is given up half-way, the next one gets its own ids.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../request_reader.hpp"
#include "answer_check.hpp"
#include "schema.hpp"

namespace bidlight::fuzz {
namespace {

const Limits kLimits{50, 1e9, 3.6e6};
constexpr Text kOrdinary =
    R"({"user_id":"u1","context":{"site":"s1","hour":7.5,"history":["a5","a1"]},)"
    R"("candidates":[{"id":"ad-3","features":{"ad":"a1","campaign":1005,"tags":["x",7],"price":3}},{"id":"ad-99"}]})";

std::uint64_t hash_of_ad(Text text) { return hash_text(text, 1); }

// A catalogue of the ads ad-0 to ad-19, all of them out of vocabulary.
class Ads {
 public:
  explicit Ads(std::size_t width) {
    std::vector<std::pair<std::uint64_t, std::int32_t>> sorted;
    for (std::int32_t ad = 0; ad < kAds; ++ad) sorted.emplace_back(hash_of_ad("ad-" + std::to_string(ad)), ad);
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [hash, row] : sorted) {
      hashes_.push_back(hash);
      rows_.push_back(row);
    }
    for (std::uint64_t bucket = 0; bucket < 16; ++bucket) {
      const auto first = std::lower_bound(hashes_.begin(), hashes_.end(), bucket << kShift);
      starts_.push_back(static_cast<std::int32_t>(first - hashes_.begin()));
    }
    ids_.assign((kAds + 1) * width, kOutOfVocabularyId);
  }

  Catalogue get() const { return {starts_, hashes_, rows_, ids_, kShift, 8, kAds, hash_of_ad}; }

 private:
  static constexpr std::int32_t kAds = 20;
  static constexpr unsigned kShift = 60;
  std::vector<std::int32_t> starts_, rows_, ids_;
  std::vector<std::uint64_t> hashes_;
};

struct Bundle {
  Schema schema{FIELDS_FILE};
  Encoder encoder = schema.make_encoder();
  Ads ads{encoder.candidate.width()};
  Catalogue catalogue = ads.get();
  std::vector<std::int32_t> context = cardinalities_of(encoder.context);
  std::vector<std::int32_t> candidate = cardinalities_of(encoder.candidate);
};

const Bundle& bundle() {
  static const Bundle bundle;
  return bundle;
}

struct Encoded {
  std::vector<std::int32_t> context, candidates;
  std::vector<std::string> unknown_names;
  std::size_t unknown_ads = 0;
  bool is_whole = false;

  bool operator==(const Encoded&) const = default;
};

Encoded encode(const Request& request, Encoder& encoder, const Catalogue* ads) {
  Encoded found;
  found.is_whole = encoder.has_whole_context(request);
  found.context.assign(encoder.context.width(), -1);
  found.candidates.assign(request.candidates.size() * encoder.candidate.width(), -1);
  // Before the other, which gives up on many unknown names.
  Findings silent;
  silent.tells_names = false;
  std::vector<std::int32_t> context = found.context, candidates = found.candidates;
  encoder.encode_context(request, context.data(), silent);
  encoder.encode_candidates(request, ads, candidates.data(), silent);
  expect(silent.unknown_names.empty(), "names are not told that nobody asks for");
  Findings findings, without_ids;
  encoder.encode_context(request, found.context.data(), findings);
  encoder.find_unknown_in_context(request, without_ids);
  expect(findings.unknown_names == without_ids.unknown_names, "names are unknown with ids and without");
  encoder.encode_candidates(request, ads, found.candidates.data(), findings);
  expect(context == found.context && candidates == found.candidates, "ids are the same without names");
  expect(silent.unknown_ads == findings.unknown_ads, "unknown ads are the same without names");
  expect_ids(found.context, bundle().context);
  expect_ids(found.candidates, bundle().candidate);
  found.unknown_names.assign(findings.unknown_names.begin(), findings.unknown_names.end());
  found.unknown_ads = findings.unknown_ads;
  return found;
}

// Any numbers: the answer must be right whatever a graph gives.
template <class Sink>
void answer(const Request& request) {
  std::vector<double> pctrs;
  std::vector<std::int64_t> bids;
  for (std::size_t row = 0; row < request.candidates.size(); ++row) {
    pctrs.push_back(1.0 / static_cast<double>(row + 3));
    bids.push_back(static_cast<std::int64_t>(row % 3 * (row * 12'345'679 + 1)));
  }
  check_answer<Sink>(request, pctrs, bids);
}

// None of a body that is not plain. It is gone when this returns.
template <class Source, class Sink>
std::optional<Encoded> encode_body(Text text, Encoder& encoder, const Catalogue* ads) {
  const Bytes body(text.data(), text.size());
  try {
    Request request = RequestReader(Source(body.begin(), body.end()), kLimits).read();
    const Encoded found = encode(request, encoder, ads);
    request.drop_features();
    answer<Sink>(request);
    return found;
  } catch (const NotPlain&) {
    return std::nullopt;
  }
}

std::optional<Encoded> encode_ordinary(Encoder& encoder) {
  return encode_body<JsonSource, JsonSink>(kOrdinary, encoder, &bundle().catalogue);
}

template <class Source>
bool can_be_read(Text text) {
  const Bytes body(text.data(), text.size());
  try {
    RequestReader(Source(body.begin(), body.end()), kLimits).read();
  } catch (const NotPlain&) {
    return false;
  }
  return true;
}

template <class Source, class Sink>
void feed(Text body) {
  if (!can_be_read<Source>(body)) return;  // most bodies cannot: an encoder for each would cost more than reading
  static const auto ordinary = [] {
    Encoder encoder = bundle().schema.make_encoder();
    return encode_ordinary(encoder);
  }();
  expect(ordinary.has_value(), "an ordinary request is plain");
  for (const Catalogue* ads : {static_cast<const Catalogue*>(nullptr), &bundle().catalogue}) {
    Encoder encoder = bundle().schema.make_encoder();
    const auto first = encode_body<Source, Sink>(body, encoder, ads);
    expect(encode_ordinary(encoder) == ordinary, "a request's ids do not depend on the one before");
    expect(encode_body<Source, Sink>(body, encoder, ads) == first, "a body gives the same ids twice");
  }
}

}  // namespace
}  // namespace bidlight::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bidlight;
  const Text body(reinterpret_cast<const char*>(data), size);
  fuzz::feed<JsonSource, JsonSink>(body);
  fuzz::feed<MsgpackSource, MsgpackSink>(body);
  return 0;
}
