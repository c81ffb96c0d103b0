//! Which session reads a prompt: one that has read its beginning before, or one that can have it copied.

/// What a session has to offer to a prompt.
pub(crate) struct Offer<'a> {
    /// What it has read; nothing where that is not for this prompt to use.
    pub(crate) tokens: &'a [u32],
    /// How much it would forget.
    pub(crate) length: usize,
    /// Whether an answer is being given there.
    pub(crate) busy: bool,
    /// When it was last used: the higher, the later.
    pub(crate) used: u64,
}

/// Where a prompt is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The session that reads it.
    pub(crate) to: usize,
    /// The session that has its beginning.
    pub(crate) from: usize,
    /// The length of that beginning.
    pub(crate) length: usize,
}

/// The place for `prompt`; none if all sessions are busy.
///
/// Its beginning comes from the session that has most of it. Where that one is free and would forget less than it keeps, it goes on itself, as in a
/// conversation whose next turn has come. Else the beginning is copied to the free session that was used longest ago, so that what many requests begin with
/// stays where it is. The last token is always read: what follows it is asked for.
pub(crate) fn place(offers: &[Offer<'_>], prompt: &[u32]) -> Option<Place> {
    let oldest = (0..offers.len()).filter(|&n| !offers[n].busy).min_by_key(|&n| offers[n].used)?;
    let most = prompt.len().saturating_sub(1);
    let common = |offer: &Offer<'_>| offer.tokens.iter().zip(&prompt[..most]).take_while(|(a, b)| a == b).count();
    let (from, length) =
        offers.iter().map(common).enumerate().max_by_key(|&(n, length)| (length, !offers[n].busy, offers[n].used))?;
    let goes_on = !offers[from].busy && length * 2 > offers[from].length;
    Some(Place { to: if goes_on { from } else { oldest }, from, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(tokens: &[u32], busy: bool, used: u64) -> Offer<'_> {
        Offer { tokens, length: tokens.len(), busy, used }
    }

    #[test]
    fn a_conversation_goes_on_where_it_was() {
        let offers = [offer(&[1, 2, 3, 4], false, 9), offer(&[1, 2], false, 1), offer(&[], false, 0)];
        assert_eq!(place(&offers, &[1, 2, 3, 4, 5]), Some(Place { to: 0, from: 0, length: 4 }));
        // All of it is known, and yet what follows its last token is to be worked out.
        assert_eq!(place(&offers, &[1, 2, 3, 4]), Some(Place { to: 0, from: 0, length: 3 }));
    }

    #[test]
    fn what_many_begin_with_is_copied_and_stays() {
        let offers = [offer(&[1, 2, 7, 7, 7, 7], false, 9), offer(&[8, 8], false, 3), offer(&[5], false, 4)];
        assert_eq!(place(&offers, &[1, 2, 3]), Some(Place { to: 1, from: 0, length: 2 }));
        let busy = [offer(&[1, 2, 7], true, 9), offer(&[8, 8], false, 3)];
        assert_eq!(place(&busy, &[1, 2, 3]), Some(Place { to: 1, from: 0, length: 2 }));
    }

    #[test]
    fn a_stranger_takes_the_place_used_longest_ago() {
        let offers = [offer(&[1], false, 2), offer(&[2], true, 0), offer(&[3], false, 1)];
        let place = place(&offers, &[9, 9]).unwrap();
        assert_eq!((place.to, place.length), (2, 0));
        assert_eq!(super::place(&[offer(&[1], true, 0)], &[1, 2]), None);
        assert_eq!(super::place(&[], &[1, 2]), None);
    }

    #[test]
    fn what_is_not_for_it_to_use_is_forgotten_in_turn() {
        let foreign = Offer { tokens: &[], length: 4, busy: false, used: 0 };
        let place = place(&[foreign, offer(&[], true, 1)], &[1, 2]).unwrap();
        assert_eq!((place.to, place.length), (0, 0));
    }
}
