// A JSON number, by the short way and by the long one: both read the same number.

#include <bit>
#include <charconv>
#include <cstdint>

#include "../json_number.hpp"
#include "input.hpp"

namespace bidlight::fuzz {
namespace {

template <class Number>
Number read_with_care(const char* begin, const char* end) {
  Number number{};
  const auto [rest, error] = std::from_chars(begin, end, number);
  expect(error == std::errc{} && rest == end, "a number is one to its end");
  return number;
}

void read(const Bytes& bytes) {
  const char* at = bytes.begin();
  Value value;
  try {
    value = read_json_number(at, bytes.end());
  } catch (const NotPlain&) {
    return;
  }
  expect(at > bytes.begin() && at <= bytes.end(), "a number has its place in the body");
  if (value.kind == Kind::integer) {
    expect(value.integer == read_with_care<std::int64_t>(bytes.begin(), at), "an integer is read exactly");
    return;
  }
  expect(value.kind == Kind::real && std::isfinite(value.real), "a number is finite");
  const auto nearest = read_with_care<double>(bytes.begin(), at);
  expect(std::bit_cast<std::uint64_t>(value.real) == std::bit_cast<std::uint64_t>(nearest),
         "a number is the nearest float64");
}

}  // namespace
}  // namespace bidlight::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bidlight::fuzz::read(bidlight::fuzz::Bytes(data, size));
  return 0;
}
