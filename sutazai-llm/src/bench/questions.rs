//! The quality set: twenty questions, five for each tier, whose answers can be judged by rules.
//!
//! It is small on purpose: a large model on a small machine answers it in minutes. It tells models apart that are far apart, and no more than that.

use super::check::Check;
use crate::tier::Tier;

/// The version of this set and of what else a bench asks. Results of another one are not compared.
pub const QUESTIONS_VERSION: u32 = 1;

/// A question of the quality set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question {
    /// Its name, which never changes.
    pub name: &'static str,
    /// What it asks of a model.
    pub tier: Tier,
    /// The question itself.
    pub text: &'static str,
    /// What makes an answer right.
    pub check: Check,
}

const fn question(name: &'static str, tier: Tier, text: &'static str, check: Check) -> Question {
    Question { name, tier, text, check }
}

/// One of these words, and none of those before it.
const fn says(right: &'static [&'static str], instead: &'static [&'static str]) -> Check {
    Check::Says { right, instead }
}

/// Every question.
pub const QUESTIONS: &[Question] = &[
    question(
        "capital",
        Tier::General,
        "What is the capital of France? Answer with its name alone.",
        says(&["Paris"], &["Lyon", "Marseille"]),
    ),
    question(
        "leap_year",
        Tier::General,
        "How many days has a leap year? Answer with the number alone.",
        Check::Number(366.0),
    ),
    question(
        "fruit",
        Tier::General,
        "Which of these is a fruit: hammer, banana, river? Answer with one word.",
        says(&["banana"], &["hammer", "river"]),
    ),
    question(
        "opposite",
        Tier::General,
        "What is the opposite of \"ancient\": old, modern or large? Answer with one word.",
        says(&["modern"], &["old", "large"]),
    ),
    question(
        "photosynthesis",
        Tier::General,
        "Which gas do plants take in for photosynthesis, oxygen or carbon dioxide? Answer with its name alone.",
        says(&["carbon dioxide", "CO2", "CO₂"], &["oxygen"]),
    ),
    question(
        "sheep",
        Tier::Reasoning,
        "All but 9 of a farmer's 17 sheep run away. How many sheep are left? Answer with the number alone.",
        Check::Number(9.0),
    ),
    question(
        "shortest",
        Tier::Reasoning,
        "Tom is taller than Ann. Ann is taller than Eve. Who is the shortest of the three? Answer with the name alone.",
        says(&["Eve"], &["Tom", "Ann"]),
    ),
    question(
        "bat_and_ball",
        Tier::Reasoning,
        "A bat and a ball cost 110 cents together. The bat costs 100 cents more than the ball. How many cents does the ball cost? Answer with the \
         number alone.",
        Check::Number(5.0),
    ),
    question(
        "syllogism",
        Tier::Reasoning,
        "All roses are flowers. Some flowers fade quickly. Does it follow for certain that some roses fade quickly? Answer yes or no.",
        says(&["no"], &["yes"]),
    ),
    question(
        "arrival",
        Tier::Reasoning,
        "A train leaves at 14:45 and travels for 95 minutes. When does it arrive? Answer with the time alone, as HH:MM.",
        says(
            &["16:20", "4:20 pm", "4:20pm"],
            &["16:00", "16:10", "15:95", "16:15", "16:25", "15:20", "15:40", "17:20"],
        ),
    ),
    question(
        "sum_of_even",
        Tier::Code,
        "What does this Python program print?\nprint(sum(x for x in range(5) if x % 2 == 0))\nAnswer with the number alone.",
        Check::Number(6.0),
    ),
    question(
        "slice",
        Tier::Code,
        "What is the value of this Python expression?\nlen(\"hello\"[1:4])\nAnswer with the number alone.",
        Check::Number(3.0),
    ),
    question(
        "larger",
        Tier::Code,
        "Complete this Python function with one expression, so that it gives the larger of two numbers.\ndef larger(a, b):\n    return ...\nAnswer \
         with the expression alone.",
        Check::Writes(&[
            "max(a, b)",
            "max(b, a)",
            "a if a > b else b",
            "a if a >= b else b",
            "b if b > a else a",
            "b if b >= a else a",
            "a if b < a else b",
            "a if b <= a else b",
            "b if a < b else a",
            "b if a <= b else a",
        ]),
    ),
    question(
        "groups",
        Tier::Code,
        "Which clause of SQL filters groups after GROUP BY, WHERE or HAVING? Answer with one word.",
        says(&["having"], &["where"]),
    ),
    question(
        "binary_search",
        Tier::Code,
        "How does the time of a binary search grow with the length n of the sorted array: O(1), O(n), O(log n) or O(n log n)? Answer with one of these.",
        says(
            &["O(log n)", "O(log(n))", "O(log2 n)", "O(log₂ n)", "logarithmic"],
            &["O(1)", "O(n)", "O(n log n)", "linear"],
        ),
    ),
    question(
        "lowest_month",
        Tier::Analysis,
        "Sales were 120 in January, 150 in February and 90 in March. In which month were they lowest? Answer with one word.",
        says(&["March"], &["January", "February"]),
    ),
    question(
        "mean",
        Tier::Analysis,
        "What is the mean of 4, 8, 15, 16, 23 and 42? Answer with the number alone.",
        Check::Number(18.0),
    ),
    question(
        "dates",
        Tier::Analysis,
        "Put these dates in order, the earliest first: 2024-03-01, 2023-12-31, 2024-01-15. Answer with the three dates alone.",
        Check::Order(&["2023-12-31", "2024-01-15", "2024-03-01"]),
    ),
    question(
        "review",
        Tier::Analysis,
        "\"The screen is bright, but the battery died after two days and nobody answers my letters.\" Is this review positive or negative as a whole? \
         Answer with one word.",
        says(&["negative"], &["positive"]),
    ),
    question(
        "growth",
        Tier::Analysis,
        "The revenue of a shop rose from 200 to 250. By how many percent did it rise? Answer with the number alone.",
        Check::Number(25.0),
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// For each question answers that are right, and answers that are not.
    const ANSWERS: &[(&str, &[&str], &[&str])] = &[
        ("capital", &["Paris", "The capital of France is Paris."], &["Lyon", "Parisian", ""]),
        ("leap_year", &["366", "A leap year has 366 days."], &["365", "three hundred"]),
        ("fruit", &["Banana.", "A banana is a fruit, a hammer is not."], &["River", "hammer, banana"]),
        ("opposite", &["modern", "Modern!"], &["old", "new"]),
        ("photosynthesis", &["Carbon dioxide", "CO₂"], &["Oxygen", "nitrogen"]),
        ("sheep", &["9", "17 were there. 9"], &["8", "17"]),
        ("shortest", &["Eve", "**Eve** is shorter than Ann."], &["Ann", "Tom, Ann, Eve"]),
        ("bat_and_ball", &["5", "5 cents", "0.5 * 10 = 5"], &["10", "0.05"]),
        ("syllogism", &["No", "No, it does not follow."], &["Yes", "Yes, there is no other way.", "It does not"]),
        ("arrival", &["16:20", "It arrives at 16:20.", "4:20 PM"], &["16:10", "15:40", "6:20"]),
        ("sum_of_even", &["6", "0 + 2 + 4 = 6"], &["10", "4"]),
        ("slice", &["3", "It is 3."], &["4", "ell"]),
        ("larger", &["max(a, b)", "return a if a>b else b"], &["a > b", "min(a, b)"]),
        ("groups", &["HAVING", "Having, since WHERE comes before."], &["WHERE", "ORDER BY"]),
        ("binary_search", &["O(log n)", "It is `O(log n)`, not O(n)."], &["O(n)", "O(n log n)", "O(1)"]),
        ("lowest_month", &["March", "March (90)"], &["January", "February, then March"]),
        ("mean", &["18", "108 / 6 = 18.0"], &["108", "17.5"]),
        (
            "dates",
            &["2023-12-31, 2024-01-15, 2024-03-01", "1. 2023-12-31\n2. 2024-01-15\n3. 2024-03-01"],
            &["2024-03-01, 2024-01-15, 2023-12-31", "2023-12-31, 2024-03-01"],
        ),
        ("review", &["Negative", "negative, though the screen is good"], &["Positive", "positive and negative"]),
        ("growth", &["25", "25%"], &["50", "20"]),
    ];

    #[test]
    fn right_answers_and_wrong_ones_are_told_apart() {
        let names: Vec<_> = QUESTIONS.iter().map(|question| question.name).collect();
        assert_eq!(names, ANSWERS.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
        for (question, (name, right, wrong)) in QUESTIONS.iter().zip(ANSWERS) {
            for answer in *right {
                assert!(question.check.passes(answer), "{name}: {answer:?} is right");
            }
            for answer in *wrong {
                assert!(!question.check.passes(answer), "{name}: {answer:?} is wrong");
            }
        }
    }

    #[test]
    fn no_question_answers_itself() {
        for question in QUESTIONS {
            assert!(!question.check.passes(question.text), "{} is passed by its own text", question.name);
        }
    }

    #[test]
    fn every_tier_has_five_and_every_name_is_one_question_s() {
        for tier in Tier::ALL {
            assert_eq!(QUESTIONS.iter().filter(|question| question.tier == tier).count(), 5, "{tier:?}");
        }
        let names: BTreeSet<_> = QUESTIONS.iter().map(|question| question.name).collect();
        assert_eq!(names.len(), QUESTIONS.len());
    }
}
