//! One admin command on its way, for callers: polled until it answers, or waited for.
//! Its data lie in memory of the driver's own, which stays with the command until it ends.
use crate::Error;
use crate::admin::{Answer, Call};
use crate::controller::Inner;
use crate::dma::rt;
use crate::queue::Allowed;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use underpin_nvme_spec::Sqe;

/// What makes an answer of dword 0 and the data that came back.
type Finish<T> = Box<dyn FnOnce(u32, Vec<u8>) -> Result<T, Error> + Send>;

/// An admin command that was begun: [`poll`](Self::poll) it, or [`wait`](Self::wait) for its end.
///
/// Dropping it detaches: the device carries the command out all the same, and its memory is freed
/// when it has.
///
/// ```
/// use underpin_nvme::{LogRequest, spec::admin::LogId};
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// // Two commands of which neither waits for the other.
/// let mut smart = controller.begin_log_page(&LogRequest::new(LogId::SMART, 512))?;
/// let errors = controller.begin_log_page(&LogRequest::new(LogId::ERROR, 64))?;
/// let smart = loop {
///     if let Some(answer) = smart.poll() {
///         break answer?;
///     }
/// };
/// assert_eq!((smart.len(), errors.wait()?.len()), (512, 64));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is sent until it is polled or waited for"]
pub struct AdminCall<T> {
    inner: Arc<Inner>,
    call: Call,
    /// Bytes to be read out of the command's memory.
    read_bytes: usize,
    finish: Option<Finish<T>>,
}

impl<T> fmt::Debug for AdminCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminCall")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}

impl<T> Drop for AdminCall<T> {
    fn drop(&mut self) {
        self.call.leave(&self.inner);
    }
}

/// The memory of a command.
pub(crate) enum Data<'a> {
    None,
    /// So many bytes from the device.
    In(usize),
    /// These bytes to the device.
    Out(&'a [u8]),
}

impl<T> AdminCall<T> {
    /// A command with its data, and what is to be made of its answer. `time` is how long it may
    /// take, where that is not the controller's `admin_timeout`.
    pub(crate) fn new(
        inner: &Arc<Inner>,
        sqe: Sqe,
        data: &Data<'_>,
        time: Option<Duration>,
        finish: impl FnOnce(u32, Vec<u8>) -> Result<T, Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let (len_bytes, read_bytes) = match data {
            Data::None => (0, 0),
            Data::In(len) => (*len, *len),
            Data::Out(bytes) => (bytes.len(), 0),
        };
        let (sqe, buffer) = match len_bytes {
            0 => (sqe, None),
            len_bytes => {
                let (sqe, mut buffer) = memory(inner, sqe, len_bytes)?;
                if let Data::Out(bytes) = data {
                    buffer
                        .copy_from(0, bytes)
                        .map_err(underpin_dma::Error::from)?;
                }
                (sqe, Some(buffer))
            }
        };
        Ok(Self {
            inner: Arc::clone(inner),
            call: Call::within(sqe, buffer, time),
            read_bytes,
            finish: Some(Box::new(finish)),
        })
    }

    /// One step, which never waits: the answer, once there is one. `None` for ever afterwards.
    pub fn poll(&mut self) -> Option<Result<T, Error>> {
        let answer = self.call.poll(&self.inner)?;
        let finish = self.finish.take()?;
        Some(answer.and_then(|answer| finish(answer.dw0, self.read(&answer)?)))
    }

    fn read(&self, answer: &Answer) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; self.read_bytes];
        if let Some(buffer) = &answer.buffer {
            buffer
                .copy_to(0, &mut bytes)
                .map_err(underpin_dma::Error::from)?;
        }
        Ok(bytes)
    }

    /// Waits for the answer; no longer than the command's deadline, which fails the controller.
    ///
    /// # Errors
    /// [`Error::Admin`] with the device's status, [`Error::Failed`], and what the answer is worth.
    pub fn wait(mut self) -> Result<T, Error> {
        let answer = rt::wait(None, |_now| self.poll());
        answer.unwrap_or_else(|_| Err(self.inner.failed()))
    }
}

/// Memory for `len_bytes` bytes, zeroed, and the command with PRPs that name it: whole pages that
/// nothing else shares, and behind them the page of their list if there must be one.
fn memory(inner: &Inner, sqe: Sqe, len_bytes: usize) -> Result<(Sqe, underpin_dma::DmaBuf), Error> {
    let page = inner.page_align();
    // One list page names as many pages as it has words, beside the one of PRP1.
    let most = inner
        .facts()
        .max_transfer_bytes
        .min((page / 8 * page) as u64);
    if len_bytes as u64 > most {
        return Err(Error::TooLong {
            len_bytes: len_bytes as u64,
            max_bytes: most,
        });
    }
    let pages = len_bytes.div_ceil(page);
    let list_pages = usize::from(pages > 2);
    let mut buffer = inner.space.alloc((pages + list_pages) * page, page)?;
    let first = buffer.iova().get();
    let at = |index: usize| first + (index * page) as u64;
    let prp2 = match pages {
        0 | 1 => 0,
        2 => at(1),
        _ => at(pages),
    };
    if list_pages != 0 {
        let list: Vec<u8> = (1..pages)
            .flat_map(|index| at(index).to_le_bytes())
            .collect();
        buffer
            .copy_from(pages * page, &list)
            .map_err(underpin_dma::Error::from)?;
    }
    Ok((sqe.with_prp1(first).with_prp2(prp2), buffer))
}

/// How long the queue is to allow, and how long the call waits itself.
pub(crate) fn times(time: Option<Duration>, usual: Duration) -> (Allowed, Option<Duration>) {
    match time {
        None => (Allowed::Usual, None),
        Some(time) if time >= usual => (Allowed::AtLeast(time), None),
        Some(time) => (Allowed::Usual, Some(time)),
    }
}
