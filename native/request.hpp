// A bid request as slices of its body: what was sent, before any arm says what it means.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

namespace bidlight {

// Thrown inside the core, and caught at its border, for whatever only the Python code answers: everything
// that it refuses, and what it accepts but clients rarely send.
struct NotPlain {};

// Texts point into the body, or into Request::unescaped. One without data is null, or was not sent.
using Text = std::string_view;

// A number that is null, or was not sent. No number of a plain request is NaN.
constexpr double kNoNumber = std::numeric_limits<double>::quiet_NaN();

enum class Kind : std::uint8_t { null, boolean, integer, real, text, list };

// A value of a feature: a scalar, or a list whose elements are scalars.
struct Value {
  Kind kind = Kind::null;
  std::uint32_t size = 0;  // bytes of a text, elements of a list
  union {
    std::int64_t integer = 0;
    double real;
    const char* text;
    std::uint64_t first;  // of a list, in Request::elements
  };

  Text as_text() const { return {text, size}; }
};

struct Feature {
  Text name;
  Value value;
};

struct Candidate {
  Text id;
  double value_per_click = kNoNumber;
  double bid_floor = kNoNumber;
  std::size_t features_end = 0;  // in Request::features, where those of the next candidate begin
};

// A column of features; its values are Request::values from `first`, one a candidate.
struct Column {
  Text name;
  std::size_t first;
};

struct Request {
  Text id, user_id;
  double tmax_ms = kNoNumber;
  std::optional<bool> tracking;  // none: the request does not say
  bool as_rows = true;
  std::vector<Candidate> candidates;
  std::vector<Feature> context;
  std::vector<Feature> features;  // of candidates sent as rows
  std::vector<Column> columns;    // of candidates sent as columns
  std::vector<Value> values;
  std::vector<Value> elements;
  std::unique_ptr<char[]> unescaped;  // texts that have escapes in the body

  // Frees what only the encoding needs: the request may wait a while for its answer.
  void drop_features() {
    context = {};
    features = {};
    columns = {};
    values = {};
    elements = {};
  }
};

}  // namespace bidlight
