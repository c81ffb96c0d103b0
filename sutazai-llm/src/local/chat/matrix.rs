//! Matrices of weights in 8 bits or 4, and their products with activations: where inference spends its time.
//!
//! candle's Q8_0 product has a fast kernel only for rows whose length is a multiple of 256 (SmolLM2-135M has 576), runs
//! on a pool of threads that belongs to the whole process, and keeps a second, repacked copy of the weights.

#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use rayon::prelude::*;

use super::nibbles::{Nibbles, Quarter};
use crate::local::simd::{Isa, multiversioned};

/// Columns that share a scale.
pub(crate) const BLOCK: usize = 32;
/// Rows of a tile: one per 32-bit lane of the widest registers.
pub(crate) const LANES: usize = 16;
/// Numbers from which on threads share the work of quantising activations.
const ALONE: usize = 4096;
/// Halves of rows of activations that one pass over a tile serves.
pub(super) const GROUP: usize = 8;

/// 16 rows by 32 columns of weights: four columns of a row lie together, then the next row's four.
#[derive(Clone)]
#[repr(C, align(64))]
struct Tile {
    quads: [[i8; LANES * 4]; BLOCK / 4],
    scales: [f32; LANES],
}

/// A matrix of weights with a scale per 32 columns of a row: in 8 bits as in GGUF's Q8_0, or in the 4 that a file has them in.
pub(crate) struct Matrix {
    rows: usize,
    columns: usize,
    /// Rows that follow one another, each part in its own bits. All but the last have whole strips.
    parts: Vec<Part>,
}

struct Part {
    rows: usize,
    tiles: Tiles,
}

/// Strips of 16 rows one after another, and within a strip its blocks of columns.
enum Tiles {
    Eight(Vec<Tile>),
    Four(Vec<Nibbles>),
}

/// 16 rows by 32 columns of weights, of whatever size.
pub(crate) trait Weights: Sync {
    /// Writes the row `lane` as floats.
    fn read(&self, lane: usize, out: &mut [f32]);

    /// The products of a strip of tiles with up to [`GROUP`] halves of rows of activations.
    fn multiply(isa: Isa, tiles: &[Self], rows: Rows<'_>, out: &mut [[f32; LANES]])
    where
        Self: Sized;
}

impl Matrix {
    /// Whether matrices may have rows of this length.
    pub(crate) fn fits(columns: usize) -> bool {
        columns > 0 && columns.is_multiple_of(BLOCK)
    }

    /// Quantises `rows * columns` numbers; `parts` follow one another as rows of one matrix. `None` if one of them is not finite.
    pub(crate) fn quantise(columns: usize, parts: &[&[f32]]) -> Option<Self> {
        let rows: Vec<&[f32]> = parts.iter().flat_map(|part| part.chunks_exact(columns)).collect();
        let blocks = columns / BLOCK;
        let empty = Tile { quads: [[0; LANES * 4]; BLOCK / 4], scales: [0.0; LANES] };
        let mut tiles = vec![empty; rows.len().div_ceil(LANES) * blocks];
        tiles.par_chunks_mut(blocks).zip(rows.par_chunks(LANES)).for_each(|(tiles, rows)| {
            let mut quantised = vec![Block::ZERO; blocks];
            for (lane, row) in rows.iter().enumerate() {
                quantise(row, &mut quantised);
                for (tile, block) in tiles.iter_mut().zip(&quantised) {
                    tile.scales[lane] = block.scale;
                    for (quad, values) in tile.quads.iter_mut().zip(block.values.chunks_exact(4)) {
                        quad[lane * 4..lane * 4 + 4].copy_from_slice(values);
                    }
                }
            }
        });
        // The scale of a block with such a number is none either.
        let finite = tiles.par_iter().all(|tile| tile.scales.iter().all(|scale| scale.is_finite()));
        finite.then(|| Self::of(columns, rows.len(), Tiles::Eight(tiles)))
    }

    /// A matrix of rows in 4 bits, as a file has them in blocks of the form `B`; `parts` follow one another. `None` if a scale is not finite.
    pub(crate) fn of_nibbles<B: Quarter>(columns: usize, parts: &[&[u8]]) -> Option<Self> {
        let (blocks, bytes) = (columns / BLOCK, columns / B::COLUMNS * B::BYTES);
        let rows: Vec<&[u8]> = parts.iter().flat_map(|part| part.chunks_exact(bytes)).collect();
        let mut tiles = vec![Nibbles::EMPTY; rows.len().div_ceil(LANES) * blocks];
        let finite = tiles.par_chunks_mut(blocks).zip(rows.par_chunks(LANES)).all(|(tiles, rows)| {
            rows.iter().enumerate().fold(true, |finite, (lane, row)| B::put(row, lane, tiles) && finite)
        });
        finite.then(|| Self::of(columns, rows.len(), Tiles::Four(tiles)))
    }

    fn of(columns: usize, rows: usize, tiles: Tiles) -> Self {
        Self { rows, columns, parts: vec![Part { rows, tiles }] }
    }

    /// Whether further rows may follow `rows` rows that are held in other bits.
    pub(crate) fn may_follow(rows: usize) -> bool {
        rows.is_multiple_of(LANES)
    }

    /// The rows of all matrices, one after another; they are as long as one another, and all but the last let others follow.
    pub(crate) fn stack(matrices: impl IntoIterator<Item = Self>) -> Option<Self> {
        matrices.into_iter().reduce(|mut all, mut next| {
            debug_assert!(all.columns == next.columns && Self::may_follow(all.rows));
            all.rows += next.rows;
            all.parts.append(&mut next.parts);
            all
        })
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether products by this instruction set are made of activations in twice 8 bits, and of ones in 16.
    fn wants(&self, isa: Isa) -> (bool, bool) {
        let wide = |part: &Part| isa.wants_wide() && matches!(part.tiles, Tiles::Eight(_));
        (!self.parts.iter().all(wide), self.parts.iter().any(wide))
    }

    /// Writes row `index` as floats.
    pub(crate) fn read_row(&self, index: usize, out: &mut [f32]) {
        let mut index = index;
        for part in &self.parts {
            if index >= part.rows {
                index -= part.rows;
                continue;
            }
            let (blocks, lane) = (self.columns / BLOCK, index % LANES);
            let strip = index / LANES * blocks..(index / LANES + 1) * blocks;
            return match &part.tiles {
                Tiles::Eight(tiles) => read(&tiles[strip], lane, out),
                Tiles::Four(tiles) => read(&tiles[strip], lane, out),
            };
        }
    }

    /// The product of this matrix with each row of `input`, written row by row to `out`. `scratch` is overwritten.
    ///
    /// A row's result does not depend on the rows beside it or on the number of threads.
    pub(crate) fn times(&self, input: &Activations, scratch: &mut Vec<f32>, out: &mut [f32]) {
        self.times_with(Isa::best(), input, scratch, out);
    }

    fn times_with(&self, isa: Isa, input: &Activations, scratch: &mut Vec<f32>, out: &mut [f32]) {
        debug_assert_eq!(input.blocks_per_row * BLOCK, self.columns);
        debug_assert_eq!(out.len(), input.rows * self.rows);
        if out.is_empty() {
            return;
        }
        let count = input.rows * 2;
        // Threads write whole tiles of results; one pass afterwards puts them in order.
        scratch.resize(self.rows.div_ceil(LANES) * LANES * count, 0.0);
        let mut results = scratch.as_mut_slice();
        for part in &self.parts {
            let (own, others) = results.split_at_mut(part.rows.div_ceil(LANES) * LANES * count);
            match &part.tiles {
                Tiles::Eight(tiles) => strips(isa, tiles, input, own),
                Tiles::Four(tiles) => strips(isa, tiles, input, own),
            }
            results = others;
        }
        let rows = self.rows;
        let order = |(row, out): (usize, &mut [f32])| {
            for (tile, out) in out.chunks_mut(LANES).enumerate() {
                let start = (tile * count + row * 2) * LANES;
                let (coarse, fine) = scratch[start..start + 2 * LANES].split_at(LANES);
                for ((out, coarse), fine) in out.iter_mut().zip(coarse).zip(fine) {
                    *out = coarse + fine;
                }
            }
        };
        if count == 2 {
            order((0, out));
        } else {
            out.par_chunks_mut(rows).enumerate().for_each(order);
        }
    }
}

fn read(tiles: &[impl Weights], lane: usize, out: &mut [f32]) {
    for (tile, out) in tiles.iter().zip(out.chunks_exact_mut(BLOCK)) {
        tile.read(lane, out);
    }
}

/// The products of all strips of tiles with all rows, strip by strip.
fn strips<T: Weights>(isa: Isa, tiles: &[T], input: &Activations, results: &mut [f32]) {
    let (blocks, count) = (input.blocks_per_row, input.rows * 2);
    let strip = (tiles.len() / blocks).div_ceil(rayon::current_num_threads() * 4).max(1);
    let strips = results.par_chunks_mut(strip * LANES * count).zip(tiles.par_chunks(strip * blocks));
    strips.for_each(|(results, tiles)| {
        for (results, tiles) in results.chunks_exact_mut(LANES * count).zip(tiles.chunks_exact(blocks)) {
            let groups = results.as_chunks_mut::<LANES>().0.chunks_mut(GROUP);
            for (group, results) in groups.enumerate() {
                T::multiply(isa, tiles, input.group(group), results);
            }
        }
    });
}

/// Rows of activations, in what the products of a matrix want: twice 8 bits, 16, or both. So a product is as exact as its weights: with 8 bits alone, as
/// llama.cpp has them, the likeliest token is another one wherever two are nearly as likely.
#[derive(Default)]
pub(crate) struct Activations {
    blocks_per_row: usize,
    rows: usize,
    /// Each row is followed by what the first 8 bits left of it.
    halves: Vec<Block>,
    wide: Vec<WideBlock>,
}

/// Some rows of activations.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// In twice 8 bits.
    pub(super) halves: &'a [Block],
    /// In 16 bits.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "of x86-64 only"))]
    wide: &'a [WideBlock],
}

/// 32 neighbouring values with their scale.
#[derive(Clone)]
pub(crate) struct Block {
    pub(crate) values: [i8; BLOCK],
    pub(crate) scale: f32,
    /// The sum of the values times -128, for weights that are raised by 128.
    lowered: i32,
    /// The sum of the values times the scale, for weights with a least value.
    pub(crate) total: f32,
}

/// 32 neighbouring values in 16 bits, with their scale.
#[derive(Clone)]
#[repr(C, align(32))]
pub(crate) struct WideBlock {
    values: [i16; BLOCK],
    scale: f32,
}

/// Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the lowest bits, in registers of every width.
const ROUND: f32 = 12_582_912.0;

/// The largest magnitude. Magnitudes are in the order of their bits; what is no number is above all, and makes a scale none.
#[inline(always)]
fn largest(numbers: &[f32; BLOCK]) -> f32 {
    let mut most = 0;
    for number in numbers {
        most = most.max(number.to_bits() & 0x7fff_ffff);
    }
    f32::from_bits(most)
}

impl WideBlock {
    const ZERO: Self = Self { values: [0; BLOCK], scale: 0.0 };
    /// The largest value.
    const MOST: f32 = 32_767.0;

    #[inline(always)]
    fn fill(&mut self, numbers: &[f32; BLOCK]) {
        let most = largest(numbers);
        let inverse = if most > 0.0 { Self::MOST / most } else { 0.0 };
        self.scale = most / Self::MOST;
        for (value, number) in self.values.iter_mut().zip(numbers) {
            #[allow(clippy::cast_possible_truncation, reason = "the lowest two bytes are the rounded number")]
            let rounded = (number * inverse + ROUND).to_bits() as u16;
            *value = rounded.cast_signed();
        }
    }
}

impl Block {
    const ZERO: Self = Self { values: [0; BLOCK], scale: 0.0, lowered: 0, total: 0.0 };

    #[inline(always)]
    fn fill(&mut self, numbers: &[f32; BLOCK]) {
        let most = largest(numbers);
        let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
        self.scale = most / 127.0;
        for (value, number) in self.values.iter_mut().zip(numbers) {
            #[allow(clippy::cast_possible_truncation, reason = "the lowest byte is the rounded number")]
            let rounded = (number * inverse + ROUND).to_bits() as u8;
            *value = rounded.cast_signed();
        }
        let mut sum = 0;
        for value in &self.values {
            sum += i32::from(*value);
        }
        self.lowered = -128 * sum;
        #[allow(clippy::cast_precision_loss, reason = "at most 32 * 127")]
        let sum = sum as f32;
        self.total = sum * self.scale;
    }

    #[inline(always)]
    pub(crate) fn quad(&self, index: usize) -> i32 {
        let [a, b, c, d] = std::array::from_fn(|n| self.values[index * 4 + n].cast_unsigned());
        i32::from_le_bytes([a, b, c, d])
    }
}

impl Activations {
    /// Quantises rows for the products of `matrix` with them, in place of what was there.
    pub(crate) fn load(&mut self, matrix: &Matrix, rows: &[f32]) {
        self.load_for(Isa::best(), matrix, rows);
    }

    fn load_for(&mut self, isa: Isa, matrix: &Matrix, rows: &[f32]) {
        let (columns, blocks_per_row) = (matrix.columns, matrix.columns / BLOCK);
        (self.blocks_per_row, self.rows) = (blocks_per_row, rows.len() / columns);
        let (halves, wide) = matrix.wants(isa);
        self.halves.resize(if halves { self.rows * blocks_per_row * 2 } else { 0 }, Block::ZERO);
        self.wide.resize(if wide { self.rows * blocks_per_row } else { 0 }, WideBlock::ZERO);
        let split = |(blocks, row): (&mut [Block], &[f32])| {
            let (coarse, fine) = blocks.split_at_mut(blocks_per_row);
            quantise_twice(row, coarse, fine);
        };
        let widen = |(blocks, row): (&mut [WideBlock], &[f32])| quantise_wide(row, blocks);
        if rows.len() < ALONE {
            self.halves.chunks_exact_mut(blocks_per_row * 2).zip(rows.chunks_exact(columns)).for_each(split);
            self.wide.chunks_exact_mut(blocks_per_row).zip(rows.chunks_exact(columns)).for_each(widen);
        } else {
            self.halves.par_chunks_exact_mut(blocks_per_row * 2).zip(rows.par_chunks_exact(columns)).for_each(split);
            self.wide.par_chunks_exact_mut(blocks_per_row).zip(rows.par_chunks_exact(columns)).for_each(widen);
        }
    }

    /// The rows that one pass over a tile serves.
    fn group(&self, index: usize) -> Rows<'_> {
        let part = |size: usize, length: usize| (index * size).min(length)..((index + 1) * size).min(length);
        let halves = part(GROUP * self.blocks_per_row, self.halves.len());
        let wide = part(GROUP / 2 * self.blocks_per_row, self.wide.len());
        Rows { halves: &self.halves[halves], wide: &self.wide[wide] }
    }
}

multiversioned! {
    /// Numbers to 8 bits, 32 at a time.
    pub(crate) fn quantise(numbers: &[f32], blocks: &mut [Block]) {
        for (numbers, block) in numbers.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            block.fill(numbers);
        }
    }
}

multiversioned! {
    /// Numbers to 16 bits, 32 at a time.
    pub(crate) fn quantise_wide(numbers: &[f32], blocks: &mut [WideBlock]) {
        for (numbers, block) in numbers.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            block.fill(numbers);
        }
    }
}

multiversioned! {
    /// Numbers to 8 bits, and what these leave of them to 8 more.
    pub(crate) fn quantise_twice(numbers: &[f32], coarse: &mut [Block], fine: &mut [Block]) {
        for ((numbers, coarse), fine) in numbers.as_chunks::<BLOCK>().0.iter().zip(coarse).zip(fine) {
            coarse.fill(numbers);
            let mut left = [0.0; BLOCK];
            for ((left, number), value) in left.iter_mut().zip(numbers).zip(&coarse.values) {
                *left = number - f32::from(*value) * coarse.scale;
            }
            fine.fill(&left);
        }
    }
}

/// The kernels of the module that asks (`x86::vnni512`, `x86::avx2`, `portable`), as this instruction set and this number of rows want them. A macro,
/// because functions for an instruction set cannot be a trait's.
macro_rules! multiply_with {
    ($isa:ident, $tiles:ident, $rows:ident, $out:ident) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "the instruction set was detected")]
            // SAFETY: an `Isa` beyond the portable one is only made where the processor has it.
            Isa::Vnni512 => unsafe {
                const { assert!(super::matrix::GROUP == 8) };
                match $out.len() {
                    1 => x86::vnni512::<1>($tiles, $rows.halves, $out),
                    2 => x86::vnni512::<2>($tiles, $rows.halves, $out),
                    3 => x86::vnni512::<3>($tiles, $rows.halves, $out),
                    4 => x86::vnni512::<4>($tiles, $rows.halves, $out),
                    5 => x86::vnni512::<5>($tiles, $rows.halves, $out),
                    6 => x86::vnni512::<6>($tiles, $rows.halves, $out),
                    7 => x86::vnni512::<7>($tiles, $rows.halves, $out),
                    _ => x86::vnni512::<8>($tiles, $rows.halves, $out),
                }
            },
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "the instruction set was detected")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { x86::avx2($tiles, $rows, $out) },
            Isa::Portable => {
                for (out, row) in $out.iter_mut().zip($rows.halves.chunks_exact($tiles.len())) {
                    portable($tiles, row, out);
                }
            }
        }
    };
}
pub(super) use multiply_with;

impl Weights for Tile {
    fn read(&self, lane: usize, out: &mut [f32]) {
        for (quad, out) in self.quads.iter().zip(out.chunks_exact_mut(4)) {
            for (out, value) in out.iter_mut().zip(&quad[lane * 4..]) {
                *out = f32::from(*value) * self.scales[lane];
            }
        }
    }

    #[inline]
    fn multiply(isa: Isa, tiles: &[Self], rows: Rows<'_>, out: &mut [[f32; LANES]]) {
        multiply_with!(isa, tiles, rows, out)
    }
}

fn portable(tiles: &[Tile], row: &[Block], out: &mut [f32; LANES]) {
    *out = [0.0; LANES];
    for (tile, block) in tiles.iter().zip(row) {
        let mut sums = [0i32; LANES];
        for (quad, values) in tile.quads.iter().zip(block.values.as_chunks::<4>().0) {
            for (sum, weights) in sums.iter_mut().zip(quad.as_chunks::<4>().0) {
                let products = weights.iter().zip(values).map(|(weight, value)| i32::from(*weight) * i32::from(*value));
                *sum += products.sum::<i32>();
            }
        }
        for ((out, sum), scale) in out.iter_mut().zip(sums).zip(tile.scales) {
            #[allow(clippy::cast_precision_loss, reason = "at most 32 * 127 * 127, below 2^24")]
            let sum = sum as f32;
            *out += sum * (scale * block.scale);
        }
    }
}
