// A table of typed columns -> the ids of its rows: a log's way to ids, by the same fields as a request's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "arrow.hpp"
#include "fields.hpp"

namespace bidlight {

// Writes `ids` [rows, width]: `fields` are the table's columns in order, and have their ids side by side in it.
// A categorical column holds texts, or codes into a dictionary of them; a numeric one float64; a sequence lists
// of texts. Throws NotPlain for other columns, and for a value that a field may not have; some ids are written
// then.
void encode_columns(std::span<const Field* const> fields, const ArrowSchema& schema, const ArrowArray& table,
                    std::int32_t* ids);

}  // namespace bidlight
