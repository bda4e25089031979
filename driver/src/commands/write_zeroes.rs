//! Write Zeroes (NVM Command Set 1.0, 3.2.8): a write whose data need not be sent.
use super::abilities::oncs;
use crate::namespace::Kind;
use crate::{Error, Io, Lba, Namespace};
use underpin_nvme_spec::NvmOpcode;
use underpin_nvme_spec::identify::IdentifyNvmController;

/// DEAC, bit 25 of dword 12.
const DEALLOCATE: u32 = 1 << 25;

impl Namespace {
    /// A write of zeroes to `blocks` blocks from `lba` on. It moves no data; submit it with
    /// [`submit_bare`](crate::QueuePair::submit_bare). Longer ones than the device takes at a time
    /// are split. With [`Io::force_unit_access`] it is durable when it completes, with
    /// [`Io::may_deallocate`] the device need keep no room for the blocks.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::NotSupported`] where the device has no Write Zeroes.
    ///
    /// ```
    /// # use underpin_dma::DmaSpace;
    /// # use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue = controller.queue_pair::<underpin_dma::DmaBuf>(QueueOptions::default())?;
    /// let zeroes = ns.write_zeroes(Lba(0), ns.blocks())?.may_deallocate();
    /// let token = queue.submit_bare(zeroes)?;
    /// queue.wait_for(token).result?;
    /// # Ok::<(), underpin_nvme::Error>(())
    /// ```
    pub fn write_zeroes(&self, lba: Lba, blocks: u64) -> Result<Io, Error> {
        self.need(oncs::WRITE_ZEROES, NvmOpcode::WRITE_ZEROES)?;
        let limit = self.limit(IdentifyNvmController::wzsl);
        let io = self.transfer(lba, blocks, NvmOpcode::WRITE_ZEROES)?;
        Ok(io.without_data(Kind::Blocks { most_shift: limit }))
    }
}

impl Io {
    /// The same Write Zeroes, and the device may give the blocks' room to others, where they read
    /// as zeroes all the same (DLFEAT). Other requests stay what they are.
    #[must_use]
    pub fn may_deallocate(mut self) -> Self {
        if self.transfer.opcode() == NvmOpcode::WRITE_ZEROES {
            self.transfer.flags |= DEALLOCATE;
        }
        self
    }
}
