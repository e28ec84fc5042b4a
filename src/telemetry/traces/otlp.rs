//! The messages of OTLP, as far as traces need them (opentelemetry-proto 1.x, `trace/v1`, `common/v1`, `resource/v1`). Of 700 generated lines
//! and their five crates these are what is used.

use prost::bytes::Bytes;
use serde_json::Value as Json;

/// `ExportTraceServiceRequest`
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Request {
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// `ExportTraceServiceResponse`
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Response {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// What of a request was refused.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// The spans of one resource.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// Who the spans are from.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// The spans of one scope.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    /// Each a [`Span`], encoded: on the wire a message within another one is its bytes.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub spans: Vec<Bytes>,
}

/// What made the spans.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Scope {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

/// A span.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub name: String,
    #[prost(enumeration = "Kind", tag = "6")]
    pub kind: i32,
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
    #[prost(message, repeated, tag = "13")]
    pub links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    pub flags: u32,
}

/// Whose work a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum Kind {
    Unspecified = 0,
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// Something that happened in a span.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Event {
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "3")]
    pub attributes: Vec<KeyValue>,
}

/// Another span that has to do with this one.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Link {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    pub attributes: Vec<KeyValue>,
}

/// How a span ended.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Status {
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(enumeration = "Code", tag = "3")]
    pub code: i32,
}

/// Well, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum Code {
    Unset = 0,
    Ok = 1,
    Error = 2,
}

/// An attribute.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// An attribute's value.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 2, 3, 4, 5")]
    pub value: Option<Any>,
}

/// Its forms.
#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(missing_docs)]
pub enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    List(List),
}

/// Several values.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct List {
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<AnyValue>,
}

/// A value as an attribute can hold it: objects as JSON text.
#[must_use]
pub fn any(value: Json) -> AnyValue {
    let one = match value {
        Json::String(text) => Any::Text(text),
        Json::Bool(is) => Any::Bool(is),
        Json::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => Any::Int(n),
            (None, Some(n)) => Any::Double(n),
            (None, None) => Any::Text(n.to_string()),
        },
        Json::Array(items) => Any::List(List { values: items.into_iter().map(any).collect() }),
        other @ (Json::Object(_) | Json::Null) => Any::Text(other.to_string()),
    };
    AnyValue { value: Some(one) }
}

/// An attribute.
#[must_use]
pub fn attribute(key: impl Into<String>, value: impl Into<Json>) -> KeyValue {
    KeyValue { key: key.into(), value: Some(any(value.into())) }
}
