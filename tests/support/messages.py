"""Messages of Protobuf, made without ``protoc``, whose code would need one version of the library."""

from __future__ import annotations

from google.protobuf import (  # noqa: F401  # the imports of the files
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    text_format,
    timestamp_pb2,
    wrappers_pb2,
)

_FILE = """
name: "shop/order.proto"
package: "shop"
syntax: "proto3"
dependency: "google/protobuf/timestamp.proto"
message_type {
  name: "Line"
  field { name: "sku" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "count" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL }
}
message_type {
  name: "OrderCreated"
  field { name: "order_id" number: 1 type: TYPE_INT64 label: LABEL_OPTIONAL }
  field { name: "note" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "lines" number: 3 type: TYPE_MESSAGE type_name: ".shop.Line" label: LABEL_REPEATED }
  field { name: "at" number: 4 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" label: LABEL_OPTIONAL }
  field { name: "raw" number: 5 type: TYPE_BYTES label: LABEL_OPTIONAL }
  field { name: "rate" number: 6 type: TYPE_DOUBLE label: LABEL_OPTIONAL }
  field { name: "stock" number: 7 type: TYPE_MESSAGE type_name: ".shop.OrderCreated.StockEntry" label: LABEL_REPEATED }
  nested_type {
    name: "StockEntry"
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type: TYPE_INT64 label: LABEL_OPTIONAL }
    options { map_entry: true }
  }
  nested_type {
    name: "Inner"
    field { name: "number" number: 1 type: TYPE_UINT64 label: LABEL_OPTIONAL }
  }
}
"""
_PARCEL_FILE = """
name: "shop/parcel.proto"
package: "shop"
syntax: "proto2"
dependency: "google/protobuf/any.proto"
dependency: "google/protobuf/duration.proto"
dependency: "google/protobuf/field_mask.proto"
dependency: "google/protobuf/struct.proto"
dependency: "google/protobuf/timestamp.proto"
dependency: "google/protobuf/wrappers.proto"
message_type {
  name: "Parcel"
  field { name: "number" number: 1 type: TYPE_INT64 label: LABEL_REQUIRED }
  field { name: "any" number: 2 type: TYPE_MESSAGE type_name: ".google.protobuf.Any" label: LABEL_OPTIONAL }
  field { name: "free" number: 3 type: TYPE_MESSAGE type_name: ".google.protobuf.Struct" label: LABEL_OPTIONAL }
  field { name: "value" number: 4 type: TYPE_MESSAGE type_name: ".google.protobuf.Value" label: LABEL_OPTIONAL }
  field { name: "values" number: 5 type: TYPE_MESSAGE type_name: ".google.protobuf.ListValue" label: LABEL_OPTIONAL }
  field { name: "took" number: 6 type: TYPE_MESSAGE type_name: ".google.protobuf.Duration" label: LABEL_OPTIONAL }
  field { name: "mask" number: 7 type: TYPE_MESSAGE type_name: ".google.protobuf.FieldMask" label: LABEL_OPTIONAL }
  field { name: "at" number: 8 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" label: LABEL_OPTIONAL }
  field { name: "long" number: 9 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" label: LABEL_OPTIONAL }
  field { name: "longs" number: 10 type: TYPE_MESSAGE type_name: ".google.protobuf.UInt64Value" label: LABEL_REPEATED }
  field { name: "real" number: 11 type: TYPE_MESSAGE type_name: ".google.protobuf.DoubleValue" label: LABEL_OPTIONAL }
  field { name: "blob" number: 12 type: TYPE_MESSAGE type_name: ".google.protobuf.BytesValue" label: LABEL_OPTIONAL }
  field { name: "raw_data" number: 13 type: TYPE_BYTES label: LABEL_REPEATED }
  field { name: "weight" number: 14 type: TYPE_FLOAT label: LABEL_OPTIONAL }
  field { name: "size" number: 15 type: TYPE_DOUBLE label: LABEL_OPTIONAL }
  field { name: "state" number: 16 type: TYPE_ENUM type_name: ".shop.Parcel.State" label: LABEL_OPTIONAL }
  field { name: "inner" number: 17 type: TYPE_MESSAGE type_name: ".shop.Parcel" label: LABEL_OPTIONAL }
  field { name: "prices" number: 18 type: TYPE_MESSAGE type_name: ".shop.Parcel.PricesEntry" label: LABEL_REPEATED }
  nested_type {
    name: "PricesEntry"
    field { name: "key" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type: TYPE_DOUBLE label: LABEL_OPTIONAL }
    options { map_entry: true }
  }
  enum_type {
    name: "State"
    value { name: "NEW" number: 0 }
    value { name: "SENT" number: 1 }
  }
  extension_range { start: 100 end: 200 }
}
extension { name: "code" extendee: ".shop.Parcel" number: 100 type: TYPE_INT64 label: LABEL_OPTIONAL }
"""
_pool = descriptor_pool.Default()
for _text in (_FILE, _PARCEL_FILE):
    _pool.AddSerializedFile(text_format.Parse(_text, descriptor_pb2.FileDescriptorProto()).SerializeToString())


def _class_of(name: str) -> type:
    made: type = message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))
    return made


Line = _class_of("shop.Line")
OrderCreated = _class_of("shop.OrderCreated")
Inner = _class_of("shop.OrderCreated.Inner")
Parcel = _class_of("shop.Parcel")
