// The core as the Python module service.bundle._native. Nothing here decides what a request or an id is.
//
// A function that meets what is not plain returns None, and its caller takes the way through Python.

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "answer.hpp"
#include "blake2b.hpp"
#include "counting.hpp"
#include "columns.hpp"
#include "encoder.hpp"
#include "json_source.hpp"
#include "mapped_file.hpp"
#include "msgpack_source.hpp"
#include "numbering.hpp"
#include "request_reader.hpp"
#include "token.hpp"

namespace nb = nanobind;

namespace bidlight {
namespace {

// The memory of a Python object (bytes, an array), which lives and stays in place as long as this.
class Buffer {
 public:
  explicit Buffer(nb::handle object, int flags = PyBUF_SIMPLE) {
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw nb::python_error();
  }
  ~Buffer() { PyBuffer_Release(&view_); }

  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  const char* begin() const { return static_cast<const char*>(view_.buf); }
  std::size_t size() const { return static_cast<std::size_t>(view_.len); }

 private:
  Py_buffer view_;
};

// A C-contiguous array of numbers.
template <class Number>
class Array {
 public:
  explicit Array(nb::handle object, int flags = PyBUF_C_CONTIGUOUS) : buffer_(object, flags) {
    if (buffer_.size() % sizeof(Number) != 0) throw std::invalid_argument("an array must have whole elements");
  }

  std::span<const Number> get() const {
    return {reinterpret_cast<const Number*>(buffer_.begin()), buffer_.size() / sizeof(Number)};
  }

 private:
  Buffer buffer_;
};

template <class Number>
std::vector<Number> copy_of(nb::handle array) {
  const Array<Number> found(array);
  return {found.get().begin(), found.get().end()};
}

// The same of numbers that are written to.
template <class Number>
class Output {
 public:
  explicit Output(nb::handle array) : array_(array, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) {}

  std::span<Number> get() {
    const auto numbers = array_.get();
    return {const_cast<Number*>(numbers.data()), numbers.size()};
  }

 private:
  Array<Number> array_;
};

// Where ids are written: an int32 array of so many elements.
class IdsOut {
 public:
  IdsOut(nb::handle array, std::size_t size) : ids_(array) {
    if (ids_.get().size() != size) {
      throw std::invalid_argument("ids must be written to an int32 array of their size");
    }
  }

  std::int32_t* begin() { return ids_.get().data(); }

 private:
  Output<std::int32_t> ids_;
};

nb::object text_or_none(Text text) {
  if (text.data() == nullptr) return nb::none();
  return nb::str(text.data(), text.size());
}

// Python's own hash of a string of this UTF-8, by which the catalogue finds ads.
std::uint64_t python_hash(Text text) {
  const nb::str string(text.data(), text.size());
  const Py_hash_t hash = PyObject_Hash(string.ptr());
  if (hash == -1) throw nb::python_error();
  return static_cast<std::uint64_t>(hash);
}

std::shared_ptr<OwnedVocabulary> make_vocabulary(nb::tuple values, std::optional<nb::object> ids,
                                                 std::uint64_t seed) {
  const std::size_t count = values.size();
  const std::vector<std::int32_t> given = ids ? copy_of<std::int32_t>(*ids) : std::vector<std::int32_t>();
  if (ids && given.size() != count) throw std::invalid_argument("'ids' must have one id a value");
  std::vector<VocabularyEntry> entries;
  entries.reserve(count);
  // A string that is not ASCII keeps its UTF-8, once asked for it, as long as it lives: so it is a copy.
  std::vector<nb::bytes> copies;
  for (std::size_t i = 0; i < count; ++i) {
    PyObject* value = PyTuple_GET_ITEM(values.ptr(), static_cast<Py_ssize_t>(i));
    if (!PyUnicode_Check(value)) throw nb::type_error("'values' must be strings");
    const std::int32_t id = ids ? given[i] : static_cast<std::int32_t>(kFirstId + i);
    if (PyUnicode_IS_COMPACT_ASCII(value)) {
      entries.push_back({{static_cast<const char*>(PyUnicode_DATA(value)),
                          static_cast<std::size_t>(PyUnicode_GET_LENGTH(value))},
                         id});
      continue;
    }
    PyObject* copy = PyUnicode_AsUTF8String(value);
    if (copy == nullptr) throw nb::python_error();
    copies.push_back(nb::steal<nb::bytes>(copy));
    entries.push_back({{copies.back().c_str(), copies.back().size()}, id});
  }
  // Other threads can run meanwhile: a service that reads another bundle keeps answering.
  const nb::gil_scoped_release released;
  return std::make_shared<OwnedVocabulary>(entries, seed);
}

// One that was packed into the bytes of `object` from `offset` on, which it keeps.
std::shared_ptr<OwnedVocabulary> open_vocabulary(nb::object object, std::size_t offset) {
  const auto memory = std::make_shared<const Buffer>(object);
  const std::size_t size = memory->size() - std::min(offset, memory->size());
  const char* begin = memory->begin() + offset;
  if (size % sizeof(std::uint64_t) != 0 || reinterpret_cast<std::uintptr_t>(begin) % alignof(std::uint64_t) != 0) {
    throw std::invalid_argument("it is not made of whole words");
  }
  const std::span words(reinterpret_cast<const std::uint64_t*>(begin), size / sizeof(std::uint64_t));
  return std::make_shared<OwnedVocabulary>(words, memory);
}

void check_vocabulary(const OwnedVocabulary& self, std::optional<nb::object> ids) {
  std::optional<Array<std::int32_t>> given;
  if (ids) given.emplace(*ids);
  if (given && given->get().size() != self.get().size()) throw std::invalid_argument("it has another number of values");
  const nb::gil_scoped_release released;
  self.get().check(given ? given->get().data() : nullptr);
}

nb::tuple values_of(const OwnedVocabulary& self) {
  const auto values = nb::steal<nb::tuple>(PyTuple_New(static_cast<Py_ssize_t>(self.get().size())));
  if (!values.is_valid()) throw nb::python_error();
  Py_ssize_t place = 0;
  self.get().for_each([&](Text text) {
    PyTuple_SET_ITEM(values.ptr(), place++, nb::str(text.data(), text.size()).release().ptr());
  });
  return values;
}

// The id of a text that is not empty. One with a lone surrogate has no UTF-8, and is in no vocabulary.
std::int32_t find_text(const OwnedVocabulary& self, nb::str text) {
  Py_ssize_t size = 0;
  const char* bytes = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (bytes == nullptr) {
    PyErr_Clear();
    return kOutOfVocabularyId;
  }
  const Text found(bytes, static_cast<std::size_t>(size));
  return self.get().find(found, self.get().hash(found));
}

MappedFile* map_file(int descriptor, std::size_t size) {
  try {
    return new MappedFile(descriptor, size);
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrno(PyExc_OSError);
    throw nb::python_error();
  }
}

int mapped_buffer(PyObject* self, Py_buffer* view, int flags) noexcept {
  const auto* file = nb::inst_ptr<MappedFile>(nb::handle(self));
  const auto size = static_cast<Py_ssize_t>(file->size());
  return PyBuffer_FillInfo(view, self, const_cast<char*>(file->data()), size, 1, flags);
}

PyType_Slot mapped_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(mapped_buffer)}, {0, nullptr}};

// Calls `use` (schema, batch) with each piece of a column or a table, while other threads can run. The batches live
// until all are used.
template <class Use>
void for_each_batch(nb::handle columns, Use use) {
  const auto capsule = nb::cast<nb::capsule>(columns.attr("__arrow_c_stream__")());
  auto* stream = static_cast<ArrowArrayStream*>(capsule.data("arrow_array_stream"));
  const nb::gil_scoped_release released;
  arrow::Owned<ArrowSchema> schema;
  if (stream->get_schema(stream, schema.get()) != 0) throw std::runtime_error("columns must have a schema");
  std::vector<std::unique_ptr<arrow::Owned<ArrowArray>>> batches;
  while (true) {
    batches.push_back(std::make_unique<arrow::Owned<ArrowArray>>());
    arrow::Owned<ArrowArray>& batch = *batches.back();
    if (stream->get_next(stream, batch.get()) != 0) throw std::runtime_error("columns must have rows");
    if (batch->release == nullptr) return;
    use(*schema, *batch);
  }
}

// Writes the number of each row's text to `numbers`, and to `firsts` the rows where they appear first; returns how
// many texts there are, or None for a column of something else. A null's number is 0.
nb::object number_texts(nb::handle column, nb::handle numbers, nb::handle firsts, std::uint64_t seed) {
  Output<std::uint32_t> number_of_row(numbers), first_row(firsts);
  const std::span number = number_of_row.get(), first = first_row.get();
  const std::size_t rows = number.size();
  if (first.size() != rows) throw std::invalid_argument("'firsts' must be as long as 'numbers'");
  Numbering numbering(seed);
  std::size_t row = 0;
  try {
    for_each_batch(column, [&](const ArrowSchema& schema, const ArrowArray& batch) {
      const arrow::Texts texts(schema, batch);
      if (texts.size() > rows - row) throw std::invalid_argument("'numbers' must have one for each row");
      for (std::size_t i = 0; i < texts.size(); ++i, ++row) {
        const Text text = texts[i];
        number[row] = 0;
        if (text.data() == nullptr) continue;
        const std::size_t known = numbering.size();
        number[row] = numbering.number_of(text);
        if (number[row] == known) first[known] = static_cast<std::uint32_t>(row);
      }
    });
  } catch (const NotPlain&) {
    return nb::none();
  }
  if (row != rows) throw std::invalid_argument("'numbers' must have one for each row");
  return nb::int_(numbering.size());
}

// An Encoder that is filled field by field.
class PyEncoder {
 public:
  void add(bool is_candidate, std::string name, std::size_t sequence_length,
           std::variant<SharedVocabulary, Hashing, Bins> encoding) {
    Field field{std::move(name), std::move(encoding)};
    field.is_sequence = sequence_length > 0;
    field.length = field.is_sequence ? sequence_length : 1;
    Block& block = is_candidate ? encoder.candidate : encoder.context;
    order_.emplace_back(&block, block.fields().size());
    block.add(std::move(field));
  }

  // Whether `table` was plain, whose rows' ids are in `ids` then. `texts` has a column of texts, or None, a field.
  bool encode_columns(nb::object table, nb::list texts, nb::handle ids) const {
    std::vector<const Field*> fields;
    for (const auto& [block, number] : order_) fields.push_back(&block->fields()[number]);
    if (texts.size() != fields.size()) throw std::invalid_argument("'texts' must have an element for each field");
    const std::size_t rows = nb::len(ids), width = encoder.context.width() + encoder.candidate.width();
    IdsOut out(ids, rows * width);
    try {
      std::vector<std::optional<std::vector<std::int32_t>>> ids_of_texts(fields.size());
      for (std::size_t i = 0; i < fields.size(); ++i) {
        if (!texts[i].is_none()) ids_of_texts[i] = ids_of(*fields[i], texts[i]);
      }
      std::int32_t* next = out.begin();
      std::size_t left = rows;
      for_each_batch(table, [&](const ArrowSchema& schema, const ArrowArray& batch) {
        const auto count = static_cast<std::size_t>(batch.length);
        if (count > left) throw std::invalid_argument("'ids' must have a row for each of the table");
        bidlight::encode_columns(fields, schema, batch, ids_of_texts, next);
        next += count * width;
        left -= count;
      });
      if (left != 0) throw std::invalid_argument("'ids' must have a row for each of the table");
    } catch (const NotPlain&) {
      return false;
    }
    return true;
  }

  Encoder encoder;

 private:
  static std::vector<std::int32_t> ids_of(const Field& field, nb::handle texts) {
    std::vector<std::int32_t> ids;
    for_each_batch(texts, [&](const ArrowSchema& schema, const ArrowArray& batch) {
      const std::size_t known = ids.size();
      ids.resize(known + static_cast<std::size_t>(batch.length));
      encode_texts(field, schema, batch, ids.data() + known);
    });
    return ids;
  }

  std::vector<std::pair<const Block*, std::size_t>> order_;  // of the columns of a whole row
};

// A Catalogue with the arrays that it reads.
class PyCatalogue {
 public:
  PyCatalogue(nb::handle starts, nb::handle hashes, nb::handle rows, nb::handle ids, unsigned shift,
              std::size_t widest, std::size_t missing_row)
      : starts_(starts),
        hashes_(hashes),
        rows_(rows),
        ids_(ids),
        catalogue(starts_.get(), hashes_.get(), rows_.get(), ids_.get(), shift, widest, missing_row,
                  python_hash) {}

 private:
  Array<std::int32_t> starts_;
  Array<std::uint64_t> hashes_;
  Array<std::int32_t> rows_;
  Array<std::int32_t> ids_;

 public:
  const Catalogue catalogue;
};

// service/hashes.py, whose hashes these are. A lone surrogate has three bytes, as with "surrogatepass".
double uniform_of_key(const Blake2b8& seeded, nb::str key) {
  Blake2b8 hash = seeded;
  Py_ssize_t size = 0;
  if (const char* bytes = PyUnicode_AsUTF8AndSize(key.ptr(), &size)) {
    hash.add({bytes, static_cast<std::size_t>(size)});
  } else {
    PyErr_Clear();
    PyObject* encoded = PyUnicode_AsEncodedString(key.ptr(), "utf-8", "surrogatepass");
    if (encoded == nullptr) throw nb::python_error();
    const auto owned = nb::steal<nb::bytes>(encoded);
    hash.add({owned.c_str(), owned.size()});
  }
  constexpr double kBelowOne = 1.0 - 0x1p-53;
  return std::min((static_cast<double>(hash.digest() >> 11) + 0.5) * 0x1p-53, kBelowOne);
}

struct PyBidPolicy {
  BidPolicy policy;
  nb::object exact;  // (pctr, value per click) -> micros
};

// A request and the body that it points into.
class PlainRequest {
 public:
  PlainRequest(nb::handle body, bool is_json, const Limits& limits) : body_(body), is_json_(is_json) {
    if (body_.size() > UINT32_MAX) throw NotPlain{};
    const char* end = body_.begin() + body_.size();
    request_ = is_json ? RequestReader(JsonSource(body_.begin(), end), limits).read()
                       : RequestReader(MsgpackSource(body_.begin(), end), limits).read();
  }

  const Request& get() const { return request_; }

  nb::object context() const {
    nb::dict found;
    for (const Feature& feature : request_.context) {
      found[nb::str(feature.name.data(), feature.name.size())] = python_value(feature.value);
    }
    return found;
  }

  // The number of unknown ads, and the names that no field has, if they are to be told; None if the request is not
  // plain to this schema.
  nb::object encode(PyEncoder& encoder, const PyCatalogue* catalogue, nb::handle context_ids,
                    nb::handle candidate_ids, bool tells_names) {
    Encoder& to_ids = encoder.encoder;
    const Catalogue* ads = catalogue == nullptr ? nullptr : &catalogue->catalogue;
    if (ads != nullptr && ads->width() != to_ids.candidate.width()) {
      throw std::invalid_argument("a catalogue must be of the encoder's schema");
    }
    Findings findings;
    findings.tells_names = tells_names;
    try {
      IdsOut candidates(candidate_ids, request_.candidates.size() * to_ids.candidate.width());
      if (!context_ids.is_none()) {
        to_ids.encode_context(request_, IdsOut(context_ids, to_ids.context.width()).begin(), findings);
      } else {
        to_ids.find_unknown_in_context(request_, findings);
      }
      to_ids.encode_candidates(request_, ads, candidates.begin(), findings);
    } catch (const NotPlain&) {
      return nb::none();
    }
    nb::list names;
    for (const Text name : findings.unknown_names) names.append(nb::str(name.data(), name.size()));
    return nb::make_tuple(findings.unknown_ads, std::move(names));
  }

  void drop_features() { request_.drop_features(); }

  // The body of the answer and its number of bids. Candidates have tokens if there is a signer, made at
  // `milliseconds` since 2020 and with numbers from `first` on; they say the `own` pCTRs, which are `pctrs` if None.
  // The answer has so many `keys`.
  nb::object answer(nb::handle pctrs, nb::bytes arm, const PyBidPolicy& policy, const TokenSigner* signer,
                    std::uint64_t milliseconds, std::uint64_t first, nb::handle own, unsigned keys) const {
    if (keys > 15) throw std::invalid_argument("'keys' must be 15 at most");
    const Array<double> found(pctrs);
    std::optional<Array<double>> own_found;
    if (!own.is_none()) own_found.emplace(own);
    const std::span<const double> own_pctrs = own_found ? own_found->get() : found.get();
    const std::size_t rows = request_.candidates.size();
    if (found.get().size() != rows || own_pctrs.size() != rows) throw std::invalid_argument("'pctrs' must have one number a candidate");
    const auto exact = [&](double pctr, double value) {
      return nb::cast<std::int64_t>(policy.exact(pctr, value));
    };
    std::vector<std::int64_t> bids(rows);
    std::size_t count = 0;
    for (std::size_t row = 0; row < rows; ++row) {
      bids[row] = bid_micros(found.get()[row], request_.candidates[row], policy.policy, exact);
      count += bids[row] != 0;
    }
    const Text fragment(arm.c_str(), arm.size());
    std::optional<Tokens> signed_tokens;
    if (signer != nullptr) signed_tokens.emplace(*signer, milliseconds, first, own_pctrs);
    const Tokens* tokens = signed_tokens ? &*signed_tokens : nullptr;
    PyObject* body = is_json_ ? write<JsonSink>(fragment, found.get(), bids, tokens, keys)
                              : write<MsgpackSink>(fragment, found.get(), bids, tokens, keys);
    return nb::make_tuple(nb::steal(body), count);
  }

 private:
  template <class Sink>
  PyObject* write(Text arm, std::span<const double> pctrs, std::span<const std::int64_t> bids,
                  const Tokens* tokens, unsigned keys) const {
    const auto bound = static_cast<Py_ssize_t>(answer_bound<Sink>(request_, arm, tokens != nullptr));
    PyObject* body = PyBytes_FromStringAndSize(nullptr, bound);
    if (body == nullptr) throw nb::python_error();
    char* begin = PyBytes_AS_STRING(body);
    const char* end = write_answer<Sink>(begin, request_, arm, pctrs, bids, tokens, keys);
    if (_PyBytes_Resize(&body, end - begin) != 0) throw nb::python_error();
    return body;
  }

  nb::object python_value(const Value& value) const {
    switch (value.kind) {
      case Kind::null:
        return nb::none();
      case Kind::boolean:
        return nb::bool_(value.integer != 0);
      case Kind::integer:
        return nb::int_(value.integer);
      case Kind::real:
        return nb::float_(value.real);
      case Kind::text:
        return nb::str(value.text, value.size);
      case Kind::list:
        break;
    }
    nb::list list;
    for (std::size_t i = 0; i < value.size; ++i) list.append(python_value(request_.elements[value.first + i]));
    return list;
  }

  Buffer body_;
  bool is_json_;
  Request request_;
};

}  // namespace
}  // namespace bidlight

NB_MODULE(_native, module) {
  using namespace bidlight;
  // At the end of a process what is left needs no freeing.
  nb::set_leak_warnings(false);

  module.attr("LONGEST_RUN") = Vocabulary::kLongestRun;
  nb::class_<OwnedVocabulary>(module, "Vocabulary")
      .def_static("pack", &make_vocabulary, nb::arg("values"), nb::arg("ids").none(), nb::arg("seed"))
      .def_static("open", &open_vocabulary)
      .def("check", &check_vocabulary, nb::arg("ids").none())
      .def("find", &find_text)
      .def("__len__", [](const OwnedVocabulary& self) { return self.get().size(); })
      .def("__bytes__",
           [](const OwnedVocabulary& self) { return nb::bytes(self.words().data(), self.words().size_bytes()); })
      .def_prop_ro("values", &values_of)
      .def_prop_ro("longest_run", [](const OwnedVocabulary& self) { return self.get().longest_run(); })
      .def_prop_ro("nbytes", &OwnedVocabulary::bytes);

  nb::class_<MappedFile>(module, "MappedFile", nb::type_slots(mapped_slots))
      .def(nb::new_(&map_file), nb::arg("descriptor"), nb::arg("size"))
      .def_prop_ro("is_whole", &MappedFile::is_whole);

  nb::class_<PyEncoder>(module, "Encoder")
      .def(nb::init<>())
      .def("add_vocabulary",
           [](PyEncoder& self, bool is_candidate, std::string name, std::size_t length,
              std::shared_ptr<OwnedVocabulary> vocabulary) {
             self.add(is_candidate, std::move(name), length, SharedVocabulary(std::move(vocabulary)));
           })
      .def("add_hashing",
           [](PyEncoder& self, bool is_candidate, std::string name, std::size_t length, std::uint32_t buckets,
              std::uint32_t seed, std::optional<nb::object> renumbering) {
             auto ids = renumbering ? copy_of<std::int32_t>(*renumbering) : std::vector<std::int32_t>();
             if (buckets == 0 || (renumbering && ids.size() != std::size_t{buckets} + kFirstId)) {
               throw std::invalid_argument("'renumbering' must have an id for each bucket");
             }
             self.add(is_candidate, std::move(name), length, Hashing{buckets, seed, std::move(ids)});
           },
           nb::arg("is_candidate"), nb::arg("name"), nb::arg("length"), nb::arg("buckets"), nb::arg("seed"),
           nb::arg("renumbering").none())
      .def("add_bins",
           [](PyEncoder& self, bool is_candidate, std::string name, nb::object edges, nb::object ids) {
             Bins bins{copy_of<double>(edges), copy_of<std::int32_t>(ids)};
             if (bins.ids.size() != bins.edges.size() + 1) {
               throw std::invalid_argument("'ids' must have an id for each bin");
             }
             self.add(is_candidate, std::move(name), 0, std::move(bins));
           })
      .def("encode_columns", &PyEncoder::encode_columns)
      .def("finish", [](PyEncoder& self, std::uint64_t seed) { self.encoder.index_names(seed); })
      .def_prop_rw(
          "user_id_field", [](const PyEncoder& self) { return self.encoder.user_id_field(); },
          [](PyEncoder& self, std::optional<std::size_t> field) { self.encoder.set_user_id_field(field); },
          nb::arg("field").none());

  nb::class_<PyCatalogue>(module, "Catalogue")
      .def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle, unsigned, std::size_t, std::size_t>());

  nb::class_<PyBidPolicy>(module, "BidPolicy")
      .def("__init__", [](PyBidPolicy* self, double multiplier, std::int64_t cap_micros, double floor,
                          double win_price, nb::object exact) {
        new (self) PyBidPolicy{{multiplier, cap_micros, floor, win_price}, std::move(exact)};
      });

  nb::class_<Blake2b8>(module, "KeyHash")
      .def("__init__", [](Blake2b8* self, nb::bytes prefix, nb::bytes person) {
        if (person.size() > Blake2b8::kPersonBytes) throw std::invalid_argument("'person' must have 16 bytes at most");
        new (self) Blake2b8({person.c_str(), person.size()});
        self->add({prefix.c_str(), prefix.size()});
      })
      .def("uniform", &uniform_of_key);

  nb::class_<TokenSigner>(module, "TokenSigner")
      .def("__init__", [](TokenSigner* self, std::uint8_t head, std::uint32_t source, std::uint16_t revision,
                          nb::bytes key) {
        if (key.size() != 16) throw std::invalid_argument("'key' must have 16 bytes");
        const SipHash hash(load<std::uint64_t>(key.c_str()), load<std::uint64_t>(key.c_str() + 8));
        new (self) TokenSigner{head, source, revision, hash};
      });

  nb::class_<PlainRequest>(module, "PlainRequest")
      .def_prop_ro("rows", [](const PlainRequest& self) { return self.get().candidates.size(); })
      .def_prop_ro("id", [](const PlainRequest& self) { return text_or_none(self.get().id); })
      .def_prop_ro("user_id", [](const PlainRequest& self) { return text_or_none(self.get().user_id); })
      .def_prop_ro("tmax_ms",
                   [](const PlainRequest& self) -> nb::object {
                     const double milliseconds = self.get().tmax_ms;
                     if (std::isnan(milliseconds)) return nb::none();
                     return nb::float_(milliseconds);
                   })
      .def_prop_ro("tracking",
                   [](const PlainRequest& self) -> nb::object {
                     const std::optional<bool> tracking = self.get().tracking;
                     if (!tracking) return nb::none();
                     return nb::bool_(*tracking);
                   })
      .def_prop_ro("context", &PlainRequest::context)
      .def("has_whole_context", [](const PlainRequest& self,
                                   PyEncoder& encoder) { return encoder.encoder.has_whole_context(self.get()); })
      .def("encode", &PlainRequest::encode, nb::arg("encoder"), nb::arg("catalogue").none(),
           nb::arg("context_ids").none(), nb::arg("candidate_ids"), nb::arg("tells_names") = true)
      .def("drop_features", &PlainRequest::drop_features)
      .def("answer", &PlainRequest::answer, nb::arg("pctrs"), nb::arg("arm"), nb::arg("policy"),
           nb::arg("signer").none() = nb::none(), nb::arg("milliseconds") = 0, nb::arg("first") = 0,
           nb::arg("own").none() = nb::none(), nb::arg("keys") = 4);

  module.def("number_texts", &number_texts);

  module.def("siphash24", [](nb::handle first, nb::handle second, nb::handle messages, nb::handle hashes) {
    const Array<std::uint64_t> firsts(first), seconds(second);
    const Array<unsigned char> bytes(messages);
    Output<std::uint64_t> out(hashes);
    const std::size_t count = out.get().size();
    if (firsts.get().size() != count || seconds.get().size() != count ||
        (count > 0 && bytes.get().size() % count != 0)) {
      throw std::invalid_argument("'first', 'second' and 'messages' must have a row for each of 'hashes'");
    }
    const std::size_t size = count > 0 ? bytes.get().size() / count : 0;
    for (std::size_t row = 0; row < count; ++row) {
      const SipHash hash(firsts.get()[row], seconds.get()[row]);
      out.get()[row] = hash.of(bytes.get().data() + row * size, size);
    }
  });

  module.def(
      "count_ids",
      [](nb::handle ids, std::optional<nb::object> weights, nb::handle missing, nb::handle unknown) {
        const Array<std::int32_t> found(ids);
        const auto given = weights ? copy_of<std::int32_t>(*weights) : std::vector<std::int32_t>();
        Output<std::int64_t> missing_out(missing), unknown_out(unknown);
        const std::size_t columns = missing_out.get().size();
        if (columns == 0 && found.get().empty()) return;
        if (columns == 0 || unknown_out.get().size() != columns || found.get().size() % columns != 0 ||
            (weights && given.size() != found.get().size() / columns)) {
          throw std::invalid_argument("'missing' and 'unknown' must have one count a column, 'weights' one a row");
        }
        count_ids(found.get(), given, missing_out.get(), unknown_out.get());
      },
      nb::arg("ids"), nb::arg("weights").none(), nb::arg("missing"), nb::arg("unknown"));

  module.def(
      "count_values",
      [](nb::handle values, nb::handle bounds, nb::handle counts) {
        const Array<double> found(values), ascending(bounds);
        Output<std::int64_t> out(counts);
        if (ascending.get().empty() || out.get().size() != ascending.get().size()) {
          throw std::invalid_argument("'counts' must have one count a bound");
        }
        return count_values(found.get(), ascending.get(), out.get());
      },
      nb::arg("values"), nb::arg("bounds"), nb::arg("counts"));

  module.def(
      "read",
      [](nb::handle body, bool is_json, std::size_t max_candidates, double max_money,
         double max_tmax_ms) -> PlainRequest* {
        const Limits limits{max_candidates, max_money, max_tmax_ms};
        try {
          return new PlainRequest(body, is_json, limits);
        } catch (const NotPlain&) {
          return nullptr;
        }
      },
      nb::rv_policy::take_ownership);
}
