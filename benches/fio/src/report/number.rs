//! Numbers for people: four digits and a unit.

#![forbid(unsafe_code)]

/// Prefixes for powers of 1000 and of 1024.
const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// `value` with at most `width` characters before the prefix: whole while it
/// fits, else the next prefix with as many decimals as there is room for.
/// `1398` stays, `1398101` becomes `1365Ki`, `94793142` becomes `90.4Mi`.
pub(crate) fn short(value: u64, width: usize, binary: bool, unit: &str) -> String {
    let (step, prefixes) = if binary {
        (1024, &BINARY)
    } else {
        (1000, &DECIMAL)
    };
    let digits = |number: u64| number.checked_ilog10().map_or(1, |log| log as usize + 1);
    let mut whole = value;
    let mut rest = None;
    let mut prefix = 0;
    while digits(whole) > width && prefix + 1 < prefixes.len() {
        rest = Some(whole % step);
        whole /= step;
        prefix += 1;
    }
    let name = prefixes[prefix];
    let decimals = width.saturating_sub(digits(whole) + 1);
    match rest {
        Some(rest) if decimals > 0 => {
            let fraction = rest as f64 / step as f64;
            format!("{:.*}{name}{unit}", decimals, whole as f64 + fraction)
        }
        Some(rest) if rest >= step / 2 => format!("{}{name}{unit}", whole + 1),
        _ => format!("{whole}{name}{unit}"),
    }
}

/// Bytes or bytes per second, both ways: `90.4MiB/s (94.8MB/s)`.
pub(crate) fn both(value: u64, binary_first: bool, unit: &str) -> String {
    format!(
        "{} ({})",
        short(value, 4, binary_first, unit),
        short(value, 4, !binary_first, unit)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs seen in fio 3.33's reports.
    #[test]
    fn numbers_look_as_in_fio() {
        for (value, binary, text) in [
            (94_793_142u64, true, "90.4MiB"),
            (94_793_142, false, "94.8MB"),
            (4_194_304, true, "4096KiB"),
            (4_194_304, false, "4194kB"),
            (1_990_656, true, "1944KiB"),
            (1_398_101_333, true, "1333MiB"),
            (1_398_101_333, false, "1398MB"),
            (4096, true, "4096B"),
            (0, true, "0B"),
        ] {
            assert_eq!(short(value, 4, binary, "B"), text);
        }
        assert_eq!(short(341_333, 4, false, ""), "341k");
        assert_eq!(short(25_619, 4, false, ""), "25.6k");
        assert_eq!(short(17_667, 4, false, ""), "17.7k");
        assert_eq!(short(1_148, 6, false, ""), "1148");
        assert_eq!(short(u64::MAX, 4, true, "B"), "16.0EiB");
    }
}
