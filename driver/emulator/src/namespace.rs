//! A namespace of the controller: its geometry, what it promises, and its medium.
//! Built from the configuration; a format changes its blocks.
use crate::EmulatorError;
use crate::config::{EmulatorConfig, NamespaceConfig};
use crate::media::Medium;
use crate::power::Cache;
use underpin_nvme_spec::Status;

/// The blocks that a namespace can be formatted to have, as powers of two.
pub(crate) const FORMAT_SHIFTS: [u32; 2] = [9, 12];

/// One namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) nsid: u32,
    pub(crate) blocks: u64,
    /// Of the medium; a few bytes at its end may be no whole block.
    pub(crate) size_bytes: u64,
    pub(crate) lba_shift: u32,
    pub(crate) medium: Medium,
    /// So many blocks are written as a whole with respect to other commands.
    pub(crate) atomic_blocks: u64,
    pub(crate) nawun: Option<u16>,
    pub(crate) nawupf: Option<u16>,
    pub(crate) atomic_boundary: u16,
    /// So many blocks are written whole or not at all when the power fails.
    pub(crate) power_fail_blocks: u64,
    /// Writes that a power cut may take away, while there may be one.
    pub(crate) cache: Option<Box<Cache>>,
    /// It is not there any more. It has no blocks then.
    pub(crate) gone: bool,
    pub(crate) read_only: bool,
    pub(crate) csi: u8,
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
            size_bytes,
            lba_shift: namespace.lba_bytes.trailing_zeros(),
            medium,
            atomic_blocks: u64::from(namespace.nawun.unwrap_or(config.awun)) + 1,
            nawun: namespace.nawun,
            nawupf: namespace.nawupf,
            atomic_boundary: namespace.atomic_boundary,
            power_fail_blocks: u64::from(namespace.nawupf.unwrap_or(config.awupf)) + 1,
            cache: None,
            gone: false,
            read_only: namespace.read_only,
            csi: namespace.csi,
        })
    }

    /// From now on it is not there.
    pub(crate) fn vanish(&mut self) {
        self.gone = true;
        // So that the one look at the range, which every transfer takes, suffices.
        self.blocks = 0;
    }

    /// Why a range of blocks was refused.
    #[cold]
    pub(crate) fn refusal(&self) -> Status {
        match self.gone {
            true => Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry(),
            false => Status::LBA_OUT_OF_RANGE.with_do_not_retry(),
        }
    }
}
