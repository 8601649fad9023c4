"""Columns of a shard set's index, one row per sample."""

import pyarrow as pa

BOX_TYPE = pa.struct(
    [
        ("finding", pa.int16()),
        ("x_min", pa.float64()),
        ("y_min", pa.float64()),
        ("x_max", pa.float64()),
        ("y_max", pa.float64()),
    ]
)
LEVEL_TYPE = pa.struct(
    [
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("digest", pa.string()),
    ]
)
INDEX_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("source_digest", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("patient", pa.string()),
        pa.field("sex", pa.string()),
        pa.field("age_band", pa.string()),
        pa.field("view_position", pa.string()),
        pa.field("scanner", pa.string()),
        pa.field("fold", pa.int16()),
        pa.field("subset", pa.float64()),
        pa.field("findings", pa.list_(pa.int16())),
        pa.field("boxes", pa.list_(BOX_TYPE)),
        pa.field("levels", pa.list_(LEVEL_TYPE), nullable=False),
    ]
)
"""Columns of `index.parquet`.

`digest`: xxh3-128 (32 hex digits) of the stored full-size gray pixels, their shape and the key; augmentation is
seeded by it. `source_digest`: xxh3-128 of the file that it came from. `fold`, `subset`: see `sharding.arrange`.
`height`, `width`: of the original image, whose pixels `boxes` are in. `levels`: level 0 is the full-size image, the
others smaller copies; `offset` and `length` are the encoded bytes inside the tar, `digest` their xxh3-128.
"""
