//! Job files: sections, comments, bare keys, `include`, `${ENVIRONMENT}`.

#![forbid(unsafe_code)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{OptionError, Origin};

/// How deep `include` may nest; a file that includes itself ends here.
const INCLUDE_DEPTH: usize = 8;
/// Job files are written by people; more than this is a mistaken path.
const FILE_LIMIT_BYTES: u64 = 16 << 20;

/// One `key` or `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// None for a bare key.
    pub(crate) value: Option<String>,
    pub(crate) origin: Origin,
}

/// A `[section]`, or a run of arguments that stands for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// Job name; meaningless if `global`.
    pub(crate) name: String,
    /// Sets defaults for the jobs that follow instead of being a job.
    pub(crate) global: bool,
    pub(crate) entries: Vec<Entry>,
    pub(crate) origin: Origin,
    /// Number of the job file it is from; the command line is 0. Defaults do
    /// not reach from one job file into the next.
    pub(crate) source: usize,
}

/// Reads and parses a job file.
pub(crate) fn read_job_file(path: &Path, source: usize) -> Result<Vec<Section>, Vec<OptionError>> {
    let text = read_text(path).map_err(|error| vec![error])?;
    let mut parser = Parser {
        sections: Vec::new(),
        errors: Vec::new(),
        source,
    };
    let shown = match path == Path::new(STANDARD_INPUT) {
        true => Path::new("<stdin>"),
        false => path,
    };
    parser.file(shown, &text, 0);
    if parser.errors.is_empty() {
        Ok(parser.sections)
    } else {
        Err(parser.errors)
    }
}

/// A job file of this name is read from standard input.
const STANDARD_INPUT: &str = "-";

fn read_text(path: &Path) -> Result<String, OptionError> {
    let unreadable = |source| OptionError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    // A pipe does not say how long it is, so no more is read than would be accepted.
    let most = FILE_LIMIT_BYTES + 1;
    let read = if path == Path::new(STANDARD_INPUT) {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(most).read_to_end(&mut bytes)
    };
    read.map_err(unreadable)?;
    if bytes.len() as u64 == most {
        return Err(unreadable(std::io::Error::other(format!(
            "more than {FILE_LIMIT_BYTES} bytes are too long for a job file"
        ))));
    }
    // Some editors begin a file with this mark of its encoding.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(OptionError::Grammar {
                origin: Origin::File {
                    path: Arc::new(path.to_owned()),
                    line,
                },
                text: "this line is not UTF-8; job files have to be".to_owned(),
            })
        }
    }
}

struct Parser {
    sections: Vec<Section>,
    errors: Vec<OptionError>,
    source: usize,
}

impl Parser {
    fn file(&mut self, path: &Path, text: &str, depth: usize) {
        let path_shared = Arc::new(path.to_owned());
        for (index, line) in text.lines().enumerate() {
            let origin = Origin::File {
                path: Arc::clone(&path_shared),
                line: index + 1,
            };
            self.line(path, line, origin, depth);
        }
    }

    fn line(&mut self, path: &Path, line: &str, origin: Origin, depth: usize) {
        // A comment may follow a value, as in fio: '#' and ';' end the line.
        let line = line.split(['#', ';']).next().unwrap_or("").trim();
        if line.is_empty() {
            return;
        }
        if line.starts_with('[') {
            self.section(line, origin, depth);
            return;
        }
        if let Some(rest) = line.strip_prefix("include")
            && rest.starts_with(char::is_whitespace)
        {
            self.include(path, rest.trim(), origin, depth);
            return;
        }
        let entry = entry_from(line, origin);
        match self.sections.last_mut() {
            Some(section) => section.entries.push(entry),
            None => self.errors.push(OptionError::Grammar {
                text: format!(
                    "option '{}' before the first [section]; put [global] or [jobname] above it",
                    entry.key
                ),
                origin: entry.origin,
            }),
        }
    }

    fn section(&mut self, line: &str, origin: Origin, depth: usize) {
        let name = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .map(str::trim)
            .filter(|name| !name.is_empty());
        let problem = match name {
            None => format!("'{line}' is not a section; write [jobname] or [global]"),
            Some(_) if depth > 0 => {
                "an included file cannot open sections; its options join the section that includes it".to_owned()
            }
            Some(name) => {
                self.sections.push(Section {
                    name: name.to_owned(),
                    // fio takes every name that begins so.
                    global: name.starts_with("global"),
                    entries: Vec::new(),
                    origin,
                    source: self.source,
                });
                return;
            }
        };
        self.errors.push(OptionError::Grammar {
            origin,
            text: problem,
        });
    }

    fn include(&mut self, includer: &Path, target: &str, origin: Origin, depth: usize) {
        if depth + 1 >= INCLUDE_DEPTH {
            self.errors.push(OptionError::Grammar {
                origin,
                text: format!("include is nested more than {INCLUDE_DEPTH} deep"),
            });
            return;
        }
        if target == STANDARD_INPUT {
            self.errors.push(OptionError::Grammar {
                origin,
                text: "standard input cannot be included; name it on the command line".to_owned(),
            });
            return;
        }
        let mut path = PathBuf::from(target);
        if !path.exists()
            && let Some(folder) = includer.parent()
        {
            path = folder.join(target);
        }
        match read_text(&path) {
            Ok(text) => self.file(&path, &text, depth + 1),
            Err(error) => self.errors.push(OptionError::Grammar {
                origin,
                text: error.to_string(),
            }),
        }
    }
}

/// Splits `key=value`; blanks around both are not part of them.
pub(crate) fn entry_from(text: &str, origin: Origin) -> Entry {
    match text.split_once('=') {
        Some((key, value)) => Entry {
            key: key.trim().to_owned(),
            value: Some(value.trim().to_owned()),
            origin,
        },
        None => Entry {
            key: text.trim().to_owned(),
            value: None,
            origin,
        },
    }
}

/// Replaces `${NAME}` by environment variables.
pub(crate) fn expand_environment(
    text: &str,
    origin: &Origin,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<String, OptionError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        expanded.push_str(before);
        let Some((name, tail)) = after.split_once('}') else {
            return Err(OptionError::Grammar {
                origin: origin.clone(),
                text: format!("'{text}' opens ${{ and does not close it"),
            });
        };
        match lookup(name) {
            Some(value) => expanded.push_str(&value),
            None => {
                return Err(OptionError::EnvironmentMissing {
                    origin: origin.clone(),
                    name: name.to_owned(),
                });
            }
        }
        rest = tail;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    fn parse(text: &str) -> Result<Vec<Section>, Vec<OptionError>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.fio");
        fs::write(&path, text).unwrap();
        read_job_file(&path, 1)
    }

    fn pairs(section: &Section) -> Vec<(&str, Option<&str>)> {
        section
            .entries
            .iter()
            .map(|entry| (entry.key.as_str(), entry.value.as_deref()))
            .collect()
    }

    /// Sections in order, several globals, both comments, bare keys, blanks.
    #[test]
    fn sections_comments_and_bare_keys() {
        let sections = parse(
            "# head\n; head\n[global]\nbs = 4k ; trailing\n\n[a]\nrw=read # why\nstonewall\n\
             [global]\nsize=1m\n[b]\r\nfilename=emu:file=/x,size=64m?ns=1\r\n",
        )
        .unwrap();
        let names: Vec<_> = sections
            .iter()
            .map(|s| (s.name.as_str(), s.global))
            .collect();
        assert_eq!(
            names,
            [
                ("global", true),
                ("a", false),
                ("global", true),
                ("b", false)
            ]
        );
        assert_eq!(pairs(&sections[0]), [("bs", Some("4k"))]);
        assert_eq!(
            pairs(&sections[1]),
            [("rw", Some("read")), ("stonewall", None)]
        );
        // Only the first '=' splits: the value is a device URL.
        assert_eq!(
            pairs(&sections[3]),
            [("filename", Some("emu:file=/x,size=64m?ns=1"))]
        );
    }

    /// Errors name the file and the line.
    #[test]
    fn grammar_errors_name_the_line() {
        let errors = parse("bs=4k\n[a\n[]\n[ok]\nrw=read\n").unwrap_err();
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3);
        for (line, text) in texts.iter().enumerate() {
            assert!(text.contains(&format!("t.fio:{}:", line + 1)), "{text}");
        }
    }

    /// Relative to the including file, into its section, and never for ever.
    #[test]
    fn include_joins_the_section_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("common"), "bs=8k\n").unwrap();
        fs::write(
            folder.path().join("a.fio"),
            "[a]\ninclude common\nrw=read\n",
        )
        .unwrap();
        let sections = read_job_file(&folder.path().join("a.fio"), 1).unwrap();
        assert_eq!(
            pairs(&sections[0]),
            [("bs", Some("8k")), ("rw", Some("read"))]
        );

        fs::write(folder.path().join("loop.fio"), "[a]\ninclude loop.inc\n").unwrap();
        fs::write(folder.path().join("loop.inc"), "include loop.inc\n").unwrap();
        let errors = read_job_file(&folder.path().join("loop.fio"), 1).unwrap_err();
        assert!(errors[0].to_string().contains("nested"), "{}", errors[0]);
    }

    /// A missing file is an error with its name.
    #[test]
    fn a_missing_file_is_named() {
        let errors = read_job_file(Path::new("/nonexistent/x.fio"), 1).unwrap_err();
        assert!(errors[0].to_string().contains("/nonexistent/x.fio"));
    }

    /// `${NAME}` anywhere in a value; unset and unclosed ones are errors.
    #[test]
    fn environment_variables_expand() {
        let origin = Origin::Argument { index: 1 };
        let lookup = |name: &str| (name == "DIR").then(|| "/tmp".to_owned());
        let expand = |text: &str| expand_environment(text, &origin, lookup);
        assert_eq!(expand("${DIR}/a${DIR}").unwrap(), "/tmp/a/tmp");
        assert_eq!(expand("$DIR").unwrap(), "$DIR");
        assert!(expand("${NOPE}").unwrap_err().to_string().contains("NOPE"));
        assert!(expand("${DIR").is_err());
    }
}
