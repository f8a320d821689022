//! Time as both sides write it: UTC unix milliseconds. This crate never asks for the time (A1).

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// UTC milliseconds since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// Whole seconds since 1970, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// A time from whole seconds since 1970.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1_000))
    }

    /// This time and `by` later; stays at the end of time instead of wrapping.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This time and `by` earlier; stays at the beginning of time instead of wrapping.
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A calendar month in UTC, written as year × 100 + month: `202611`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Month(u32);

impl Month {
    /// The month in which a time lies.
    pub const fn of(at: UnixMillis) -> Self {
        // Days since 1970-01-01 to a civil date, in eras of 400 years that begin on a first of March.
        let days = at.0.div_euclid(86_400_000) + 719_468;
        let era = days.div_euclid(146_097);
        let day = days.rem_euclid(146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let of_year = day - (365 * year + year / 4 - year / 100);
        let shifted = (5 * of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year + era * 400 + if month <= 2 { 1 } else { 0 };
        Self(if year < 1 || year > 9_999 { 0 } else { (year * 100 + month) as u32 })
    }

    /// Reads `202611`; `None` for what is no month.
    pub const fn from_number(number: u32) -> Option<Self> {
        let (year, month) = (number / 100, number % 100);
        if year >= 1 && year <= 9_999 && month >= 1 && month <= 12 { Some(Self(number)) } else { None }
    }

    /// `202611`.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The month before.
    #[must_use]
    pub const fn before(self) -> Self {
        if self.0 % 100 == 1 { Self(self.0 - 100 + 11) } else { Self(self.0.saturating_sub(1)) }
    }
}

/// `2026-11`.
impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0 / 100, self.0 % 100)
    }
}

/// Not a month of the form `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a month is written as 2026-11")]
pub struct ParseMonthError;

impl std::str::FromStr for Month {
    type Err = ParseMonthError;

    fn from_str(text: &str) -> Result<Self, ParseMonthError> {
        let digits = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
        let (year, month) = text.split_once('-').ok_or(ParseMonthError)?;
        if !digits(year, 4) || !digits(month, 2) {
            return Err(ParseMonthError);
        }
        let number = format!("{year}{month}").parse().map_err(|_| ParseMonthError)?;
        Self::from_number(number).ok_or(ParseMonthError)
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn months_begin_and_end_at_midnight_utc() {
        for (ms, month) in [
            (0, "1970-01"),
            (-1, "1969-12"),
            (1_709_164_799_999, "2024-02"),
            (1_709_251_199_999, "2024-02"),
            (1_709_251_200_000, "2024-03"),
            (1_795_466_970_000, "2026-11"),
            (1_798_761_599_999, "2026-12"),
            (1_798_761_600_000, "2027-01"),
        ] {
            assert_eq!(Month::of(UnixMillis(ms)).to_string(), month, "{ms}");
        }
        assert_eq!(Month::from_number(202_701).map(Month::before), Month::from_number(202_612));
        assert_eq!("2026-11".parse(), Ok(Month(202_611)));
        for wrong in ["2026-13", "2026-00", "202611", "2026-1", "+026-01", "", "0000-01"] {
            assert_eq!(wrong.parse::<Month>(), Err(ParseMonthError), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn months_never_go_back_and_none_is_longer_than_31_days(ms in -10_000_000_000_000_i64..200_000_000_000_000) {
            let month = Month::of(UnixMillis(ms));
            prop_assert!(Month::of(UnixMillis(ms + 86_400_000)) >= month);
            prop_assert!(Month::of(UnixMillis(ms + 31 * 86_400_000)) > month);
            prop_assert!(Month::of(UnixMillis(ms - 31 * 86_400_000)) <= month.before());
            prop_assert_eq!(month.to_string().parse(), Ok(month));
        }
    }
}
