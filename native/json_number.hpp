// A JSON number at the start of some bytes -> an integer or the nearest float64.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <system_error>

#include "request.hpp"

namespace bidlight {

inline bool is_digit(char byte) { return byte >= '0' && byte <= '9'; }

// Reads the number that begins at `at`, which moves behind it. Throws NotPlain for what is no number, and for
// those that are read with care: integers of more than 18 digits, -0, and what float64 cannot hold.
inline Value read_json_number(const char*& at, const char* end) {
  constexpr std::array<double, 23> kPowersOfTen = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                                   1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                                   1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  constexpr int kMaxDigits = 18;
  const char* begin = at;
  const bool is_negative = at != end && *at == '-';
  if (is_negative) ++at;
  const char* first = at;
  std::uint64_t digits = 0;  // wraps around beyond kMaxDigits, and is not used then
  while (at != end && is_digit(*at)) digits = digits * 10 + static_cast<std::uint64_t>(*at++ - '0');
  std::ptrdiff_t count = at - first;
  if (count == 0 || (count > 1 && *first == '0')) throw NotPlain{};
  Value value;
  if (at == end || (*at != '.' && *at != 'e' && *at != 'E')) {
    if (count > kMaxDigits || (is_negative && digits == 0)) throw NotPlain{};
    value.kind = Kind::integer;
    value.integer = is_negative ? -static_cast<std::int64_t>(digits) : static_cast<std::int64_t>(digits);
    return value;
  }
  int exponent = 0;
  if (*at == '.') {
    const char* fraction = ++at;
    while (at != end && is_digit(*at)) digits = digits * 10 + static_cast<std::uint64_t>(*at++ - '0');
    if (at == fraction) throw NotPlain{};
    count += at - fraction;
    exponent = static_cast<int>(fraction - at);
  }
  bool is_short = count <= kMaxDigits;
  if (at != end && (*at == 'e' || *at == 'E')) {
    ++at;
    const bool is_down = at != end && *at == '-';
    if (at != end && (*at == '-' || *at == '+')) ++at;
    const char* power = at;
    int written = 0;
    while (at != end && is_digit(*at)) {
      if (at - power < 4) written = written * 10 + (*at - '0');
      ++at;
    }
    if (at == power) throw NotPlain{};
    is_short = is_short && at - power <= 4;
    exponent += is_down ? -written : written;
  }
  value.kind = Kind::real;
  if (is_short && digits <= (std::uint64_t{1} << 53) && exponent >= -22 && exponent <= 22) {
    // Both are exact as float64, so one division or multiplication rounds once (Clinger 1990).
    const auto whole = static_cast<double>(digits);
    const double scale = kPowersOfTen[static_cast<std::size_t>(exponent < 0 ? -exponent : exponent)];
    const double size = exponent < 0 ? whole / scale : whole * scale;
    value.real = is_negative ? -size : size;
    return value;
  }
  double real = 0.0;
  const auto [rest, error] = std::from_chars(begin, at, real);
  if (error != std::errc{} || rest != at || !std::isfinite(real)) throw NotPlain{};
  value.real = real;
  return value;
}

}  // namespace bidlight
