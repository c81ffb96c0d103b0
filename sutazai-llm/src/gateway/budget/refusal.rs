//! Why a call is not made: which account, which measure, how much is left and until when.

use std::time::Duration;

use sutazai_core::{
    Error, ErrorKind,
    clock::Timestamp,
    store::{Account, Measure},
};

use super::block::Shortage;

/// What calls under way have reserved may be free again after so long; who cannot wait asks again.
const SOON: Duration = Duration::from_secs(1);

/// A call that is beyond a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) account: Account,
    pub(super) shortage: Shortage,
    /// Other processes may hold enough, and give back within so long what they do not use.
    pub(super) others: Option<Duration>,
}

/// Why no call may be made now.
#[derive(Debug)]
pub(super) enum Denied {
    Refused(Refusal),
    /// Whether there is enough cannot be found out.
    Unknown(Error),
}

impl Refusal {
    /// The error of a call to this model, whose prompt was counted or, if not `exact`, estimated.
    ///
    /// It is temporary where waiting helps: until the account's day is over, or until others have given back what they hold. What takes more than there is
    /// at all is not, and yet says when the next day begins: before that nobody need ask again.
    pub(super) fn error(&self, model: &str, exact: bool, now: Timestamp) -> Error {
        let account = &self.account;
        let Shortage { measure, asked, left, limit, held, .. } = self.shortage;
        let may_fit = asked <= limit;
        let resets = account.day().map(|day| day.plus(1).begin());
        let what_now = match resets {
            _ if held => "calls under way hold enough; try again when they have ended".to_owned(),
            _ if !may_fit => "no call may take so much; ask for less, or raise the limit".to_owned(),
            Some(at) => format!("it begins anew at {at}"),
            None if self.others.is_some() => {
                "other servers may hold enough; try again when they have given it back".to_owned()
            }
            None => "it does not begin anew; raise the limit".to_owned(),
        };
        let name = match measure {
            Measure::Time => "milliseconds",
            other => other.as_str(),
        };
        let about = if exact && measure != Measure::Time { "" } else { "about " };
        let shown = |amount: u64| match measure {
            Measure::Cost => format!("{}.{:06}", amount / 1_000_000, amount % 1_000_000),
            _ => amount.to_string(),
        };
        let (left, limit, asked) = (shown(left), shown(limit), shown(asked));
        let message = format!(
            "the budget of {account} is too small in {name}: {left} of {limit} are left, and the call may take {about}{asked}; {what_now}"
        );
        let delay = if held { Some(SOON) } else { self.others.or(resets.map(|at| now.until(at))) };
        // What no waiting helps is no matter of room.
        let kind = if delay.is_some() && may_fit { ErrorKind::Full } else { ErrorKind::Conflict };
        let error = Error::new(kind, message).with_code("budget_exceeded").during("chat with").about(model);
        match delay {
            Some(delay) => error.retry_after(delay),
            None => error,
        }
    }
}

/// Of a budget that cannot be drawn on now. Without knowing what is left no call is made.
pub(super) fn unknown(why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "what is left of the budget cannot be found out; try again")
        .with_code("budget_unavailable")
        .retry_after(SOON)
        .because(why)
}

#[cfg(test)]
mod tests {
    use sutazai_core::{store::Day, task::TaskId};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_796_083_200_000 + 23 * 3_600_000);

    fn refusal(account: Account, measure: Measure, asked: u64) -> Refusal {
        let shortage = Shortage { measure, asked, left: 120, limit: 5_000, held: false, elsewhere: true };
        Refusal { account, shortage, others: None }
    }

    fn agent() -> Account {
        Account::Agent { name: "coder".into(), day: Day::of(NOW) }
    }

    #[test]
    fn an_account_of_a_day_begins_anew() {
        let error = refusal(agent(), Measure::Tokens, 900).error("actor", false, NOW);
        assert_eq!(
            error.to_string(),
            "chat with actor: the budget of agent coder on 2026-12-01 is too small in tokens: 120 of 5000 are left, and the call may take about 900; \
             it begins anew at 2026-12-02T00:00:00.000Z"
        );
        assert_eq!(
            (error.kind(), error.code(), error.delay()),
            (ErrorKind::Full, "budget_exceeded", Some(Duration::from_secs(3_600)))
        );
        let too_much = refusal(agent(), Measure::Cost, 5_000_001).error("actor", true, NOW);
        assert!(
            too_much.to_string().contains("0.000120 of 0.005000 are left, and the call may take 5.000001; no call"),
            "{too_much}"
        );
        assert_eq!((too_much.is_temporary(), too_much.delay()), (false, Some(Duration::from_secs(3_600))));
    }

    #[test]
    fn a_task_s_does_not() {
        let task = Account::Task(TaskId::from_bytes([7; 16]));
        let error = refusal(task.clone(), Measure::Calls, 121).error("actor", true, NOW);
        assert_eq!((error.is_temporary(), error.code(), error.delay()), (false, "budget_exceeded", None));
        assert!(error.to_string().ends_with("may take 121; it does not begin anew; raise the limit"), "{error}");
        let others = Refusal { others: Some(Duration::from_secs(70)), ..refusal(task.clone(), Measure::Calls, 121) };
        let error = others.error("actor", true, NOW);
        assert_eq!((error.kind(), error.delay()), (ErrorKind::Full, others.others));
        assert!(error.to_string().ends_with("other servers may hold enough; try again when they have given it back"));
        let mut held = refusal(task, Measure::Time, 121);
        held.shortage.held = true;
        let held = held.error("actor", true, NOW);
        assert_eq!((held.is_temporary(), held.delay()), (true, Some(SOON)));
        assert!(held.to_string().contains("milliseconds") && held.to_string().contains("about 121"), "{held}");
    }
}
