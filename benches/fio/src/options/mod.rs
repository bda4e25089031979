//! From text to (option, value, place) triples: the grammar of job files and
//! command lines, the table of options, units, and errors that help.

#![forbid(unsafe_code)]

pub(crate) mod error;
pub(crate) mod help;
pub(crate) mod ini;
pub(crate) mod manual;
pub(crate) mod suggest;
pub(crate) mod table;
pub(crate) mod units;

pub(crate) use error::{OptionError, Origin};
pub(crate) use ini::{Entry, Section};
