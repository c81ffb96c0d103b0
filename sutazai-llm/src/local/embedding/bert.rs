//! The model itself: BERT, mean of the last layer over the tokens, unit length.

use std::fs;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use sha2::{Digest, Sha256};
use sutazai_core::{Error, ErrorKind, Result};
use tokenizers::{Tokenizer, TruncationParams};

use crate::{
    registry::{Installed, Role, hex},
    vector::normalise,
};

/// Tokens, padding included, that go through the layers at once: what the caches and the memory bear.
const TOKENS: usize = 4096;

/// A BERT for sentences and its tokenizer, in memory.
pub(super) struct SentenceBert {
    name: &'static str,
    bert: BertModel,
    tokenizer: Tokenizer,
    dimension: usize,
}

impl SentenceBert {
    /// Reads the files and checks each against its digest; code `model_damaged` if one is not what it was. Blocks.
    pub(super) fn load(files: &Installed, context: usize, dimension: usize) -> Result<Self> {
        let name = files.model.name;
        let config: Config =
            serde_json::from_slice(&read(files, Role::Config)?).map_err(|error| damaged(name, error))?;
        let mut tokenizer =
            Tokenizer::from_bytes(read(files, Role::Tokenizer)?).map_err(|error| damaged(name, error))?;
        // The file pads and cuts every text to 128 tokens; the model was trained with 256 at most.
        tokenizer.with_padding(None);
        let truncation = TruncationParams { max_length: context, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| damaged(name, error))?;
        if config.hidden_size != dimension || context > config.max_position_embeddings {
            return Err(damaged(name, "the configuration does not fit the catalogue"));
        }
        let load = || {
            let weights = VarBuilder::from_buffered_safetensors(
                read(files, Role::Weights).map_err(candle_core::Error::wrap)?,
                DType::F32,
                &Device::Cpu,
            )?;
            BertModel::load(weights, &config)
        };
        let bert = load().map_err(|error| damaged(name, error))?;
        Ok(Self { name, bert, tokenizer, dimension })
    }

    /// The vectors of `texts`, in order, and the tokens that were read of each. Blocks.
    pub(super) fn embed(&self, texts: &[String]) -> Result<Vec<(Vec<f32>, u32)>> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Internal, "the model failed").during("embed with").about(self.name).because(error)
        };
        let mut encoded = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            encoded.push((index, self.tokenizer.encode_fast(text.as_str(), true).map_err(failed)?.get_ids().to_vec()));
        }
        encoded.sort_by_key(|(_, ids)| ids.len());
        let mut vectors = vec![(Vec::new(), 0); texts.len()];
        let mut rest = encoded.as_slice();
        while !rest.is_empty() {
            // Sorted: the last of a batch is its longest, and the batch ends before it would be too large.
            let count =
                (1..=rest.len()).take_while(|&n| n == 1 || n * rest[n - 1].1.len() <= TOKENS).last().unwrap_or(1);
            let (batch, later) = rest.split_at(count);
            let pooled = self.forward(batch).map_err(|error| failed(error.into()))?;
            for ((index, ids), vector) in batch.iter().zip(pooled) {
                let vector = normalise(vector).ok_or_else(|| damaged(self.name, "it computes what is no number"))?;
                vectors[*index] = (vector, u32::try_from(ids.len()).unwrap_or(u32::MAX));
            }
            rest = later;
        }
        Ok(vectors)
    }

    /// The mean of the last layer over the tokens of each text.
    fn forward(&self, batch: &[(usize, Vec<u32>)]) -> candle_core::Result<Vec<Vec<f32>>> {
        let longest = batch.iter().map(|(_, ids)| ids.len()).max().unwrap_or(0);
        let padded = |value: fn(u32) -> u32| {
            let rows = batch.iter().flat_map(|(_, ids)| {
                ids.iter().map(move |&id| value(id)).chain(std::iter::repeat_n(0, longest - ids.len()))
            });
            Tensor::from_iter(rows, &Device::Cpu)?.reshape((batch.len(), longest))
        };
        let (ids, mask) = (padded(|id| id)?, padded(|_| 1)?);
        let hidden = self.bert.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
        let sums = hidden.broadcast_mul(&mask)?.sum(1)?;
        let means = sums.broadcast_div(&mask.sum(1)?)?;
        debug_assert_eq!(means.dims(), [batch.len(), self.dimension]);
        means.to_vec2()
    }
}

/// A file of the model, checked.
fn read(files: &Installed, role: Role) -> Result<Vec<u8>> {
    let (path, expected) = files.file(role)?;
    let bytes = fs::read(&path).map_err(|error| {
        Error::new(ErrorKind::Unavailable, "the file cannot be read")
            .during("load model")
            .about(path.display())
            .because(error)
    })?;
    if hex(&Sha256::digest(&bytes)) == expected.sha256 {
        Ok(bytes)
    } else {
        Err(damaged(files.model.name, format!("{} has changed since it was pulled", path.display())))
    }
}

fn damaged(name: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Corrupt, "the model's files are damaged; remove it and pull it again")
        .with_code("model_damaged")
        .during("load model")
        .about(name)
        .because(why)
}
