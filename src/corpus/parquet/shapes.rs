//! What kinds of values the fields of Parquet's structures have (`parquet.thrift` of the format's specification).
//!
//! The decoder reads the fields that it knows as what they should be, whatever the file says they are. Where the two
//! differ, what was looked at before is not what it reads.

use super::thrift::{BINARY, BOOL, BYTE, DOUBLE, I16, I32, I64, LIST, STRUCT, Shape};

const STATISTICS: Shape = Shape(&[
    (1, BINARY, None),
    (2, BINARY, None),
    (3, I64, None),
    (4, I64, None),
    (5, BINARY, None),
    (6, BINARY, None),
    (7, BOOL, None),
    (8, BOOL, None),
]);

const KEY_VALUE: Shape = Shape(&[(1, BINARY, None), (2, BINARY, None)]);

const DECIMAL: Shape = Shape(&[(1, I32, None), (2, I32, None)]);
/// Time and timestamp: whether it is UTC, and the unit.
const TIME: Shape = Shape(&[(1, BOOL, None), (2, STRUCT, Some(&UNIT))]);
const UNIT: Shape = Shape(&[(1, STRUCT, None), (2, STRUCT, None), (3, STRUCT, None)]);
const INTEGER: Shape = Shape(&[(1, BYTE, None), (2, BOOL, None)]);
const VARIANT: Shape = Shape(&[(1, BYTE, None)]);
const GEOMETRY: Shape = Shape(&[(1, BINARY, None)]);
const GEOGRAPHY: Shape = Shape(&[(1, BINARY, None), (2, I32, None)]);

const LOGICAL_TYPE: Shape = Shape(&[
    (1, STRUCT, None),
    (2, STRUCT, None),
    (3, STRUCT, None),
    (4, STRUCT, None),
    (5, STRUCT, Some(&DECIMAL)),
    (6, STRUCT, None),
    (7, STRUCT, Some(&TIME)),
    (8, STRUCT, Some(&TIME)),
    (10, STRUCT, Some(&INTEGER)),
    (11, STRUCT, None),
    (12, STRUCT, None),
    (13, STRUCT, None),
    (14, STRUCT, None),
    (15, STRUCT, None),
    (16, STRUCT, Some(&VARIANT)),
    (17, STRUCT, Some(&GEOMETRY)),
    (18, STRUCT, Some(&GEOGRAPHY)),
]);

pub const SCHEMA_ELEMENT: Shape = Shape(&[
    (1, I32, None),
    (2, I32, None),
    (3, I32, None),
    (4, BINARY, None),
    (5, I32, None),
    (6, I32, None),
    (7, I32, None),
    (8, I32, None),
    (9, I32, None),
    (10, STRUCT, Some(&LOGICAL_TYPE)),
]);

const ENCODING_STATISTICS: Shape = Shape(&[(1, I32, None), (2, I32, None), (3, I32, None)]);
const SIZES: Shape = Shape(&[(1, I64, None), (2, LIST, None), (3, LIST, None)]);
const BOX: Shape = Shape(&[
    (1, DOUBLE, None),
    (2, DOUBLE, None),
    (3, DOUBLE, None),
    (4, DOUBLE, None),
    (5, DOUBLE, None),
    (6, DOUBLE, None),
    (7, DOUBLE, None),
    (8, DOUBLE, None),
]);
const PLACES: Shape = Shape(&[(1, STRUCT, Some(&BOX)), (2, LIST, None)]);

const COLUMN: Shape = Shape(&[
    (1, I32, None),
    (2, LIST, None),
    (3, LIST, None),
    (4, I32, None),
    (5, I64, None),
    (6, I64, None),
    (7, I64, None),
    (8, LIST, Some(&KEY_VALUE)),
    (9, I64, None),
    (10, I64, None),
    (11, I64, None),
    (12, STRUCT, Some(&STATISTICS)),
    (13, LIST, Some(&ENCODING_STATISTICS)),
    (14, I64, None),
    (15, I32, None),
    (16, STRUCT, Some(&SIZES)),
    (17, STRUCT, Some(&PLACES)),
]);

const COLUMN_CHUNK: Shape = Shape(&[
    (1, BINARY, None),
    (2, I64, None),
    (3, STRUCT, Some(&COLUMN)),
    (4, I64, None),
    (5, I32, None),
    (6, I64, None),
    (7, I32, None),
    (8, STRUCT, None),
    (9, BINARY, None),
]);

const SORTING: Shape = Shape(&[(1, I32, None), (2, BOOL, None), (3, BOOL, None)]);

const ROW_GROUP: Shape = Shape(&[
    (1, LIST, Some(&COLUMN_CHUNK)),
    (2, I64, None),
    (3, I64, None),
    (4, LIST, Some(&SORTING)),
    (5, I64, None),
    (6, I64, None),
    (7, I16, None),
]);

const COLUMN_ORDER: Shape = Shape(&[(1, STRUCT, None), (2, STRUCT, None)]);

/// The footer.
pub const FILE: Shape = Shape(&[
    (1, I32, None),
    (2, LIST, Some(&SCHEMA_ELEMENT)),
    (3, I64, None),
    (4, LIST, Some(&ROW_GROUP)),
    (5, LIST, Some(&KEY_VALUE)),
    (6, BINARY, None),
    (7, LIST, Some(&COLUMN_ORDER)),
    (8, STRUCT, None),
    (9, BINARY, None),
]);

const DATA_PAGE: Shape =
    Shape(&[(1, I32, None), (2, I32, None), (3, I32, None), (4, I32, None), (5, STRUCT, Some(&STATISTICS))]);
const DICTIONARY_PAGE: Shape = Shape(&[(1, I32, None), (2, I32, None), (3, BOOL, None)]);
const DATA_PAGE_V2: Shape = Shape(&[
    (1, I32, None),
    (2, I32, None),
    (3, I32, None),
    (4, I32, None),
    (5, I32, None),
    (6, I32, None),
    (7, BOOL, None),
    (8, STRUCT, Some(&STATISTICS)),
]);

pub const PAGE_HEADER: Shape = Shape(&[
    (1, I32, None),
    (2, I32, None),
    (3, I32, None),
    (4, I32, None),
    (5, STRUCT, Some(&DATA_PAGE)),
    (6, STRUCT, None),
    (7, STRUCT, Some(&DICTIONARY_PAGE)),
    (8, STRUCT, Some(&DATA_PAGE_V2)),
]);
