// The grammar of a bid request, the same in both encodings: bytes -> Request.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "request.hpp"

namespace bidlight {

struct Limits {
  std::size_t max_candidates;
  double max_money;
  double max_tmax_ms;
};

// Accepts no more than the Python decoder does, and gives the same values.
template <class Source>
class RequestReader {
 public:
  RequestReader(Source source, const Limits& limits) : source_(std::move(source)), limits_(limits) {}

  // Throws NotPlain.
  Request read() {
    enum : unsigned { kCandidates = 1, kId = 2, kUserId = 4, kTmax = 8, kContext = 16, kTracking = 32 };
    unsigned seen = 0;
    auto nest = source_.open_map();
    while (source_.next(nest)) {
      const Text key = source_.key();
      if (key == "candidates") {
        once(seen, kCandidates);
        request_.as_rows = source_.at_list();
        if (request_.as_rows) {
          read_rows();
        } else {
          read_columns();
        }
      } else if (key == "context") {
        once(seen, kContext);
        read_features(request_.context);
      } else if (key == "id") {
        once(seen, kId);
        request_.id = read_text();
      } else if (key == "user_id") {
        once(seen, kUserId);
        request_.user_id = read_text();
      } else if (key == "tmax_ms") {
        once(seen, kTmax);
        request_.tmax_ms = read_number();
        if (request_.tmax_ms <= 0.0 || request_.tmax_ms > limits_.max_tmax_ms) throw NotPlain{};
      } else if (key == "tracking") {
        once(seen, kTracking);
        const Value value = source_.scalar();
        if (value.kind != Kind::boolean) throw NotPlain{};
        request_.tracking = value.integer != 0;
      } else {
        throw NotPlain{};
      }
    }
    source_.finish();
    request_.unescaped = source_.take_unescaped();
    if ((seen & kCandidates) == 0 || request_.candidates.empty()) throw NotPlain{};
    return std::move(request_);
  }

 private:
  enum : unsigned { kId = 1, kFeatures = 2, kValue = 4, kFloor = 8 };

  static void once(unsigned& seen, unsigned key) {
    if ((seen & key) != 0) throw NotPlain{};
    seen |= key;
  }

  // The bit of a key of a candidate, or of the columns.
  static unsigned candidate_key(Text key) {
    if (key == "id") return kId;
    if (key == "features") return kFeatures;
    if (key == "value_per_click") return kValue;
    if (key == "bid_floor") return kFloor;
    throw NotPlain{};
  }

  void read_rows() {
    auto nest = source_.open_list();
    while (source_.next(nest)) {
      if (request_.candidates.size() == limits_.max_candidates) throw NotPlain{};
      Candidate& candidate = request_.candidates.emplace_back();
      unsigned seen = 0;
      auto members = source_.open_map();
      while (source_.next(members)) {
        const unsigned key = candidate_key(source_.key());
        once(seen, key);
        if (key == kFeatures) {
          read_features(request_.features);
        } else if (key == kId) {
          candidate.id = read_text();
        } else {
          (key == kValue ? candidate.value_per_click : candidate.bid_floor) = read_money();
        }
      }
      candidate.features_end = request_.features.size();
    }
  }

  void read_columns() {
    unsigned seen = 0;
    auto members = source_.open_map();
    while (source_.next(members)) {
      const unsigned key = candidate_key(source_.key());
      once(seen, key);
      if (key == kFeatures) {
        auto names = source_.open_map();
        while (source_.next(names)) {
          request_.columns.push_back({source_.key(), request_.values.size()});
          read_column([&](Candidate&) { request_.values.push_back(read_value()); });
        }
      } else if (source_.at_list()) {
        if (key == kId) {
          read_column([&](Candidate& candidate) { candidate.id = read_text(); });
        } else if (key == kValue) {
          read_column([&](Candidate& candidate) { candidate.value_per_click = read_money(); });
        } else {
          read_column([&](Candidate& candidate) { candidate.bid_floor = read_money(); });
        }
      } else if (source_.scalar().kind != Kind::null) {
        throw NotPlain{};
      }
    }
  }

  // Calls `read` for each element of a list; the first column says how many candidates there are.
  template <class Read>
  void read_column(Read read) {
    auto& candidates = request_.candidates;
    const bool is_first = !has_length_;
    has_length_ = true;
    std::size_t row = 0;
    auto nest = source_.open_list();
    while (source_.next(nest)) {
      if (is_first && row < limits_.max_candidates) candidates.emplace_back();
      if (row == candidates.size()) throw NotPlain{};
      read(candidates[row++]);
    }
    if (row != candidates.size()) throw NotPlain{};
  }

  void read_features(std::vector<Feature>& features) {
    auto nest = source_.open_map();
    while (source_.next(nest)) {
      const Text name = source_.key();
      features.push_back({name, read_value()});
    }
  }

  Value read_value() {
    if (!source_.at_list()) return source_.scalar();
    Value list;
    list.kind = Kind::list;
    list.first = request_.elements.size();
    auto nest = source_.open_list();
    while (source_.next(nest)) {
      const Value element = source_.scalar();
      if (element.kind == Kind::real) throw NotPlain{};
      request_.elements.push_back(element);
      ++list.size;
    }
    return list;
  }

  Text read_text() {
    const Value value = source_.scalar();
    if (value.kind == Kind::null) return {};
    if (value.kind != Kind::text) throw NotPlain{};
    return value.as_text();
  }

  double read_number() {
    const Value value = source_.scalar();
    switch (value.kind) {
      case Kind::null:
        return kNoNumber;
      case Kind::integer:
        return static_cast<double>(value.integer);
      case Kind::real:
        return value.real;
      default:
        throw NotPlain{};
    }
  }

  double read_money() {
    const double money = read_number();
    if (money < 0.0 || money > limits_.max_money) throw NotPlain{};
    return money;
  }

  Source source_;
  const Limits& limits_;
  Request request_;
  bool has_length_ = false;
};

}  // namespace bidlight
