//! The one place that knows which instructions this processor has.

use std::sync::OnceLock;

/// Instruction sets for which kernels are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512 with 8-bit dot products.
    #[cfg(target_arch = "x86_64")]
    Vnni512,
    /// AVX2 and FMA.
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

    /// All that this processor has, best first.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let special = {
            let vnni = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
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
            match $crate::local::chat::simd::Isa::best() {
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code, reason = "the instruction set was detected")]
                // SAFETY: `Isa::best` found these instructions on this processor.
                $crate::local::chat::simd::Isa::Vnni512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code, reason = "the instruction set was detected")]
                // SAFETY: as above.
                $crate::local::chat::simd::Isa::Avx2 => unsafe { avx2($($arg),*) },
                $crate::local::chat::simd::Isa::Portable => body($($arg),*),
            }
        }
    };
}
pub(crate) use multiversioned;
