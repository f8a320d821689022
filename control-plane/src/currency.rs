//! Currencies: how many decimals their amounts have.
//!
//! Amounts are integers of the smallest unit *as Stripe counts it*, everywhere. How many of these make one of what people
//! say is Stripe's to define, currency by currency (<https://docs.stripe.com/currencies>), so this table is the only place
//! that knows. What is not in it is not sold: an amount that is shown or refunded a hundredfold off is worse than a
//! catalogue that is refused.

/// Without decimals: 500 is 500.
const WHOLE: &str = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf";

/// With two decimals: 500 is 5.00.
const HUNDREDTHS: &str = "aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd cad cdf \
    chf cny cop crc cve czk dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd hnl htg huf idr ils inr isk jmd \
    kes kgs khr kyd kzt lak lbp lkr lrd lsl mad mdl mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd pab \
    pen pgk php pkr pln qar ron rsd rub sar sbd scr sek sgd shp sle sos srd std szl thb tjs top try ttd twd tzs uah ugx \
    usd uyu uzs wst xcd yer zar zmw";

/// With three: 5,000 is 5.000.
const THOUSANDTHS: &str = "bhd jod kwd omr tnd";

/// Stripe counts their hundredths, though there are none: an amount ends in 00.
const IN_WHOLE_HUNDREDS: &str = "isk ugx";

/// How many decimals amounts in a currency have; nothing for one that Stripe does not take, as far as we know.
pub(crate) fn decimals(currency: &str) -> Option<u8> {
    let has = |table: &str| table.split_ascii_whitespace().any(|known| known == currency);
    match () {
        () if has(WHOLE) => Some(0),
        () if has(HUNDREDTHS) => Some(2),
        () if has(THOUSANDTHS) => Some(3),
        () => None,
    }
}

/// Amounts that Stripe charges in a currency are multiples of this.
fn step(currency: &str) -> i64 {
    if IN_WHOLE_HUNDREDS.split_ascii_whitespace().any(|known| known == currency) {
        return 100;
    }
    if decimals(currency) == Some(3) { 10 } else { 1 }
}

/// Finds what is wrong with an amount of the catalogue: one sentence.
pub(crate) fn check(amount_minor: i64, currency: &str) -> Result<(), String> {
    if decimals(currency).is_none() {
        return Err(format!(
            "{currency:?} is no currency that Stripe takes, as far as this version knows; write its ISO code in lower case, \
             such as eur or usd"
        ));
    }
    let step = step(currency);
    if amount_minor % step != 0 {
        return Err(format!(
            "Stripe takes amounts in {currency} that are multiples of {step}, and {amount_minor} is none"
        ));
    }
    Ok(())
}

/// An amount with its decimals, thousands apart: `1,234.50`, `1,200`.
///
/// One in a currency that is not in the table was made in Stripe by hand; it is read as the most have it, with two.
pub(crate) fn written(amount_minor: u64, currency: &str) -> String {
    let digits = decimals(currency).unwrap_or(2);
    let one = 10_u64.pow(u32::from(digits));
    let whole = grouped(amount_minor / one);
    match usize::from(digits) {
        0 => whole,
        digits => format!("{whole}.{:0digits$}", amount_minor % one),
    }
}

/// Minor units of what a person wrote: `4.50`, `4,50` or `4`; nothing for what is no amount, or in no currency we know.
pub(crate) fn read(text: &str, currency: &str) -> Option<i64> {
    let digits = usize::from(decimals(currency)?);
    let (whole, part) = text.split_once(['.', ',']).unwrap_or((text, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(part) || part.len() > digits || whole.len() > 9 {
        return None;
    }
    let padded = format!("{part:0<digits$}");
    format!("{whole}{padded}").parse().ok()
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Every currency there is.
#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    [WHOLE, HUNDREDTHS, THOUSANDTHS].into_iter().flat_map(str::split_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_currency_stands_once() {
        let mut seen: Vec<&str> = all().collect();
        let many = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), many);
        assert!(seen.iter().all(|one| one.len() == 3 && one.bytes().all(|byte| byte.is_ascii_lowercase())));
        assert!(IN_WHOLE_HUNDREDS.split_ascii_whitespace().all(|one| decimals(one) == Some(2)));
    }

    #[test]
    fn amounts_have_the_decimals_that_stripe_counts() {
        for (minor, currency, text) in [
            (123_456, "eur", "1,234.56"),
            (5, "usd", "0.05"),
            (1_200, "jpy", "1,200"),
            (1_200, "xof", "1,200"),
            (1_200, "pyg", "1,200"),
            (5_120, "kwd", "5.120"),
            (500, "isk", "5.00"),
            (500, "ugx", "5.00"),
        ] {
            assert_eq!(written(minor, currency), text, "{currency}");
        }
        assert_eq!(decimals("zzz"), None);
        assert_eq!(read("4.50", "zzz"), None, "nobody knows what that is");
    }

    #[test]
    fn what_stripe_does_not_take_is_refused_with_what_to_do() {
        for (minor, currency) in [(900, "eur"), (900, "xaf"), (5_120, "kwd"), (500, "isk")] {
            assert_eq!(check(minor, currency), Ok(()), "{currency}");
        }
        assert!(check(900, "xxx").unwrap_err().contains("ISO code"));
        assert!(check(900, "EUR").unwrap_err().contains("lower case"));
        assert!(check(5_125, "kwd").unwrap_err().contains("multiples of 10"));
        assert!(check(550, "ugx").unwrap_err().contains("multiples of 100"));
    }

    proptest! {
        /// What is shown and typed in again is the same money, in every currency.
        #[test]
        fn written_and_read_again_is_the_same_amount(minor in 0_u32..=u32::MAX) {
            for currency in all() {
                let minor = i64::from(minor) % 1_000_000_000;
                let text = written(minor.unsigned_abs(), currency).replace(',', "");
                prop_assert_eq!(read(&text, currency), Some(minor), "{} in {}", text, currency);
            }
        }
    }
}
