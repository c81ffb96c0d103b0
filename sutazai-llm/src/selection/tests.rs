//! What is chosen and why, and what holds for every choice.

use proptest::prelude::*;
use sutazai_core::model::{ModelCapabilities, ModelInfo};

use super::*;
use crate::{
    bench::{Marks, Measured},
    tier::Tier,
};

const GB: u64 = 1_000_000_000;

fn model(name: &str, memory: u64) -> Candidate {
    let capabilities = ModelCapabilities { chat: true, schema: true, ..ModelCapabilities::NONE };
    let info = ModelInfo { capabilities, memory: Some(memory), ..ModelInfo::new(name, "ollama", 4096) };
    Candidate::new(info, Presence::Ready)
}

fn measured(model: Candidate, right: u32, prompt: f64, generation: f64) -> Candidate {
    let measured = Measured {
        prompt_tokens_per_s: Some(prompt),
        generation_tokens_per_s: Some(generation),
        json: Marks::new(8, 8),
        quality: Tier::ALL.map(|tier| (tier, Marks::new(right, 5))).into(),
        ..Measured::default()
    };
    Candidate { measured: Some(measured), ..model }
}

/// The models of the users' documents.
fn documented() -> [Candidate; 4] {
    [
        model("tinyllama:latest", GB),
        model("mistral:7b", 4 * GB),
        model("deepseek-coder:6.7b", 4 * GB),
        model("qwen3:8b", 5 * GB),
    ]
}

fn chosen(need: &Need, candidates: &[Candidate]) -> Option<String> {
    select(need, candidates).chosen().map(|candidate| candidate.info.name.clone())
}

fn reasons(need: &Need, candidate: Candidate) -> Vec<String> {
    match &select(need, &[candidate]).verdicts[0].judgement {
        Judgement::Excluded(reasons) => reasons.iter().map(ToString::to_string).collect(),
        Judgement::Usable(score) => panic!("{score:?}"),
    }
}

#[test]
fn without_measurements_the_documents_decide() {
    for (tier, name) in [
        (Tier::General, "tinyllama:latest"),
        (Tier::Reasoning, "mistral:7b"),
        (Tier::Code, "deepseek-coder:6.7b"),
        (Tier::Analysis, "qwen3:8b"),
    ] {
        assert_eq!(chosen(&Need::new(tier), &documented()).as_deref(), Some(name));
    }
    assert_eq!(chosen(&Need::new(Tier::Code), &[]), None);
}

#[test]
fn memory_decides_what_fits() {
    let need = Need { memory: Some(3 * GB), ..Need::new(Tier::Code) };
    assert_eq!(chosen(&need, &documented()).as_deref(), Some("tinyllama:latest"));
    let text = reasons(&need, model("qwen3:8b", 5 * GB + 1));
    assert_eq!(text, ["it takes 5001 MB of memory, 3000 are there"]);
    // What is loaded takes no more, and what runs elsewhere none of this machine's.
    let loaded = Candidate { presence: Presence::Loaded, ..model("deepseek-coder:6.7b", 4 * GB) };
    assert_eq!(chosen(&need, &[loaded, model("tinyllama:latest", GB)]).as_deref(), Some("deepseek-coder:6.7b"));
    let elsewhere = Candidate { runs: Runs::Elsewhere, ..model("qwen3:8b", 5 * GB) };
    assert_eq!(chosen(&need, &[elsewhere]).as_deref(), Some("qwen3:8b"));
    // What was measured counts more than what is said.
    let mut small = measured(model("qwen3:8b", 5 * GB), 3, 10.0, 10.0);
    small.measured.as_mut().unwrap().memory_bytes = Some(2 * GB);
    assert_eq!(chosen(&need, &[small]).as_deref(), Some("qwen3:8b"));
}

#[test]
fn measured_quality_can_outweigh_the_documents_and_speed_cannot() {
    let need = Need::new(Tier::Code);
    let poor = measured(model("deepseek-coder:6.7b", 4 * GB), 0, 100.0, 20.0);
    let good = measured(model("some-model:3b", 2 * GB), 5, 100.0, 20.0);
    assert_eq!(chosen(&need, &[poor, good]).as_deref(), Some("some-model:3b"));
    let slow = measured(model("deepseek-coder:6.7b", 4 * GB), 3, 1.0, 0.1);
    let quick = measured(model("some-model:3b", 2 * GB), 3, 1e6, 1e6);
    assert_eq!(chosen(&need, &[slow, quick]).as_deref(), Some("deepseek-coder:6.7b"));
}

#[test]
fn every_reason_is_named() {
    let capabilities = ModelCapabilities { chat: true, tools: true, vision: true, ..ModelCapabilities::NONE };
    let need = Need { capabilities, context_tokens: 5_000, memory: Some(GB), ..Need::new(Tier::General) };
    let reasons_of = |candidate| reasons(&need, candidate);
    assert_eq!(
        reasons_of(model("a", 2 * GB)),
        [
            "it has no tools, no vision",
            "it reads 4096 tokens, 5000 are needed",
            "it takes 2000 MB of memory, 1000 are there"
        ]
    );
    let absent = Candidate { presence: Presence::Absent, ..model("a", 2 * GB) };
    assert_eq!(reasons_of(absent), ["it is not here", "it takes 2000 MB of memory, 1000 are there"]);
    let damaged = Candidate { presence: Presence::Unusable("its file is damaged".into()), ..model("a", 1) };
    assert_eq!(reasons_of(damaged)[0], "it cannot be used: its file is damaged");
}

#[test]
fn a_score_is_the_sum_of_parts_that_say_where_they_are_from() {
    let mut need = Need { memory: Some(4 * GB), ..Need::new(Tier::Reasoning) };
    need.capabilities.schema = true;
    let selection = select(&need, &[measured(model("mistral:7b", GB), 5, 512.0, 64.0)]);
    let score = selection.verdicts[0].score().unwrap();
    let parts: Vec<_> = score.parts.iter().map(|part| (part.name, part.points, part.of)).collect();
    // (16.75 + 1) / (16.75 + 2), the first of its tier, 1 / (1 + 3 s / 10 s), on disk, and 3 of 4 GB left.
    let expected =
        [("quality", 473, 500), ("tier", 250, 250), ("speed", 115, 150), ("readiness", 25, 50), ("room", 38, 50)];
    assert_eq!(parts, expected);
    assert_eq!(score.points, 473 + 250 + 115 + 25 + 38);
    let why: Vec<_> = score.parts.iter().map(|part| part.why.as_str()).collect();
    assert_eq!(
        why,
        [
            "5 of 5 reasoning, 15 of 15 others, 8 of 8 in form",
            "the documents have it for reasoning",
            "about 3.0 s for 512 tokens of prompt and 128 of answer",
            "to be loaded first",
            "leaves 3000 of 4000 MB",
        ]
    );
    let json = serde_json::to_value(&selection).unwrap();
    assert_eq!(json["verdicts"][0]["judgement"]["usable"]["parts"][0]["points"], 473);
    assert_eq!(json["need"]["tier"], "reasoning");
}

#[test]
fn a_longer_prompt_takes_longer() {
    let reads = measured(model("reads:1b", GB), 3, 1_000.0, 10.0);
    let writes = measured(model("writes:1b", GB), 3, 50.0, 30.0);
    let need = |context_tokens| Need { context_tokens, ..Need::new(Tier::General) };
    let candidates = [reads, writes];
    assert_eq!(chosen(&need(4_096), &candidates).as_deref(), Some("reads:1b"));
    assert_eq!(chosen(&need(0), &candidates).as_deref(), Some("reads:1b"));
    let quicker = [measured(model("reads:1b", GB), 3, 200.0, 10.0), measured(model("writes:1b", GB), 3, 100.0, 30.0)];
    assert_eq!(chosen(&need(0), &quicker).as_deref(), Some("writes:1b"));
    assert_eq!(chosen(&need(4_096), &quicker).as_deref(), Some("reads:1b"));
}

fn tiers() -> impl Strategy<Value = Tier> {
    prop::sample::select(Tier::ALL.to_vec())
}

fn capabilities() -> impl Strategy<Value = ModelCapabilities> {
    // Mostly there, so that most candidates can serve.
    let flag = || prop::bool::weighted(0.8);
    (flag(), flag(), flag()).prop_map(|(tools, schema, vision)| ModelCapabilities {
        chat: true,
        tools,
        schema,
        vision,
        ..ModelCapabilities::NONE
    })
}

fn needs() -> impl Strategy<Value = Need> {
    let flag = || prop::bool::weighted(0.2);
    let memory = prop::option::of(0..10 * GB);
    (tiers(), flag(), flag(), prop::sample::select(vec![0_usize, 600, 5_000]), memory).prop_map(
        |(tier, tools, schema, context_tokens, memory)| Need {
            capabilities: ModelCapabilities { chat: true, tools, schema, ..ModelCapabilities::NONE },
            context_tokens,
            memory,
            ..Need::new(tier)
        },
    )
}

fn results() -> impl Strategy<Value = Measured> {
    let rate = || prop::option::of(0.0..2_000.0_f64);
    let right = prop::collection::vec(0..6_u32, 4);
    (rate(), rate(), right, 0..9_u32, prop::option::of(0..8 * GB)).prop_map(
        |(prompt, generation, right, json, memory)| Measured {
            prompt_tokens_per_s: prompt,
            generation_tokens_per_s: generation,
            memory_bytes: memory,
            json: Marks::new(json, 8),
            quality: Tier::ALL.into_iter().zip(right).map(|(tier, right)| (tier, Marks::new(right, 5))).collect(),
            ..Measured::default()
        },
    )
}

/// A candidate whose backend is its own.
fn candidate() -> impl Strategy<Value = Candidate> {
    let names = vec!["tinyllama:latest", "mistral:7b", "mistral:large", "qwen3:8b", "deepseek-coder", "smollm2:135m"];
    let presence = prop_oneof![
        3 => Just(Presence::Loaded),
        5 => Just(Presence::Ready),
        1 => Just(Presence::Absent),
        1 => Just(Presence::Unusable("damaged".into())),
    ];
    let runs = prop_oneof![4 => Just(Runs::Here), 1 => Just(Runs::Elsewhere)];
    let known = (prop::sample::select(names), 256..9_000_usize, prop::option::of(0..8 * GB), capabilities());
    (known, presence, runs, prop::option::of(results())).prop_map(
        |((name, context, memory, capabilities), presence, runs, measured)| {
            let info = ModelInfo { capabilities, memory, ..ModelInfo::new(name, "", context) };
            Candidate { info, runs, presence, measured }
        },
    )
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::vec(candidate(), 0..8).prop_map(|mut candidates| {
        for (index, candidate) in candidates.iter_mut().enumerate() {
            candidate.info.backend = format!("m{index}");
        }
        candidates
    })
}

/// Whether a candidate can serve, said in another way.
fn can_serve(need: &Need, candidate: &Candidate) -> bool {
    let Candidate { info, runs, presence, .. } = candidate;
    let (wanted, there) = (need.capabilities, info.capabilities);
    let able = there.chat && (there.tools || !wanted.tools) && (there.schema || !wanted.schema);
    let fits = match (candidate.memory(), need.memory) {
        (Some(bytes), Some(available)) => bytes <= available,
        _ => true,
    };
    let takes_none = *runs == Runs::Elsewhere || *presence == Presence::Loaded;
    let here = matches!(presence, Presence::Loaded | Presence::Ready);
    here && able && info.context_length >= need.context_tokens && (fits || takes_none)
}

/// The same candidate, better in something that counts and worse in nothing.
fn improved(candidate: &Candidate, how: usize) -> Candidate {
    let mut better = candidate.clone();
    match (how, &mut better.measured) {
        (0, Some(measured)) => measured.quality.values_mut().for_each(|marks| marks.right = 5),
        (1, Some(measured)) => measured.json.right = 8,
        (2, Some(measured)) => measured.prompt_tokens_per_s = measured.prompt_tokens_per_s.map(|rate| rate * 1.001),
        (3, Some(measured)) => {
            measured.generation_tokens_per_s = measured.generation_tokens_per_s.map(|rate| rate * 2.0)
        }
        (4, Some(measured)) => measured.memory_bytes = measured.memory_bytes.map(|bytes| bytes / 2),
        (5, None) => better.info.memory = better.info.memory.map(|bytes| bytes - bytes / 1_000),
        (6, _) => better.info.context_length += 1_000,
        _ => {}
    }
    if how == 7 && better.presence == Presence::Ready {
        better.presence = Presence::Loaded;
    }
    better
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn only_who_can_serve_is_ranked(need in needs(), candidates in candidates()) {
        let selection = select(&need, &candidates);
        prop_assert_eq!(selection.verdicts.len(), candidates.len());
        for verdict in &selection.verdicts {
            prop_assert_eq!(verdict.score().is_some(), can_serve(&need, &verdict.candidate), "{:?}", verdict);
            if let Some(score) = verdict.score() {
                prop_assert!(score.points <= 1_000);
                prop_assert_eq!(score.points, score.parts.iter().map(|part| part.points).sum::<u32>());
                prop_assert!(score.parts.iter().all(|part| part.points <= part.of));
            }
        }
        // No usable one behind one that is not, and none behind one with fewer points.
        let points: Vec<_> = selection.verdicts.iter().map(|verdict| verdict.score().map(|score| score.points)).collect();
        prop_assert!(points.is_sorted_by(|a, b| a >= b), "{:?}", points);
        let any = candidates.iter().any(|candidate| can_serve(&need, candidate));
        prop_assert_eq!(selection.chosen().is_some(), any);
        prop_assert!(selection.chosen().is_none_or(|chosen| can_serve(&need, chosen)));
    }

    #[test]
    fn the_order_of_the_list_does_not_matter(need in needs(), candidates in candidates(), turn in 0..8_usize) {
        let mut turned = candidates.clone();
        turned.rotate_left(turn % candidates.len().max(1));
        let mut reversed = candidates.clone();
        reversed.reverse();
        let selection = select(&need, &candidates);
        prop_assert_eq!(&select(&need, &turned), &selection);
        prop_assert_eq!(&select(&need, &reversed), &selection);
    }

    #[test]
    fn who_cannot_serve_changes_nothing(need in needs(), candidates in candidates(), more in candidate(), at in any::<prop::sample::Index>()) {
        let useless = Candidate { presence: Presence::Absent, ..more };
        let mut with = candidates.clone();
        with.insert(at.index(candidates.len() + 1), useless);
        let usable = |selection: Selection| -> Vec<Verdict> {
            selection.verdicts.into_iter().filter(|verdict| verdict.score().is_some()).collect()
        };
        prop_assert_eq!(usable(select(&need, &with)), usable(select(&need, &candidates)));
    }

    #[test]
    fn who_is_better_in_one_thing_and_worse_in_none_is_not_ranked_lower(need in needs(), candidates in candidates(), one in candidate(), how in 0..8_usize) {
        prop_assume!(can_serve(&need, &one));
        let mut better = improved(&one, how);
        let mut one = one;
        // Its name speaks for it last of all.
        (one.info.backend, better.info.backend) = ("a".into(), "z".into());
        let mut all = candidates;
        all.extend([one.clone(), better.clone()]);
        let selection = select(&need, &all);
        let place = |wanted: &Candidate| selection.verdicts.iter().position(|verdict| verdict.candidate == *wanted).unwrap();
        let (lower, higher) = (&selection.verdicts[place(&one)], &selection.verdicts[place(&better)]);
        prop_assert!(higher.score().is_some(), "what is better can serve too: {:?}", higher);
        let (worse, better_by) = (lower.score().unwrap(), higher.score().unwrap());
        prop_assert!(better_by.points >= worse.points, "{:?} {:?}", lower, higher);
        prop_assert!(worse.order(better_by).is_eq() || place(&better) < place(&one), "{:?} {:?}", lower, higher);
    }
}
