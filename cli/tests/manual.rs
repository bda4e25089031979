//! What is made from the command line's description: completion scripts and the manual.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod support;

use std::process::Command;
use support::run;

/// Every command, as `underpin help` lists them.
fn commands() -> Vec<String> {
    let help = run(["help"]).ends(0).stdout;
    let list = help.split("Commands:").nth(1).unwrap();
    let list = list.split("Options:").next().unwrap();
    let names = list
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<_> = names
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect();
    assert!(names.len() >= 4, "{help}");
    names
}

/// Each shell has a script that names every command; bash takes its own without complaint and
/// completes from it.
#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(["completions", shell]).ends(0).stdout;
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
        }
    }
    let script = run(["completions", "bash"]).ends(0).stdout;
    let ask = "COMP_WORDS=(underpin ident); COMP_CWORD=1; _underpin underpin ident underpin; \
               echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["-c", &format!("{script}\n{ask}")])
        .output()
        .expect("bash is there");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "identify");
    assert!(run(["completions", "csh"]).ends(2).stderr.contains("bash"));
}

/// There is a page for the program and for each command; the first can be read by itself.
#[test]
fn the_manual_has_a_page_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("man1");
    run(["man", "--dir", at.to_str().unwrap()]).ends(0);
    let main = std::fs::read_to_string(at.join("underpin.1")).unwrap();
    assert!(
        main.contains(".TH underpin 1") && main.contains("Exit status"),
        "{main}"
    );
    for command in commands().iter().filter(|&name| name != "help") {
        let page = std::fs::read_to_string(at.join(format!("underpin-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
    assert_eq!(run(["man"]).ends(0).stdout, main);
    std::fs::write(folder.path().join("file"), "").unwrap();
    let failed = run([
        "man",
        "--dir",
        folder.path().join("file/x").to_str().unwrap(),
    ])
    .ends(1);
    assert!(failed.stderr.contains("  try: "), "{}", failed.stderr);
}
