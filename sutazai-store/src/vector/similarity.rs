//! The arithmetic of vectors of unit length.

/// Numbers summed side by side: two registers of eight.
const LANES: usize = 16;

/// Scales to unit length; computed in double precision, where no square of a finite f32 overflows.
pub(super) fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

/// The cosine of two vectors of unit length.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    // Adding zero turns −0 into 0, so that both are a tie.
    dot(a, b).clamp(-1.0, 1.0) + 0.0
}

#[cfg(target_arch = "x86_64")]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    if std::arch::is_x86_feature_detected!("avx2") {
        #[allow(unsafe_code, reason = "the processor was just asked whether it has AVX2")]
        unsafe {
            wide(a, b)
        }
    } else {
        sum(a, b)
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn wide(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b)
}

/// The same order of additions everywhere, so that equal vectors have equal scores.
#[inline(always)]
fn sum(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_is_that_of_the_definition() {
        let mut random = fastrand::Rng::with_seed(7);
        for dimension in [1, 2, 15, 16, 17, 33, 384, 1000] {
            let mut draw = || (0..dimension).map(|_| random.f32() - 0.5).collect::<Vec<_>>();
            let (mut a, mut b) = (draw(), draw());
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let expected = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
            normalise(&mut a);
            normalise(&mut b);
            assert!((f64::from(cosine(&a, &b)) - expected).abs() < 1e-6, "dimension {dimension}");
            assert!((sum(&a, &b) - dot_now(&a, &b)).abs() < 1e-6);
        }
    }

    fn dot_now(a: &[f32], b: &[f32]) -> f32 {
        super::dot(a, b)
    }

    #[test]
    fn extreme_lengths_have_a_direction() {
        for scale in [1e-38, 1e-20, 1.0, 1e20, 3e38] {
            let mut vector = [scale, -scale, 0.0];
            normalise(&mut vector);
            assert!(
                (vector[0] - 0.5_f32.sqrt()).abs() < 1e-6 && (vector[1] + 0.5_f32.sqrt()).abs() < 1e-6,
                "{scale}: {vector:?}"
            );
        }
    }
}
