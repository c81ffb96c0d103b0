//! Products of tiles in 8 bits, for the instruction sets of x86-64.

use std::arch::x86_64::*;

use super::{BLOCK, Block, LANES, Rows, Tile, WideBlock};

#[inline]
#[target_feature(enable = "avx512f")]
#[allow(unsafe_code, reason = "loading a register from a reference of its size")]
fn load512<T, const N: usize>(from: &[T; N]) -> __m512i {
    const { assert!(size_of::<[T; N]>() == 64) };
    // SAFETY: the reference is to 64 readable bytes, and the load wants no alignment.
    unsafe { _mm512_loadu_si512(std::ptr::from_ref(from).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[allow(unsafe_code, reason = "storing a register to a reference of its size")]
pub(super) fn vnni512<const ROWS: usize>(tiles: &[Tile], rows: &[Block], out: &mut [[f32; LANES]]) {
    let blocks = tiles.len();
    let rows: [&[Block]; ROWS] = std::array::from_fn(|row| &rows[row * blocks..(row + 1) * blocks]);
    // The instruction wants one side unsigned: weights are raised by 128, and 128 times the activations' sum is taken off.
    let raise = _mm512_set1_epi8(-128);
    let mut totals = [_mm512_setzero_ps(); ROWS];
    for (index, tile) in tiles.iter().enumerate() {
        let mut sums: [__m512i; ROWS] = std::array::from_fn(|row| _mm512_set1_epi32(rows[row][index].lowered));
        for quad in 0..BLOCK / 4 {
            let weights = _mm512_xor_si512(load512(&tile.quads[quad]), raise);
            for row in 0..ROWS {
                sums[row] = _mm512_dpbusd_epi32(sums[row], weights, _mm512_set1_epi32(rows[row][index].quad(quad)));
            }
        }
        let scales = _mm512_castsi512_ps(load512(&tile.scales));
        for row in 0..ROWS {
            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(rows[row][index].scale));
            totals[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[row]), scale, totals[row]);
        }
    }
    for (out, total) in out.iter_mut().zip(totals) {
        // SAFETY: `out` is 64 writable bytes, and the store wants no alignment.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), total) };
    }
}

/// Whole rows in 16 bits: half the instructions of twice 8 bits, for without VNNI products of 8 bits are widened anyway. Leaves the second halves zero.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn avx2(tiles: &[Tile], rows: Rows<'_>, out: &mut [[f32; LANES]]) {
    for (out, rows) in out.chunks_mut(2 * ROWS_256).zip(rows.wide.chunks(ROWS_256 * tiles.len())) {
        match out.len() / 2 {
            ROWS_256 => words256::<ROWS_256>(tiles, rows, out),
            _ => words256::<1>(tiles, rows, out),
        }
    }
}

/// Rows whose sums fit into the registers beside the weights.
const ROWS_256: usize = 2;

/// How far ahead weights are asked for, in bytes. Without that, a product with one row, which waits for memory, took half as long again on an EPYC.
const AHEAD: usize = 2 * size_of::<Tile>();

#[inline]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code, reason = "loading and storing registers by references of their size")]
fn words256<const ROWS: usize>(tiles: &[Tile], rows: &[WideBlock], out: &mut [[f32; LANES]]) {
    let blocks = tiles.len();
    let rows: [&[WideBlock]; ROWS] = std::array::from_fn(|row| &rows[row * blocks..(row + 1) * blocks]);
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    for (index, tile) in tiles.iter().enumerate() {
        // Of each of 16 rows of weights two sums, of neighbouring columns: 32 * 127 * 32767 fits 32 bits.
        let mut sums = [[_mm256_setzero_si256(); 4]; ROWS];
        for (quad, weights) in tile.quads.iter().enumerate() {
            _mm_prefetch::<_MM_HINT_T0>(weights.as_ptr().wrapping_add(AHEAD));
            let weights = weights.as_chunks::<16>().0;
            let weights: [__m256i; 4] = std::array::from_fn(|part| {
                // SAFETY: the reference is to 16 readable bytes, and the load wants no alignment.
                _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(std::ptr::from_ref(&weights[part]).cast()) })
            });
            for row in 0..ROWS {
                let values = &rows[row][index].values.as_chunks::<4>().0[quad];
                // SAFETY: the reference is to 8 readable bytes, and the load wants no alignment.
                let values = unsafe { _mm_loadu_si64(std::ptr::from_ref(values).cast()) };
                let values = _mm256_broadcastq_epi64(values);
                for part in 0..4 {
                    sums[row][part] = _mm256_add_epi32(sums[row][part], _mm256_madd_epi16(weights[part], values));
                }
            }
        }
        for half in 0..2 {
            // SAFETY: the reference is to 32 readable bytes, and the load wants no alignment.
            let scales = unsafe { _mm256_loadu_ps(tile.scales.as_chunks::<8>().0[half].as_ptr()) };
            for row in 0..ROWS {
                // Adding neighbours leaves rows 0, 1, 4, 5, 2, 3, 6, 7.
                let sum = _mm256_hadd_epi32(sums[row][2 * half], sums[row][2 * half + 1]);
                let sum = _mm256_permute4x64_epi64::<0b11_01_10_00>(sum);
                let scale = _mm256_mul_ps(scales, _mm256_set1_ps(rows[row][index].scale));
                totals[row][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, totals[row][half]);
            }
        }
    }
    for (out, totals) in out.chunks_exact_mut(2).zip(totals) {
        for (half, total) in totals.into_iter().enumerate() {
            // SAFETY: this half of `out` is 32 writable bytes, and the store wants no alignment.
            unsafe { _mm256_storeu_ps(out[0].as_chunks_mut::<8>().0[half].as_mut_ptr(), total) };
        }
        out[1] = [0.0; LANES];
    }
}
