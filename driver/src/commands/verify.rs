//! Verify (NVM Command Set 1.0, 3.2.5): whether blocks can be read, without reading them.
use super::abilities::oncs;
use crate::namespace::Kind;
use crate::{Error, Io, Lba, Namespace};
use underpin_nvme_spec::NvmOpcode;
use underpin_nvme_spec::identify::IdentifyNvmController;

impl Namespace {
    /// A verification of `blocks` blocks from `lba` on: it ends with the error that a read of them
    /// would. It moves no data; submit it with
    /// [`submit_bare`](crate::QueuePair::submit_bare). Longer ones than the device takes at a time
    /// are split.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::NotSupported`] where the device has no Verify.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m,fault=status:0x281@op=0x0c+q=1+nth=2", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    /// let sound = queue.submit_bare(ns.verify(Lba(0), 64)?)?;
    /// queue.wait_for(sound).result?;
    /// let unsound = queue.submit_bare(ns.verify(Lba(64), 64)?)?;
    /// assert!(queue.wait_for(unsound).result.is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn verify(&self, lba: Lba, blocks: u64) -> Result<Io, Error> {
        self.need(oncs::VERIFY, NvmOpcode::VERIFY)?;
        let limit = self.limit(IdentifyNvmController::vsl);
        let io = self.transfer(lba, blocks, NvmOpcode::VERIFY)?;
        Ok(io.without_data(Kind::Blocks { most_shift: limit }))
    }
}
