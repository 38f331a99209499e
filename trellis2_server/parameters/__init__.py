"""What one request may set: parsed into records, over the operator's defaults.

`request_fields` declares the fields; `readers` read the value of one, `parsing` a whole request,
into the records of `records`.
"""

from trellis2_server.parameters.parsing import (
    EXPORT_FIELDS,
    fields_of,
    maximum,
    read_delivery,
    read_export,
    read_fields,
    read_options,
)
from trellis2_server.parameters.records import (
    Delivery,
    DerivedForm,
    FileForm,
    Options,
    PictureForm,
    PlacedFile,
    Placement,
    SamplerOptions,
    default_placement,
)
from trellis2_server.request_fields import FIELDS, FileType

__all__ = [
    "EXPORT_FIELDS",
    "FIELDS",
    "Delivery",
    "DerivedForm",
    "FileForm",
    "FileType",
    "Options",
    "PictureForm",
    "PlacedFile",
    "Placement",
    "SamplerOptions",
    "default_placement",
    "fields_of",
    "maximum",
    "read_delivery",
    "read_export",
    "read_fields",
    "read_options",
]
