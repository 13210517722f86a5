// A text in pieces -> its hash, which is that of the text in one piece.

#include <string>

#include "../blake2b.hpp"
#include "input.hpp"

namespace bidlight::fuzz {
namespace {

void hash(Input input) {
  const std::string person = input.text(Blake2b8::kPersonBytes);
  Blake2b8 by_pieces(person), at_once(person);
  std::string whole;
  while (!input.is_used_up()) {
    const std::string piece = input.text(300);
    const Bytes bytes(piece.data(), piece.size());
    by_pieces.add({bytes.begin(), piece.size()});
    whole += piece;
  }
  const Bytes bytes(whole.data(), whole.size());
  at_once.add({bytes.begin(), whole.size()});
  expect(by_pieces.digest() == at_once.digest(), "a hash does not depend on how a text is cut");
}

}  // namespace
}  // namespace bidlight::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bidlight::fuzz::hash({data, size});
  return 0;
}
