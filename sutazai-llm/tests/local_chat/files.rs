//! Files that are missing, damaged, or of a kind that is not known.

use super::*;

/// The kind and code of the error with which a model on `path` answers.
pub(crate) async fn refusal(path: &Path) -> (ErrorKind, &'static str) {
    let error = local(path).complete(greedy("x", 4)).await.unwrap_err();
    assert!(error.to_string().contains(&path.display().to_string()), "{error} does not name the file");
    (error.kind(), error.code())
}

pub(crate) fn missing(tiny: &Path) -> BoxFuture<'_, Outcome> {
    Box::pin(async {
        let path = tiny.with_file_name("nowhere.gguf");
        assert_eq!(refusal(&path).await, (ErrorKind::NotFound, "model_not_found"));
        assert_eq!(local(&path).ready().await.unwrap_err().code(), "model_not_found");
        local(tiny).ready().await?;
        Ok(())
    })
}

pub(crate) fn damaged(tiny: &Path) -> BoxFuture<'_, Outcome> {
    Box::pin(async move {
        let path = tiny.with_file_name("damaged.gguf");
        let whole = std::fs::read(tiny)?;
        let mut absurd = whole[..24].to_vec();
        absurd[8..24].fill(0xff);
        let zero_alignment = {
            let mut model = Tiny::new();
            model.header.push(("general.alignment", Value::U32(0)));
            model.write(&path);
            std::fs::read(&path)?
        };
        let files: [&[u8]; 7] =
            [b"", b"not a model", &whole[..10], &whole[..2000], &whole[..whole.len() - 64], &absurd, &zero_alignment];
        for bytes in files {
            std::fs::write(&path, bytes)?;
            assert_eq!(refusal(&path).await, (ErrorKind::Corrupt, "model_damaged"), "{} bytes", bytes.len());
        }
        let spoils: [fn(&mut Tiny); 7] = [
            |model| model.set("llama.embedding_length", Value::U32(1 << 30)),
            |model| model.set("llama.embedding_length", Value::U32(128)),
            |model| model.set("llama.block_count", Value::U32(500)),
            |model| model.set("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)),
            |model| model.set("tokenizer.ggml.eos_token_id", Value::U32(9999)),
            |model| model.set("tokenizer.ggml.token_type", Value::Array(Vec::new())),
            |model| model.header.retain(|(key, _)| *key != "tokenizer.ggml.tokens"),
        ];
        for (index, spoil) in spoils.into_iter().enumerate() {
            let mut model = Tiny::new();
            spoil(&mut model);
            model.write(&path);
            assert_eq!(refusal(&path).await, (ErrorKind::Corrupt, "model_damaged"), "spoil {index}");
        }
        // Damage in a scale: a tensor of plain numbers, one of which is none.
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut model = Tiny::new();
            model.spoil("blk.1.ffn_down.weight", wrong);
            model.write(&path);
            assert_eq!(refusal(&path).await, (ErrorKind::Corrupt, "model_damaged"), "{wrong}");
        }
        Ok(())
    })
}

/// A file whose first tensor called `name` has the type `kind`.
fn retyped(whole: &[u8], name: &str, kind: u32) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    // After the name: the number of dimensions, two of them, the type.
    bytes[at + name.len() + 20..][..4].copy_from_slice(&kind.to_le_bytes());
    bytes
}

pub(crate) fn unsupported(tiny: &Path) -> BoxFuture<'_, Outcome> {
    Box::pin(async move {
        let path = tiny.with_file_name("unsupported.gguf");
        let mut scaled = Tiny::new();
        scaled.header.push(("llama.rope.scaling.type", Value::String("none".into())));
        scaled.write(&path);
        local(&path).complete(greedy("x", 2)).await?;
        let others: [fn(&mut Tiny); 7] = [
            |model| model.set("general.architecture", Value::String("phi2".into())),
            |model| model.set("tokenizer.ggml.model", Value::String("bert".into())),
            |model| model.set("tokenizer.ggml.pre", Value::String("tekken".into())),
            |model| model.set("tokenizer.chat_template", Value::String("{% if %}".into())),
            |model| model.header.retain(|(key, _)| *key != "tokenizer.chat_template"),
            |model| model.header.push(("llama.rope.scaling.type", Value::String("yarn".into()))),
            |model| model.tensors.push(("blk.0.attn_q.bias".into(), Tiny::ones())),
        ];
        for (index, other) in others.into_iter().enumerate() {
            let mut model = Tiny::new();
            other(&mut model);
            model.write(&path);
            assert_eq!(refusal(&path).await, (ErrorKind::Unsupported, "model_unsupported"), "case {index}");
        }
        let whole = std::fs::read(tiny)?;
        for (kind, expected) in [(16, "model_unsupported"), (39, "model_unsupported"), (4000, "model_damaged")] {
            std::fs::write(&path, retyped(&whole, "blk.0.attn_q.weight", kind))?;
            assert_eq!(refusal(&path).await.1, expected, "type {kind}");
        }
        Ok(())
    })
}
