//! Abort (NVMe Base 2.0, 5.1): a wish that a command should end. It proves nothing of the
//! command's DMA: only the command's own completion does, and its buffer comes back with that.
use super::call::{AdminCall, Data};
use crate::dma::Payload;
use crate::slots::Token;
use crate::{Error, QueuePair};
use underpin_nvme_spec::admin::Abort;

/// What became of the wish.
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// let token = queue.submit(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
/// queue.wait_for(token).result?;
/// let aborted = queue.abort(token)?;
/// assert_eq!(aborted, Aborted { commands: 0, aborted: 0 }, "it had ended already");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aborted {
    /// Commands of the request that were in flight; 0 when it had ended already.
    pub commands: usize,
    /// Those of them that the device says it has aborted.
    pub aborted: usize,
}

impl<B: Payload> QueuePair<B> {
    /// Begins to abort a request: one Abort for each of its commands in flight, to be polled one
    /// after the other, as a device may take few at a time (ACL). Each answers whether the device
    /// aborted that command.
    ///
    /// # Errors
    /// [`Error::Dma`] for memory; [`Error::Failed`] when it is polled.
    pub fn begin_abort(&mut self, token: Token) -> Result<Vec<AdminCall<bool>>, Error> {
        // The device cannot abort what it has not been told of.
        self.ring();
        let sqid = self.qid();
        let commands = self.queue_mut().commands_of(token);
        let begin = |cid| {
            let sqe = Abort { sqid, cid }.to_sqe();
            // Bit 0: it was not aborted.
            let finish = |dw0: u32, _| Ok(dw0 & 1 == 0);
            AdminCall::new(self.inner(), sqe, &Data::None, None, finish)
        };
        commands.into_iter().map(begin).collect()
    }

    /// Asks the device to abort a request, and waits for its answers. Whatever they are, the
    /// request ends as any other: [`poll`](Self::poll) or [`wait_for`](Self::wait_for) it. An
    /// aborted one ends with
    /// [`Status::ABORT_REQUESTED`](crate::Status::ABORT_REQUESTED) and gives its buffer back.
    ///
    /// # Errors
    /// [`Error::Admin`] with the device's status; [`Error::Failed`].
    ///
    /// ```
    /// use underpin_nvme::{CommandError, Status};
    ///
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m,fault=hold@op=read", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    /// let token = queue.submit(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
    /// assert_eq!(queue.abort(token)?.aborted, 1);
    /// let ended = queue.wait_for(token);
    /// let Err(CommandError::Status { status, .. }) = ended.result else { panic!("it was aborted") };
    /// assert_eq!(status, Status::ABORT_REQUESTED);
    /// assert!(ended.buffer.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abort(&mut self, token: Token) -> Result<Aborted, Error> {
        let calls = self.begin_abort(token)?;
        let commands = calls.len();
        let mut aborted = 0;
        for call in calls {
            aborted += usize::from(call.wait()?);
        }
        Ok(Aborted { commands, aborted })
    }
}
