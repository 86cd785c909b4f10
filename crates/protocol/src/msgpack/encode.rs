//! From a [`Value`] to MessagePack, each in its shortest form.

use bytes::{BufMut, BytesMut};

use crate::{Value, lua, value::readable};

/// Appends a value.
///
/// Text that is not UTF-8 goes out readable (Python's unpacker refuses it), [`Value::Binary`] as it is. An empty map
/// goes out as an empty list: in Lua they are the same. A float without fraction goes out as an integer.
pub fn put_value(value: &Value, out: &mut BytesMut) {
    match value {
        Value::Nil => out.put_u8(0xc0),
        Value::Bool(false) => out.put_u8(0xc2),
        Value::Bool(true) => out.put_u8(0xc3),
        Value::Int(int) => put_int(*int, out),
        Value::Float(float) => match lua::number(*float) {
            Value::Int(int) => put_int(int, out),
            _ => {
                out.put_u8(0xcb);
                out.put_f64(*float);
            }
        },
        Value::Text(bytes) => put_text(&readable(bytes), out),
        Value::Binary(bytes) => put_binary(bytes, out),
        Value::List(items) => {
            put_list_header(items.len(), out);
            for item in items {
                put_value(item, out);
            }
        }
        Value::Map(fields) if fields.is_empty() => put_list_header(0, out),
        Value::Map(fields) => {
            put_map_header(fields.len(), out);
            for (key, item) in fields {
                put_text(key, out);
                put_value(item, out);
            }
        }
    }
}

/// Headers and query arguments: every value a list, `true` an empty one, an empty map stays a map (`fix_mmap` in
/// Kong's mp_rpc.lua).
pub(super) fn put_multi_map(value: &Value, out: &mut BytesMut) {
    let Value::Map(fields) = value else { return put_value(value, out) };
    put_map_header(fields.len(), out);
    for (key, item) in fields {
        put_text(key, out);
        match item {
            Value::Bool(true) => put_list_header(0, out),
            Value::Text(_) => {
                put_list_header(1, out);
                put_value(item, out);
            }
            other => put_value(other, out),
        }
    }
}

/// The captures of a route's path: the unnamed ones are a map that starts with 0, the whole match.
pub(super) fn put_uri_captures(value: &Value, out: &mut BytesMut) {
    let Value::Map(fields) = value else { return put_value(value, out) };
    put_map_header(fields.len(), out);
    for (key, item) in fields {
        put_text(key, out);
        match item {
            Value::List(items) if key == "unnamed" && !items.is_empty() => {
                put_map_header(items.len(), out);
                for (number, item) in (0..).zip(items) {
                    put_int(number, out);
                    put_value(item, out);
                }
            }
            other => put_value(other, out),
        }
    }
}

/// A body: binary, whatever it is made of.
pub(super) fn put_body(value: &Value, out: &mut BytesMut) {
    match value.as_bytes() {
        Some(bytes) => put_binary(bytes, out),
        None => put_value(value, out),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the ranges are checked")]
pub(super) fn put_int(int: i64, out: &mut BytesMut) {
    match int {
        -0x20..=0x7f => out.put_i8(int as i8),
        0x80..=0xff => {
            out.put_u8(0xcc);
            out.put_u8(int as u8);
        }
        0x100..=0xffff => {
            out.put_u8(0xcd);
            out.put_u16(int as u16);
        }
        0x1_0000..=0xffff_ffff => {
            out.put_u8(0xce);
            out.put_u32(int as u32);
        }
        0x1_0000_0000.. => {
            out.put_u8(0xcf);
            out.put_u64(int as u64);
        }
        -0x80..-0x20 => {
            out.put_u8(0xd0);
            out.put_i8(int as i8);
        }
        -0x8000..-0x80 => {
            out.put_u8(0xd1);
            out.put_i16(int as i16);
        }
        -0x8000_0000..-0x8000 => {
            out.put_u8(0xd2);
            out.put_i32(int as i32);
        }
        ..-0x8000_0000 => {
            out.put_u8(0xd3);
            out.put_i64(int);
        }
    }
}

pub(super) fn put_text(text: &str, out: &mut BytesMut) {
    match text.len() {
        0..=0x1f => put_header(0xa0, 0x1f, text.len(), out),
        0x20..=0xff => put_length(0xd9, 0, text.len(), out),
        0x100..=0xffff => put_length(0xda, 1, text.len(), out),
        _ => put_length(0xdb, 2, text.len(), out),
    }
    out.put_slice(text.as_bytes());
}

fn put_binary(bytes: &[u8], out: &mut BytesMut) {
    match bytes.len() {
        0..=0xff => put_length(0xc4, 0, bytes.len(), out),
        0x100..=0xffff => put_length(0xc5, 1, bytes.len(), out),
        _ => put_length(0xc6, 2, bytes.len(), out),
    }
    out.put_slice(bytes);
}

pub(super) fn put_list_header(length: usize, out: &mut BytesMut) {
    match length {
        0..=0x0f => put_header(0x90, 0x0f, length, out),
        0x10..=0xffff => put_length(0xdc, 1, length, out),
        _ => put_length(0xdd, 2, length, out),
    }
}

pub(super) fn put_map_header(length: usize, out: &mut BytesMut) {
    match length {
        0..=0x0f => put_header(0x80, 0x0f, length, out),
        0x10..=0xffff => put_length(0xde, 1, length, out),
        _ => put_length(0xdf, 2, length, out),
    }
}

/// A marker that carries a small length in the bits of `mask`.
#[expect(clippy::cast_possible_truncation, reason = "callers checked the range")]
fn put_header(marker: u8, mask: u8, length: usize, out: &mut BytesMut) {
    out.put_u8(marker | (length as u8 & mask));
}

/// A marker, then a length of 1, 2 or 4 bytes for `width` 0, 1 or 2.
#[expect(clippy::cast_possible_truncation, reason = "callers checked the range; no string here has 4 GiB")]
fn put_length(marker: u8, width: u8, length: usize, out: &mut BytesMut) {
    out.put_u8(marker);
    match width {
        0 => out.put_u8(length as u8),
        1 => out.put_u16(length as u16),
        _ => out.put_u32(length as u32),
    }
}
