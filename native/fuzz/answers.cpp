// Numbers, prices and texts -> bids, and the bytes of an answer.
//
// A bid is the rounded product, within its cap and its floors; an answer fits into its bound and is read as it was
// meant; and a bid has the same digits as any float64.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "../utf8.hpp"
#include "answer_check.hpp"

namespace bidlight::fuzz {
namespace {

constexpr std::uint64_t kMostMicros = 1'000'000'000'000'000;

// Between 0 and `most`, of any size.
double positive(Input& input, double most) {
  const double number = std::abs(input.number<double>());
  return std::isfinite(number) ? std::min(number, most) : most;
}

Text text_of(Input& input, std::vector<std::string>& memory) {
  if (input.yes()) return {};
  std::string text = input.text(255);
  if (!is_utf8(text)) {
    for (char& byte : text) byte = static_cast<char>(byte & 0x7F);
  }
  // A long one has another head in MessagePack; more than one would take the time of many inputs.
  if (memory.empty() && input.below(64) == 0) text.append(input.yes() ? 300 : 66'000, 'x');
  return memory.emplace_back(std::move(text));
}

void check_bid(double pctr, const Candidate& candidate, const BidPolicy& policy) {
  bool is_asked = false;
  // Extended precision stands for decimals: it decides all but near ties, where both neighbours are right.
  const long double worth = static_cast<long double>(pctr) * candidate.value_per_click * policy.multiplier;
  const long double price = policy.win_price;
  const long double shaded = price > 0 ? price * worth / (std::sqrt(price * worth + price * price) + price) : worth;
  const long double product = shaded * kMicros;
  const auto exact = [&](double, double) {
    is_asked = true;
    return std::min(static_cast<std::int64_t>(std::llrint(product)), policy.cap_micros);
  };
  const std::int64_t bid = bid_micros(pctr, candidate, policy, exact);
  expect(bid >= 0 && bid <= policy.cap_micros, "a bid is at most its cap");
  if (bid == 0) return;
  const double money = static_cast<double>(bid) / static_cast<double>(kMicros);
  expect(money >= policy.floor && !(money < candidate.bid_floor), "a bid is not below its floors");
  const long double expected = std::min(product, static_cast<long double>(policy.cap_micros));
  const long double error = std::abs(expected - static_cast<long double>(bid));
  expect(is_asked || error <= 0.5L + expected * 0x1p-48L, "a bid is the rounded product, shaded");
}

// The digits of a bid are those of the float64 that it is.
void check_digits(std::int64_t micros) {
  char as_bid[64], as_real[64];
  JsonSink bid(as_bid, false), real(as_real, false);
  bid.money(micros);
  real.real(static_cast<double>(micros) / static_cast<double>(kMicros));
  expect(Text(as_bid, static_cast<std::size_t>(bid.end() - as_bid)) ==
             Text(as_real, static_cast<std::size_t>(real.end() - as_real)),
         "a bid has the digits of its float64");
}

void answer(Input input) {
  std::vector<std::string> memory;
  memory.reserve(52);  // texts stay in place
  Request request;
  request.as_rows = input.yes();
  request.id = text_of(input, memory);
  const BidPolicy policy{1e-6 + positive(input, 1e6), static_cast<std::int64_t>(1 + input.below(65'536)) << input.below(34),
                         positive(input, 1e3), input.yes() ? std::max(positive(input, 1e9), 1e-9) : 0.0};
  std::vector<double> pctrs;
  std::vector<std::int64_t> bids;
  do {
    Candidate& candidate = request.candidates.emplace_back();
    candidate.id = text_of(input, memory);
    if (input.yes()) candidate.value_per_click = positive(input, 1e9);
    if (input.yes()) candidate.bid_floor = positive(input, 1e9);
    const auto number = input.number<double>();
    pctrs.push_back(std::isfinite(number) ? number : 0.5);
    const std::uint64_t micros = input.number<std::uint64_t>() >> input.below(64);
    bids.push_back(static_cast<std::int64_t>(micros % (kMostMicros + 1)));
    check_bid(std::min(std::abs(pctrs.back()), 1.0), candidate, policy);
    if (bids.back() > 0) check_digits(bids.back());
  } while (!input.is_used_up() && request.candidates.size() < 50);
  // The sink copies texts unseen unless the request had escapes: no other one has what must be escaped.
  const bool has_escapes = std::any_of(memory.begin(), memory.end(), [](const std::string& text) {
    return std::any_of(text.begin(), text.end(), [](char byte) {
      return byte == '"' || byte == '\\' || static_cast<unsigned char>(byte) < 0x20;
    });
  });
  if (has_escapes) request.unescaped = std::make_unique<char[]>(1);
  check_answer<JsonSink>(request, pctrs, bids);
  check_answer<MsgpackSink>(request, pctrs, bids);
}

}  // namespace
}  // namespace bidlight::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bidlight::fuzz::answer(bidlight::fuzz::Input(data, size));
  return 0;
}
