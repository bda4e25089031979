//! One option's value on its way from text to type, with errors that say what is
//! accepted.

#![forbid(unsafe_code)]

use super::{Mix, Pattern, Target};
use crate::options::suggest;
use crate::options::table::{self, Kind, OptionDef};
use crate::options::units::{self, Amount, KbBase};
use crate::options::{OptionError, Origin};

/// Bytes of one I/O: lengths on the wire are 32-bit.
pub(super) const MAX_BLOCK_BYTES: u64 = 1 << 30;
/// Percentiles in a report, as in fio.
const MAX_PERCENTILES: usize = 20;

/// One value on its way to its type, with what an error message needs.
pub(super) struct Value<'a> {
    pub(super) def: &'static OptionDef,
    pub(super) text: &'a str,
    pub(super) origin: &'a Origin,
    pub(super) base: KbBase,
}

impl Value<'_> {
    pub(super) fn bad(&self, accepted: String) -> OptionError {
        OptionError::BadValue {
            origin: self.origin.clone(),
            option: self.def.name,
            value: self.text.to_owned(),
            accepted,
        }
    }

    pub(super) fn nonempty(&self) -> Result<String, OptionError> {
        if self.text.is_empty() {
            return Err(self.bad("it must not be empty".to_owned()));
        }
        Ok(self.text.to_owned())
    }

    pub(super) fn target(&self) -> Result<Target, OptionError> {
        Target::parse(self.text, self.base).map_err(|why| self.bad(why))
    }

    pub(super) fn word(&self) -> Result<&'static str, OptionError> {
        let Kind::Choice(words) = self.def.kind else {
            return Err(self.bad(self.def.kind.accepted()));
        };
        words
            .iter()
            .copied()
            .find(|word| *word == self.text)
            .ok_or_else(|| {
                let near = suggest::nearest(self.text, words.iter().copied());
                let hint = near.map_or(String::new(), |word| format!(" (did you mean {word}?)"));
                self.bad(format!("{}{hint}", self.def.kind.accepted()))
            })
    }

    pub(super) fn switch(&self) -> Result<bool, OptionError> {
        match self.text {
            "1" => Ok(true),
            "0" => Ok(false),
            _ => Err(self.bad(Kind::Switch.accepted())),
        }
    }

    pub(super) fn count(&self, min: u64, max: u64) -> Result<u64, OptionError> {
        units::parse_count(self.text, self.base)
            .filter(|count| (min..=max).contains(count))
            .ok_or_else(|| {
                self.bad(if max == u64::MAX {
                    format!("accepted is a whole number from {min} up")
                } else {
                    format!("accepted is a whole number from {min} to {max}")
                })
            })
    }

    pub(super) fn bytes(&self, min: u64, max: u64) -> Result<u64, OptionError> {
        units::parse_bytes(self.text, self.base)
            .filter(|bytes| (min..=max).contains(bytes))
            .ok_or_else(|| self.bad(format!("accepted are {min} to {max} bytes, such as 4k")))
    }

    pub(super) fn amount(&self) -> Result<Amount, OptionError> {
        units::parse_amount(self.text, self.base)
            .ok_or_else(|| self.bad(units::ACCEPTED_AMOUNT.to_owned()))
    }

    pub(super) fn positive_amount(&self) -> Result<Amount, OptionError> {
        match self.amount()? {
            Amount::Bytes(0) | Amount::Percent(0) => {
                Err(self.bad("it must be more than nothing".to_owned()))
            }
            amount => Ok(amount),
        }
    }

    pub(super) fn time_ns(&self) -> Result<u64, OptionError> {
        units::parse_time_ns(self.text).ok_or_else(|| self.bad(units::ACCEPTED_TIME.to_owned()))
    }

    /// `read,write,trim`: an empty place keeps what it had; one value is for
    /// all, and a missing write value repeats the read value.
    pub(super) fn block_sizes(&self, before: [u32; 2]) -> Result<[u32; 2], OptionError> {
        let accepted = || {
            self.bad(format!(
                "{}, up to {MAX_BLOCK_BYTES}",
                Kind::Amounts.accepted()
            ))
        };
        let parts: Vec<&str> = self.text.split(',').collect();
        if parts.len() > 3 || self.text.is_empty() {
            return Err(accepted());
        }
        let mut sizes = [None; 3];
        for (place, part) in sizes.iter_mut().zip(&parts) {
            if !part.is_empty() {
                let bytes = units::parse_bytes(part, self.base)
                    .filter(|bytes| (1..=MAX_BLOCK_BYTES).contains(bytes))
                    .ok_or_else(accepted)?;
                *place = Some(bytes as u32);
            }
        }
        let read = sizes[0].unwrap_or(before[0]);
        let write = match (sizes[1], parts.len()) {
            (Some(write), _) => write,
            (None, 1) => read,
            (None, _) => before[1],
        };
        Ok([read, write])
    }

    pub(super) fn pattern(&self) -> Result<Pattern, OptionError> {
        let (word, modifier) = match self.text.split_once(':') {
            Some((word, modifier)) => (word, Some(modifier)),
            None => (self.text, None),
        };
        let (mix, random) = match word {
            "read" => (Mix::Read, false),
            "write" => (Mix::Write, false),
            "rw" | "readwrite" => (Mix::Both, false),
            "randread" => (Mix::Read, true),
            "randwrite" => (Mix::Write, true),
            "randrw" => (Mix::Both, true),
            _ => {
                let near = suggest::nearest(word, table::PATTERNS.iter().copied());
                let hint = near.map_or(String::new(), |word| format!(" (did you mean {word}?)"));
                return Err(self.bad(format!("{}{hint}", self.def.kind.accepted())));
            }
        };
        let mut pattern = Pattern {
            mix,
            random,
            run_length: 1,
            skip_bytes: 0,
        };
        let Some(modifier) = modifier else {
            return Ok(pattern);
        };
        if random {
            pattern.run_length = units::parse_count(modifier, self.base)
                .and_then(|count| u32::try_from(count).ok())
                .filter(|count| *count > 0)
                .ok_or_else(|| {
                    self.bad(format!("after '{word}:' comes a count, such as {word}:8"))
                })?;
        } else {
            pattern.skip_bytes = units::parse_bytes(modifier, self.base)
                .filter(|bytes| *bytes <= 1 << 50)
                .ok_or_else(|| {
                    self.bad(format!(
                        "after '{word}:' come bytes to skip, such as {word}:4k"
                    ))
                })?;
        }
        Ok(pattern)
    }

    pub(super) fn percentiles(&self) -> Result<Vec<f64>, OptionError> {
        let accepted = || {
            self.bad(format!(
                "accepted are up to {MAX_PERCENTILES} numbers above 0, at most 100, separated by ':'"
            ))
        };
        let mut list = Vec::new();
        for part in self.text.split(':') {
            let percentile: f64 = part.trim().parse().map_err(|_| accepted())?;
            if !(percentile > 1e-6 && percentile <= 100.0) || list.len() == MAX_PERCENTILES {
                return Err(accepted());
            }
            list.push(percentile);
        }
        list.sort_by(f64::total_cmp);
        list.dedup();
        Ok(list)
    }
}
