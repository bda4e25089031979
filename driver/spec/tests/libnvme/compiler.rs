//! Asks the C compiler what constant expressions over libnvme's headers are worth, by a program
//! that prints them.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs, process};

use crate::values::Value;

const INSTALL: &str = "this test needs a C compiler and libnvme's headers: \
                       apt-get install libnvme-dev gcc";

/// What to compile with and which header to ask.
pub(crate) struct Toolchain {
    /// The C compiler's command.
    pub(crate) cc: &'static str,
    /// The header that declares all of libnvme.
    pub(crate) header: &'static str,
}

impl Default for Toolchain {
    fn default() -> Self {
        Self {
            cc: "cc",
            header: "libnvme.h",
        }
    }
}

/// The worth of each value's expression, in order, or a text for the one who runs the test.
/// `name` keeps the files of tests that run at once apart.
pub(crate) fn evaluate(
    toolchain: &Toolchain,
    name: &str,
    values: &[Value],
) -> Result<Vec<u64>, String> {
    let scratch = Scratch::new(name)?;
    let source = scratch.0.join("values.c");
    let program = scratch.0.join("values");

    let include = format!("#include <{}>\n", toolchain.header);
    write(&source, &include)?;
    let probe = run(Command::new(toolchain.cc).arg("-E").arg(&source))?;
    if !probe.status.success() {
        return Err(format!(
            "{} cannot find <{}>; {INSTALL}\n{}",
            toolchain.cc,
            toolchain.header,
            String::from_utf8_lossy(&probe.stderr)
        ));
    }

    write(&source, &(include + &source_of(values)))?;
    let compiled = run(Command::new(toolchain.cc)
        .args(["-std=gnu11", "-Werror=overflow", "-o"])
        .arg(&program)
        .arg(&source))?;
    if !compiled.status.success() {
        return Err(format!(
            "the program generated from our tables does not compile against <{}>:\n{}",
            toolchain.header,
            String::from_utf8_lossy(&compiled.stderr)
        ));
    }

    let printed = run(&mut Command::new(&program))?;
    if !printed.status.success() {
        return Err(format!(
            "the generated program ended with {}",
            printed.status
        ));
    }
    String::from_utf8_lossy(&printed.stdout)
        .lines()
        .map(|line| {
            line.parse()
                .map_err(|e| format!("the generated program printed {line:?}: {e}"))
        })
        .collect()
}

fn source_of(values: &[Value]) -> String {
    let mut source = String::from(
        "#include <stddef.h>\n\
         #include <stdio.h>\n\
         static __u8 format_index(__u8 flbas)\n\
         {\n\
         \t__u8 index;\n\
         \tnvme_id_ns_flbas_to_lbaf_inuse(flbas, &index);\n\
         \treturn index;\n\
         }\n\
         int main(void)\n\
         {\n",
    );
    for value in values {
        let _ = writeln!(
            source,
            "\tprintf(\"%llu\\n\", (unsigned long long)({}));",
            value.expression
        );
    }
    source.push_str("\treturn (int)format_index(0);\n}\n");
    source
}

fn run(command: &mut Command) -> Result<Output, String> {
    // The language of the messages is that of the tests that read them.
    command.env("LC_ALL", "C").output().map_err(|e| {
        let program = command.get_program().to_string_lossy();
        match e.kind() {
            ErrorKind::NotFound => format!("there is no {program}; {INSTALL}"),
            _ => format!("cannot run {program}: {e}"),
        }
    })
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// A directory of our own, removed when done.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self, String> {
        let path = env::temp_dir().join(format!("underpin-libnvme-{name}-{}", process::id()));
        fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
