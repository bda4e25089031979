//! Text fields of identify pages: padded ASCII, as devices that were not asked nicely fill it in.

use core::fmt::{self, Write as _};

/// The text of an identify field, without its trailing spaces and NULs.
///
/// Devices put anything there; what is not printable ASCII displays as `\x1b`, and a backslash as
/// `\\`, so that it is safe to print and bytes that differ look different.
///
/// ```
/// use underpin_nvme_spec::identify::Ascii;
///
/// let model = Ascii::new(b"A drive \x1b[31m   \0");
/// assert_eq!(model.to_string(), r"A drive \x1b[31m");
/// assert_eq!(model.as_bytes(), b"A drive \x1b[31m");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ascii<'a>(&'a [u8]);

impl<'a> Ascii<'a> {
    /// The text of a whole field.
    #[must_use]
    pub const fn new(mut field: &'a [u8]) -> Self {
        while let [rest @ .., b' ' | 0] = field {
            field = rest;
        }
        Self(field)
    }

    /// Its bytes, unescaped.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    fn escape(self, f: &mut fmt::Formatter<'_>, quoted: bool) -> fmt::Result {
        for &byte in self.0 {
            match byte {
                b'\\' => f.write_str("\\\\")?,
                b'"' if quoted => f.write_str("\\\"")?,
                b' '..=b'~' => f.write_char(char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

impl PartialEq<str> for Ascii<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Ascii<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Display for Ascii<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.escape(f, false)
    }
}

impl fmt::Debug for Ascii<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        self.escape(f, true)?;
        f.write_char('"')
    }
}

/// Fills a field with text and then with padding. What is too long is cut off; what is not
/// printable ASCII becomes `?`, for the specification allows nothing else there.
pub(crate) fn fill(field: &mut [u8], text: &str, padding: u8) {
    let printable = |c: char| {
        if matches!(c, ' '..='~') {
            c as u8
        } else {
            b'?'
        }
    };
    let mut bytes = text.chars().map(printable);
    for byte in field {
        *byte = bytes.next().unwrap_or(padding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_trimmed_at_the_end_only() {
        assert_eq!(Ascii::new(b"  a b \0 \0"), "  a b");
        assert_eq!(Ascii::new(b"   "), "");
        assert_eq!(Ascii::new(b""), "");
    }

    /// A terminal is not a device's to control, and quotes are not a device's to close.
    #[test]
    fn hostile_bytes_are_escaped() {
        let text = Ascii::new(b"a\0\x1b[2J\xff\\\"");
        assert_eq!(text.to_string(), "a\\x00\\x1b[2J\\xff\\\\\"");
        assert_eq!(format!("{text:?}"), "\"a\\x00\\x1b[2J\\xff\\\\\\\"\"");
        assert_eq!(text.as_bytes(), b"a\0\x1b[2J\xff\\\"");
    }

    #[test]
    fn text_is_padded_cut_and_kept_printable() {
        let mut field = [0xee; 6];
        fill(&mut field, "ab\u{e9}\n", b' ');
        assert_eq!(&field, b"ab??  ");
        fill(&mut field, "longer than it", b' ');
        assert_eq!(&field, b"longer");
    }
}
