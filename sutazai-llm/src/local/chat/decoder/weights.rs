//! The weights of a decoder, from a file's tensors to what passes multiply with.
//!
//! A tensor stays in the 4 bits that the file has it in where that is Q4_0, Q4_1 or Q4_K, and all others are held in 8. The rule goes by speed: writing a token
//! waits for memory, of which 4 bits are half, and a product with them is two instructions more for 512 weights and a row. `cargo bench --bench local_model`
//! measures it; the three forms share their tile and kernels.

use candle_core::quantized::{GgmlDType, QTensor};
use sutazai_core::{Error, Result};

use crate::local::chat::{
    gguf::{self, Gguf, damaged},
    matrix::Matrix,
    nibbles::{Q4K, Q40, Q41},
};

/// Numbers of a tensor that lie in memory as floats at once while it is quantised.
const AT_ONCE: usize = 1 << 25;

/// A tensor and how many rows it has.
struct Stored<'a> {
    name: &'a str,
    rows: usize,
    tensor: QTensor,
}

/// In which bits a tensor is held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bits {
    Four(GgmlDType),
    Eight,
}

impl Stored<'_> {
    fn bits(&self) -> Bits {
        match self.tensor.dtype() {
            kind @ (GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q4K) => Bits::Four(kind),
            _ => Bits::Eight,
        }
    }
}

/// The tensors, given with their rows, as one matrix: each in its own bits where that is possible, else all in 8.
pub(super) fn matrix(gguf: &mut Gguf, parts: &[(impl AsRef<str>, usize)], columns: usize) -> Result<Matrix> {
    let mut stored = Vec::with_capacity(parts.len());
    for (name, rows) in parts {
        let (name, rows) = (name.as_ref(), *rows);
        stored.push(Stored { name, rows, tensor: gguf.stored(name, &[rows, columns])? });
    }
    let runs: Vec<&[Stored<'_>]> = stored.chunk_by(|a, b| a.bits() == b.bits()).collect();
    let may_follow = |run: &&[Stored<'_>]| Matrix::may_follow(run.iter().map(|part| part.rows).sum());
    let matrices = if runs.iter().rev().skip(1).all(may_follow) {
        runs.iter().map(|run| same(run[0].bits(), run, columns)).collect::<Result<Vec<_>>>()?
    } else {
        vec![same(Bits::Eight, &stored, columns)?]
    };
    Matrix::stack(matrices).ok_or_else(|| damaged("a matrix has no rows"))
}

/// The tensors as one matrix in these bits.
fn same(bits: Bits, stored: &[Stored<'_>], columns: usize) -> Result<Matrix> {
    let matrix = match (bits, stored) {
        (Bits::Four(kind), _) => {
            let bytes = stored.iter().map(|part| part.tensor.data()).collect::<Result<Vec<_>, _>>();
            let bytes = bytes.map_err(|error| damaged("its tensors cannot be read").because(error))?;
            let bytes: Vec<&[u8]> = bytes.iter().map(|bytes| &**bytes).collect();
            match kind {
                GgmlDType::Q4_0 => Matrix::of_nibbles::<Q40>(columns, &bytes),
                GgmlDType::Q4K => Matrix::of_nibbles::<Q4K>(columns, &bytes),
                _ => Matrix::of_nibbles::<Q41>(columns, &bytes),
            }
        }
        (Bits::Eight, [part]) => return one(part, columns),
        (Bits::Eight, _) => {
            let numbers = stored.iter().map(|part| gguf::numbers(part.name, &part.tensor, <[f32]>::to_vec));
            let numbers = numbers.collect::<Result<Vec<_>>>()?;
            Matrix::quantise(columns, &numbers.iter().map(Vec::as_slice).collect::<Vec<_>>())
        }
    };
    matrix.ok_or_else(|| not_finite(stored[0].name))
}

/// A tensor in 8 bits. One that is large is taken piece by piece: as floats it would be four times as large as what is kept.
fn one(Stored { name, rows, tensor }: &Stored<'_>, columns: usize) -> Result<Matrix> {
    let quantise = |tensor: &QTensor| {
        let matrix = gguf::numbers(name, tensor, |numbers| Matrix::quantise(columns, &[numbers]))?;
        matrix.ok_or_else(|| not_finite(name))
    };
    let most = (1..=AT_ONCE / columns).rev().find(|rows| Matrix::may_follow(*rows)).unwrap_or(*rows);
    if *rows <= most {
        return quantise(tensor);
    }
    let pieces = (0..*rows).step_by(most).map(|first| {
        let piece = gguf::rows(name, tensor, first..(first + most).min(*rows))?;
        quantise(&piece)
    });
    Matrix::stack(pieces.collect::<Result<Vec<_>>>()?).ok_or_else(|| damaged("a matrix has no rows"))
}

/// A tensor of one dimension, as floats.
pub(super) fn vector(gguf: &mut Gguf, name: &str, length: usize) -> Result<Vec<f32>> {
    let numbers = gguf.tensor(name, &[length], <[f32]>::to_vec)?;
    match numbers.iter().all(|number| number.is_finite()) {
        true => Ok(numbers),
        false => Err(not_finite(name)),
    }
}

fn not_finite(name: &str) -> Error {
    damaged(format!("tensor {name}, or one beside it, holds what is no finite number"))
}
