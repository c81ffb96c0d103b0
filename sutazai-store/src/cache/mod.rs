//! Backends of `AnswerCache`.

mod redis;

pub use self::redis::{RedisAnswers, RedisAnswersConfig};
