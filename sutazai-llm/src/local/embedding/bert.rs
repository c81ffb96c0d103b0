//! The model itself: an encoder of BERT's family, mean of the last layer over the tokens, unit length.

use std::fs;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use sha2::{Digest, Sha256};
use sutazai_core::{Error, ErrorKind, Result};
use tokenizers::{Tokenizer, TruncationParams};

use super::{
    config::{Measures, Refusal},
    network::Encoder,
};
use crate::{
    registry::{Installed, Role, hex},
    vector::normalise,
};

/// Tokens that go through the layers at once: what the memory bears (6 KB of intermediate numbers each, and the attention's scores).
const TOKENS: usize = 4096;

/// A BERT for sentences and its tokenizer, in memory.
pub(super) struct SentenceBert {
    name: &'static str,
    encoder: Encoder,
    tokenizer: Tokenizer,
    dimension: usize,
}

impl SentenceBert {
    /// Reads the files and checks each against its digest; code `model_damaged` if one is not what it was. Blocks.
    pub(super) fn load(files: &Installed, context: usize, dimension: usize) -> Result<Self> {
        let name = files.model.name;
        let measures = Measures::read(&read(files, Role::Config)?, context).map_err(|refusal| match refusal {
            Refusal::Damaged(error) => damaged(name, error),
            Refusal::Unsupported(what) => unsupported(name, &what),
        })?;
        let mut tokenizer =
            Tokenizer::from_bytes(read(files, Role::Tokenizer)?).map_err(|error| damaged(name, error))?;
        // The file pads and cuts every text to 128 tokens; the model was trained with 256 at most.
        tokenizer.with_padding(None);
        let truncation = TruncationParams { max_length: context, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| damaged(name, error))?;
        if measures.width != dimension || context > measures.positions {
            return Err(damaged(name, "the configuration does not fit the catalogue"));
        }
        let load = || {
            let weights = VarBuilder::from_buffered_safetensors(
                read(files, Role::Weights).map_err(candle_core::Error::wrap)?,
                DType::F32,
                &Device::Cpu,
            )?;
            Encoder::load(&weights, &measures)
        };
        let encoder = load().map_err(|error| damaged(name, error))?;
        Ok(Self { name, encoder, tokenizer, dimension })
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
        // Texts of one length share the products of their attention.
        encoded.sort_by_key(|(_, ids)| ids.len());
        let mut vectors = vec![(Vec::new(), 0); texts.len()];
        let mut rest = encoded.as_slice();
        while !rest.is_empty() {
            let mut tokens = 0;
            let within = |(_, ids): &&(usize, Vec<u32>)| {
                tokens += ids.len();
                tokens <= TOKENS
            };
            let count = rest.iter().take_while(within).count().max(1);
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
        let texts: Vec<&[u32]> = batch.iter().map(|(_, ids)| ids.as_slice()).collect();
        let hidden = self.encoder.forward(&texts)?.flatten_all()?.to_vec1::<f32>()?;
        let mut rest = hidden.chunks_exact(self.dimension);
        let mean = |text: &&[u32]| {
            let mut mean = vec![0.0; self.dimension];
            for row in rest.by_ref().take(text.len()) {
                mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / text.len() as f32);
            }
            mean
        };
        Ok(texts.iter().map(mean).collect())
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

fn unsupported(name: &str, what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("this model cannot be run in process: {what}"))
        .with_code("model_unsupported")
        .during("load model")
        .about(name)
}

fn damaged(name: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Corrupt, "the model's files are damaged; remove it and pull it again")
        .with_code("model_damaged")
        .during("load model")
        .about(name)
        .because(why)
}
