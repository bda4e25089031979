//! Why a request did not end well, with its buffer where that could be had back.
use crate::Error;
use std::fmt;

/// A request that did not end well.
///
/// ```
/// use underpin_nvme::futures::RequestError;
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m,fault=status:0x281@op=read", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let queue: AsyncQueue<DmaBuf> = controller.async_queue(QueueOptions::default())?;
/// let page = space.alloc(4096, 4096)?;
/// let read = ns.read(Lba(0), 8)?;
/// let RequestError { error, buffer } = queue.block_on(queue.run(read, page)).unwrap_err();
/// println!("{error}; once more");
/// let page = buffer.expect("the device has let go of it");
/// assert!(queue.block_on(queue.run(read, page)).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RequestError<B> {
    /// Why.
    pub error: Error,
    /// The buffer it owned. `None` for a request without one, and where the device may still use
    /// it: then it is freed once that is proven to be over.
    pub buffer: Option<B>,
}

impl<B> fmt::Debug for RequestError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestError")
            .field("error", &self.error)
            .field("has_buffer", &self.buffer.is_some())
            .finish()
    }
}

impl<B> fmt::Display for RequestError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<B> std::error::Error for RequestError<B> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<B> From<RequestError<B>> for Error {
    fn from(error: RequestError<B>) -> Self {
        error.error
    }
}

/// How a request ended: dword 0 of its completion, or why not.
#[derive(Debug)]
pub(super) struct Outcome<B> {
    pub(super) result: Result<u32, Error>,
    pub(super) buffer: Option<B>,
}

impl<B> Outcome<B> {
    pub(super) fn failed(error: Error, buffer: Option<B>) -> Self {
        Self {
            result: Err(error),
            buffer,
        }
    }

    /// For a request with a buffer, which a good end always gives back.
    pub(super) fn into_buffer(self) -> Result<B, RequestError<B>> {
        match (self.result, self.buffer) {
            (Ok(_), Some(buffer)) => Ok(buffer),
            (Ok(_), None) => Err(RequestError {
                error: Error::Buffer("the request carried none".to_owned()),
                buffer: None,
            }),
            (Err(error), buffer) => Err(RequestError { error, buffer }),
        }
    }

    pub(super) fn into_dw0(self) -> Result<u32, RequestError<B>> {
        let buffer = self.buffer;
        self.result.map_err(|error| RequestError { error, buffer })
    }
}
