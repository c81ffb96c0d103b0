//! What a GGUF file says about itself, read with typed errors.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs::File,
    io::{BufReader, ErrorKind as IoKind},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use candle_core::{
    Device,
    quantized::{
        QStorage, QTensor,
        gguf_file::{Content, Value},
    },
};
use sutazai_core::{Error, ErrorKind, Result};

use super::header;

/// An open GGUF file with its header.
pub(crate) struct Gguf {
    content: Content,
    reader: BufReader<File>,
    /// Tensors that nobody has asked for yet.
    unread: BTreeSet<String>,
}

impl Gguf {
    /// Reads the header of the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| match error.kind() {
            IoKind::NotFound => missing().because(error),
            _ => unreadable().because(error),
        })?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        // candle divides by what stands in the header.
        let read = catch_unwind(AssertUnwindSafe(|| Content::read(&mut reader)));
        match read {
            Ok(Ok(content)) => {
                let unread = content.tensor_infos.keys().cloned().collect();
                Ok(Self { content, reader, unread })
            }
            Ok(Err(error)) => Err(match header::foreign_type(&mut reader) {
                Some(kind) => unsupported(format!("its weights are of type {kind}, which is not known")),
                None => damaged("its header cannot be read").because(error),
            }),
            Err(_) => Err(damaged("its header cannot be read")),
        }
    }

    /// The names of all tensors that were not read, in their order.
    pub(crate) fn unread(&self) -> impl Iterator<Item = &str> {
        self.unread.iter().map(String::as_str)
    }

    /// The header value called `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// A text in the header.
    pub(crate) fn text(&self, key: &str) -> Result<&str> {
        match self.get(key) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(damaged(format!("{key} is not a text"))),
            None => Err(damaged(format!("{key} is missing"))),
        }
    }

    /// A count in the header, which must lie in `range`.
    pub(crate) fn count(&self, key: &str, range: std::ops::RangeInclusive<usize>) -> Result<usize> {
        let value = self.get(key).ok_or_else(|| damaged(format!("{key} is missing")))?;
        let count = match value {
            Value::I32(signed) => usize::try_from(*signed).ok(),
            Value::I64(signed) => usize::try_from(*signed).ok(),
            other => other.to_u64().ok().and_then(|count| usize::try_from(count).ok()),
        };
        match count {
            Some(count) if range.contains(&count) => Ok(count),
            _ => Err(damaged(format!("{key} is not a number in {} to {}", range.start(), range.end()))),
        }
    }

    /// A count in the header, which must lie in `range`; none where it is not given.
    pub(crate) fn count_if_any(&self, key: &str, range: std::ops::RangeInclusive<usize>) -> Result<Option<usize>> {
        self.get(key).map(|_| self.count(key, range)).transpose()
    }

    /// A text in the header; none where it is not given.
    pub(crate) fn text_if_any(&self, key: &str) -> Result<Option<&str>> {
        self.get(key).map(|_| self.text(key)).transpose()
    }

    /// A finite number above 0 in the header; none where it is not given, or 0.
    pub(crate) fn number_if_any(&self, key: &str) -> Result<Option<f32>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(number)) if *number == 0.0 => Ok(None),
            Some(_) => self.number(key).map(Some),
        }
    }

    /// A finite number above 0 in the header.
    pub(crate) fn number(&self, key: &str) -> Result<f32> {
        match self.get(key) {
            Some(Value::F32(number)) if number.is_finite() && *number > 0.0 => Ok(*number),
            Some(_) => Err(damaged(format!("{key} is not a number above 0"))),
            None => Err(damaged(format!("{key} is missing"))),
        }
    }

    /// A list in the header.
    pub(crate) fn list(&self, key: &str) -> Result<&[Value]> {
        match self.get(key) {
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err(damaged(format!("{key} is not a list"))),
            None => Err(damaged(format!("{key} is missing"))),
        }
    }

    /// Whether there is a tensor called `name`.
    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// The tensor `name`, which must have `shape`, as the file has it.
    pub(crate) fn stored(&mut self, name: &str, shape: &[usize]) -> Result<QTensor> {
        let info = self.content.tensor_infos.get(name).ok_or_else(|| damaged(format!("tensor {name} is missing")))?;
        // Checked before anything is read, so that an absurd header cannot make us reserve memory.
        if info.shape.dims() != shape {
            return Err(damaged(format!("tensor {name} has shape {:?} instead of {shape:?}", info.shape.dims())));
        }
        self.unread.remove(name);
        let read_error = |error| damaged(format!("tensor {name} cannot be read")).because(error);
        self.content.tensor(&mut self.reader, name, &Device::Cpu).map_err(read_error)
    }

    /// Passes the numbers of the tensor `name`, which must have `shape`, to `read`.
    pub(crate) fn tensor<T>(&mut self, name: &str, shape: &[usize], read: impl FnOnce(&[f32]) -> T) -> Result<T> {
        numbers(name, &self.stored(name, shape)?, read)
    }
}

/// Passes the numbers of a tensor to `read`.
pub(crate) fn numbers<T>(name: &str, stored: &QTensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let read_error = |error| damaged(format!("tensor {name} cannot be read")).because(error);
    let tensor = stored.dequantize(&Device::Cpu).map_err(read_error)?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (candle_core::Storage::Cpu(cpu), Some((start, end))) => {
            let numbers = cpu.as_slice::<f32>().map_err(read_error)?;
            Ok(read(&numbers[start..end]))
        }
        _ => Err(Error::new(ErrorKind::Internal, "a fresh tensor is not contiguous in memory")),
    }
}

/// Some rows of a tensor that has two dimensions, as the file has them.
pub(crate) fn rows(name: &str, stored: &QTensor, rows: Range<usize>) -> Result<QTensor> {
    let part = || {
        let (kind, (_, columns)) = (stored.dtype(), stored.shape().dims2()?);
        let bytes = columns / kind.block_size() * kind.type_size();
        let data = stored.data()?;
        let part = Cow::Borrowed(&data[rows.start * bytes..rows.end * bytes]);
        QTensor::new(QStorage::from_data(part, &Device::Cpu, kind)?, (rows.len(), columns))
    };
    part().map_err(|error: candle_core::Error| damaged(format!("tensor {name} cannot be read")).because(error))
}

/// The error of a file that is not there.
pub(crate) fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "the model's file is not there; pull the model first").with_code("model_not_found")
}

/// The error of a file that the system does not let us read.
pub(crate) fn unreadable() -> Error {
    Error::new(ErrorKind::Unavailable, "the model file cannot be read").with_code("model_unavailable")
}

/// The error of a file whose contents cannot be right.
pub(crate) fn damaged(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the model's file is damaged: {what}; remove it and pull the model again"))
        .with_code("model_damaged")
}

/// The error of a sound file that this program cannot run.
pub(crate) fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("this model cannot be run in process: {what}"))
        .with_code("model_unsupported")
}
