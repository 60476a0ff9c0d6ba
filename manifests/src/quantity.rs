//! Quantities: `100m`, `1.5Gi`, `12e6`, as fixed-point numbers that print in canonical form.
//!
//! Follows `k8s.io/apimachinery/pkg/api/resource`. An amount is a number of nano-units in 128 bits: enough for anything
//! that upstream can also hold as 64 bits of whole units, at upstream's finest scale. What is finer is rounded away from
//! zero ("if you want some, you get some"), what is larger is capped at 2⁶³−1 whole units.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

const NANOS: i128 = 1_000_000_000;
/// The cap: 2⁶³−1 whole units.
const MAX: i128 = i64::MAX as i128 * NANOS;
/// Longer numbers are not written by anybody; the bound keeps parsing linear and small.
const MAX_LENGTH: usize = 256;

/// The family of suffixes that a quantity was written with, and is printed with again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// `k`, `M`, `m`, …
    #[default]
    DecimalSi,
    /// `Ki`, `Mi`, …
    BinarySi,
    /// `e3`, `e6`, …
    DecimalExponent,
}

/// An amount of a resource. Compares by amount, whatever it was written like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is not a quantity; the messages are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not number-then-suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// A number that cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// A suffix that does not exist.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// Whole units.
    pub fn new(value: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(value) * NANOS, format }
    }

    /// Thousandths, as CPU is counted.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nanos: i128::from(milli) * (NANOS / 1000), format: Format::DecimalSi }
    }

    /// Bytes, printed with `Ki`, `Mi`, ….
    pub fn from_bytes(bytes: i64) -> Quantity {
        Quantity::new(bytes, Format::BinarySi)
    }

    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Quantity, ParseError> {
        parse(text)
    }

    /// Reads the quantity of an API object; what cannot be read counts as nothing. Validated objects have none of those.
    pub fn of(quantity: &ApiQuantity) -> Quantity {
        parse(&quantity.0).unwrap_or_default()
    }

    /// Whole units, rounded away from zero.
    pub fn value(&self) -> i64 {
        clamp(divide_away_from_zero(self.nanos, NANOS))
    }

    /// Thousandths, rounded away from zero.
    pub fn milli(&self) -> i64 {
        clamp(divide_away_from_zero(self.nanos, NANOS / 1000))
    }

    /// The amount as a float, for ratios and printing only.
    pub fn to_f64(&self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    /// Whether the amount is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether the amount is below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether the amount has no fraction.
    pub fn is_integer(&self) -> bool {
        self.nanos % NANOS == 0
    }

    /// Whether the amount is a multiple of a thousandth.
    pub fn is_milli(&self) -> bool {
        self.nanos % (NANOS / 1000) == 0
    }

    /// The suffixes that it prints with.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether `self` and `other` also print alike.
    pub fn same_text(&self, other: &Quantity) -> bool {
        self.to_string() == other.to_string()
    }
}

fn parse(text: &str) -> Result<Quantity, ParseError> {
    if text.len() > MAX_LENGTH {
        return Err(ParseError::Number);
    }
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = |s: &str| s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(ParseError::Format);
    }
    let (base, exponent, mut format) = parse_suffix(suffix)?;

    let digits = format!("{whole}{fraction}");
    let trailing = digits.len() - digits.trim_end_matches('0').len();
    let significant = digits.trim_matches('0');
    if significant.is_empty() {
        return Ok(Quantity { nanos: 0, format });
    }
    let fraction_digits = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let trailing = i64::try_from(trailing).unwrap_or(i64::MAX);
    let scale = trailing - fraction_digits + 9 + if base == 10 { exponent } else { 0 };
    let multiplier = if base == 2 { 1i128 << exponent } else { 1 };
    let nanos = scaled(significant, multiplier, scale).unwrap_or(MAX);
    let nanos = if format == Format::BinarySi { nanos.min(MAX) } else { nanos };
    if format == Format::BinarySi && nanos < NANOS {
        format = Format::DecimalSi; // a fraction of a byte cannot be said with a binary suffix
    }
    Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
}

/// `digits · multiplier · 10^scale`, rounded up; `None` when it does not fit.
fn scaled(digits: &str, multiplier: i128, scale: i64) -> Option<i128> {
    // With a multiplier of at most 2⁶⁰, twenty digits fit in 128 bits. More digits only matter for rounding up.
    let keep = if multiplier > 1 { 20 } else { 38 };
    let (kept, cut) = digits.split_at(digits.len().min(keep));
    let scale = scale.checked_add(i64::try_from(cut.len()).ok()?)?;
    let mut amount = kept.parse::<i128>().ok()?.checked_mul(multiplier)?;
    let mut inexact = cut.bytes().any(|digit| digit != b'0');
    let power = u32::try_from(scale.unsigned_abs()).ok().and_then(|scale| 10i128.checked_pow(scale));
    if scale >= 0 {
        amount = amount.checked_mul(power?)?;
    } else {
        let power = power.unwrap_or(i128::MAX); // divides anything to less than one
        inexact |= amount % power != 0;
        amount /= power;
    }
    if inexact { amount.checked_add(1) } else { Some(amount) }
}

/// Base and exponent of a suffix.
fn parse_suffix(suffix: &str) -> Result<(u8, i64, Format), ParseError> {
    use Format::{BinarySi, DecimalExponent, DecimalSi};
    Ok(match suffix {
        "n" => (10, -9, DecimalSi),
        "u" => (10, -6, DecimalSi),
        "m" => (10, -3, DecimalSi),
        "" => (10, 0, DecimalSi),
        "k" => (10, 3, DecimalSi),
        "M" => (10, 6, DecimalSi),
        "G" => (10, 9, DecimalSi),
        "T" => (10, 12, DecimalSi),
        "P" => (10, 15, DecimalSi),
        "E" => (10, 18, DecimalSi),
        "Ki" => (2, 10, BinarySi),
        "Mi" => (2, 20, BinarySi),
        "Gi" => (2, 30, BinarySi),
        "Ti" => (2, 40, BinarySi),
        "Pi" => (2, 50, BinarySi),
        "Ei" => (2, 60, BinarySi),
        other => {
            let letters = other.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
            let digits = letters.strip_prefix(['+', '-']).unwrap_or(letters);
            if digits.contains(|c: char| !c.is_ascii_digit()) {
                return Err(ParseError::Format);
            }
            let exponent = other.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
            (10, i64::from(exponent.parse::<i32>().map_err(|_| ParseError::Suffix)?), DecimalExponent)
        }
    })
}

fn divide_away_from_zero(amount: i128, by: i128) -> i128 {
    let quotient = amount / by;
    if amount % by == 0 { quotient } else { quotient + amount.signum() }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// The canonical form: no fraction, the largest suffix that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let large = self.nanos.unsigned_abs() >= 1024 * NANOS.unsigned_abs();
        if self.format == Format::BinarySi && large && self.is_integer() {
            let mut number = self.nanos / NANOS;
            let mut step = 0;
            while number % 1024 == 0 && step + 1 < BINARY.len() {
                number /= 1024;
                step += 1;
            }
            return write!(f, "{number}{}", BINARY[step]);
        }
        let mut number = self.nanos;
        let mut step = 0;
        while number % 1000 == 0 && step + 1 < DECIMAL.len() {
            number /= 1000;
            step += 1;
        }
        match (self.format, step) {
            (Format::DecimalExponent, 3) => write!(f, "{number}"),
            (Format::DecimalExponent, _) => write!(f, "{number}e{}", step as i64 * 3 - 9),
            _ => write!(f, "{number}{}", DECIMAL[step]),
        }
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Quantity, ParseError> {
        parse(text)
    }
}

impl TryFrom<&ApiQuantity> for Quantity {
    type Error = ParseError;

    fn try_from(quantity: &ApiQuantity) -> Result<Quantity, ParseError> {
        parse(&quantity.0)
    }
}

impl From<Quantity> for ApiQuantity {
    fn from(quantity: Quantity) -> ApiQuantity {
        ApiQuantity(quantity.to_string())
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The sum keeps the format of the first operand, unless that is zero. Saturates.
impl Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        self + -other
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity { nanos: self.nanos.saturating_neg(), format: self.format }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(quantities: I) -> Quantity {
        quantities.fold(Quantity::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, canonical: &str, value: i64, milli: i64) {
        let quantity = Quantity::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(quantity.to_string(), canonical, "{text}");
        assert_eq!((quantity.value(), quantity.milli()), (value, milli), "{text}");
    }

    #[test]
    fn canonical_forms() {
        check("0", "0", 0, 0);
        check("0Gi", "0", 0, 0);
        check("100m", "100m", 1, 100);
        check("0.5", "500m", 1, 500);
        check(".5", "500m", 1, 500);
        check("5.", "5", 5, 5000);
        check("1.5", "1500m", 2, 1500);
        check("1000m", "1", 1, 1000);
        check("+2", "2", 2, 2000);
        check("-1500m", "-1500m", -2, -1500);
        check("1.5Gi", "1536Mi", 1_610_612_736, 1_610_612_736_000);
        check("1024Ki", "1Mi", 1 << 20, (1 << 20) * 1000);
        check("1Ki", "1Ki", 1024, 1_024_000);
        check("1023Mi", "1023Mi", 1023 << 20, (1023 << 20) * 1000);
        check("0.5Ki", "512", 512, 512_000);
        check("0.0001Ki", "102400u", 1, 103);
        check("100k", "100k", 100_000, 100_000_000);
        check("1000k", "1M", 1_000_000, 1_000_000_000);
        check("12e6", "12e6", 12_000_000, 12_000_000_000);
        check("12E6", "12e6", 12_000_000, 12_000_000_000);
        check("1e-3", "1e-3", 1, 1);
        check("100e3", "100e3", 100_000, 100_000_000);
        check("1E", "1E", 1_000_000_000_000_000_000, i64::MAX);
        check("0.1n", "1n", 1, 1);
        check("1.0000000001", "1000000001n", 2, 1001);
        check("128974848", "128974848", 128_974_848, 128_974_848_000);
        check("129e6", "129e6", 129_000_000, 129_000_000_000);
        check("123Mi", "123Mi", 128_974_848, 128_974_848_000);
    }

    #[test]
    fn extremes_are_capped() {
        check("8Ei", "9223372036854775807", i64::MAX, i64::MAX);
        check("100Ei", "9223372036854775807", i64::MAX, i64::MAX);
        check("1e400", "9223372036854775807", i64::MAX, i64::MAX);
        check("1e-400", "1e-9", 1, 1);
        check("10E", "10E", i64::MAX, i64::MAX);
    }

    #[test]
    fn errors() {
        for (text, error) in [
            ("", ParseError::Format),
            ("+", ParseError::Format),
            (".", ParseError::Format),
            ("abc", ParseError::Format),
            ("1.2.3", ParseError::Format),
            ("1 Gi", ParseError::Format),
            ("1KiB", ParseError::Format),
            ("1,5", ParseError::Format),
            ("1kk", ParseError::Suffix),
            ("1K", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1e99999999999", ParseError::Suffix),
            ("1ö", ParseError::Format),
            (&"9".repeat(300), ParseError::Number),
        ] {
            assert_eq!(Quantity::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn arithmetic() {
        let q = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!((q("1") + q("500m")).to_string(), "1500m");
        assert_eq!((Quantity::ZERO + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("1Gi") - q("512Mi")).to_string(), "512Mi");
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1000m"), q("1"));
        assert_eq!([q("100m"), q("200m")].into_iter().sum::<Quantity>().milli(), 300);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn canonical_form_reads_back(
            whole in 0u64..100_000_000,
            fraction in proptest::option::of(0u32..1000),
            suffix in prop::sample::select(vec!["", "n", "u", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "e3", "E-2"]),
        ) {
            let text = match fraction {
                Some(fraction) => format!("{whole}.{fraction}{suffix}"),
                None => format!("{whole}{suffix}"),
            };
            let quantity = Quantity::parse(&text).unwrap();
            let again = Quantity::parse(&quantity.to_string()).unwrap();
            prop_assert_eq!(quantity, again);
            prop_assert_eq!(quantity.to_string(), again.to_string());
        }

        #[test]
        fn milli_and_value_round_up(nanos in 0i64..i64::MAX) {
            let quantity = Quantity::parse(&format!("{nanos}n")).unwrap();
            prop_assert!(i128::from(quantity.milli()) * 1_000_000 >= i128::from(nanos));
            prop_assert!(i128::from(quantity.milli() - 1) * 1_000_000 < i128::from(nanos));
            prop_assert_eq!(quantity.value(), (nanos + 999_999_999) / 1_000_000_000);
        }
    }
}
