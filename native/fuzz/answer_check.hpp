// An answer that is written, and read again.
#pragma once

#include <bit>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

#include "../answer.hpp"
#include "../json_source.hpp"
#include "../msgpack_source.hpp"
#include "input.hpp"

namespace bidlight::fuzz {

inline bool is_same(const Value& value, Text text) {
  if (text.data() == nullptr) return value.kind == Kind::null;
  return value.kind == Kind::text && value.as_text() == text;
}

inline bool is_same(const Value& value, double number) {
  return value.kind == Kind::real && std::bit_cast<std::uint64_t>(value.real) == std::bit_cast<std::uint64_t>(number);
}

// Expects that an answer fits into its bound, and that who reads it finds the same texts and the same bits.
// `pctrs` are finite, `bids` at most 10**15 micros; both have one number a candidate.
template <class Sink>
class AnswerCheck {
 public:
  AnswerCheck(const Request& request, std::span<const double> pctrs, std::span<const std::int64_t> bids)
      : request_(request), pctrs_(pctrs), bids_(bids) {}

  void run() {
    run(nullptr);
    const TokenSigner signer{0x1F, 0xFEED'BEEF, 1, SipHash(2, 3)};
    const Tokens tokens(signer, (std::uint64_t{1} << 40) - 1, (std::uint64_t{1} << 48) - 2);
    run(&tokens);
  }

 private:
  static constexpr bool kIsJson = std::is_same_v<Sink, JsonSink>;
  using Source = std::conditional_t<kIsJson, JsonSource, MsgpackSource>;
  // What stands between the request's id and the results.
  static constexpr Text kArm = kIsJson ? Text(R"(,"arm":"a","bundle":"b","results":)")
                                       : Text("\xA3" "arm" "\xA1" "a" "\xA6" "bundle" "\xA1" "b" "\xA7" "results");

  void run(const Tokens* tokens) {
    const std::size_t bound = answer_bound<Sink>(request_, kArm, tokens != nullptr);
    const auto body = std::make_unique<char[]>(bound);
    const char* end = write_answer<Sink>(body.get(), request_, kArm, pctrs_, bids_, tokens);
    expect(end <= body.get() + bound, "an answer fits into its bound");
    try {
      read(Source(body.get(), end));
    } catch (const NotPlain&) {
      expect(false, "an answer is well-formed");
    }
  }

  void read(Source source) {
    std::size_t rows = 0;
    auto nest = source.open_map();
    while (source.next(nest)) {
      const std::string key(source.key());
      if (key == "id") {
        expect(is_same(source.scalar(), request_.id), "an answer has its request's id");
      } else if (key == "results") {
        rows = request_.as_rows ? read_rows(source) : read_columns(source);
      } else {
        source.scalar();
      }
    }
    source.finish();
    expect(rows == request_.candidates.size(), "an answer has a result for each candidate");
  }

  std::size_t read_rows(Source& source) {
    std::size_t row = 0;
    auto nest = source.open_list();
    for (; source.next(nest); ++row) {
      auto members = source.open_map();
      while (source.next(members)) {
        const std::string key(source.key());
        expect_result(key, row, source.scalar());
      }
    }
    return row;
  }

  std::size_t read_columns(Source& source) {
    std::size_t row = 0;
    auto members = source.open_map();
    while (source.next(members)) {
      const std::string key(source.key());
      auto nest = source.open_list();
      for (row = 0; source.next(nest); ++row) expect_result(key, row, source.scalar());
    }
    return row;
  }

  void expect_result(const std::string& key, std::size_t row, const Value& value) {
    expect(row < request_.candidates.size(), "an answer has no more results than candidates");
    if (key == "id") {
      expect(is_same(value, request_.candidates[row].id), "a result has its candidate's id");
    } else if (key == "pctr") {
      expect(is_same(value, pctrs_[row]), "a pCTR is read as it was");
    } else if (key == "token") {
      expect(value.kind == Kind::text && value.as_text().size() == kTokenCharacters, "a token has its characters");
    } else if (bids_[row] == 0) {
      expect(value.kind == Kind::null, "no bid is null");
    } else {
      expect(is_same(value, static_cast<double>(bids_[row]) / static_cast<double>(kMicros)), "a bid is read as it was");
    }
  }

  const Request& request_;
  std::span<const double> pctrs_;
  std::span<const std::int64_t> bids_;
};

template <class Sink>
void check_answer(const Request& request, std::span<const double> pctrs, std::span<const std::int64_t> bids) {
  AnswerCheck<Sink>(request, pctrs, bids).run();
}

}  // namespace bidlight::fuzz
