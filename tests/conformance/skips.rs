//! The committed list of what a kind of device may skip: a section for each kind, and in it a
//! reason for each test. A part of TOML, read here so that the suite needs no parser.

/// Part of the program, so that it is there where no files are.
const COMMITTED: &str = include_str!("skips.toml");

/// Who may skip what, and why.
#[derive(Debug, Default)]
pub(crate) struct Skips(Vec<Skip>);

#[derive(Debug)]
struct Skip {
    kind: String,
    test: String,
    reason: String,
}

impl Skips {
    /// Why this kind of device may skip this test, if it may.
    pub(crate) fn reason(&self, kind: &str, test: &str) -> Option<&str> {
        let found = self
            .0
            .iter()
            .find(|skip| skip.kind == kind && skip.test == test);
        found.map(|skip| skip.reason.as_str())
    }
}

/// Reads the committed list, or another one; what it names must be tests.
pub(crate) fn load(path: Option<&str>, tests: &[&str]) -> Result<Skips, String> {
    let text = match path {
        None => COMMITTED.to_owned(),
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?,
    };
    let mut skips = Skips::default();
    let mut kind = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            kind = Some(section.to_owned());
            continue;
        }
        let bad = |what: &str| format!("skips, line {number}: {what}: {line}");
        let (test, reason) = line
            .split_once('=')
            .ok_or_else(|| bad("no TEST = REASON"))?;
        let quoted = |text: &str| {
            let text = text.trim().strip_prefix('"')?.strip_suffix('"')?;
            (!text.is_empty() && !text.contains('"')).then(|| text.to_owned())
        };
        let both = quoted(test).zip(quoted(reason));
        let (test, reason) = both.ok_or_else(|| bad("both sides are text in quotes"))?;
        if !tests.contains(&test.as_str()) {
            return Err(bad("there is no such test"));
        }
        let kind = kind.clone().ok_or_else(|| bad("it stands in no [KIND]"))?;
        skips.0.push(Skip { kind, test, reason });
    }
    Ok(skips)
}
