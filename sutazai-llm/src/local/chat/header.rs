//! A second look at a GGUF header that candle refuses: is the file damaged, or are its weights of a newer type?
//!
//! candle's errors are texts, and nothing here decides by a text.

use std::io::{self, BufRead, Read, Seek};

/// The type of the first tensor that is none of candle's but may be one of GGUF's; `None` if the header is otherwise wrong.
pub(crate) fn foreign_type(reader: &mut (impl BufRead + Seek)) -> Option<u32> {
    find(reader).ok().flatten()
}

fn find(reader: &mut (impl BufRead + Seek)) -> io::Result<Option<u32>> {
    reader.rewind()?;
    if &bytes::<4>(reader)? != b"GGUF" || !(2..=3).contains(&number(reader)?) {
        return Ok(None);
    }
    let (tensors, pairs) = (length(reader)?, length(reader)?);
    for _ in 0..pairs {
        skip_text(reader)?;
        let kind = number(reader)?;
        skip_value(reader, kind)?;
    }
    for _ in 0..tensors {
        skip_text(reader)?;
        let dimensions = number(reader)?;
        skip(reader, u64::from(dimensions) * 8)?;
        match number(reader)? {
            0..=3 | 6..=15 | 30 => skip(reader, 8)?,
            kind @ (16..=29 | 31..=63) => return Ok(Some(kind)),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

fn skip_value(reader: &mut (impl BufRead + Seek), kind: u32) -> io::Result<()> {
    match kind {
        8 => skip_text(reader),
        9 => {
            let (kind, count) = (number(reader)?, length(reader)?);
            match kind {
                8 => (0..count).try_for_each(|_| skip_text(reader)),
                _ => skip(reader, count.checked_mul(size(kind)?).ok_or_else(wrong)?),
            }
        }
        _ => skip(reader, size(kind)?),
    }
}

/// The size of a plain value.
fn size(kind: u32) -> io::Result<u64> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(wrong()),
    }
}

fn skip_text(reader: &mut (impl BufRead + Seek)) -> io::Result<()> {
    let length = length(reader)?;
    skip(reader, length)
}

fn skip(reader: &mut impl Seek, count: u64) -> io::Result<()> {
    reader.seek_relative(i64::try_from(count).map_err(|_| wrong())?)
}

fn number(reader: &mut impl Read) -> io::Result<u32> {
    bytes(reader).map(u32::from_le_bytes)
}

fn length(reader: &mut impl Read) -> io::Result<u64> {
    bytes(reader).map(u64::from_le_bytes)
}

fn bytes<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).map(|()| bytes)
}

fn wrong() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
