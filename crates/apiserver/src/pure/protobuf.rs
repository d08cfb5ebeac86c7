//! Request bodies in Kubernetes' protobuf form, made into the JSON that everything else works on.
//!
//! `kubectl create` and every typed client of the built-in kinds send them; answering "unsupported" is fatal to those
//! clients. Answers are always JSON, so nothing is encoded here.
//!
//! Zero values are the difficulty: plain Go fields are on the wire even when they are zero and must vanish, while the
//! zero of a pointer field was set by somebody and must stay. `fields.txt` tells which is which.

mod messages;
#[cfg(test)]
mod tests;
mod wire;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

pub(crate) use messages::{Field, Kind, Message, Shape, message, package};
use wire::{Reader, Wire};

/// What every such body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Whether a body is in Kubernetes' protobuf form.
pub(crate) fn is_protobuf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The object in a body, with its `apiVersion` and `kind`.
///
/// # Errors
/// When the bytes are not of this form, or the kind has no protobuf form that we know.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, String> {
    let envelope =
        bytes.strip_prefix(MAGIC).ok_or("the body does not begin with the protobuf magic number")?;
    let (mut type_meta, mut raw) = (&[][..], &[][..]);
    for field in Reader::new(envelope) {
        match field? {
            (1, Wire::Bytes(bytes)) => type_meta = bytes,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (mut api_version, mut kind) = (String::new(), String::new());
    for field in Reader::new(type_meta) {
        match field? {
            (1, Wire::Bytes(bytes)) => api_version = text(bytes)?,
            (2, Wire::Bytes(bytes)) => kind = text(bytes)?,
            _ => {}
        }
    }
    let message = messages::of_kind(&api_version, &kind).ok_or_else(|| {
        format!("no kind \"{kind}\" is registered for version \"{api_version}\" in protobuf form")
    })?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), Value::from(api_version));
    object.insert("kind".to_owned(), Value::from(kind));
    fill(&mut object, message, raw)?;
    Ok(Value::Object(object))
}

fn text(bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "a string is not UTF-8".to_owned())
}

/// Adds a message's fields to an object. Fields that are not in the table are passed over.
fn fill(object: &mut Map<String, Value>, message: &Message, bytes: &[u8]) -> Result<(), String> {
    for entry in Reader::new(bytes) {
        let (number, wire) = entry?;
        let Some(field) = message.field(number) else { continue };
        let place = || format!("field {} of {}: ", field.name, message.name);
        add(object, field, wire).map_err(|error| place() + &error)?;
    }
    Ok(())
}

fn add(object: &mut Map<String, Value>, field: &Field, wire: Wire<'_>) -> Result<(), String> {
    if field.flattened {
        let Kind::Message(inner) = field.kind else { return Err("only messages are flattened".to_owned()) };
        let inner = messages::message(inner).ok_or("no such message")?;
        return fill(object, inner, wire.bytes()?);
    }
    match field.shape {
        Shape::One => {
            let value = value(field.kind, wire)?;
            if field.pointer || !is_zero(&value) {
                object.insert(field.name.to_owned(), value);
            }
        }
        Shape::List => {
            let values = match (field.kind, wire) {
                (Kind::Int | Kind::Bool, Wire::Bytes(packed)) => wire::varints(packed)
                    .map(|number| value(field.kind, Wire::Varint(number?)))
                    .collect::<Result<Vec<_>, String>>()?,
                (kind, wire) => vec![value(kind, wire)?],
            };
            let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.extend(values);
            }
        }
        Shape::Map => {
            let (key, value) = map_entry(field.kind, wire.bytes()?)?;
            let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key, value);
            }
        }
    }
    Ok(())
}

fn map_entry(kind: Kind, bytes: &[u8]) -> Result<(String, Value), String> {
    let (mut key, mut found) = (String::new(), None);
    for entry in Reader::new(bytes) {
        match entry? {
            (1, wire) => key = text(wire.bytes()?)?,
            (2, wire) => found = Some(value(kind, wire)?),
            _ => {}
        }
    }
    // An absent value is the zero of its type.
    let value = found.unwrap_or_else(|| match kind {
        Kind::Int => Value::from(0),
        Kind::Bool => Value::from(false),
        Kind::Message(_) => Value::Object(Map::new()),
        Kind::Strings => Value::Array(Vec::new()),
        Kind::Quantity => Value::from("0"),
        _ => Value::from(""),
    });
    Ok((key, value))
}

/// Whether a plain Go field would have this value when nobody set it. Empty messages are not zero.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn value(kind: Kind, wire: Wire<'_>) -> Result<Value, String> {
    Ok(match kind {
        Kind::String => Value::from(text(wire.bytes()?)?),
        Kind::Bytes => Value::from(STANDARD.encode(wire.bytes()?)),
        Kind::Bool => Value::from(wire.varint()? != 0),
        Kind::Int => Value::from(wire.varint()?.cast_signed()),
        Kind::Double => Number::from_f64(f64::from_bits(wire.fixed64()?)).map_or(Value::Null, Value::Number),
        Kind::Message(name) => {
            let inner = messages::message(name).ok_or_else(|| format!("no message {name}"))?;
            let mut object = Map::new();
            fill(&mut object, inner, wire.bytes()?)?;
            Value::Object(object)
        }
        Kind::Quantity => Value::from(text(first_bytes(wire, 1)?)?),
        Kind::IntOrString => int_or_string(wire.bytes()?)?,
        Kind::Time => moment(wire.bytes()?, 0)?,
        Kind::MicroTime => moment(wire.bytes()?, 6)?,
        Kind::Json => match first_bytes(wire, 1)? {
            [] => Value::Null,
            raw => serde_json::from_slice(raw).map_err(|error| format!("embedded JSON: {error}"))?,
        },
        Kind::Strings => {
            let mut list = Vec::new();
            for entry in Reader::new(wire.bytes()?) {
                if let (1, wire) = entry? {
                    list.push(Value::from(text(wire.bytes()?)?));
                }
            }
            Value::Array(list)
        }
    })
}

/// The bytes of one field of a message; empty when absent.
fn first_bytes<'a>(wire: Wire<'a>, wanted: u32) -> Result<&'a [u8], String> {
    for entry in Reader::new(wire.bytes()?) {
        let (number, wire) = entry?;
        if number == wanted {
            return wire.bytes();
        }
    }
    Ok(&[])
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    for entry in Reader::new(bytes) {
        match entry? {
            (1, wire) => is_text = wire.varint()? == 1,
            (2, wire) => number = wire.varint()?.cast_signed(),
            (3, wire) => string = text(wire.bytes()?)?,
            _ => {}
        }
    }
    Ok(if is_text { Value::from(string) } else { Value::from(number) })
}

/// A moment with this many digits after the second; an empty message is none.
fn moment(bytes: &[u8], digits: usize) -> Result<Value, String> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanoseconds) = (0, 0);
    for entry in Reader::new(bytes) {
        match entry? {
            (1, wire) => seconds = wire.varint()?.cast_signed(),
            (2, wire) => nanoseconds = i32::try_from(wire.varint()?.cast_signed()).unwrap_or_default(),
            _ => {}
        }
    }
    let nanoseconds = if digits == 0 { 0 } else { nanoseconds };
    let moment = Timestamp::new(seconds, nanoseconds).map_err(|error| format!("a moment: {error}"))?;
    Ok(Value::from(format!("{moment:.digits$}")))
}
