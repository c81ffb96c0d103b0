//! Tiles of 4-bit weights, multiplied as the file has them: generation waits for memory, and these are half of what 8 bits take.

use super::matrix::{BLOCK, Block, LANES, Rows, Weights, multiply_with};
use crate::local::simd::Isa;

/// 16 rows by 32 columns, as in GGUF's Q4_1. A byte holds a number of the first 16 columns and, above it, the one 16 columns on.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Nibbles {
    pairs: [[u8; LANES * 4]; BLOCK / 8],
    /// What a number is times, and what is added to it, as 16-bit floats.
    scales: [u16; LANES],
    least: [u16; LANES],
}

impl Nibbles {
    pub(crate) const EMPTY: Self = Self { pairs: [[0; LANES * 4]; BLOCK / 8], scales: [0; LANES], least: [0; LANES] };

    /// Sets the row `lane`; false if its scale or least value is not finite.
    fn set(&mut self, lane: usize, scale: u16, least: u16, pairs: &[u8]) -> bool {
        (self.scales[lane], self.least[lane]) = (scale, least);
        for (pair, numbers) in self.pairs.iter_mut().zip(pairs.as_chunks::<4>().0) {
            pair[lane * 4..][..4].copy_from_slice(numbers);
        }
        single(scale).is_finite() && single(least).is_finite()
    }
}

/// A form in which files have rows in 4 bits.
pub(crate) trait Quarter {
    /// Columns of a block.
    const COLUMNS: usize;
    /// Bytes of a block.
    const BYTES: usize;

    /// Puts the blocks of a row into the row `lane` of the tiles of its strip; false if one of its scales or least values is not finite.
    fn put(row: &[u8], lane: usize, tiles: &mut [Nibbles]) -> bool;
}

/// GGUF's Q4_1: scale and least value in 16 bits, then 32 numbers in 4. They are held as they are.
pub(crate) enum Q41 {}

impl Quarter for Q41 {
    const COLUMNS: usize = BLOCK;
    const BYTES: usize = 20;

    fn put(row: &[u8], lane: usize, tiles: &mut [Nibbles]) -> bool {
        row.as_chunks::<{ Q41::BYTES }>().0.iter().zip(tiles).fold(true, |finite, (block, tile)| {
            let [scale, least] = [0, 2].map(|at| u16::from_le_bytes([block[at], block[at + 1]]));
            tile.set(lane, scale, least, &block[4..]) && finite
        })
    }
}

/// GGUF's Q4_0: a scale in 16 bits, then 32 numbers in 4, of which 8 stands for none. Its least value is 8 scales below, which 16 bits hold exactly.
pub(crate) enum Q40 {}

impl Quarter for Q40 {
    const COLUMNS: usize = BLOCK;
    const BYTES: usize = 18;

    fn put(row: &[u8], lane: usize, tiles: &mut [Nibbles]) -> bool {
        row.as_chunks::<{ Q40::BYTES }>().0.iter().zip(tiles).fold(true, |finite, (block, tile)| {
            let scale = u16::from_le_bytes([block[0], block[1]]);
            tile.set(lane, scale, half(-8.0 * single(scale)), &block[2..]) && finite
        })
    }
}

/// GGUF's Q4_K: 256 numbers in 4 bits, whose eight scales and least values have 6 bits each and two factors in 16.
///
/// A scale and its factor are multiplied here and rounded to 16 bits: by at most 2^-11 of themselves. In a block that is centred on zero that moves a
/// number by a hundredth of its step at most; the 8 bits in which other weights are held, by three hundredths.
pub(crate) enum Q4K {}

impl Quarter for Q4K {
    const COLUMNS: usize = 8 * BLOCK;
    const BYTES: usize = 144;

    fn put(row: &[u8], lane: usize, tiles: &mut [Nibbles]) -> bool {
        let blocks = row.as_chunks::<{ Q4K::BYTES }>().0.iter().zip(tiles.chunks_exact_mut(8));
        blocks.fold(true, |finite, (block, tiles)| {
            let [scale, least] = [0, 2].map(|at| single(u16::from_le_bytes([block[at], block[at + 1]])));
            let (parts, numbers) = block[4..].split_at(12);
            tiles.iter_mut().enumerate().fold(finite, |finite, (index, tile)| {
                let (times, below) = sixes(parts, index);
                let (scale, least) = (half(scale * f32::from(times)), half(-least * f32::from(below)));
                // 64 columns share 32 bytes: the first 32 have the lower halves.
                let (low, high) = numbers[index / 2 * 32..][..32].split_at(BLOCK / 2);
                let nibble = |byte: u8| (byte >> (index % 2 * 4)) & 15;
                let pairs: [u8; BLOCK / 2] = std::array::from_fn(|at| nibble(low[at]) | (nibble(high[at]) << 4));
                tile.set(lane, scale, least, &pairs) && finite
            })
        })
    }
}

/// The scale and the least value of the 32 columns at `index` of a block of Q4_K: the first four of each lie in the lower 6 bits of 8 bytes, and the
/// others in 4 further bytes and the upper 2 bits of these 8.
fn sixes(parts: &[u8], index: usize) -> (u8, u8) {
    match index {
        0..4 => (parts[index] & 63, parts[index + 4] & 63),
        _ => {
            let both = parts[index + 4];
            ((both & 15) | ((parts[index - 4] >> 6) << 4), (both >> 4) | ((parts[index] >> 6) << 4))
        }
    }
}

/// The 16-bit float next to `number`, and an infinity where it is none or too large.
fn half(number: f32) -> u16 {
    const LEAST_NORMAL: f32 = f32::from_bits((127 - 14) << 23);
    let (sign, magnitude) = ((number.to_bits() >> 16) & 0x8000, number.abs());
    let bits = if magnitude < LEAST_NORMAL {
        // Adding 0.5 rounds to multiples of 2^-24, the least there is, and leaves how many in the lowest bits.
        (magnitude + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        // To the nearest of what has 10 bits behind the first; halfway between two of them to the even one.
        let bits = magnitude.to_bits();
        ((bits + 0xfff + ((bits >> 13) & 1)) >> 13) - ((127 - 15) << 10)
    };
    #[allow(clippy::cast_possible_truncation, reason = "at most 0xfc00")]
    let half = (sign | bits.min(0x7c00)) as u16;
    half
}

/// A 16-bit float as one of 32 bits; infinities become what is no number.
fn single(half: u16) -> f32 {
    const REBASE: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = match half & 0x7fff {
        0x7c00.. => f32::NAN,
        bits => f32::from_bits(u32::from(bits) << 13) * REBASE,
    };
    if half >> 15 == 0 { magnitude } else { -magnitude }
}

impl Weights for Nibbles {
    fn read(&self, lane: usize, out: &mut [f32]) {
        let (scale, least) = (single(self.scales[lane]), single(self.least[lane]));
        let (low, high) = out.split_at_mut(BLOCK / 2);
        for ((pair, low), high) in self.pairs.iter().zip(low.chunks_exact_mut(4)).zip(high.chunks_exact_mut(4)) {
            for ((both, low), high) in pair[lane * 4..].iter().zip(low).zip(high) {
                *low = f32::from(both & 15) * scale + least;
                *high = f32::from(both >> 4) * scale + least;
            }
        }
    }

    fn multiply(isa: Isa, tiles: &[Self], rows: Rows<'_>, out: &mut [[f32; LANES]]) {
        multiply_with!(isa, tiles, rows, out)
    }
}

fn portable(tiles: &[Nibbles], row: &[Block], out: &mut [f32; LANES]) {
    *out = [0.0; LANES];
    for (tile, block) in tiles.iter().zip(row) {
        let (low, high) = block.values.split_at(BLOCK / 2);
        let mut sums = [0i32; LANES];
        for ((pair, low), high) in tile.pairs.iter().zip(low.as_chunks::<4>().0).zip(high.as_chunks::<4>().0) {
            for (sum, both) in sums.iter_mut().zip(pair.as_chunks::<4>().0) {
                for ((both, low), high) in both.iter().zip(low).zip(high) {
                    *sum += i32::from(both & 15) * i32::from(*low) + i32::from(both >> 4) * i32::from(*high);
                }
            }
        }
        for (lane, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
            #[allow(clippy::cast_precision_loss, reason = "at most 32 * 15 * 127, below 2^24")]
            let sum = sum as f32;
            *out += sum * (single(tile.scales[lane]) * block.scale) + single(tile.least[lane]) * block.total;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK, Block, LANES, Nibbles, Rows};

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[allow(unsafe_code, reason = "loading and storing registers by references of their size")]
    pub(super) fn vnni512<const ROWS: usize>(tiles: &[Nibbles], rows: &[Block], out: &mut [[f32; LANES]]) {
        let blocks = tiles.len();
        let rows: [&[Block]; ROWS] = std::array::from_fn(|row| &rows[row * blocks..(row + 1) * blocks]);
        let mask = _mm512_set1_epi8(15);
        let mut totals = [_mm512_setzero_ps(); ROWS];
        for (index, tile) in tiles.iter().enumerate() {
            let mut sums = [_mm512_setzero_si512(); ROWS];
            for (quad, pair) in tile.pairs.iter().enumerate() {
                // SAFETY: the reference is to 64 readable bytes, and the load wants no alignment.
                let both = unsafe { _mm512_loadu_si512(std::ptr::from_ref(pair).cast()) };
                let low = _mm512_and_si512(both, mask);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
                for row in 0..ROWS {
                    let block = &rows[row][index];
                    sums[row] = _mm512_dpbusd_epi32(sums[row], low, _mm512_set1_epi32(block.quad(quad)));
                    sums[row] = _mm512_dpbusd_epi32(sums[row], high, _mm512_set1_epi32(block.quad(quad + BLOCK / 8)));
                }
            }
            // SAFETY: each reference is to 32 readable bytes, and the loads want no alignment.
            let [scales, least] = [&tile.scales, &tile.least]
                .map(|halves| unsafe { _mm256_loadu_si256(std::ptr::from_ref(halves).cast()) });
            let (scales, least) = (_mm512_cvtph_ps(scales), _mm512_cvtph_ps(least));
            for row in 0..ROWS {
                let block = &rows[row][index];
                let scale = _mm512_mul_ps(scales, _mm512_set1_ps(block.scale));
                totals[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[row]), scale, totals[row]);
                totals[row] = _mm512_fmadd_ps(least, _mm512_set1_ps(block.total), totals[row]);
            }
        }
        for (out, total) in out.iter_mut().zip(totals) {
            // SAFETY: `out` is 64 writable bytes, and the store wants no alignment.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), total) };
        }
    }

    /// How far ahead weights are asked for, in bytes.
    const AHEAD: usize = 4 * size_of::<Nibbles>();

    /// Rows of activations at once: registers are few.
    const ROWS_256: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn avx2(tiles: &[Nibbles], rows: Rows<'_>, out: &mut [[f32; LANES]]) {
        for (out, rows) in out.chunks_mut(ROWS_256).zip(rows.halves.chunks(tiles.len() * ROWS_256)) {
            if out.len() == ROWS_256 {
                bytes256::<ROWS_256>(tiles, rows, out);
            } else {
                for (out, row) in out.iter_mut().zip(rows.chunks_exact(tiles.len())) {
                    bytes256::<1>(tiles, row, std::slice::from_mut(out));
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    #[allow(unsafe_code, reason = "loading and storing registers by references of their size")]
    fn bytes256<const ROWS: usize>(tiles: &[Nibbles], rows: &[Block], out: &mut [[f32; LANES]]) {
        let blocks = tiles.len();
        let rows: [&[Block]; ROWS] = std::array::from_fn(|row| &rows[row * blocks..(row + 1) * blocks]);
        let (ones, mask) = (_mm256_set1_epi16(1), _mm256_set1_epi8(15));
        for half in 0..2 {
            let mut totals = [_mm256_setzero_ps(); ROWS];
            for (index, tile) in tiles.iter().enumerate() {
                let mut sums = [_mm256_setzero_si256(); ROWS];
                for (quad, pair) in tile.pairs.iter().enumerate() {
                    if half == 0 {
                        _mm_prefetch::<_MM_HINT_T0>(pair.as_ptr().wrapping_add(AHEAD).cast());
                    }
                    let pair = &pair.as_chunks::<32>().0[half];
                    // SAFETY: the reference is to 32 readable bytes, and the load wants no alignment.
                    let both = unsafe { _mm256_loadu_si256(std::ptr::from_ref(pair).cast()) };
                    let low = _mm256_and_si256(both, mask);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
                    for row in 0..ROWS {
                        let block = &rows[row][index];
                        // Four products of 15 * 127 fit 16 bits.
                        let low = _mm256_maddubs_epi16(low, _mm256_set1_epi32(block.quad(quad)));
                        let high = _mm256_maddubs_epi16(high, _mm256_set1_epi32(block.quad(quad + BLOCK / 8)));
                        let pairs = _mm256_madd_epi16(_mm256_add_epi16(low, high), ones);
                        sums[row] = _mm256_add_epi32(sums[row], pairs);
                    }
                }
                // SAFETY: each reference is to 16 readable bytes, and the loads want no alignment.
                let [scales, least] = [&tile.scales, &tile.least]
                    .map(|halves| unsafe { _mm_loadu_si128(halves.as_chunks::<8>().0[half].as_ptr().cast()) });
                let (scales, least) = (_mm256_cvtph_ps(scales), _mm256_cvtph_ps(least));
                for row in 0..ROWS {
                    let block = &rows[row][index];
                    let scale = _mm256_mul_ps(scales, _mm256_set1_ps(block.scale));
                    totals[row] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[row]), scale, totals[row]);
                    totals[row] = _mm256_fmadd_ps(least, _mm256_set1_ps(block.total), totals[row]);
                }
            }
            for (out, total) in out.iter_mut().zip(totals) {
                // SAFETY: this half of `out` is 32 writable bytes, and the store wants no alignment.
                unsafe { _mm256_storeu_ps(out.as_chunks_mut::<8>().0[half].as_mut_ptr(), total) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_read_exactly() {
        for (half, expected) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 2f32.powi(-24)),
            (0x83ff, -1023.0 * 2f32.powi(-24)),
            (0x0000, 0.0),
        ] {
            assert_eq!(single(half), expected, "{half:x}");
        }
        assert!([0x7c00, 0xfc00, 0x7e00].iter().all(|half| single(*half).is_nan()));
    }
    #[test]
    fn rounding_to_half_precision_goes_to_the_nearest_and_to_the_even_of_two() {
        for bits in (0..0x7c00).chain(0x8000..0xfc00) {
            assert_eq!(half(single(bits)), bits, "{bits:x}");
        }
        for bits in 0..0x7bff_u16 {
            let (low, high) = (single(bits), single(bits + 1));
            let middle = f32::midpoint(low, high);
            assert_eq!(half(middle), bits + bits % 2, "{bits:x}");
            assert_eq!(
                (half(f32::midpoint(low, middle)), half(f32::midpoint(middle, high))),
                (bits, bits + 1),
                "{bits:x}"
            );
        }
        for beyond in [65520.0, 1e9, f32::INFINITY, f32::NAN] {
            assert!(single(half(beyond)).is_nan() && single(half(-beyond)).is_nan(), "{beyond}");
        }
    }

    #[test]
    fn scales_of_6_bits_come_from_where_they_lie() {
        // Scales 1 to 8 and least values 33 to 40, packed by hand: bits above 4 of the last four lie on top of the first eight bytes.
        let mut parts = [1, 2, 3, 4, 33, 34, 35, 36, 5 | (5 << 4), 6 | (6 << 4), 7 | (7 << 4), 8 | (8 << 4)];
        for byte in &mut parts[4..8] {
            *byte |= 2 << 6;
        }
        for index in 0..8 {
            let number = u8::try_from(index).unwrap() + 1;
            assert_eq!(sixes(&parts, index), (number, number + 32), "{index}");
        }
    }
}
