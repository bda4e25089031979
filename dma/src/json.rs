//! A few lines of JSON for figures: objects of numbers and short texts, without a library that
//! every user of the crate would have to build.
use std::fmt::Write;

/// A JSON object under way: names are the caller's own, values are numbers, texts, or objects.
///
/// ```
/// use underpin_dma::JsonObject;
///
/// let inner = JsonObject::new().number("regions", 2);
/// let text = JsonObject::new().text("name", "emu:\"x\"").object("space", inner).finish();
/// assert_eq!(text, r#"{"name":"emu:\"x\"","space":{"regions":2}}"#);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "an object is text only when it is finished"]
pub struct JsonObject(String);

impl JsonObject {
    /// An empty object.
    pub const fn new() -> Self {
        Self(String::new())
    }

    fn name(&mut self, name: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        quote(&mut self.0, name);
        self.0.push(':');
    }

    /// With a number.
    pub fn number(mut self, name: &str, value: u64) -> Self {
        self.name(name);
        let _ = write!(self.0, "{value}");
        self
    }

    /// With a text.
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        quote(&mut self.0, value);
        self
    }

    /// With a text, or null.
    pub fn text_or_null(mut self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => {
                self.name(name);
                self.0.push_str("null");
                self
            }
        }
    }

    /// With an object in it.
    pub fn object(mut self, name: &str, value: Self) -> Self {
        self.name(name);
        self.0.push_str(&value.finish());
        self
    }

    /// With a list of objects.
    pub fn list(mut self, name: &str, values: impl IntoIterator<Item = Self>) -> Self {
        self.name(name);
        let values: Vec<_> = values.into_iter().map(Self::finish).collect();
        let _ = write!(self.0, "[{}]", values.join(","));
        self
    }

    /// The object as text, on one line.
    #[must_use]
    pub fn finish(self) -> String {
        format!("{{{}}}", self.0)
    }
}

/// A string in quotes (RFC 8259, 7).
fn quote(to: &mut String, text: &str) {
    to.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                to.push('\\');
                to.push(c);
            }
            c if c.is_control() => {
                let _ = write!(to, "\\u{:04x}", u32::from(c));
            }
            c => to.push(c),
        }
    }
    to.push('"');
}

/// Declares a struct of documented counters, with a JSON form: the names are those of the fields.
///
/// ```
/// underpin_dma::counters! {
///     /// What passed a door.
///     pub struct Door {
///         /// Cats.
///         cats,
///         /// Dogs.
///         dogs,
///     }
/// }
/// let mut door = Door { cats: 2, ..Door::default() };
/// door.add(&Door { dogs: 1, ..Door::default() });
/// assert!(door.fields().eq([("cats", 2), ("dogs", 1)]));
/// assert_eq!(door.to_json(), r#"{"cats":2,"dogs":1}"#);
/// ```
#[macro_export]
macro_rules! counters {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl $name {
            /// Every figure with its name, in order: for whatever collects them.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }

            /// Adds another's figures to these.
            pub fn add(&mut self, other: &Self) {
                $(self.$field = self.$field.wrapping_add(other.$field);)*
            }

            /// As a JSON object, to be put into another or finished.
            pub fn json(&self) -> $crate::JsonObject {
                let object = $crate::JsonObject::new();
                $(let object = object.number(stringify!($field), self.$field);)*
                object
            }

            /// As JSON text: one object, numbers by the names of the fields.
            #[must_use]
            pub fn to_json(&self) -> String {
                self.json().finish()
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing that a device, a file name or a user calls itself breaks out of its string.
    #[test]
    fn texts_are_quoted() {
        let text = JsonObject::new().text("a\"", "\\ \" \n \u{7f} \u{1b}[2J é");
        let expected = "{\"a\\\"\":\"\\\\ \\\" \\u000a \\u007f \\u001b[2J é\"}";
        assert_eq!(text.finish(), expected);
        let empty = JsonObject::new().list("l", []).text_or_null("n", None);
        assert_eq!(empty.finish(), r#"{"l":[],"n":null}"#);
    }
}
