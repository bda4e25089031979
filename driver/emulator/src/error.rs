//! Why an emulator could not be made or started, with what to do about it.
//! What its host does wrong is not an error here: it is answered as a controller answers.
use std::path::PathBuf;

/// Why an emulator could not be made or started.
///
/// ```
/// use underpin_emulator::{Emulator, EmulatorConfig, EmulatorError};
///
/// let error = "lba=520".parse::<EmulatorConfig>().unwrap_err();
/// assert!(matches!(error, EmulatorError::Option { .. }));
///
/// let missing = "file=/nowhere/a.img,size=1m".parse()?;
/// match Emulator::new(missing) {
///     Err(EmulatorError::File { path, .. }) => assert_eq!(path.to_str(), Some("/nowhere/a.img")),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), EmulatorError>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// A key or value of the configuration that means nothing.
    #[error("emulator option {option:?}: {what}")]
    Option {
        /// The part of the text that was read.
        option: String,
        /// What is wrong, and what is accepted.
        what: String,
    },

    /// A fault that could not be parsed.
    #[error(transparent)]
    Fault(#[from] crate::FaultParseError),

    /// A step with the file behind a namespace failed.
    #[error("{step} {path:?}, the medium of a namespace, failed: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Which step.
        step: &'static str,
        /// What the system said.
        source: std::io::Error,
    },

    /// The file behind a namespace is the medium of another emulator, here or in another process:
    /// two that write it would destroy each other's data.
    #[error(
        "{path:?} is in use by {}; end that, name another file, or open it with ro=on on both sides",
        .holder.as_deref().unwrap_or("another program")
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// Who holds it, where the system says so: the process's number and name.
        holder: Option<String>,
    },

    /// The memory behind a namespace could not be had.
    #[error("the memory of a namespace could not be had: {0}; choose a smaller size")]
    Memory(#[source] underpin_dma::Error),

    /// The operating system granted no thread.
    #[error("no thread could be started for the emulator: {0}")]
    Thread(#[source] std::io::Error),

    /// It runs already, or ran and was stopped.
    #[error("this emulator was started already; make another with Emulator::new")]
    Started,
}
