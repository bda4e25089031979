//! The machinery of identify and log pages: one table per page, of name, size and offset, makes
//! the getters, the setters, the `Debug` output and the list of fields.

/// Where a field of an identify or log page lies.
///
/// ```
/// use underpin_nvme_spec::identify::IdentifyController;
///
/// let nn = IdentifyController::FIELDS.iter().find(|field| field.name == "nn");
/// let nn = nn.expect("every page lists its fields");
/// assert_eq!((nn.offset, nn.len_bytes), (516, 4));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// The specification's abbreviation in lower case, which is the getter's name too.
    pub name: &'static str,
    /// Offset in the page, in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub len_bytes: usize,
}

/// Copies `N` bytes out of a page. The tables are checked at compile time to lie within it.
#[inline(always)]
pub(crate) const fn get<const N: usize>(page: &[u8], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = page[offset + i];
        i += 1;
    }
    bytes
}

/// Copies `N` bytes into a page. The tables are checked at compile time to lie within it.
#[inline(always)]
pub(crate) const fn set<const N: usize>(page: &mut [u8], offset: usize, bytes: [u8; N]) {
    let mut i = 0;
    while i < N {
        page[offset + i] = bytes[i];
        i += 1;
    }
}

/// Accessors of one field, by its kind: `u8` to `u128` are little-endian numbers, `[N]` is bytes,
/// `(N)` text padded with spaces, `(N nul)` text padded with NULs, `{N}` has accessors elsewhere.
macro_rules! accessors {
    ($get:ident $set:ident { $len:literal } $offset:literal $what:literal) => {};
    ($get:ident $set:ident ($len:literal) $offset:literal $what:literal) => {
        $crate::identify::fields::accessors!(@text $get $set $len $offset b' ' $what);
    };
    ($get:ident $set:ident ($len:literal nul) $offset:literal $what:literal) => {
        $crate::identify::fields::accessors!(@text $get $set $len $offset 0 $what);
    };
    (@text $get:ident $set:ident $len:literal $offset:literal $padding:literal $what:literal) => {
        #[doc = concat!($what, ".")]
        #[must_use]
        pub fn $get(&self) -> $crate::identify::Ascii<'_> {
            $crate::identify::Ascii::new(&self.0[$offset..$offset + $len])
        }

        #[doc = concat!("Sets: ", $what, ".")]
        ///
        /// The rest of the field is padded. What is too long is cut off; what is not printable
        /// ASCII becomes `?`.
        pub fn $set(&mut self, text: &str) {
            $crate::identify::ascii::fill(&mut self.0[$offset..$offset + $len], text, $padding);
        }
    };
    ($get:ident $set:ident [$len:literal] $offset:literal $what:literal) => {
        #[doc = concat!($what, ".")]
        #[must_use]
        pub const fn $get(&self) -> [u8; $len] {
            $crate::identify::fields::get(&self.0, $offset)
        }

        #[doc = concat!("Sets: ", $what, ".")]
        pub const fn $set(&mut self, value: [u8; $len]) {
            $crate::identify::fields::set(&mut self.0, $offset, value);
        }
    };
    ($get:ident $set:ident $kind:ident $offset:literal $what:literal) => {
        #[doc = concat!($what, ".")]
        #[must_use]
        pub const fn $get(&self) -> $kind {
            $kind::from_le_bytes($crate::identify::fields::get(&self.0, $offset))
        }

        #[doc = concat!("Sets: ", $what, ".")]
        pub const fn $set(&mut self, value: $kind) {
            $crate::identify::fields::set(&mut self.0, $offset, value.to_le_bytes());
        }
    };
}
pub(crate) use accessors;

macro_rules! len_bytes {
    ({ $len:literal }) => {
        $len
    };
    (($len:literal $($nul:ident)?)) => {
        $len
    };
    ([$len:literal]) => {
        $len
    };
    ($kind:ident) => {
        size_of::<$kind>()
    };
}
pub(crate) use len_bytes;

/// Adds a field to `Debug` output, unless its accessors are elsewhere.
macro_rules! debug_field {
    ($self:ident $out:ident $get:ident { $len:literal }) => {};
    ($self:ident $out:ident $get:ident $kind:tt) => {
        $out.field(stringify!($get), &$self.$get());
    };
}
pub(crate) use debug_field;

/// An identify or log page of so many bytes: the type, and all that its table says.
macro_rules! page {
    ($(#[$doc:meta])* $name:ident [$page_len:literal] {
        $($get:ident $set:ident $kind:tt @ $offset:literal $what:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        #[repr(transparent)]
        pub struct $name([u8; $page_len]);

        impl $name {
            /// Every field, in order of offset.
            pub const FIELDS: &'static [$crate::identify::Field] = &[$(
                $crate::identify::Field {
                    name: stringify!($get),
                    offset: $offset,
                    len_bytes: $crate::identify::fields::len_bytes!($kind),
                }
            ),*];

            /// The page that these bytes are. Anything goes: no getter panics on any page.
            #[must_use]
            pub const fn from_bytes(bytes: &[u8; $page_len]) -> Self {
                Self(*bytes)
            }

            /// The page as it lies in memory.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $page_len] {
                &self.0
            }

            /// A page of zeroes.
            #[must_use]
            pub const fn zeroed() -> Self {
                Self([0; $page_len])
            }

            $($crate::identify::fields::accessors! { $get $set $kind $offset $what })*
        }

        // In order, disjoint, within the page.
        const _: () = {
            let mut end = 0;
            let mut i = 0;
            while i < $name::FIELDS.len() {
                let field = $name::FIELDS[i];
                assert!(field.offset >= end, "fields overlap or are out of order");
                end = field.offset + field.len_bytes;
                i += 1;
            }
            assert!(end <= $page_len, "a field lies beyond the page");
            assert!(size_of::<$name>() == $page_len);
        };

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let mut out = f.debug_struct(stringify!($name));
                $($crate::identify::fields::debug_field!(self out $get $kind);)*
                out.finish_non_exhaustive()
            }
        }
    };
}
pub(crate) use page;

#[cfg(test)]
pub(crate) mod testing {
    use super::Field;

    /// What lies between the fields: offset and length of every hole. Reserved areas are told by
    /// the specification too, so a field of the wrong size shows as a hole that it does not have.
    pub(crate) fn holes(fields: &[Field]) -> Vec<(usize, usize)> {
        holes_in(fields, 4096)
    }

    /// The same in a page of so many bytes.
    pub(crate) fn holes_in(fields: &[Field], page_len_bytes: usize) -> Vec<(usize, usize)> {
        let mut holes = Vec::new();
        let mut end = 0;
        for field in fields {
            if field.offset > end {
                holes.push((end, field.offset - end));
            }
            end = field.offset + field.len_bytes;
        }
        holes.push((end, page_len_bytes - end));
        holes
    }
}
