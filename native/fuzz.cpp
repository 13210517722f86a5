// Feeds the core bodies that were changed at random, tables that were damaged, and rows of logs, for some seconds.
//
// fuzz SECONDS SEED FOLDER reads the bodies in FOLDER. It is built with sanitizers, which end it at the first access out of
// bounds or undefined step; each body is copied to memory of exactly its size, which is freed at the end. It prints how
// many bodies were plain.

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "answer.hpp"
#include "columns.hpp"
#include "encoder.hpp"
#include "json_source.hpp"
#include "msgpack_source.hpp"
#include "numbering.hpp"
#include "request_reader.hpp"

namespace bidlight {
namespace {

using Random = std::mt19937_64;

std::uint64_t weak_hash(Text text) { return hash_text(text, 1); }

SharedVocabulary vocabulary_of(const std::vector<std::string>& values) {
  std::vector<VocabularyEntry> entries;
  for (const std::string& value : values) {
    entries.push_back({value, static_cast<std::int32_t>(kFirstId + entries.size())});
  }
  return std::make_shared<const OwnedVocabulary>(entries, 7);
}

// The fields of tests/service/http/test_plain.py, whose bodies the corpus has.
Encoder make_encoder() {
  const SharedVocabulary words = vocabulary_of({"s0", "s1", "a1", "a5", "1005", "-7", "\xC3\xA9", std::string(40, 'x')});
  const Bins bins{{-1.5, 0.0, 0.1, 1e300}, {2, 3, 4, 5, 6}};
  Encoder encoder;
  const auto add = [](Block& block, const char* name, auto encoding, std::size_t length) {
    block.add({name, encoding, length > 0, length > 0 ? length : 1});
  };
  add(encoder.context, "site", words, 0);
  add(encoder.context, "hour", bins, 0);
  add(encoder.context, "history", words, 3);
  add(encoder.context, "user_id", words, 0);
  add(encoder.context, "visited", Hashing{40, 2, {}}, 2);
  add(encoder.candidate, "ad", words, 0);
  add(encoder.candidate, "campaign", Hashing{8, 3, {0, 1, 5, 4, 3, 2, 2, 2, 2, 9}}, 0);
  add(encoder.candidate, "tags", Hashing{50, 9, {}}, 2);
  add(encoder.candidate, "shown", words, 3);
  add(encoder.candidate, "price", bins, 0);
  add(encoder.candidate, "word", words, 0);
  encoder.index_names(11);
  encoder.set_user_id_field(3);
  return encoder;
}

// A catalogue of the ads ad-0 to ad-19.
class Ads {
 public:
  explicit Ads(std::size_t width) {
    std::vector<std::pair<std::uint64_t, std::int32_t>> sorted;
    for (std::int32_t ad = 0; ad < kAds; ++ad) sorted.emplace_back(weak_hash("ad-" + std::to_string(ad)), ad);
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [hash, row] : sorted) {
      hashes_.push_back(hash);
      rows_.push_back(row);
    }
    for (std::uint64_t bucket = 0; bucket < 16; ++bucket) {
      const auto first = std::lower_bound(hashes_.begin(), hashes_.end(), bucket << kShift);
      starts_.push_back(static_cast<std::int32_t>(first - hashes_.begin()));
    }
    ids_.assign((kAds + 1) * width, 2);
  }

  Catalogue get() const { return {starts_, hashes_, rows_, ids_, kShift, 8, kAds, weak_hash}; }

 private:
  static constexpr std::int32_t kAds = 20;
  static constexpr unsigned kShift = 60;
  std::vector<std::int32_t> starts_, rows_, ids_;
  std::vector<std::uint64_t> hashes_;
};

template <class Sink>
void answer(const Request& request, const std::vector<double>& pctrs, Random& random) {
  const BidPolicy policy{1.5, 1'000'000'000, 1e-5};
  std::vector<std::int64_t> bids;
  for (std::size_t row = 0; row < pctrs.size(); ++row) {
    bids.push_back(bid_micros(pctrs[row], request.candidates[row], policy, [](double, double) { return 5; }));
  }
  const Text arm = "arm";
  const TokenSigner signer{0x1F, static_cast<std::uint32_t>(random()), 1, SipHash(random(), random())};
  const Tokens tokens(signer, random() >> 24, random() >> 16, pctrs);
  const bool has_tokens = request.tracking || random() % 2 == 0;
  const std::size_t bound = answer_bound<Sink>(request, arm, has_tokens);
  const auto out = std::make_unique<char[]>(bound);
  const char* end = write_answer<Sink>(out.get(), request, arm, pctrs, bids, has_tokens ? &tokens : nullptr);
  if (end > out.get() + bound) std::abort();
}

template <class Source, class Sink>
bool feed(const std::string& body, Encoder& encoder, const Catalogue& catalogue, Random& random) {
  const auto bytes = std::make_unique<char[]>(body.size());
  std::copy(body.begin(), body.end(), bytes.get());
  const Limits limits{50, 1e9, 3.6e6};
  try {
    Request request = RequestReader(Source(bytes.get(), bytes.get() + body.size()), limits).read();
    const std::size_t rows = request.candidates.size();
    const auto context = std::make_unique<std::int32_t[]>(encoder.context.width());
    const auto ids = std::make_unique<std::int32_t[]>(rows * encoder.candidate.width());
    const bool has_ads = random() % 2 == 0;
    Findings findings;
    encoder.has_whole_context(request);
    encoder.encode_context(request, context.get(), findings);
    encoder.encode_candidates(request, has_ads ? &catalogue : nullptr, ids.get(), findings);
    request.drop_features();
    std::vector<double> pctrs;
    for (std::size_t row = 0; row < rows; ++row) pctrs.push_back(std::bit_cast<double>(random()));
    answer<Sink>(request, pctrs, random);
  } catch (const NotPlain&) {
    return false;
  }
  return true;
}

std::string changed(std::string body, Random& random) {
  static const std::string kTokens = "{}[]\",:\\0.eE-+ntf \x80\xC3\x90\xDC\xDF\xD9";
  for (std::uint64_t left = random() % 4; left > 0; --left) {
    const std::size_t at = random() % (body.size() + 1);
    switch (random() % 5) {
      case 0:
        if (at < body.size()) body[at] = static_cast<char>(body[at] ^ (1 << random() % 8));
        break;
      case 1:
        body.insert(at, 1, kTokens[random() % kTokens.size()]);
        break;
      case 2:
        body.erase(at, random() % 6);
        break;
      case 3:
        body.insert(at, body.substr(at, random() % 40));
        break;
      default:
        if (random() % 4 == 0) body.resize(at);
    }
  }
  return body;
}

// Look-ups in a table of which some words were changed. One that is still found whole has every value.
void damage(Random& random) {
  std::vector<std::string> values;
  for (int number = 0; number < 30; ++number) values.push_back("v" + std::to_string(number));
  std::vector<VocabularyEntry> entries;
  for (const std::string& value : values) {
    entries.push_back({value, static_cast<std::int32_t>(kFirstId + entries.size())});
  }
  std::vector<std::uint64_t> words = pack_vocabulary(entries, random());
  for (std::uint64_t left = random() % 6; left > 0; --left) words[random() % words.size()] ^= random() >> random() % 64;
  if (random() % 4 == 0) words.resize(random() % (words.size() + 1));
  const std::vector<std::uint64_t> exact(words);
  try {
    const Vocabulary vocabulary{exact};
    for (const std::string& value : values) {
      const std::uint64_t hash = vocabulary.hash(value);
      vocabulary.prefetch(hash);
      vocabulary.prefetch_record(hash);
      vocabulary.find(value, random() % 2 == 0 ? hash : random());
    }
    vocabulary.check(nullptr);
    std::size_t bytes = 0, known = 0;
    vocabulary.for_each([&](Text text) {
      bytes += text.size();
      known += vocabulary.find(text, vocabulary.hash(text)) == static_cast<std::int32_t>(kFirstId + known);
    });
    if (bytes == 0 || known != vocabulary.size()) std::abort();
  } catch (const std::invalid_argument&) {
  }
}

// Buffers of an Arrow array, each of exactly its size, and the array.
class ArrowColumn {
 public:
  ArrowColumn(const char* format, std::int64_t length) {
    schema.format = format;
    schema.name = "";
    array.length = length;
    array.null_count = -1;
  }

  template <class Element>
  void add_buffer(const std::vector<Element>& elements) {
    const std::size_t bytes = elements.size() * sizeof(Element);
    owned_.push_back(std::make_unique<char[]>(bytes));
    if (bytes > 0) std::memcpy(owned_.back().get(), elements.data(), bytes);
    buffers_.push_back(owned_.back().get());
    array.buffers = buffers_.data();
    array.n_buffers = static_cast<std::int64_t>(buffers_.size());
  }

  void add_validity(Random& random) {
    std::vector<std::uint8_t> bits(static_cast<std::size_t>(array.length + 7) / 8);
    for (std::uint8_t& bit : bits) bit = static_cast<std::uint8_t>(random() | random());
    add_buffer(bits);
  }

  ArrowSchema schema{};
  ArrowArray array{};

 private:
  std::vector<std::unique_ptr<char[]>> owned_;
  std::vector<const void*> buffers_;
};

// Texts as views: up to 12 bytes in the view, others in one of two buffers.
std::unique_ptr<ArrowColumn> views_of(const std::vector<std::string>& texts, Random& random) {
  auto column = std::make_unique<ArrowColumn>("vu", static_cast<std::int64_t>(texts.size()));
  std::vector<char> views(texts.size() * 16);
  std::array<std::vector<char>, 2> data;
  for (std::size_t row = 0; row < texts.size(); ++row) {
    char* view = views.data() + row * 16;
    const std::string& text = texts[row];
    const auto size = static_cast<std::uint32_t>(text.size()), buffer = static_cast<std::uint32_t>(random() % 2);
    const auto place = static_cast<std::uint32_t>(data[buffer].size());
    std::memcpy(view, &size, 4);
    if (text.size() <= 12) {
      std::memcpy(view + 4, text.data(), text.size());
      continue;
    }
    std::memcpy(view + 4, text.data(), 4);
    std::memcpy(view + 8, &buffer, 4);
    std::memcpy(view + 12, &place, 4);
    data[buffer].insert(data[buffer].end(), text.begin(), text.end());
  }
  column->add_validity(random);
  column->add_buffer(views);
  for (const std::vector<char>& each : data) column->add_buffer(each);
  return column;
}

// Rows of a log for the fields of the encoder's context: numbers, some of which are none, lists, texts, and numbers of
// texts, of which there may be fewer.
void feed_columns(const Encoder& encoder, Random& random) {
  const auto rows = static_cast<std::int64_t>(random() % 1100);
  const auto some_texts = [&](std::size_t count) {
    std::vector<std::string> texts(count);
    for (std::string& text : texts) text = std::string(random() % 20, "s15x"[random() % 4]);
    return texts;
  };
  std::vector<std::unique_ptr<ArrowColumn>> columns, parts;
  std::vector<const Field*> fields;
  std::vector<ArrowSchema*> schemas;
  std::vector<ArrowArray*> arrays;
  std::vector<std::optional<std::vector<std::int32_t>>> ids_of_texts(encoder.context.fields().size());
  std::vector<ArrowSchema*> element_schemas(encoder.context.fields().size());
  std::vector<ArrowArray*> element_arrays(encoder.context.fields().size());
  for (const Field& field : encoder.context.fields()) {
    const std::size_t number = fields.size();
    if (std::holds_alternative<Bins>(field.encoding)) {
      std::vector<double> numbers;
      for (std::int64_t row = 0; row < rows; ++row) numbers.push_back(static_cast<double>(random() % 9) - 4.0);
      if (rows > 0 && random() % 4 == 0) numbers[random() % numbers.size()] = std::bit_cast<double>(random());
      columns.push_back(std::make_unique<ArrowColumn>("g", rows));
      columns.back()->add_validity(random);
      columns.back()->add_buffer(numbers);
    } else if (field.is_sequence) {
      std::vector<std::int64_t> ends{0};
      for (std::int64_t row = 0; row < rows; ++row) ends.push_back(ends.back() + static_cast<std::int64_t>(random() % 6));
      parts.push_back(views_of(some_texts(static_cast<std::size_t>(ends.back())), random));
      columns.push_back(std::make_unique<ArrowColumn>("+L", rows));
      columns.back()->add_validity(random);
      columns.back()->add_buffer(ends);
      element_schemas[number] = &parts.back()->schema;
      element_arrays[number] = &parts.back()->array;
      columns.back()->schema.children = &element_schemas[number];
      columns.back()->array.children = &element_arrays[number];
    } else if (random() % 2 == 0) {
      const std::size_t texts = random() % 30;
      std::vector<std::uint16_t> numbers;
      for (std::int64_t row = 0; row < rows; ++row) numbers.push_back(static_cast<std::uint16_t>(random() % (texts + 1)));
      columns.push_back(std::make_unique<ArrowColumn>("S", rows));
      columns.back()->add_validity(random);
      columns.back()->add_buffer(numbers);
      parts.push_back(views_of(some_texts(texts), random));
      ids_of_texts[number].emplace(texts);
      encode_texts(field, parts.back()->schema, parts.back()->array, ids_of_texts[number]->data());
      Numbering numbering(random());
      const arrow::Texts found(parts.back()->schema, parts.back()->array);
      for (std::size_t row = 0; row < texts; ++row) {
        if (found[row].data() != nullptr && numbering.number_of(found[row]) >= numbering.size()) std::abort();
      }
    } else {
      columns.push_back(views_of(some_texts(static_cast<std::size_t>(rows)), random));
    }
    columns.back()->schema.name = field.name.c_str();
    fields.push_back(&field);
    schemas.push_back(&columns.back()->schema);
    arrays.push_back(&columns.back()->array);
  }
  ArrowColumn table("+s", rows);
  table.schema.n_children = table.array.n_children = static_cast<std::int64_t>(fields.size());
  table.schema.children = schemas.data();
  table.array.children = arrays.data();
  const auto ids = std::make_unique<std::int32_t[]>(static_cast<std::size_t>(rows) * encoder.context.width());
  try {
    encode_columns(fields, table.schema, table.array, ids_of_texts, ids.get());
  } catch (const NotPlain&) {
  }
}

int run(double seconds, std::uint64_t seed, const std::filesystem::path& folder) {
  std::vector<std::string> corpus;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  if (corpus.empty()) {
    std::cerr << "fuzz: FOLDER must hold bodies (got none)\n";
    return 2;
  }
  Random random(seed);
  Encoder encoder = make_encoder();
  const Ads ads(encoder.candidate.width());
  const Catalogue catalogue = ads.get();
  std::uint64_t fed = 0, plain = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  for (std::size_t next = 0; next < corpus.size() || std::chrono::steady_clock::now() < end; ++next) {
    // First every body as it is.
    const std::string& body = next < corpus.size() ? corpus[next] : changed(corpus[random() % corpus.size()], random);
    plain += feed<JsonSource, JsonSink>(body, encoder, catalogue, random);
    plain += feed<MsgpackSource, MsgpackSink>(body, encoder, catalogue, random);
    damage(random);
    if (next % 16 == 0) feed_columns(encoder, random);
    ++fed;
  }
  std::cout << fed << " bodies, " << plain << " plain\n";
  return 0;
}

}  // namespace
}  // namespace bidlight

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "usage: fuzz SECONDS SEED FOLDER\n";
    return 2;
  }
  return bidlight::run(std::strtod(arguments[1], nullptr), std::strtoull(arguments[2], nullptr, 10), arguments[3]);
}
