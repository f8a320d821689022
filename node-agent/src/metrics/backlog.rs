//! Which places of the ring nobody has acknowledged: a few spans, told from the newest end.

/// Places of the ring from `from` up to but not including `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// Spans that do not touch, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Backlog(Vec<Span>);

impl Backlog {
    pub(super) fn of(span: Span) -> Self {
        let mut backlog = Self::default();
        backlog.add(span);
        backlog
    }

    /// Puts a span in; what touches becomes one.
    pub(super) fn add(&mut self, span: Span) {
        if span.from >= span.to {
            return;
        }
        self.0.push(span);
        self.0.sort_by_key(|span| span.from);
        let mut joined: Vec<Span> = Vec::with_capacity(self.0.len());
        for span in self.0.drain(..) {
            match joined.last_mut() {
                Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
                _ => joined.push(span),
            }
        }
        self.0 = joined;
    }

    /// Takes out at most `most` of the newest places.
    pub(super) fn take_newest(&mut self, most: u64) -> Option<Span> {
        let last = self.0.pop()?;
        let cut = last.from.max(last.to.saturating_sub(most));
        if cut > last.from {
            self.0.push(Span { from: last.from, to: cut });
        }
        Some(Span { from: cut, to: last.to })
    }

    /// The ring has let go of everything before a place; says how much of it nobody had acknowledged.
    pub(super) fn forget_before(&mut self, place: u64) -> u64 {
        let mut lost = 0;
        for span in &mut self.0 {
            let from = span.from.max(place.min(span.to));
            lost += from - span.from;
            span.from = from;
        }
        self.0.retain(|span| span.from < span.to);
        lost
    }

    /// The end of the newest span.
    pub(super) fn newest(&self) -> Option<u64> {
        self.0.last().map(|span| span.to)
    }

    /// The oldest place that waits.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.0.first().map(|span| span.from)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn places(backlog: &Backlog) -> BTreeSet<u64> {
        backlog.0.iter().flat_map(|span| span.from..span.to).collect()
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_places_whose_newest_come_out_first(
            steps in proptest::collection::vec((0_u64..3, 0_u64..60, 0_u64..20), 0..40),
        ) {
            let (mut backlog, mut model) = (Backlog::default(), BTreeSet::new());
            for (step, at, length) in steps {
                match step {
                    0 => {
                        backlog.add(Span { from: at, to: at + length });
                        model.extend(at..at + length);
                    }
                    1 => {
                        let taken = backlog.take_newest(length + 1);
                        prop_assert_eq!(taken.is_none(), model.is_empty());
                        for place in taken.map_or(0..0, |span| span.from..span.to).rev() {
                            prop_assert_eq!(model.pop_last(), Some(place));
                        }
                    }
                    _ => {
                        let before = model.len();
                        model.retain(|place| *place >= at);
                        prop_assert_eq!(backlog.forget_before(at), (before - model.len()) as u64);
                    }
                }
                prop_assert_eq!(&places(&backlog), &model);
                prop_assert_eq!(backlog.lowest(), model.first().copied());
                prop_assert!(backlog.0.windows(2).all(|two| two[0].to < two[1].from));
            }
        }
    }
}
