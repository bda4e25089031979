//! Numbers on the command line: decimal, or hexadecimal after `0x`.

/// A number that fits into `T`.
pub(crate) fn number<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let value = value.map_err(|_| "a number is wanted, such as 18 or 0x12".to_owned())?;
    let bits = 8 * size_of::<T>();
    T::try_from(value).map_err(|_| format!("{value:#x} has more than {bits} bits"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_are_decimal_or_hexadecimal_and_fit() {
        assert_eq!(number::<u8>("0x2a"), Ok(42));
        assert_eq!(number::<u64>("18446744073709551615"), Ok(u64::MAX));
        for text in ["", "x", "-1", "0x", "1k", "+-1", "0x1g"] {
            assert!(number::<u64>(text).is_err(), "{text}");
        }
        assert!(number::<u8>("256").unwrap_err().contains("8 bits"));
    }
}
