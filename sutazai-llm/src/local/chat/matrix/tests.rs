//! Products of weights in few bits against those of full numbers.

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};

use super::*;
use crate::local::chat::nibbles::{Q4K, Q40, Q41};

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.f32() * 2.0 - 1.0).collect()
}

fn product(isa: Isa, matrix: &Matrix, input: &[f32]) -> Vec<f32> {
    let (mut activations, mut scratch) = (Activations::default(), Vec::new());
    activations.load_for(isa, matrix, input);
    let mut out = vec![f32::NAN; input.len() / matrix.columns * matrix.rows];
    matrix.times_with(isa, &activations, &mut scratch, &mut out);
    out
}

/// The products of the rows of a matrix with a row of activations.
fn exact(matrix: &[f32], input: &[f32]) -> Vec<f32> {
    matrix.chunks(input.len()).map(|row| row.iter().zip(input).map(|(a, b)| a * b).sum()).collect()
}

#[test]
fn every_kernel_agrees_with_candle_and_with_itself_in_any_batch() {
    for (rows, columns) in [(48, 576), (17, 32), (5, 96), (1, 64)] {
        let weights = numbers(rows * columns, 1);
        let matrix = Matrix::quantise(columns, &[&weights[..columns], &weights[columns..]]).unwrap();
        // candle has half the precision for scales.
        let tensor = Tensor::from_slice(&weights, (rows, columns), &Device::Cpu).unwrap();
        let candle = QTensor::quantize(&tensor, GgmlDType::Q8_0).unwrap();
        let floats = candle.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let mut held = vec![0.0; rows * columns];
        held.chunks_mut(columns).enumerate().for_each(|(index, row)| matrix.read_row(index, row));
        for count in [1, 2, 3, 4, 5, 6, 7, 8, 13] {
            let input = numbers(count * columns, 2);
            let of =
                |weights: &[f32]| -> Vec<f32> { input.chunks(columns).flat_map(|row| exact(weights, row)).collect() };
            let (expected, held) = (of(&floats), of(&held));
            for isa in Isa::available() {
                let found = product(isa, &matrix, &input);
                for ((found, expected), held) in found.iter().zip(&expected).zip(&held) {
                    assert!((found - expected).abs() < 0.02, "{isa:?} {rows}x{columns}: {found} is not {expected}");
                    assert!((found - held).abs() < 0.002, "{isa:?} {rows}x{columns}: {found} is not {held}");
                }
                let alone: Vec<f32> = input.chunks(columns).flat_map(|row| product(isa, &matrix, row)).collect();
                assert_eq!(found, alone, "{isa:?}");
            }
        }
    }
}

/// The rows as a file has them, and as floats.
fn stored(rows: usize, columns: usize, kind: GgmlDType) -> (Vec<u8>, Vec<f32>) {
    let weights = Tensor::from_vec(numbers(rows * columns, 6), (rows, columns), &Device::Cpu).unwrap();
    let stored = QTensor::quantize(&weights, kind).unwrap();
    let floats = stored.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    (stored.data().unwrap().into_owned(), floats)
}

#[test]
fn four_bits_are_read_and_multiplied_exactly_in_any_batch() {
    for (rows, columns) in [(48, 576), (17, 32), (5, 96), (1, 64)] {
        let (bytes, floats) = stored(rows, columns, GgmlDType::Q4_1);
        let (first, second) = bytes.split_at(columns / BLOCK * Q41::BYTES);
        let matrix = Matrix::of_nibbles::<Q41>(columns, &[first, second]).unwrap();
        let mut row = vec![0.0; columns];
        for (index, expected) in floats.chunks(columns).enumerate() {
            matrix.read_row(index, &mut row);
            assert_eq!(row, expected, "row {index}");
        }
        for count in [1, 2, 3, 4, 5, 6, 7, 8, 13] {
            let input = numbers(count * columns, 7);
            let expected: Vec<f32> = input.chunks(columns).flat_map(|input| exact(&floats, input)).collect();
            for isa in Isa::available() {
                let found = product(isa, &matrix, &input);
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 0.002, "{isa:?} {rows}x{columns}: {found} is not {expected}");
                }
                let alone: Vec<f32> = input.chunks(columns).flat_map(|row| product(isa, &matrix, row)).collect();
                assert_eq!(found, alone, "{isa:?}");
            }
        }
    }
    let (mut bytes, _) = stored(20, 64, GgmlDType::Q4_1);
    bytes[19 * 2 * Q41::BYTES + 3] = 0x7c;
    bytes[19 * 2 * Q41::BYTES + 2] = 0;
    assert!(Matrix::of_nibbles::<Q41>(64, &[&bytes]).is_none());
}

#[test]
fn blocks_with_a_middle_instead_of_a_least_value_are_read_exactly() {
    let (bytes, floats) = stored(20, 96, GgmlDType::Q4_0);
    let matrix = Matrix::of_nibbles::<Q40>(96, &[&bytes]).unwrap();
    let mut row = vec![0.0; 96];
    for (index, expected) in floats.chunks(96).enumerate() {
        matrix.read_row(index, &mut row);
        assert_eq!(row, expected, "row {index}");
    }
    let input = numbers(96, 11);
    for isa in Isa::available() {
        for (found, expected) in product(isa, &matrix, &input).iter().zip(exact(&floats, &input)) {
            assert!((found - expected).abs() < 0.002, "{isa:?}: {found} is not {expected}");
        }
    }
}

#[test]
fn blocks_of_256_stay_in_4_bits_to_within_the_rounding_of_a_scale() {
    let (rows, columns) = (21, 512);
    let (mut bytes, floats) = stored(rows, columns, GgmlDType::Q4K);
    let matrix = Matrix::of_nibbles::<Q4K>(columns, &[&bytes]).unwrap();
    let (mut row, mut held) = (vec![0.0; columns], Vec::new());
    for (index, expected) in floats.chunks(columns).enumerate() {
        matrix.read_row(index, &mut row);
        for (found, expected) in row.iter().zip(expected) {
            // A scale of 2/15 is rounded by 2^-14 at most, which counts up to fifteen times; a least value of -1 by 2^-12.
            assert!((found - expected).abs() < 1.3e-3, "row {index}: {found} is not {expected}");
        }
        held.extend_from_slice(&row);
    }
    let input = numbers(3 * columns, 8);
    let expected: Vec<f32> = input.chunks(columns).flat_map(|input| exact(&held, input)).collect();
    for isa in Isa::available() {
        for (found, expected) in product(isa, &matrix, &input).iter().zip(&expected) {
            assert!((found - expected).abs() < 0.002, "{isa:?}: {found} is not {expected}");
        }
    }
    // The factor of all scales of the last row's last block.
    let last = bytes.len() - Q4K::BYTES;
    bytes[last..last + 2].copy_from_slice(&[0, 0x7c]);
    assert!(Matrix::of_nibbles::<Q4K>(columns, &[&bytes]).is_none());
}

#[test]
fn rows_in_other_bits_follow_one_another() {
    let columns = 64;
    let (bytes, _) = stored(32, columns, GgmlDType::Q4_1);
    let floats = numbers(21 * columns, 9);
    let four = || Matrix::of_nibbles::<Q41>(columns, &[&bytes]).unwrap();
    let eight = || Matrix::quantise(columns, &[&floats]).unwrap();
    let both = Matrix::stack([four(), eight()]).unwrap();
    assert_eq!(both.rows(), 53);
    let (mut row, mut alone) = (vec![0.0; columns], vec![0.0; columns]);
    for index in 0..53 {
        both.read_row(index, &mut row);
        match index.checked_sub(32) {
            None => four().read_row(index, &mut alone),
            Some(index) => eight().read_row(index, &mut alone),
        }
        assert_eq!(row, alone, "row {index}");
    }
    for count in [1, 5] {
        let input = numbers(count * columns, 10);
        let (first, second) = (product(Isa::best(), &four(), &input), product(Isa::best(), &eight(), &input));
        let expected: Vec<f32> =
            first.chunks(32).zip(second.chunks(21)).flat_map(|(first, second)| [first, second].concat()).collect();
        assert_eq!(product(Isa::best(), &both, &input), expected);
    }
    assert!(Matrix::may_follow(32) && !Matrix::may_follow(21));
}

#[test]
fn what_is_no_number_is_neither_taken_nor_lost() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut weights = numbers(2 * 64, 4);
        let matrix = Matrix::quantise(64, &[&weights]).unwrap();
        weights[70] = wrong;
        assert!(Matrix::quantise(64, &[&weights]).is_none(), "{wrong}");
        for isa in Isa::available() {
            let found = product(isa, &matrix, &weights);
            assert!(found[..2].iter().all(|x| x.is_finite()) && found[2..].iter().all(|x| !x.is_finite()), "{isa:?}");
        }
    }
}

#[test]
fn a_row_reads_back_as_it_was_within_a_step() {
    let weights = numbers(20 * 64, 3);
    let matrix = Matrix::quantise(64, &[&weights]).unwrap();
    let mut row = vec![0.0; 64];
    matrix.read_row(18, &mut row);
    for (found, expected) in row.iter().zip(&weights[18 * 64..]) {
        assert!((found - expected).abs() <= 0.5 / 127.0 + 1e-6);
    }
}
