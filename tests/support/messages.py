"""Messages of Protobuf, made without ``protoc``, whose code would need one version of the library."""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, timestamp_pb2  # noqa: F401

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
_pool = descriptor_pool.Default()
_pool.AddSerializedFile(text_format.Parse(_FILE, descriptor_pb2.FileDescriptorProto()).SerializeToString())


def _class_of(name: str) -> type:
    made: type = message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))
    return made


Line = _class_of("shop.Line")
OrderCreated = _class_of("shop.OrderCreated")
Inner = _class_of("shop.OrderCreated.Inner")
