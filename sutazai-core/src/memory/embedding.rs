//! `HashedEmbedding`: a bag of words, hashed to a vector. No weights, no files: texts that share words are near each other, and nothing more.

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{EmbeddingModel, Embeddings, ModelCapabilities, ModelInfo},
};

/// Words that are read of a text; the rest is cut.
const CONTEXT: usize = 8192;

/// The reference embedding model: counts words, knows no meaning. For tests, and for search by words where no model is wanted.
///
/// A word is a run of letters and digits, lower-cased; each adds one to or takes one from the number its hash chooses, and the vector is brought to
/// unit length. A text without a word gets the first axis. The vectors are the same on every machine and in every version.
#[derive(Clone, Debug)]
pub struct HashedEmbedding {
    info: ModelInfo,
}

impl Default for HashedEmbedding {
    fn default() -> Self {
        Self::new(384)
    }
}

impl HashedEmbedding {
    /// A model with `dimension` numbers in a vector, at least one.
    #[must_use]
    pub fn new(dimension: usize) -> Self {
        let capabilities = ModelCapabilities { embedding: true, ..ModelCapabilities::default() };
        Self {
            info: ModelInfo {
                dimension: dimension.max(1),
                capabilities,
                ..ModelInfo::new("hashed", "hashed", CONTEXT)
            },
        }
    }

    fn vector(&self, text: &str) -> (Vec<f32>, u32) {
        let mut vector = vec![0.0_f32; self.info.dimension];
        let mut words = 0;
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(CONTEXT) {
            let hash = fnv1a(word.to_lowercase().as_bytes());
            // The highest bit is the sign, the rest choose the axis: words that collide are as likely to cancel as to add up.
            let axis = usize::try_from((hash & i64::MAX.unsigned_abs()) % vector.len() as u64).unwrap_or(0);
            vector[axis] += if hash >> 63 == 0 { 1.0 } else { -1.0 };
            words += 1;
        }
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|x| *x /= length);
        } else {
            vector[0] = 1.0;
        }
        (vector, words)
    }
}

#[async_trait]
impl EmbeddingModel for HashedEmbedding {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn embed(&self, texts: &[String]) -> Result<Embeddings> {
        let (vectors, words): (_, Vec<u32>) = texts.iter().map(|text| self.vector(text)).unzip();
        Ok(Embeddings { vectors, tokens: words.iter().sum() })
    }
}

/// FNV-1a, 64 bits: fixed for ever, unlike the standard library's hashers.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::embedding_conformance!(HashedEmbedding::default());

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn texts_that_share_words_are_near() {
        let model = HashedEmbedding::default();
        let [a, b, c] =
            ["The cat sat on the mat.", "the CAT sat!", "stores commit in groups"].map(|t| model.vector(t).0);
        assert!(cosine(&a, &b) > 0.6, "{}", cosine(&a, &b));
        assert!(cosine(&a, &c) < 0.3, "{}", cosine(&a, &c));
    }

    #[test]
    fn the_vectors_never_change() {
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(
            HashedEmbedding::new(4).vector("a durable task").0,
            HashedEmbedding::new(4).vector("Task, durable: A").0
        );
    }
}
