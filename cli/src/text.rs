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

/// Bytes as people read them: offset, 16 bytes, the printable ones. Lines that repeat the one
/// before are left out but for a star.
pub(crate) fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut last: Option<&[u8]> = None;
    let mut starred = false;
    for (at, line) in bytes.chunks(16).enumerate() {
        let is_end = (at + 1) * 16 >= bytes.len();
        if last == Some(line) && !is_end {
            if !starred {
                text.push_str("*\n");
            }
            starred = true;
            continue;
        }
        (last, starred) = (Some(line), false);
        let _ = write!(text, "{:08x} ", at * 16);
        for place in 0..16 {
            let gap = if place == 8 { " " } else { "" };
            let _ = match line.get(place) {
                Some(byte) => write!(text, "{gap} {byte:02x}"),
                None => write!(text, "{gap}   "),
            };
        }
        let shown = |&byte: &u8| match byte {
            b' '..=b'~' => char::from(byte),
            _ => '.',
        };
        let shown: String = line.iter().map(shown).collect();
        let _ = writeln!(text, "  |{shown}|");
    }
    text
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
    fn bytes_are_dumped_with_repeats_left_out_and_nothing_unprintable() {
        let mut bytes = b"NVMe\x1b".to_vec();
        bytes.resize(100, 0);
        let text = dump(&bytes);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(
            lines[0].starts_with("00000000  4e 56 4d 65 1b 00 00 00  00"),
            "{text}"
        );
        assert!(lines[0].ends_with("|NVMe............|"), "{text}");
        assert_eq!(lines[2], "*");
        assert!(lines[3].starts_with("00000060  00 00 00 00  ") && lines[3].ends_with("|....|"));
        assert_eq!(dump(&[]), "");
    }

    #[test]
    fn columns_are_aligned_and_not_padded_at_the_end() {
        let rows =
            [["a", "bbb", "c"], ["aaaa", "b", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns("  ", &rows), "  a     bbb  c\n  aaaa  b\n");
    }
}
