//! CBOR in diagnostic notation (RFC 8949, §8), as far as the messages need it.

use std::collections::BTreeSet;

use minicbor::Decoder;
use minicbor::data::Type;

/// The one item that `cbor` is.
pub(super) fn show(cbor: &[u8]) -> String {
    let mut decoder = Decoder::new(cbor);
    let shown = show_next(&mut decoder);
    assert_eq!(decoder.position(), cbor.len(), "more than one item");
    shown
}

fn show_next(decoder: &mut Decoder<'_>) -> String {
    match decoder.datatype().unwrap() {
        Type::Bool => decoder.bool().unwrap().to_string(),
        Type::String => format!("{:?}", decoder.str().unwrap()),
        Type::Bytes => format!("h'{}'", hex(decoder.bytes().unwrap())),
        Type::Array => {
            let count = decoder.array().unwrap().unwrap();
            let items: Vec<_> = (0..count).map(|_| show_next(decoder)).collect();
            format!("[{}]", items.join(", "))
        }
        Type::Map => {
            let count = decoder.map().unwrap().unwrap();
            let pair = |_| [show_next(decoder), show_next(decoder)].join(": ");
            let pairs: Vec<_> = (0..count).map(pair).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        _ => decoder.int().unwrap().to_string(),
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether some map in `cbor`, which is well-formed, has a key twice.
pub(super) fn repeats_a_key(cbor: &[u8]) -> bool {
    look_for_repetition(&mut Decoder::new(cbor)).unwrap_or(false)
}

fn look_for_repetition(decoder: &mut Decoder<'_>) -> Result<bool, minicbor::decode::Error> {
    let mut found = false;
    match decoder.datatype()? {
        Type::Array => {
            for _ in 0..decoder.array()?.unwrap_or_default() {
                found |= look_for_repetition(decoder)?;
            }
        }
        Type::Map => {
            let mut keys = BTreeSet::new();
            for _ in 0..decoder.map()?.unwrap_or_default() {
                let start = decoder.position();
                decoder.skip()?;
                let key = decoder.input().get(start..decoder.position());
                found |= !keys.insert(key.map(<[u8]>::to_vec));
                found |= look_for_repetition(decoder)?;
            }
        }
        _ => decoder.skip()?,
    }
    Ok(found)
}
