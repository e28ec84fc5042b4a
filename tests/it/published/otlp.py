"""Reads OTLP requests (files, protobuf) by the messages that OpenTelemetry publishes; prints the spans as JSON, one a line."""
import json
import sys

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status


def value(any_value):
    kind = any_value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [value(v) for v in any_value.array_value.values]
    if kind == "kvlist_value":
        return attributes(any_value.kvlist_value.values)
    return getattr(any_value, kind)


def attributes(pairs):
    assert len({p.key for p in pairs}) == len(pairs), [p.key for p in pairs]
    return {p.key: value(p.value) for p in pairs}


for path in sys.argv[1:]:
    request = ExportTraceServiceRequest()
    with open(path, "rb") as file:
        request.ParseFromString(file.read())
    # Nothing in it that the published messages do not know.
    size = request.ByteSize()
    request.DiscardUnknownFields()
    assert request.ByteSize() == size, path
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                print(json.dumps({
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": span.SpanKind.Name(span.kind),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "flags": span.flags,
                    "status": Status.StatusCode.Name(span.status.code),
                    "message": span.status.message,
                    "attributes": attributes(span.attributes),
                    "events": [{"name": e.name, "at": e.time_unix_nano, "attributes": attributes(e.attributes)} for e in span.events],
                    "links": [{"trace": l.trace_id.hex(), "id": l.span_id.hex(), "attributes": attributes(l.attributes)} for l in span.links],
                    "resource": attributes(of_resource.resource.attributes),
                    "scope": [of_scope.scope.name, of_scope.scope.version],
                }))
