//! Those who ask, in every manner, and what becomes of what they asked.

use std::{ops::Range, time::Duration};

use fastrand::Rng;
use futures_util::StreamExt;
use sutazai_core::{
    Error, ErrorKind, Result,
    clock::{Clock, SystemClock},
    model::{Caching, Caller, ChatEvent, ChatModel, ChatModelExt, ChatRequest, ChatStream, EmbeddingModel},
    task::Priority,
};
use tokio::time::{sleep, timeout};

use crate::{PATIENCE, answers::said, house::House};

/// How old an answer may be where that matters little.
const FRESH: Duration = Duration::from_millis(200);

/// How somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Manner {
    /// For the whole answer at once.
    Completes,
    /// For the answer as it comes.
    Streams,
    /// And goes, most often before there is an answer.
    Leaves,
    /// And goes in the middle of the answer.
    LeavesHalfway,
    /// And reads on only after a while.
    StopsReading,
    /// For vectors.
    Embeds,
    /// For vectors, and goes.
    LeavesEmbedding,
}

impl Manner {
    /// Those that stay to the end.
    pub(crate) const STAYING: [Self; 4] = [Self::Completes, Self::Streams, Self::StopsReading, Self::Embeds];

    fn draw(random: &mut Rng) -> Self {
        match random.u8(..20) {
            0..6 => Self::Completes,
            6..11 => Self::Streams,
            11..13 => Self::Leaves,
            13..15 => Self::LeavesHalfway,
            15 => Self::StopsReading,
            16..19 => Self::Embeds,
            _ => Self::LeavesEmbedding,
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// The answer came, whole and the right one.
    Answered,
    /// Whoever asked did not wait for it.
    Left,
    /// An error of this code came.
    Refused(&'static str),
}

/// Whether an error is one of those that a backend in trouble may cause. A fault of the program, or of the request, is none.
pub(crate) fn is_typed(error: &Error) -> bool {
    matches!(
        (error.kind(), error.code()),
        (ErrorKind::Unavailable, "model_unavailable")
            | (ErrorKind::Timeout, "model_timeout" | "timeout")
            | (ErrorKind::Full, "queue_full")
            | (ErrorKind::NotFound, "model_not_found")
    )
}

/// Asks something of one of the gateways. Fails the test if nobody answers, or not as it should be.
pub(crate) async fn ask(houses: &[House], number: usize, random: &mut Rng) -> (Manner, Outcome) {
    let house = &houses[random.usize(..houses.len())];
    let manner = Manner::draw(random);
    let asked = async {
        match manner {
            Manner::Embeds | Manner::LeavesEmbedding => embed(&*house.embedding, manner, random).await,
            _ => {
                let model = &house.fronts[random.usize(..house.fronts.len())];
                chat(&**model, request(number, random), manner, random).await
            }
        }
    };
    let Ok(outcome) = timeout(PATIENCE, asked).await else {
        panic!("request {number} ({manner:?}) is left without an answer");
    };
    house.look();
    let refused = |error: Error| {
        assert!(is_typed(&error), "request {number} ({manner:?}): {error:?}");
        Outcome::Refused(error.code())
    };
    (manner, outcome.unwrap_or_else(refused))
}

/// Something to ask: for some tenant, more or less urgent, sometimes with a deadline, and now and then what others ask too, and a new answer is not needed.
fn request(number: usize, random: &mut Rng) -> ChatRequest {
    let is_common = random.u8(..5) == 0;
    let (question, tenant) = if is_common { (random.usize(..3), 0) } else { (number, random.u8(..5)) };
    let has_deadline = random.u8(..4) == 0;
    let caller = Caller {
        tenant: Some(format!("tenant {tenant}").into()),
        priority: Priority::new(random.u8(..10)).unwrap(),
        deadline: has_deadline.then(|| SystemClock.now().plus(pause(1..400, random))),
        ..Caller::default()
    };
    let caching = if is_common { Caching::MaxAge(FRESH) } else { Caching::Auto };
    ChatRequest { caching, caller, ..ChatRequest::ask(format!("What about {question}?")) }
}

async fn chat(model: &dyn ChatModel, request: ChatRequest, manner: Manner, random: &mut Rng) -> Result<Outcome> {
    let expected = said(&request.messages[0].content);
    match manner {
        Manner::Completes => {
            assert_eq!(model.complete(request).await?.text, expected);
            Ok(Outcome::Answered)
        }
        Manner::Leaves => {
            if let Ok(begun) = timeout(pause(0..30, random), model.chat(request)).await {
                drop(begun?);
            }
            Ok(Outcome::Left)
        }
        _ => read(model.chat(request).await?, &expected, manner, random).await,
    }
}

async fn read(mut answer: ChatStream, expected: &str, manner: Manner, random: &mut Rng) -> Result<Outcome> {
    let enough = random.usize(1..4);
    let (mut text, mut pieces) = (String::new(), 0);
    while let Some(event) = answer.next().await {
        match event? {
            ChatEvent::Text(piece) => text.push_str(&piece),
            ChatEvent::Finish(_) => {
                assert_eq!(text, expected);
                assert!(answer.next().await.is_none(), "something follows the end");
                return Ok(Outcome::Answered);
            }
            other => panic!("nobody said {other:?}"),
        }
        assert!(expected.starts_with(text.as_str()), "{text:?} is no part of {expected:?}");
        pieces += 1;
        match manner {
            Manner::LeavesHalfway if pieces == enough => return Ok(Outcome::Left),
            Manner::StopsReading if pieces == enough => sleep(pause(20..150, random)).await,
            _ => {}
        }
    }
    panic!("the answer {text:?} has no end");
}

async fn embed(model: &dyn EmbeddingModel, manner: Manner, random: &mut Rng) -> Result<Outcome> {
    let count = random.usize(1..4);
    let texts: Vec<String> = (0..count).map(|_| "x".repeat(random.usize(1..50))).collect();
    let asked = model.embed(&texts);
    let embeddings = if manner == Manner::LeavesEmbedding {
        match timeout(pause(0..20, random), asked).await {
            Ok(embeddings) => embeddings?,
            Err(_) => return Ok(Outcome::Left),
        }
    } else {
        asked.await?
    };
    assert_eq!(embeddings.vectors.len(), texts.len());
    for (vector, text) in embeddings.vectors.iter().zip(&texts) {
        // The first number is to the second as the length of the text to 1.
        let off = vector[0] - vector[1] * text.len() as f32;
        assert!(off.abs() < 0.001, "{vector:?} is not of {text:?}");
    }
    Ok(Outcome::Answered)
}

fn pause(millis: Range<u64>, random: &mut Rng) -> Duration {
    Duration::from_millis(random.u64(millis))
}
