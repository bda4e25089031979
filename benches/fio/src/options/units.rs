//! Numbers with units: byte counts, percentages, times.

#![forbid(unsafe_code)]

/// A byte count, or a share of the file or device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the whole.
    Percent(u8),
}

impl Amount {
    /// In bytes, of a whole of `whole` bytes.
    pub(crate) fn of(self, whole: u64) -> u64 {
        match self {
            Amount::Bytes(bytes) => bytes,
            Amount::Percent(share) => {
                (u128::from(whole) * u128::from(share) / 100).min(u128::from(u64::MAX)) as u64
            }
        }
    }
}

/// What byte counts look like, for error messages.
pub(crate) const ACCEPTED_AMOUNT: &str =
    "accepted are bytes such as 4096, 4k, 16m, 1g, 0x1000, or a share such as 10%";
/// What times look like, for error messages.
pub(crate) const ACCEPTED_TIME: &str = "accepted are times such as 10, 30s, 500ms, 5m, 2h, 1d \
     (a bare number counts seconds)";

/// What `kb_base` makes of unit letters. fio's default, 1024, reads `k` as 1024
/// and `KiB` as 1000 so that old job files keep their meaning; with 1000 it is
/// the other way round, as the standards have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KbBase {
    Binary,
    Decimal,
}

impl KbBase {
    /// From the option's value.
    pub(crate) fn new(value: u64) -> Option<Self> {
        match value {
            1024 => Some(KbBase::Binary),
            1000 => Some(KbBase::Decimal),
            _ => None,
        }
    }

    /// Whether reports use powers of two first.
    pub(crate) fn is_binary(self) -> bool {
        self == KbBase::Binary
    }
}

/// Splits `text` into a leading unsigned number and the rest.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let end = hex
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(hex.len());
        let (digits, rest) = hex.split_at(end);
        return Some((u64::from_str_radix(digits, 16).ok()?, rest));
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// Whether `text` ends in an IEC unit (`KiB`, `mi`), whose meaning surprises.
pub(crate) fn has_iec_unit(text: &str) -> bool {
    let Some((_, unit)) = split_number(text) else {
        return false;
    };
    let unit = unit.trim().to_ascii_lowercase();
    let mut letters = unit.chars();
    matches!(letters.next(), Some('k' | 'm' | 'g' | 't' | 'p')) && letters.next() == Some('i')
}

/// A byte count or percentage.
pub(crate) fn parse_amount(text: &str, base: KbBase) -> Option<Amount> {
    let (number, unit) = split_number(text)?;
    let unit = unit.trim().to_ascii_lowercase();
    if unit == "%" {
        let share = u8::try_from(number).ok().filter(|share| *share <= 100)?;
        return Some(Amount::Percent(share));
    }
    if unit.is_empty() || unit == "b" {
        return Some(Amount::Bytes(number));
    }
    let (power, suffix) = match unit.split_at_checked(1)? {
        ("k", rest) => (1, rest),
        ("m", rest) => (2, rest),
        ("g", rest) => (3, rest),
        ("t", rest) => (4, rest),
        ("p", rest) => (5, rest),
        _ => return None,
    };
    let binary = match suffix {
        "" | "b" => base == KbBase::Binary,
        "i" | "ib" => base == KbBase::Decimal,
        _ => return None,
    };
    let thousand: u64 = if binary { 1024 } else { 1000 };
    number
        .checked_mul(thousand.checked_pow(power)?)
        .map(Amount::Bytes)
}

/// A byte count.
pub(crate) fn parse_bytes(text: &str, base: KbBase) -> Option<u64> {
    match parse_amount(text, base)? {
        Amount::Bytes(bytes) => Some(bytes),
        Amount::Percent(_) => None,
    }
}

/// A plain number; like fio's integers it may carry `k`, `m`, … .
pub(crate) fn parse_count(text: &str, base: KbBase) -> Option<u64> {
    parse_bytes(text, base)
}

/// A time in nanoseconds; a bare number counts seconds.
pub(crate) fn parse_time_ns(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    let unit_ns: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "us" | "usec" => 1_000,
        "ms" | "msec" => 1_000_000,
        "" | "s" | "sec" => 1_000_000_000,
        "m" | "min" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        "d" => 86_400 * 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of fio's manual, section "Parameter types", both bases.
    #[test]
    fn byte_counts_mean_what_they_mean_to_fio() {
        let binary = |text| parse_bytes(text, KbBase::Binary);
        let decimal = |text| parse_bytes(text, KbBase::Decimal);
        assert_eq!(binary("4096"), Some(4096));
        assert_eq!(binary("4k"), Some(4096));
        assert_eq!(binary("4K"), Some(4096));
        assert_eq!(binary("4kb"), Some(4096));
        assert_eq!(binary("4KiB"), Some(4000));
        assert_eq!(decimal("4k"), Some(4000));
        assert_eq!(decimal("4KiB"), Some(4096));
        assert_eq!(decimal("4ki"), Some(4096));
        assert_eq!(binary("1g"), Some(1 << 30));
        assert_eq!(binary("2t"), Some(2 << 40));
        assert_eq!(binary("0x1000"), Some(4096));
        assert_eq!(binary(" 8 m "), Some(8 << 20));
    }

    /// What is not a byte count is refused, not guessed at.
    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "k",
            "4q",
            "4kk",
            "1.5k",
            "-4k",
            "0x",
            "4é",
            "99999999999999999999",
            "20000p",
            "%",
        ] {
            assert_eq!(parse_amount(text, KbBase::Binary), None, "{text:?}");
        }
        assert_eq!(parse_amount("101%", KbBase::Binary), None);
    }

    /// Shares are of the whole file, without overflow.
    #[test]
    fn percentages_are_of_the_whole() {
        assert_eq!(
            parse_amount("10%", KbBase::Binary),
            Some(Amount::Percent(10))
        );
        assert_eq!(Amount::Percent(10).of(1000), 100);
        assert_eq!(Amount::Percent(100).of(u64::MAX), u64::MAX);
        assert_eq!(Amount::Bytes(5).of(1000), 5);
    }

    /// A bare number is seconds.
    #[test]
    fn times() {
        assert_eq!(parse_time_ns("30"), Some(30_000_000_000));
        assert_eq!(parse_time_ns("30s"), Some(30_000_000_000));
        assert_eq!(parse_time_ns("500ms"), Some(500_000_000));
        assert_eq!(parse_time_ns("7us"), Some(7_000));
        assert_eq!(parse_time_ns("2m"), Some(120_000_000_000));
        assert_eq!(parse_time_ns("1d"), Some(86_400_000_000_000));
        for text in ["", "s", "5x", "-1", "1.5s", "999999999d"] {
            assert_eq!(parse_time_ns(text), None, "{text:?}");
        }
    }

    /// The warning about `KiB` must not fire for `k` or `%`.
    #[test]
    fn iec_units_are_noticed() {
        assert!(has_iec_unit("4KiB") && has_iec_unit("1gi"));
        assert!(!has_iec_unit("4k") && !has_iec_unit("10%") && !has_iec_unit("x"));
    }
}
