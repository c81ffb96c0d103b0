//! Conversations that do and do not fit.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use sutazai_core::{
    memory::{Script, ScriptedChat},
    model::{Caller, Role, Sampling, ToolCall},
};

use super::{count::LONG, turns::parts, *};
use crate::gateway::fake;

/// A word is a token, as it is to the scripted model.
struct Words;

fn words(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.content.split_whitespace().count()).sum()
}

impl TokenCounter for Words {
    fn count(&self, request: &ChatRequest) -> Option<u32> {
        u32::try_from(words(&request.messages)).ok()
    }

    fn is_exact(&self) -> bool {
        true
    }
}

/// Adds up what was left out.
#[derive(Debug, Default)]
struct Trimmed(AtomicUsize);

impl GatewayObserver for Trimmed {
    fn trimmed(&self, model: &str, messages: usize) {
        assert_eq!(model, "actor");
        self.0.fetch_add(messages, Ordering::SeqCst);
    }
}

struct Bench {
    model: Arc<ScriptedChat>,
    trimmed: Arc<Trimmed>,
    fit: ContextFit,
}

fn bench(model: ScriptedChat, policy: Fit) -> Bench {
    let (model, trimmed) = (Arc::new(model), Arc::new(Trimmed::default()));
    let inner: Arc<dyn ChatModel> = Arc::<ScriptedChat>::clone(&model);
    let observer: Arc<dyn GatewayObserver> = Arc::<Trimmed>::clone(&trimmed);
    let config = FitConfig { policy, summary_tokens: 5, ..FitConfig::default() };
    Bench { fit: ContextFit::new(inner, config, observer), model, trimmed }
}

fn counting(bench: Bench) -> Bench {
    Bench { fit: bench.fit.with_counter(Arc::new(Words)), ..bench }
}

fn actor(context: usize) -> ScriptedChat {
    ScriptedChat::new("actor").otherwise("yes").with_context_length(context)
}

/// A system message, a turn that calls a tool, a plain turn, and a question: 3, 6, 4 and 2 words.
fn conversation() -> Vec<Message> {
    let call = ToolCall { id: "call_0".into(), name: "look".into(), arguments: serde_json::json!({}) };
    vec![
        Message::system("You are brief."),
        Message::user("What is there?"),
        Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") },
        Message { tool_call_id: Some("call_0".into()), ..Message::new(Role::Tool, "grass") },
        Message::new(Role::Assistant, "Only grass."),
        Message::user("Which colour?"),
        Message::new(Role::Assistant, "It's green."),
        Message::user("Really green?"),
    ]
}

/// What the model was sent.
fn sent(bench: &Bench) -> Vec<Vec<String>> {
    let said = |request: ChatRequest| request.messages.into_iter().map(|message| message.content).collect();
    bench.model.requests().into_iter().map(said).collect()
}

mod suite {
    use super::*;

    mod refusing {
        use super::*;

        sutazai_core::chat_conformance!(counting(bench(fake::actor(), Fit::Refuse)).fit);
    }

    mod estimating {
        use super::*;

        sutazai_core::chat_conformance!(bench(fake::actor(), Fit::TrimOldest).fit);
    }

    mod summarising {
        use super::*;

        sutazai_core::chat_conformance!(counting(bench(fake::actor(), Fit::Summarise)).fit);
    }
}

#[tokio::test]
async fn what_is_known_not_to_fit_is_refused_with_the_numbers() {
    let bench = counting(bench(actor(10), Fit::Refuse));
    let ask = |text: &str, max_tokens| ChatRequest { max_tokens, ..ChatRequest::ask(text) };
    for fits in [ask("one two three four five six", Some(4)), ask("1 2 3 4 5 6 7 8 9", None)] {
        bench.fit.complete(fits).await.unwrap();
    }
    for (beyond, prompt, answer) in
        [(ask("one two three four five six", Some(5)), 6, 5), (ask("1 2 3 4 5 6 7 8 9 0", None), 10, 1)]
    {
        let error = bench.fit.complete(beyond).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, "context_length_exceeded"));
        let message = format!(
            "chat with actor: the prompt has {prompt} tokens and its answer may have {answer}; the model takes 10 together"
        );
        assert_eq!(error.report(), message);
    }
    assert_eq!(bench.model.requests().len(), 2);
}

#[tokio::test]
async fn an_estimate_refuses_only_what_cannot_be() {
    for policy in [Fit::Refuse, Fit::TrimOldest, Fit::Summarise] {
        let bench = bench(actor(10), policy);
        // More than ten tokens by the estimate, and yet it may be nine of them.
        let doubtful = ChatRequest { max_tokens: Some(100), ..ChatRequest::ask("internationalisation ".repeat(9)) };
        bench.fit.complete(doubtful).await.unwrap();
        let blank = ChatRequest::ask(format!("a{}z", " ".repeat(10_000)));
        bench.fit.complete(blank).await.unwrap();
        assert_eq!(bench.model.requests().len(), 2);
        let error = bench.fit.complete(ChatRequest::ask("word ".repeat(64))).await.unwrap_err();
        assert!(error.report().contains("at least 10 tokens"), "{error}");
        assert_eq!(error.code(), "context_length_exceeded");
        assert_eq!(bench.model.requests().len(), 2);
    }
}

#[tokio::test]
async fn the_oldest_turns_are_left_out_whole() {
    // Words of context, and what is sent of the conversation's fifteen.
    let all: Vec<_> = conversation().into_iter().map(|message| message.content).collect();
    for (context, kept) in [(16, 0..0), (15, 1..5), (10, 1..5), (9, 1..7), (6, 1..7)] {
        let bench = counting(bench(actor(context), Fit::TrimOldest));
        bench.fit.complete(ChatRequest::new(conversation())).await.unwrap();
        let mut expected = all.clone();
        assert_eq!(bench.trimmed.0.load(Ordering::SeqCst), kept.len());
        drop(expected.drain(kept));
        assert_eq!(sent(&bench), [expected]);
    }
    let bench = counting(bench(actor(5), Fit::TrimOldest));
    let error = bench.fit.complete(ChatRequest::new(conversation())).await.unwrap_err();
    assert!(error.report().contains("has 5 tokens"), "{error}");
    assert!(bench.model.requests().is_empty());
    assert_eq!(bench.trimmed.0.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn by_an_estimate_something_is_left_out_early() {
    // 5 + 5 + 4 + 4 + 4 + 5 + 4 + 5 tokens, and one for the answer.
    let bench = bench(actor(36), Fit::TrimOldest);
    bench.fit.complete(ChatRequest::new(conversation())).await.unwrap();
    assert_eq!(sent(&bench)[0].len(), 4);
}

#[tokio::test]
async fn a_summary_stands_for_what_was_left_out() {
    let is_asked = |request: &ChatRequest| request.messages[0].content.starts_with("Below");
    let model = actor(140 + 20).when(is_asked, "Grass was found there, and nothing else.");
    let bench = counting(bench(model, Fit::Summarise));
    let mut messages = conversation();
    messages.insert(1, Message::user("word ".repeat(150)));
    let caller = Caller { agent: Some("guide".into()), ..Caller::default() };
    bench.fit.complete(ChatRequest { caller, ..ChatRequest::new(messages) }).await.unwrap();
    let requests = bench.model.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[0].max_tokens, requests[0].sampling), (Some(5), Sampling::GREEDY));
    assert!(requests.iter().all(|request| request.caller.agent.as_deref() == Some("guide")));
    let main = &requests[1].messages;
    assert_eq!(main[1].role, Role::System);
    assert!(main[1].content.ends_with("\nGrass was found there, and"), "{}", main[1].content);
    let rest: Vec<_> = main.iter().map(|message| &message.content).collect();
    assert_eq!((rest[0].as_str(), rest[2].as_str(), rest.len()), ("You are brief.", "What is there?", 9));
    assert_eq!(bench.trimmed.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn without_a_summary_the_rest_is_sent() {
    let is_asked = |request: &ChatRequest| request.messages[0].content.starts_with("Below");
    for script in [Script::error(fake::away), Script::text(""), Script::text("half").breaking_off(fake::away)] {
        let bench = counting(bench(actor(160).when(is_asked, script), Fit::Summarise));
        let mut messages = conversation();
        messages.insert(1, Message::user("word ".repeat(150)));
        bench.fit.complete(ChatRequest::new(messages)).await.unwrap();
        let expected: Vec<_> = conversation().into_iter().map(|message| message.content).collect();
        assert_eq!(sent(&bench)[1], expected);
    }
    let small = counting(bench(actor(10), Fit::Summarise));
    small.fit.complete(ChatRequest::new(conversation())).await.unwrap();
    assert_eq!(sent(&small).len(), 1, "where the context is too small to sum up, nobody tries");
}

#[tokio::test]
async fn long_prompts_are_counted_elsewhere() {
    struct Panics;

    impl TokenCounter for Panics {
        fn count(&self, _request: &ChatRequest) -> Option<u32> {
            panic!("a panic that was asked for")
        }

        fn is_exact(&self) -> bool {
            true
        }
    }

    let long = || ChatRequest::ask("word ".repeat(LONG));
    let counted = counting(bench(actor(10), Fit::Refuse));
    let error = counted.fit.complete(long()).await.unwrap_err();
    assert!(error.report().contains(&format!("has {LONG} tokens")), "{error}");
    let fit = bench(actor(10), Fit::Refuse).fit.with_counter(Arc::new(Panics));
    assert_eq!(fit.complete(long()).await.unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn a_model_that_does_not_know_its_context_is_sent_everything() {
    let ruler = Ruler { context: 0, ..ruler(Fit::Refuse, 0) };
    assert_eq!(ruler.plan(&ChatRequest::new(conversation())), Plan::Send);
    assert!(ruler.fits(&ChatRequest::new(conversation())) && !ruler.is_too_long(&ChatRequest::new(conversation())));
}

fn ruler(policy: Fit, context: usize) -> Ruler {
    Ruler { counter: Some(Arc::new(Words)), context, policy, answer_room: 1, summary_room: 8 }
}

/// Any messages in any order: results of calls that were never made, too, and ids that are used again.
fn conversations() -> impl Strategy<Value = Vec<Message>> {
    let message = |(number, (kind, words, id)): (usize, (u8, usize, u8))| {
        let content = format!("m{number}{}", " word".repeat(words));
        let id = format!("call_{id}");
        let call = ToolCall { id: id.clone(), name: "look".into(), arguments: serde_json::Value::Null };
        match kind {
            0 => Message::system(content),
            1 | 2 => Message::user(content),
            3 => Message::new(Role::Assistant, content),
            4 | 5 => Message { tool_calls: vec![call], ..Message::new(Role::Assistant, content) },
            6 | 7 => Message { tool_call_id: Some(id), ..Message::new(Role::Tool, content) },
            _ => Message::new(Role::Tool, content),
        }
    };
    let shapes = prop::collection::vec((0..9_u8, 0..5_usize, 0..3_u8), 1..24);
    shapes.prop_map(move |shapes| shapes.into_iter().enumerate().map(message).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_fits_and_holds_together(
        messages in conversations(),
        context in 1..90_usize,
        max_tokens in prop::option::of(1..20_u32),
        policy in prop::sample::select(vec![Fit::Refuse, Fit::TrimOldest, Fit::Summarise]),
    ) {
        let answer = usize::try_from(max_tokens.unwrap_or(1)).unwrap();
        let fits = |messages: &[Message]| words(messages) + answer <= context;
        let without = |parts: &[Vec<usize>]| {
            let mut numbers = parts.concat();
            numbers.sort_unstable();
            split(messages.clone(), &numbers).0
        };
        let parts = if policy == Fit::Refuse { Vec::new() } else { parts(&messages) };
        let request = ChatRequest { max_tokens, ..ChatRequest::new(messages.clone()) };
        let (numbers, summarise) = match ruler(policy, context).plan(&request) {
            Plan::Send => {
                prop_assert!(fits(&messages));
                return Ok(());
            }
            Plan::Refuse(refusal) => {
                let least = without(&parts);
                prop_assert!(!fits(&least), "it could have been sent without {parts:?}");
                prop_assert_eq!(refusal, Refusal { prompt: words(&least), answer, exact: true });
                return Ok(());
            }
            Plan::LeaveOut { messages, summarise } => (messages, summarise),
        };
        prop_assert!(!fits(&messages) && !numbers.is_empty());
        prop_assert!(policy == Fit::Summarise || !summarise);
        let (kept, out) = split(messages.clone(), &numbers);
        prop_assert!(fits(&kept));
        prop_assert_eq!(kept.len() + out.len(), messages.len());

        let order: Vec<_> = kept.iter().map(|kept| messages.iter().position(|message| message == kept)).collect();
        prop_assert!(order.is_sorted(), "the order is kept");
        prop_assert!(out.iter().all(|message| message.role != Role::System), "system messages stay");
        let stays = |at: usize| numbers.binary_search(&at).is_err();
        let question = messages.iter().rposition(|message| message.role == Role::User);
        prop_assert!(question.is_none_or(stays), "the last user message stays");
        prop_assert!(stays(messages.len() - 1), "what it ends with stays");
        for (at, message) in messages.iter().enumerate() {
            let Some(id) = &message.tool_call_id else { continue };
            let call = messages[..at].iter().rposition(|message| message.tool_calls.iter().any(|call| call.id == *id));
            prop_assert!(call.is_none_or(|call| stays(call) == stays(at)), "result {at} and call {call:?} go together");
        }

        let count = parts.iter().filter(|part| !stays(part[0])).count();
        prop_assert_eq!(&without(&parts[..count]), &kept, "the oldest go");
        let reserve = if summarise { 8 } else { 0 };
        let before = without(&parts[..count - 1]);
        prop_assert!(words(&before) + answer + reserve > context, "no more goes than has to");
    }
}
