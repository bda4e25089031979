//! Compare (NVM Command Set 1.0, 3.2.1): whether blocks hold what a buffer does.
use super::abilities::oncs;
use crate::{Error, Io, Lba, Namespace};
use underpin_nvme_spec::NvmOpcode;

impl Namespace {
    /// A comparison of `blocks` blocks from `lba` on with the buffer that it is submitted with.
    /// Where they differ it ends with
    /// [`Status::COMPARE_FAILURE`](crate::Status::COMPARE_FAILURE). One that is longer than the
    /// controller's `max_transfer_bytes` is made part by part, and a write may come between.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::NotSupported`] where the device has no Compare.
    ///
    /// ```
    /// # use underpin_dma::DmaSpace;
    /// # use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue = controller.queue_pair(QueueOptions::default())?;
    /// let mut page = space.alloc(4096, 4096)?;
    /// page = queue.run(ns.compare(Lba(0), 8)?, page)?;
    /// page.copy_from(0, b"not what is there")?;
    /// let error = queue.run(ns.compare(Lba(0), 8)?, page).unwrap_err();
    /// assert!(error.to_string().contains("Compare Failure"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compare(&self, lba: Lba, blocks: u64) -> Result<Io, Error> {
        self.need(oncs::COMPARE, NvmOpcode::COMPARE)?;
        self.transfer(lba, blocks, NvmOpcode::COMPARE)
    }
}
