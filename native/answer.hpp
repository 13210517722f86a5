// pCTRs and bids -> the bytes of an answer, the same that the Python code writes.
#pragma once

#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "bytes.hpp"
#include "request.hpp"
#include "token.hpp"

namespace bidlight {

constexpr std::int64_t kMicros = 1'000'000;

// How the expected value of an impression becomes a bid (service/bidding.py, whose arithmetic this is).
struct BidPolicy {
  double multiplier;
  std::int64_t cap_micros;
  double floor;
  double win_price = 0.0;  // 0: bids are not shaded
};

// The bid of one candidate in whole micros, 0 for none. `exact(pctr, value_per_click)` is the bid by decimal
// arithmetic, which decides where float64 does not.
template <class Exact>
std::int64_t bid_micros(double pctr, const Candidate& candidate, const BidPolicy& policy, Exact exact) {
  const double given = candidate.value_per_click;
  if (!(given > 0.0)) return 0;
  const double price = policy.win_price;
  const bool is_shaded = price > 0.0;
  double worth = pctr * (given * policy.multiplier);
  if (is_shaded) worth = price * worth / (std::sqrt(price * worth + price * price) + price);
  const double micros = worth * static_cast<double>(kMicros);
  const double relative_error = is_shaded ? 0x1p-48 : 0x1p-50;
  std::int64_t bid = policy.cap_micros;
  if (micros < static_cast<double>(policy.cap_micros) + 2.0) {
    const double rounded = std::nearbyint(micros);
    const bool is_close = 0.5 - std::abs(micros - rounded) <= micros * relative_error;
    bid = std::min(is_close ? exact(pctr, given) : static_cast<std::int64_t>(rounded), policy.cap_micros);
  }
  const double money = static_cast<double>(bid) / static_cast<double>(kMicros);
  return money < policy.floor || money < candidate.bid_floor ? 0 : bid;
}

// Writes JSON to memory that has room, as msgspec does: no spaces, and the shortest digits that give the same
// float64 again.
class JsonSink {
 public:
  static constexpr std::size_t kRowBytes = 96;    // of a candidate at most, without its id and token
  static constexpr std::size_t kTokenBytes = 56;   // of a token and its key at most
  static constexpr std::size_t kEscapedBytes = 6;  // of a byte of a text at most

  // `escapes`: whether texts may hold what must be escaped. Without it they are copied unseen.
  JsonSink(char* out, bool escapes) : out_(out), escapes_(escapes) {}

  char* end() const { return out_; }

  void raw(Text bytes) {
    std::memcpy(out_, bytes.data(), bytes.size());
    out_ += bytes.size();
  }

  void begin_answer(unsigned) { raw("{\"id\":"); }
  void end_answer() { raw("}"); }
  void begin_list(std::size_t) { *out_++ = '['; }
  void separator(bool is_first) {
    if (!is_first) *out_++ = ',';
  }
  void end_list() { *out_++ = ']'; }
  void begin_map(bool) { *out_++ = '{'; }
  void end_map() { *out_++ = '}'; }
  void id_key() { raw("\"id\":"); }
  void pctr_key() { raw(",\"pctr\":"); }
  void bid_key() { raw(",\"bid\":"); }
  void token_key() { raw(",\"token\":"); }

  void token(const Tokens& tokens, std::size_t row) {
    *out_++ = '"';
    tokens.write(out_, row);
    out_ += kTokenCharacters;
    *out_++ = '"';
  }

  // A text of the request; without data it is null.
  void text(Text text) {
    if (text.data() == nullptr) return raw("null");
    *out_++ = '"';
    if (escapes_) {
      for (const char byte : text) escaped(byte);
    } else {
      raw(text);
    }
    *out_++ = '"';
  }

  void real(double number) {
    if (!std::isfinite(number)) return raw("null");
    char written[32];
    const char* const written_end =
        std::to_chars(written, written + sizeof(written), number, std::chars_format::scientific).ptr;
    const char* at = written;
    if (*at == '-') *out_++ = *at++;
    char digits[24];
    int count = 0;
    for (; *at != 'e'; ++at) {
      if (*at != '.') digits[count++] = *at;
    }
    ++at;
    const bool is_down = *at++ == '-';
    int exponent = 0;
    for (; at != written_end; ++at) exponent = exponent * 10 + (*at - '0');
    digits_with_point(digits, count, is_down ? -exponent : exponent);
  }

  // A bid of more than 0 micros, at most 10**15: a float64 prints such a decimal as it is.
  void money(std::int64_t micros) {
    if (micros < 10) {
      *out_++ = static_cast<char>('0' + micros);
      return raw("e-6");
    }
    out_ = std::to_chars(out_, out_ + 20, micros / kMicros).ptr;
    *out_++ = '.';
    auto left = static_cast<std::uint32_t>(micros % kMicros);
    do {
      const std::uint32_t digit = left / 100'000;
      *out_++ = static_cast<char>('0' + digit);
      left = (left - digit * 100'000) * 10;
    } while (left != 0);
  }

  void no_money() { raw("null"); }

 private:
  void escaped(char byte) {
    constexpr Text kShort = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt", kDigits = "0123456789abcdef";
    const std::size_t place = kShort.find(byte);
    if (place != Text::npos) {
      *out_++ = '\\';
      *out_++ = kLetters[place];
    } else if (static_cast<unsigned char>(byte) < 0x20) {
      raw("\\u00");
      *out_++ = kDigits[static_cast<std::size_t>(byte >> 4)];
      *out_++ = kDigits[static_cast<std::size_t>(byte & 15)];
    } else {
      *out_++ = byte;
    }
  }

  // `count` digits, with a point after the first one, times ten to the power of `exponent`.
  void digits_with_point(const char* digits, int count, int exponent) {
    const auto put = [this, digits](int from, int to) {
      raw({digits + from, static_cast<std::size_t>(to - from)});
    };
    const auto zeros = [this](int number) {
      for (; number > 0; --number) *out_++ = '0';
    };
    if (exponent < -5 || exponent > 15) {
      put(0, 1);
      if (count > 1) {
        *out_++ = '.';
        put(1, count);
      }
      *out_++ = 'e';
      out_ = std::to_chars(out_, out_ + 8, exponent).ptr;
    } else if (exponent < 0) {
      raw("0.");
      zeros(-exponent - 1);
      put(0, count);
    } else if (count <= exponent + 1) {
      put(0, count);
      zeros(exponent + 1 - count);
      raw(".0");
    } else {
      put(0, exponent + 1);
      *out_++ = '.';
      put(exponent + 1, count);
    }
  }

  char* out_;
  bool escapes_;
};

// The same in MessagePack.
class MsgpackSink {
 public:
  static constexpr std::size_t kRowBytes = 48, kTokenBytes = 56, kEscapedBytes = 1;

  MsgpackSink(char* out, bool) : out_(out) {}

  char* end() const { return out_; }

  void raw(Text bytes) {
    std::memcpy(out_, bytes.data(), bytes.size());
    out_ += bytes.size();
  }

  void begin_answer(unsigned keys) { byte(0x80 | keys), raw("\xA2id"); }
  void end_answer() {}
  void begin_list(std::size_t size) { head(size, 0x90, 16, 0xDC); }
  void separator(bool) {}
  void end_list() {}
  void begin_map(bool has_tokens) { byte(has_tokens ? 0x84 : 0x83); }
  void end_map() {}
  void id_key() { raw("\xA2id"); }
  void pctr_key() { raw("\xA4pctr"); }
  void bid_key() { raw("\xA3" "bid"); }
  void token_key() { raw("\xA5token"); }

  void token(const Tokens& tokens, std::size_t row) {
    byte(0xD9);
    byte(kTokenCharacters);
    tokens.write(out_, row);
    out_ += kTokenCharacters;
  }

  void text(Text text) {
    if (text.data() == nullptr) return byte(0xC0);
    if (text.size() >= 32 && text.size() < 256) {
      byte(0xD9);
      byte(static_cast<unsigned>(text.size()));
    } else {
      head(text.size(), 0xA0, 32, 0xDA);
    }
    raw(text);
  }

  void real(double number) {
    byte(0xCB);
    big_endian<8>(std::bit_cast<std::uint64_t>(number));
  }

  void money(std::int64_t micros) { real(static_cast<double>(micros) / static_cast<double>(kMicros)); }

  void no_money() { byte(0xC0); }

 private:
  void byte(unsigned value) { *out_++ = static_cast<char>(value); }

  template <int bytes>
  void big_endian(std::uint64_t value) {
    for (int i = bytes - 1; i >= 0; --i) byte(static_cast<unsigned>(value >> (8 * i)) & 0xFF);
  }

  // What says how long a list or a text is: `fixed` with a size below `short_sizes`, else `wide` or wide + 1.
  void head(std::size_t size, unsigned fixed, std::size_t short_sizes, unsigned wide) {
    if (size < short_sizes) {
      byte(fixed | static_cast<unsigned>(size));
    } else if (size <= 0xFFFF) {
      byte(wide);
      big_endian<2>(size);
    } else {
      byte(wide + 1);
      big_endian<4>(size);
    }
  }

  char* out_;
};

// How many bytes an answer has at most. `arm` is what stands between the request's id and the results.
template <class Sink>
std::size_t answer_bound(const Request& request, Text arm, bool has_tokens) {
  const std::size_t of_byte = request.unescaped == nullptr ? 1 : Sink::kEscapedBytes;
  const std::size_t of_row = Sink::kRowBytes + (has_tokens ? Sink::kTokenBytes : 0);
  std::size_t bytes = request.id.size() * of_byte + arm.size() + of_row;
  for (const Candidate& candidate : request.candidates) {
    bytes += candidate.id.size() * of_byte + of_row;
  }
  return bytes;
}

// Writes the answer to `out`, which has room for it, and returns its end. `pctrs` and `bids` (micros, 0 for none)
// have one number a candidate. Without `tokens` there are none. `arm` has all of the answer's `keys`, 15 at most, but
// for the id.
template <class Sink>
char* write_answer(char* out, const Request& request, Text arm, std::span<const double> pctrs,
                   std::span<const std::int64_t> bids, const Tokens* tokens, unsigned keys = 4) {
  Sink sink(out, request.unescaped != nullptr);
  const std::size_t rows = request.candidates.size();
  const auto bid = [&](std::size_t row) { bids[row] == 0 ? sink.no_money() : sink.money(bids[row]); };
  const auto column = [&](auto write) {
    sink.begin_list(rows);
    for (std::size_t row = 0; row < rows; ++row) {
      sink.separator(row == 0);
      write(row);
    }
    sink.end_list();
  };
  const auto id = [&](std::size_t row) { sink.text(request.candidates[row].id); };
  const auto pctr = [&](std::size_t row) { sink.real(pctrs[row]); };
  const auto token = [&](std::size_t row) { sink.token(*tokens, row); };
  sink.begin_answer(keys);
  sink.text(request.id);
  sink.raw(arm);
  if (request.as_rows) {
    column([&](std::size_t row) {
      sink.begin_map(tokens != nullptr);
      sink.id_key(), id(row);
      sink.pctr_key(), pctr(row);
      sink.bid_key(), bid(row);
      if (tokens != nullptr) sink.token_key(), token(row);
      sink.end_map();
    });
  } else {
    sink.begin_map(tokens != nullptr);
    sink.id_key(), column(id);
    sink.pctr_key(), column(pctr);
    sink.bid_key(), column(bid);
    if (tokens != nullptr) sink.token_key(), column(token);
    sink.end_map();
  }
  sink.end_answer();
  return sink.end();
}

}  // namespace bidlight
