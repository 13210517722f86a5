// A table of typed columns -> the ids of its rows: a log's way to ids, by the same fields as a request's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "arrow.hpp"
#include "fields.hpp"

namespace bidlight {

// Writes `ids` [rows, width]: `fields` are the table's columns in order, and have their ids side by side in it.
// A numeric column holds float64, a sequence lists of texts; a categorical one texts, or numbers of texts, whose
// ids are in `ids_of_texts` [fields] then. Throws NotPlain for any other column, and for a value that a field may
// not have; some ids are written then.
void encode_columns(std::span<const Field* const> fields, const ArrowSchema& schema, const ArrowArray& table,
                    std::span<const std::optional<std::vector<std::int32_t>>> ids_of_texts, std::int32_t* ids);

// Writes `ids` [rows] of a categorical column of texts. Throws NotPlain as above.
void encode_texts(const Field& field, const ArrowSchema& schema, const ArrowArray& array, std::int32_t* ids);

}  // namespace bidlight
