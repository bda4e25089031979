//! Dataset Management (NVM Command Set 1.0, 3.2.3): blocks that are needed no more.
use super::abilities::oncs;
use crate::dma::Payload;
use crate::slots::Token;
use crate::{Error, Lba, Namespace, Nsid, QueuePair};
use underpin_nvme_spec::NvmOpcode;
use underpin_nvme_spec::nvm::{DatasetManagement, DsmRange};

/// A range of blocks.
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let gone = [BlockRange { lba: Lba(0), blocks: 8 }, BlockRange { lba: Lba(2040), blocks: 8 }];
/// assert!(ns.deallocate(&gone).is_ok());
/// let past_the_end = BlockRange { lba: Lba(2041), blocks: 8 };
/// assert!(ns.deallocate(&[past_the_end]).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// The first block.
    pub lba: Lba,
    /// How many.
    pub blocks: u64,
}

/// A checked request to deallocate ranges of one namespace, to be given to a queue of its
/// controller.
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// let request = ns.deallocate(&[BlockRange { lba: Lba(0), blocks: 64 }])?;
/// let token = queue.submit_deallocate(&request)?;
/// queue.wait_for(token).result?;
/// assert_eq!(queue.stats().deallocates, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is submitted"]
pub struct Deallocate {
    controller: u32,
    nsid: Nsid,
    ranges: Vec<DsmRange>,
}

impl Namespace {
    /// A request to deallocate ranges of blocks: what they held is needed no more. What they read
    /// as afterwards is the device's to say (DLFEAT of [`identify`](Self::identify)); it may also
    /// do nothing at all.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a range that does not lie within the namespace, or is empty;
    /// [`Error::Request`] for none, or for more ranges or blocks than one command may have: at
    /// most 256 ranges of 2^32 - 1 blocks, less where the device says so;
    /// [`Error::NotSupported`] where it has no Dataset Management.
    pub fn deallocate(&self, ranges: &[BlockRange]) -> Result<Deallocate, Error> {
        self.need(oncs::DATASET_MANAGEMENT, NvmOpcode::DATASET_MANAGEMENT)?;
        let limits = self.abilities().limits.as_deref();
        let unless_zero = |limit: u64, most: u64| match limit {
            0 => most,
            limit => limit.min(most),
        };
        let most_ranges = DatasetManagement::MAX_RANGES as u64;
        let most_ranges = unless_zero(limits.map_or(0, |page| page.dmrl().into()), most_ranges);
        let of_one = unless_zero(
            limits.map_or(0, |page| page.dmrsl().into()),
            u32::MAX.into(),
        );
        let of_all = unless_zero(limits.map_or(0, |page| page.dmsl()), u64::MAX);
        let too_many = |count: u64, what: &str, most: u64| {
            Error::Request(format!(
                "{count} {what} are more than one Dataset Management command may have here, {most}"
            ))
        };
        let mut entries: Vec<DsmRange> = Vec::with_capacity(ranges.len().min(256));
        let mut all = 0_u64;
        for &BlockRange { lba, blocks } in ranges {
            // Whether it is in range; nothing is transferred.
            self.transfer(lba, blocks, NvmOpcode::DATASET_MANAGEMENT)?;
            all = all.saturating_add(blocks);
            let count = entries.len() as u64 + blocks.div_ceil(of_one);
            if count > most_ranges {
                return Err(too_many(count, "ranges", most_ranges));
            }
            let mut at = 0;
            while at < blocks {
                let part = of_one.min(blocks - at);
                entries.push(DsmRange {
                    attributes: 0,
                    blocks: part as u32,
                    slba: Lba(lba.0 + at),
                });
                at += part;
            }
        }
        if all > of_all {
            return Err(too_many(all, "blocks", of_all));
        }
        if entries.is_empty() {
            return Err(Error::Request("there are no ranges".to_owned()));
        }
        Ok(Deallocate {
            controller: self.controller(),
            nsid: self.nsid(),
            ranges: entries,
        })
    }
}

impl<B: Payload> QueuePair<B> {
    /// Writes a Dataset Management command into the ring. Its ranges are copied into memory of the
    /// queue's own, which is made when it is first needed and then used again.
    ///
    /// # Errors
    /// [`Error::QueueFull`] (poll first), [`Error::WrongController`], [`Error::Failed`],
    /// [`Error::Dma`] for memory.
    pub fn submit_deallocate(&mut self, request: &Deallocate) -> Result<Token, Error> {
        self.check_controller(request.controller)?;
        let space = self.space();
        let queue = self.queue_mut();
        queue.submit_ranges(&space, request.nsid, &request.ranges)
    }

    /// Deallocates and waits for the end.
    ///
    /// # Errors
    /// As [`submit_deallocate`](Self::submit_deallocate), and [`Error::Command`] with the
    /// command's own error.
    ///
    /// ```
    /// # use underpin_dma::DmaSpace;
    /// # use underpin_nvme::{BlockRange, Controller, ControllerOptions, Lba, QueueOptions};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue = controller.queue_pair::<underpin_dma::DmaBuf>(QueueOptions::default())?;
    /// let unused = BlockRange { lba: Lba(64), blocks: 128 };
    /// queue.deallocate(&ns.deallocate(&[unused])?)?;
    /// # Ok::<(), underpin_nvme::Error>(())
    /// ```
    pub fn deallocate(&mut self, request: &Deallocate) -> Result<(), Error> {
        let token = self.submit_deallocate(request)?;
        Ok(self.wait_for(token).result?)
    }
}
