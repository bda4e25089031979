//! Small readings of text that options and faults share: numbers, sizes, times, near words.
//! All of it says `None` rather than guess.
use std::time::Duration;

/// A decimal or `0x` number.
pub(crate) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A number of bytes: `4096`, `4k`, `1g`; also `KiB`, `MiB` and so on. Powers of 1024.
pub(crate) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (value, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return number(text),
    };
    value.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A time with its unit: `20us`, `5ms`, `1s`, `100ns`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (value, unit) = text.split_at(digits);
    let nanos: u64 = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    Some(Duration::from_nanos(
        value.parse::<u64>().ok()?.checked_mul(nanos)?,
    ))
}

/// A time as [`parse_duration`] reads it, in its largest whole unit.
pub(crate) fn duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    for (unit, size) in [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
        if nanos >= size && nanos.is_multiple_of(size) {
            return format!("{}{unit}", nanos / size);
        }
    }
    format!("{nanos}ns")
}

/// The word that differs least from `word`.
pub(crate) fn nearest<'a>(word: &str, words: &[&'a str]) -> &'a str {
    let distance = |other: &&&str| edits(word, other);
    words.iter().min_by_key(distance).copied().unwrap_or("")
}

/// Insertions, deletions, replacements and swaps of neighbours that make `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let width = b.len() + 1;
    let mut table: Vec<usize> = vec![0; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            let cost = if i == 0 || j == 0 {
                i + j
            } else {
                let same = a[i - 1] == b[j - 1];
                let mut best = (table[(i - 1) * width + j] + 1)
                    .min(table[i * width + j - 1] + 1)
                    .min(table[(i - 1) * width + j - 1] + usize::from(!same));
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(table[(i - 2) * width + j - 2] + 1);
                }
                best
            };
            table[i * width + j] = cost;
        }
    }
    table.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_in_their_units() {
        for (text, bytes) in [
            ("512", Some(512)),
            ("4k", Some(4096)),
            ("1GiB", Some(1 << 30)),
            ("0x200", Some(512)),
            ("1x", None),
            ("", None),
            ("99999999t", None),
        ] {
            assert_eq!(size(text), bytes, "{text:?}");
        }
        for text in ["100ns", "20us", "5ms", "1s", "1500us"] {
            assert_eq!(parse_duration(text).map(duration).as_deref(), Some(text));
        }
        assert_eq!(parse_duration("5"), None);
        assert_eq!(duration(Duration::ZERO), "0ns");
    }

    #[test]
    fn near_words_are_found() {
        assert_eq!(nearest("szie", &["size", "seed", "vwc"]), "size");
        assert_eq!(nearest("queue", &["queues", "mqes"]), "queues");
    }
}
