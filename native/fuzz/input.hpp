// What the targets of the fuzzer share: the memory of an input, what is drawn from it, and claims.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace bidlight::fuzz {

// Ends the process where a claim of the core does not hold, so that the fuzzer keeps the input.
inline void expect(bool holds, const char* claim) {
  if (holds) return;
  std::fprintf(stderr, "this does not hold: %s\n", claim);
  std::abort();
}

// A copy in memory of exactly its size: the sanitizer sees the first byte that is read beyond it, or after it.
class Bytes {
 public:
  Bytes(const void* data, std::size_t size) : bytes_(std::make_unique<char[]>(size)), size_(size) {
    if (size > 0) std::memcpy(bytes_.get(), data, size);
  }

  const char* begin() const { return bytes_.get(); }
  const char* end() const { return begin() + size_; }

 private:
  std::unique_ptr<char[]> bytes_;
  std::size_t size_;
};

// Numbers and texts as the bytes of an input say; zeros once they are used up.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

  bool is_used_up() const { return at_ == end_; }

  template <class Number>
  Number number() {
    Number number{};
    const std::size_t some = std::min(sizeof(Number), static_cast<std::size_t>(end_ - at_));
    if (some > 0) std::memcpy(&number, at_, some);
    at_ += some;
    return number;
  }

  bool yes() { return number<std::uint8_t>() % 2 == 1; }

  // A number below `bound`, which is at most 65,536.
  std::size_t below(std::size_t bound) {
    return (bound <= 256 ? number<std::uint8_t>() : number<std::uint16_t>()) % bound;
  }

  // At most `longest` bytes.
  std::string text(std::size_t longest) {
    std::string text(below(longest + 1), '\0');
    text.resize(std::min(text.size(), static_cast<std::size_t>(end_ - at_)));
    text.assign(reinterpret_cast<const char*>(at_), text.size());
    at_ += text.size();
    return text;
  }

 private:
  const std::uint8_t* at_;
  const std::uint8_t* end_;
};

}  // namespace bidlight::fuzz
