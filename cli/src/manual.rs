//! `underpin completions` and `underpin man`: made from the command line's own description, so that
//! they cannot say anything else than it does.
use crate::args::{Args, CompletionsArgs, ManArgs};
use crate::failure::Failure;
use crate::{output, text};
use clap::CommandFactory;

/// The shell's completion script on standard output.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "underpin", &mut script);
    output::page(&script)
}

/// The manual: its first page on standard output, or all pages into a folder.
pub(crate) fn man(args: &ManArgs) -> Result<(), Failure> {
    // `underpin help` needs no page of its own.
    let command = Args::command().disable_help_subcommand(true);
    let Some(folder) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return output::page(&page);
    };
    let generated =
        std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
    generated.map_err(|error| {
        let folder = text::escape(&folder.to_string_lossy());
        Failure::file(
            format!("the manual cannot be written to {folder}: {error}"),
            "name a folder that you may write",
        )
    })
}
