//! Text for people: sizes, columns, and strings made safe to print.
//! Whatever a device, a file name or sysfs says may hold a terminal's control sequences.
use std::fmt::Write;

/// The string with everything but printable characters escaped, as `\x1b` or `\u{202e}`.
///
/// Letters of any script stay; control characters, and those that reorder or hide text, do not.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' '..='~' => safe.push(c),
            _ if c.is_ascii() => {
                let _ = write!(safe, "\\x{:02x}", u32::from(c));
            }
            _ if c.is_alphanumeric() => safe.push(c),
            _ => safe.extend(c.escape_unicode()),
        }
    }
    safe
}

/// A size as a person says it: `1 GiB`, `1.5 MiB`, `512 bytes`.
pub(crate) fn size(len_bytes: u128) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = None;
    let mut scale = 1_u128;
    for name in UNITS {
        let next = scale << 10;
        if len_bytes < next {
            break;
        }
        scale = next;
        unit = Some(name);
    }
    let Some(unit) = unit else {
        return format!("{len_bytes} bytes");
    };
    let whole = len_bytes / scale;
    let tenths = (len_bytes % scale) * 10 / scale;
    if tenths == 0 {
        format!("{whole} {unit}")
    } else {
        format!("{whole}.{tenths} {unit}")
    }
}

/// Rows in columns that are as wide as they need, two spaces apart, each line after `indent`.
pub(crate) fn columns(indent: &str, rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            let wide = cell.chars().count();
            match widths.get_mut(index) {
                Some(width) => *width = wide.max(*width),
                None => widths.push(wide),
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (cell, &width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No string from outside moves the cursor, changes colours, or turns text around.
    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape("a\x1b[2Jb\n\u{7f}"), "a\\x1b[2Jb\\x0a\\x7f");
        assert_eq!(escape("\u{202e}\u{9b}x"), "\\u{202e}\\u{9b}x");
        assert_eq!(escape("/srv/Größe 1.img"), "/srv/Größe 1.img");
    }

    #[test]
    fn sizes_are_said_in_the_largest_unit() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1024), "1 KiB");
        assert_eq!(size(1536 << 20), "1.5 GiB");
        assert_eq!(size((1 << 40) - 1), "1023.9 GiB");
        assert_eq!(size(u128::from(u64::MAX) + 1), "16 EiB");
        assert!(size(u128::MAX).ends_with("EiB"));
    }

    #[test]
    fn columns_are_aligned_and_not_padded_at_the_end() {
        let rows =
            [["a", "bbb", "c"], ["aaaa", "b", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns("  ", &rows), "  a     bbb  c\n  aaaa  b\n");
    }
}
