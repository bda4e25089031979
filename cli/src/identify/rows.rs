//! How a field of an identify page is shown: its form, its meaning, its bits.
//! One row per field of `underpin::spec`'s tables; a test holds the two together.
use crate::text;
use serde_json::{Value, json};
use std::fmt::Write;
use underpin::spec::identify::{Ascii, Field};

/// What a meaning may depend on beside the field itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// The smallest memory page of the controller (CAP.MPSMIN).
    pub(crate) page_bytes: u64,
    /// The block size of the namespace, where there is one.
    pub(crate) lba_bytes: u64,
}

/// What a number says, in words.
pub(crate) type Meaning = fn(u128, &Context) -> String;

/// How a field's bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A little-endian number, shown as such.
    Decimal,
    /// A little-endian number, shown in hexadecimal.
    Hex,
    /// ASCII.
    Text,
    /// Bytes in the order of the page, in hexadecimal.
    Bytes,
    /// Bytes in the opposite order: an OUI.
    Reversed,
    /// Power state descriptors.
    PowerStates,
    /// LBA formats.
    LbaFormats,
    /// The vendor's own: shown only as so many bytes.
    Vendor,
}

/// One or several bits of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits {
    low: u8,
    width: u8,
    what: &'static str,
}

/// One bit.
pub(crate) const fn bit(low: u8, what: &'static str) -> Bits {
    bits(low, 1, what)
}

/// A number of several bits.
pub(crate) const fn bits(low: u8, width: u8, what: &'static str) -> Bits {
    Bits { low, width, what }
}

/// How one field is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) form: Form,
    label: &'static str,
    meaning: Option<Meaning>,
    bits: &'static [Bits],
}

const fn row(form: Form, name: &'static str, label: &'static str) -> Row {
    Row {
        name,
        form,
        label,
        meaning: None,
        bits: &[],
    }
}

/// A decimal number.
pub(crate) const fn dec(name: &'static str, label: &'static str) -> Row {
    row(Form::Decimal, name, label)
}

/// A hexadecimal number.
pub(crate) const fn hex(name: &'static str, label: &'static str) -> Row {
    row(Form::Hex, name, label)
}

/// A hexadecimal number made of bits.
pub(crate) const fn flags(name: &'static str, label: &'static str, bits: &'static [Bits]) -> Row {
    Row {
        bits,
        ..row(Form::Hex, name, label)
    }
}

/// Any other form.
pub(crate) const fn other(form: Form, name: &'static str, label: &'static str) -> Row {
    row(form, name, label)
}

impl Row {
    /// The same with a meaning in words.
    pub(crate) const fn means(mut self, meaning: Meaning) -> Self {
        self.meaning = Some(meaning);
        self
    }
}

/// The bytes of `field` in `page`; the tables are checked to lie within it.
pub(crate) fn field_bytes(page: &[u8], field: Field) -> &[u8] {
    page.get(field.offset..field.offset + field.len_bytes)
        .unwrap_or_default()
}

/// A little-endian number of up to 16 bytes.
pub(crate) fn number(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .take(16)
        .rev()
        .fold(0, |number, &byte| number << 8 | u128::from(byte))
}

pub(crate) fn hexadecimal<'a>(bytes: impl Iterator<Item = &'a u8>) -> String {
    bytes.fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A number as JSON has it; one of more than 64 bits as a string of its decimal digits.
pub(crate) fn json_number(number: u128) -> Value {
    match u64::try_from(number) {
        Ok(number) => json!(number),
        Err(_) => json!(number.to_string()),
    }
}

impl Row {
    /// The field as JSON; `None` for the forms that are not of one field alone.
    pub(crate) fn json(&self, bytes: &[u8]) -> Option<Value> {
        match self.form {
            Form::Decimal | Form::Hex => Some(json_number(number(bytes))),
            Form::Text => Some(json!(Ascii::new(bytes).to_string())),
            Form::Bytes => Some(json!(hexadecimal(bytes.iter()))),
            Form::Reversed => Some(json!(hexadecimal(bytes.iter().rev()))),
            // A kilobyte of zeroes tells nobody anything.
            Form::Vendor if bytes.iter().all(|&byte| byte == 0) => Some(Value::Null),
            Form::Vendor => Some(json!(hexadecimal(bytes.iter()))),
            Form::PowerStates | Form::LbaFormats => None,
        }
    }

    /// The field as lines of text: name, value, label with meaning; then the bits that are set.
    pub(crate) fn text(&self, bytes: &[u8], context: &Context) -> String {
        self.text_after(10, bytes, context)
    }

    /// The same, with room for a name of `width` characters.
    pub(crate) fn text_after(&self, width: usize, bytes: &[u8], context: &Context) -> String {
        let digits = 2 + 2 * bytes.len();
        let value = match self.form {
            Form::Decimal => number(bytes).to_string(),
            Form::Hex => format!("{:#0digits$x}", number(bytes)),
            Form::Text => format!("{:?}", Ascii::new(bytes)),
            Form::Bytes => hexadecimal(bytes.iter()),
            Form::Reversed => hexadecimal(bytes.iter().rev()),
            Form::Vendor => {
                let set = bytes.iter().filter(|&&byte| byte != 0).count();
                format!("{set} of {} bytes set", bytes.len())
            }
            Form::PowerStates | Form::LbaFormats => return String::new(),
        };
        let mut text = format!("  {:<width$} {value:<20}  {}", self.name, self.label);
        if let Some(meaning) = self.meaning {
            let _ = write!(text, ": {}", meaning(number(bytes), context));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        let indent = width + 25;
        for (low, what) in self.set_bits(number(bytes)) {
            let _ = writeln!(text, "{:indent$}[{low}] {what}", "");
        }
        text
    }

    fn set_bits(&self, number: u128) -> Vec<(u8, String)> {
        if self.bits.is_empty() {
            return Vec::new();
        }
        let mut unknown = number;
        let mut set = Vec::new();
        for bits in self.bits {
            let mask = (1_u128 << bits.width) - 1;
            unknown &= !(mask << bits.low);
            match number >> bits.low & mask {
                0 => {}
                _ if bits.width == 1 => set.push((bits.low, bits.what.to_owned())),
                value => set.push((bits.low, format!("{}: {value}", bits.what))),
            }
        }
        for low in (0..128).filter(|&low| unknown >> low & 1 == 1) {
            set.push((low, "(not known to this program)".to_owned()));
        }
        set.sort_unstable();
        set
    }
}

/// Meanings that several fields share.
pub(crate) mod meaning {
    use super::{Context, text};

    pub(crate) fn bytes(number: u128, _: &Context) -> String {
        text::size(number)
    }
    /// Counted from 0.
    pub(crate) fn and_one(number: u128, _: &Context) -> String {
        (number + 1).to_string()
    }
    pub(crate) fn zero_no_limit(number: u128, _: &Context) -> String {
        if number == 0 {
            "no limit".to_owned()
        } else {
            number.to_string()
        }
    }
    pub(crate) fn microseconds(number: u128, _: &Context) -> String {
        reported(number, |number| format!("{number} us"))
    }
    pub(crate) fn hundred_ms(number: u128, _: &Context) -> String {
        reported(number, |number| format!("{} ms", number * 100))
    }
    pub(crate) fn kelvins(number: u128, _: &Context) -> String {
        reported(number, |kelvins| {
            format!("{} degrees Celsius", kelvins as i64 - 273)
        })
    }
    pub(crate) fn pages_of_4_kib(number: u128, _: &Context) -> String {
        reported(number, |number| text::size(number << 12))
    }
    pub(crate) fn pages_of_64_kib(number: u128, _: &Context) -> String {
        reported(number, |number| text::size(number << 16))
    }
    /// Logical blocks.
    pub(crate) fn blocks(number: u128, context: &Context) -> String {
        text::size(number.saturating_mul(u128::from(context.lba_bytes)))
    }
    /// Logical blocks, 0 for none.
    pub(crate) fn blocks_if_any(number: u128, context: &Context) -> String {
        reported(number, |number| blocks(number, context))
    }
    /// Logical blocks, counted from 0.
    pub(crate) fn blocks_and_one(number: u128, context: &Context) -> String {
        let blocks = number + 1;
        let s = if blocks == 1 { "" } else { "s" };
        if context.lba_bytes == 0 {
            // Of the controller: blocks of whichever namespace.
            return format!("{blocks} block{s}");
        }
        format!(
            "{blocks} block{s}, {}",
            text::size(blocks * u128::from(context.lba_bytes))
        )
    }
    /// Two powers of two in a byte: the smallest and the largest.
    pub(crate) fn entry_size(number: u128, _: &Context) -> String {
        format!(
            "{} bytes, at most {}",
            1 << (number & 0xf),
            1 << (number >> 4 & 0xf)
        )
    }
    pub(crate) fn version(number: u128, _: &Context) -> String {
        format!(
            "{}.{}.{}",
            number >> 16 & 0xffff,
            number >> 8 & 0xff,
            number & 0xff
        )
    }

    pub(crate) fn reported(number: u128, say: impl Fn(u128) -> String) -> String {
        if number == 0 {
            "none".to_owned()
        } else {
            say(number)
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::{Form, Row};
    use underpin::spec::identify::Field;

    /// Every field of a page has its row, in the same order, in a form that suits its size.
    pub(crate) fn rows_are_the_fields(rows: &[Row], fields: &[Field]) {
        let names = |names: Vec<&'static str>| names.join("\n");
        assert_eq!(
            names(rows.iter().map(|row| row.name).collect()),
            names(fields.iter().map(|field| field.name).collect())
        );
        for (row, field) in rows.iter().zip(fields) {
            let is_number = matches!(row.form, Form::Decimal | Form::Hex);
            assert!(
                !is_number || field.len_bytes <= 16,
                "{} is too long for a number",
                row.name
            );
            assert!(!row.label.is_empty(), "{} has no label", row.name);
            let width = 8 * field.len_bytes;
            let mut seen = 0_u128;
            for bits in row.bits {
                assert!(
                    usize::from(bits.low + bits.width) <= width,
                    "{}: {}",
                    row.name,
                    bits.what
                );
                let mask = ((1_u128 << bits.width) - 1) << bits.low;
                assert_eq!(seen & mask, 0, "{}: {} overlaps", row.name, bits.what);
                seen |= mask;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: Context = Context {
        page_bytes: 4096,
        lba_bytes: 512,
    };

    #[test]
    fn numbers_are_little_endian_and_big_ones_are_strings_in_json() {
        assert_eq!(number(&[0x34, 0x12]), 0x1234);
        assert_eq!(
            hex("vid", "vendor")
                .text(&[0x34, 0x12], &CONTEXT)
                .trim_end(),
            "  vid        0x1234                vendor"
        );
        assert_eq!(dec("n", "a").json(&[0xff; 8]), Some(json!(u64::MAX)));
        assert_eq!(
            dec("n", "a").json(&[0xff; 16]),
            Some(json!(u128::MAX.to_string()))
        );
    }

    /// A bit that is set is never kept back, known or not.
    #[test]
    fn every_bit_that_is_set_is_shown() {
        const ROW: Row = flags(
            "oacs",
            "what it can",
            &[bit(0, "walk"), bits(1, 3, "legs"), bit(4, "fly")],
        );
        let text = ROW.text(&[0b0110_1001, 0x80], &CONTEXT);
        let shown: Vec<_> = text.lines().skip(1).map(str::trim).collect();
        assert_eq!(
            shown,
            [
                "[0] walk",
                "[1] legs: 4",
                "[5] (not known to this program)",
                "[6] (not known to this program)",
                "[15] (not known to this program)"
            ]
        );
    }

    #[test]
    fn bytes_are_shown_in_the_order_that_people_write_them() {
        assert_eq!(
            other(Form::Reversed, "ieee", "OUI").json(&[0x38, 0x25, 0]),
            Some(json!("002538"))
        );
        assert_eq!(
            other(Form::Bytes, "eui64", "id").json(&[0, 0x25, 0x38]),
            Some(json!("002538"))
        );
    }

    #[test]
    fn a_temperature_is_said_in_degrees() {
        assert_eq!(meaning::kelvins(358, &CONTEXT), "85 degrees Celsius");
        assert_eq!(meaning::kelvins(0, &CONTEXT), "none");
    }
}
