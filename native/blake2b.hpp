// BLAKE2b (RFC 7693) with a digest of 8 bytes and a personalization, as hashlib computes it.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "bytes.hpp"

namespace bidlight {

class Blake2b8 {
 public:
  static constexpr std::size_t kPersonBytes = 16;

  // `person` has kPersonBytes at most.
  explicit Blake2b8(std::string_view person) {
    constexpr std::uint64_t kDigestBytes = 8, kSequential = 0x01010000;
    std::array<char, kPersonBytes> padded{};
    std::copy_n(person.data(), std::min(person.size(), padded.size()), padded.data());
    state_ = kStart;
    state_[0] ^= kSequential ^ kDigestBytes;
    state_[6] ^= load<std::uint64_t>(padded.data());
    state_[7] ^= load<std::uint64_t>(padded.data() + 8);
  }

  void add(std::string_view bytes) {
    while (!bytes.empty()) {
      if (filled_ == kBlockBytes) {  // only now: the last block of a message is marked
        counted_ += kBlockBytes;
        compress(false);
        filled_ = 0;
      }
      const std::size_t part = std::min(bytes.size(), kBlockBytes - filled_);
      std::memcpy(block_.data() + filled_, bytes.data(), part);
      filled_ += part;
      bytes.remove_prefix(part);
    }
  }

  // The digest of what was added, its first byte highest. Nothing can be added after it.
  std::uint64_t digest() {
    counted_ += filled_;
    std::fill(block_.begin() + static_cast<std::ptrdiff_t>(filled_), block_.end(), char{});
    compress(true);
    return load_big_endian<std::uint64_t>(&state_[0]);
  }

 private:
  static constexpr std::size_t kBlockBytes = 128;
  static constexpr std::array<std::uint64_t, 8> kStart{
      0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
      0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
  static constexpr std::array<std::array<std::uint8_t, 16>, 10> kOrders{{
      {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
      {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
      {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
      {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
      {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
      {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
      {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
      {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
      {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
      {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
  }};

  void compress(bool is_last) {
    constexpr std::size_t kRounds = 12;
    std::array<std::uint64_t, 16> words, v;
    std::memcpy(words.data(), block_.data(), kBlockBytes);
    std::copy(state_.begin(), state_.end(), v.begin());
    std::copy(kStart.begin(), kStart.end(), v.begin() + 8);
    v[12] ^= counted_;
    if (is_last) v[14] = ~v[14];
    const auto mix_in = [&v](std::size_t a, std::size_t b, std::size_t c, std::size_t d, std::uint64_t x,
                             std::uint64_t y) {
      v[a] += v[b] + x, v[d] = std::rotr(v[d] ^ v[a], 32);
      v[c] += v[d], v[b] = std::rotr(v[b] ^ v[c], 24);
      v[a] += v[b] + y, v[d] = std::rotr(v[d] ^ v[a], 16);
      v[c] += v[d], v[b] = std::rotr(v[b] ^ v[c], 63);
    };
#pragma GCC unroll 12
    for (std::size_t round = 0; round < kRounds; ++round) {
      const auto& order = kOrders[round % kOrders.size()];
      for (std::size_t i = 0; i < 4; ++i) {
        mix_in(i, 4 + i, 8 + i, 12 + i, words[order[2 * i]], words[order[2 * i + 1]]);
      }
      for (std::size_t i = 0; i < 4; ++i) {
        mix_in(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, words[order[8 + 2 * i]],
               words[order[9 + 2 * i]]);
      }
    }
    for (std::size_t i = 0; i < state_.size(); ++i) state_[i] ^= v[i] ^ v[i + 8];
  }

  std::array<std::uint64_t, 8> state_;
  std::array<char, kBlockBytes> block_{};
  std::uint64_t counted_ = 0;
  std::size_t filled_ = 0;
};

}  // namespace bidlight
