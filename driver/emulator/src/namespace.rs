//! A namespace of the controller: its geometry, what it promises, and its medium.
//! Built once from the configuration.
use crate::EmulatorError;
use crate::config::{EmulatorConfig, NamespaceConfig};
use crate::media::Medium;

/// One namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) nsid: u32,
    pub(crate) blocks: u64,
    pub(crate) lba_shift: u32,
    pub(crate) medium: Medium,
    /// So many blocks are written as a whole with respect to other commands.
    pub(crate) atomic_blocks: u64,
    pub(crate) nawun: Option<u16>,
    pub(crate) nawupf: Option<u16>,
    pub(crate) atomic_boundary: u16,
}

impl Namespace {
    pub(crate) fn open(
        config: &EmulatorConfig,
        nsid: u32,
        namespace: &NamespaceConfig,
    ) -> Result<Self, EmulatorError> {
        let name = format!("{}-ns{nsid}", config.name);
        let (medium, size_bytes) = Medium::open(&name, namespace, config.vwc)?;
        Ok(Self {
            nsid,
            blocks: size_bytes / u64::from(namespace.lba_bytes),
            lba_shift: namespace.lba_bytes.trailing_zeros(),
            medium,
            atomic_blocks: u64::from(namespace.nawun.unwrap_or(config.awun)) + 1,
            nawun: namespace.nawun,
            nawupf: namespace.nawupf,
            atomic_boundary: namespace.atomic_boundary,
        })
    }
}
