//! The one place that knows which instructions this processor has, and arithmetic that uses all of them.

use std::sync::OnceLock;

/// Instruction sets for which kernels are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512 with 8-bit dot products.
    #[cfg(target_arch = "x86_64")]
    Vnni512,
    /// AVX2, FMA and 16-bit floats.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every processor of the target has.
    Portable,
}

impl Isa {
    /// The best that this processor has.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().next().unwrap_or(Self::Portable))
    }

    /// Whether products of small numbers are made of 16 bits rather than 8.
    pub(crate) fn wants_wide(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx2;
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// All that this processor has, best first.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let special = {
            let vnni = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            vnni.then_some(Self::Vnni512).into_iter().chain(avx2.then_some(Self::Avx2))
        };
        #[cfg(not(target_arch = "x86_64"))]
        let special = std::iter::empty();
        special.chain([Self::Portable])
    }
}

/// Defines a function whose body is compiled once per instruction set; callers get the best one.
macro_rules! multiversioned {
    ($(#[$meta:meta])* pub(crate) fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        pub(crate) fn $name($($arg: $ty),*) {
            #[inline(always)]
            fn body($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $ty),*) { body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) { body($($arg),*) }
            match $crate::local::simd::Isa::best() {
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code, reason = "the instruction set was detected")]
                // SAFETY: `Isa::best` found these instructions on this processor.
                $crate::local::simd::Isa::Vnni512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code, reason = "the instruction set was detected")]
                // SAFETY: as above.
                $crate::local::simd::Isa::Avx2 => unsafe { avx2($($arg),*) },
                $crate::local::simd::Isa::Portable => body($($arg),*),
            }
        }
    };
}
pub(crate) use multiversioned;

/// e to the power of `x`, to within two units of the last place, in a form that compilers turn into wide registers.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    // ln 2 in two parts, so that taking whole multiples away costs no precision.
    let rest = x - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let mut power = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        power = power * rest + coefficient;
    }
    let power = power * rest * rest + rest + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    power * f32::from_bits(exponent << 23)
}

/// The hyperbolic tangent of `x`, to within 3e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// `x` bent so that it stays between `cap` and its negative: next to nothing where it is small.
#[inline(always)]
pub(crate) fn bend(x: f32, cap: f32) -> f32 {
    cap * tanh(x / cap)
}

/// The sum of lanes, in pairs: a chain of four additions instead of sixteen.
#[inline(always)]
pub(crate) fn total(lanes: [f32; 16]) -> f32 {
    // Through memory: else compilers split the loop that fills the lanes as these additions do, into registers of two numbers.
    let mut lanes = std::hint::black_box(lanes);
    for half in [8, 4, 2, 1] {
        let (low, high) = lanes.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
    }
    lanes[0]
}

/// The sum of `row`, in as many lanes as the widest registers have: one after another, no compiler may reorder them.
#[inline(always)]
pub(crate) fn sum(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<16>();
    let mut lanes = [0f32; 16];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    total(lanes)
}

/// The sum of the squares of what is left of `row` when `mean` is taken off.
#[inline(always)]
pub(crate) fn squares(row: &[f32], mean: f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<16>();
    let mut lanes = [0f32; 16];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += (x - mean) * (x - mean);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += (x - mean) * (x - mean);
    }
    total(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_take_every_number_once() {
        for length in [0, 1, 15, 16, 17, 40] {
            let row: Vec<f32> = (1_u8..=length).map(f32::from).collect();
            let length = f32::from(length);
            assert_eq!(sum(&row), length * (length + 1.0) / 2.0);
            assert_eq!(squares(&row, 1.0), (length - 1.0).max(0.0) * length * (2.0 * length - 1.0) / 6.0);
        }
    }

    #[test]
    fn tanh_is_exact_enough() {
        for step in -1000..=1000_i16 {
            let x = f32::from(step) / 50.0;
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 3e-7, "{x}");
        }
        assert!(tanh(-1e9) == -1.0 && tanh(1e9) == 1.0 && tanh(f32::NAN).is_nan());
        assert!((bend(1.0, 50.0) - 0.999_867).abs() < 2e-5 && bend(1e6, 50.0) == 50.0);
    }

    #[test]
    fn exp_is_exact_enough() {
        for step in -8600..8700 {
            let x = f32::from(i16::try_from(step).unwrap()) / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "{x}");
        }
        assert!(exp(-1e9) < 1e-37 && exp(0.0) == 1.0);
    }
}
