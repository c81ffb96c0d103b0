//! Who is asked, who is spared, and that every place is given back, in virtual time.

use proptest::prelude::*;
use sutazai_core::{
    memory::{Script, ScriptedChat},
    model::{ChatModelExt, ModelCapabilities},
};
use tokio::time::advance;

use super::*;
use crate::gateway::fake::{Caller, Move, Planned, actor, away, moves, paused, plans};

sutazai_core::chat_conformance!(balance([actor(), actor()]));

fn balance(backends: impl IntoIterator<Item = impl ChatModel>) -> Balance {
    let backends = backends.into_iter().map(|backend| Arc::new(backend) as Arc<dyn ChatModel>).collect();
    Balance::new(backends, BalanceConfig::default()).unwrap()
}

/// A backend that says its own name.
fn says(name: &str) -> ScriptedChat {
    ScriptedChat::new("actor").otherwise(name)
}

fn fails() -> ScriptedChat {
    ScriptedChat::new("actor").otherwise(Script::error(away))
}

async fn ask(balance: &Balance) -> Result<String> {
    balance.complete(ChatRequest::ask("x")).await.map(|reply| reply.text)
}

fn under_way(balance: &Balance) -> Vec<usize> {
    lock(&balance.table).under_way()
}

#[tokio::test(start_paused = true)]
async fn equals_take_turns_and_the_least_busy_comes_first() {
    let balance = balance([says("a"), says("b"), says("c")]);
    let mut said = Vec::new();
    for _ in 0..4 {
        said.push(ask(&balance).await.unwrap());
    }
    assert_eq!(said, ["a", "b", "c", "a"]);
    let held = balance.chat(ChatRequest::ask("x")).await.unwrap();
    assert_eq!(under_way(&balance), [0, 1, 0]);
    let mut said = Vec::new();
    for _ in 0..4 {
        said.push(ask(&balance).await.unwrap());
    }
    assert_eq!(said, ["c", "a", "c", "a"]);
    drop(held);
    assert_eq!(under_way(&balance), [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn who_is_unavailable_is_passed_over_and_asked_again_later() {
    let back = ScriptedChat::new("actor").reply(Script::error(away)).otherwise("a");
    let balance = balance([back, says("b")]);
    for _ in 0..3 {
        assert_eq!(ask(&balance).await.unwrap(), "b");
    }
    advance(Duration::from_secs(5)).await;
    assert_eq!(ask(&balance).await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn each_is_asked_once_even_if_all_are_spared() {
    let busy = || away().retry_after(Duration::from_secs(60));
    let backends = [ScriptedChat::new("actor").otherwise(Script::error(busy)), fails(), fails()].map(Arc::new);
    let all = backends.iter().map(|backend| backend.clone() as Arc<dyn ChatModel>).collect();
    let balance = Balance::new(all, BalanceConfig::default()).unwrap();
    for round in 1..4 {
        assert_eq!(ask(&balance).await.unwrap_err().delay(), None, "the error that can be tried again soonest");
        assert!(backends.iter().all(|backend| backend.requests().len() == round));
    }
    assert_eq!(under_way(&balance), [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn other_errors_are_the_caller_s() {
    for kind in [ErrorKind::Invalid, ErrorKind::Timeout, ErrorKind::Full, ErrorKind::Cancelled] {
        let first = ScriptedChat::new("actor").otherwise(Script::error(move || Error::new(kind, "no")));
        let balance = balance([first, says("b")]);
        assert_eq!(ask(&balance).await.unwrap_err().kind(), kind);
        assert_eq!((ask(&balance).await.unwrap(), under_way(&balance)), ("b".to_owned(), vec![0, 0]));
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_in_the_middle_is_the_caller_s_and_spares_the_backend() {
    let half = ScriptedChat::new("actor").otherwise(Script::text("half ").breaking_off(away));
    let balance = balance([half, says("b")]);
    let mut answer = balance.chat(ChatRequest::ask("x")).await.unwrap();
    assert!(answer.next().await.unwrap().is_ok());
    assert_eq!(under_way(&balance), [1, 0]);
    assert!(answer.next().await.unwrap().is_err());
    assert_eq!(under_way(&balance), [0, 0], "an answer that has ended has no place, though it is still held");
    for _ in 0..3 {
        assert_eq!(ask(&balance).await.unwrap(), "b");
    }
}

/// Ready or not.
struct Ready(ScriptedChat, bool);

#[async_trait]
impl ChatModel for Ready {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    async fn ready(&self) -> Result<()> {
        if self.1 { Ok(()) } else { Err(away()) }
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        self.0.chat(request).await
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_ready_is_enough_and_the_others_are_spared() {
    let mixed = balance([Ready(says("a"), false), Ready(says("b"), true)]);
    mixed.ready().await.unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&mixed).await.unwrap(), "b");
    }
    let none = balance([Ready(says("a"), false), Ready(says("b"), false)]);
    assert_eq!(none.ready().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(ask(&none).await.unwrap(), "a", "whoever is asked may be well again");
}

#[test]
fn only_backends_of_one_model_are_balanced() {
    let new = |backends: Vec<ScriptedChat>| {
        let backends = backends.into_iter().map(|backend| Arc::new(backend) as Arc<dyn ChatModel>).collect();
        Balance::new(backends, BalanceConfig::default())
    };
    let plain = says("b").with_capabilities(ModelCapabilities { chat: true, ..ModelCapabilities::NONE });
    for wrong in [vec![], vec![says("a"), ScriptedChat::new("other")], vec![says("a"), plain]] {
        assert_eq!(new(wrong).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let different = new(vec![says("a").with_context_length(99), says("b").with_context_length(77)]).unwrap();
    assert_eq!(different.info().context_length, 77);
}

proptest! {
    /// Every caller that is under way has one place, and whoever has ended or left has none.
    #[test]
    fn places_are_given_back_wherever_callers_leave(moves in moves(), first in plans(), second in plans()) {
        paused(async {
            let balance = Arc::new(balance([Planned::new("actor", first), Planned::new("actor", second)]));
            let mut callers: Vec<Caller> = Vec::new();
            for step in moves {
                match step {
                    Move::Start => callers.push(Caller::start(balance.clone())),
                    Move::Poll(at) if !callers.is_empty() => {
                        let at = at.index(callers.len());
                        callers[at].poll();
                    }
                    Move::Leave(at) if !callers.is_empty() => drop(callers.swap_remove(at.index(callers.len()))),
                    Move::Wait => advance(Duration::from_secs(3)).await,
                    Move::Poll(_) | Move::Leave(_) => {}
                }
                let open = callers.iter().filter(|caller| caller.is_open()).count();
                assert_eq!(under_way(&balance).iter().sum::<usize>(), open);
            }
            drop(callers);
            assert_eq!(under_way(&balance), [0, 0]);
        });
    }

    /// Nobody who has not least to do is chosen, and nobody who is spared while another is not.
    #[test]
    fn the_choice_is_the_best_there_is(
        state in prop::collection::vec((0..4_usize, prop::option::of(0..10_u64), any::<bool>()), 1..6),
        rounds in 1..4_usize,
    ) {
        let now = Instant::now() + Duration::from_secs(60);
        let mut table = Table::new(state.len(), Duration::from_secs(5));
        for (index, (busy, ill, _)) in state.iter().enumerate() {
            let only: Vec<bool> = (0..state.len()).map(|other| other != index).collect();
            for _ in 0..*busy {
                prop_assert_eq!(table.take(&only, now), Some(index));
            }
            if let Some(ago) = ill {
                table.ill(index, now - Duration::from_secs(*ago));
            }
        }
        let tried: Vec<bool> = state.iter().map(|(_, _, tried)| *tried).collect();
        for _ in 0..rounds {
            let before = table.under_way();
            let rank = |index: usize| (state[index].1.is_some_and(|ago| ago < 5), before[index]);
            let best = (0..state.len()).filter(|index| !tried[*index]).map(rank).min();
            prop_assert_eq!(table.take(&tried, now).map(rank), best);
        }
    }
}
