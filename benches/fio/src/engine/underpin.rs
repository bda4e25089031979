//! Underpin's NVMe driver: a queue pair per job thread, DMA buffers, doorbells.

#![forbid(unsafe_code)]

use underpin::dma::rt;
use underpin::nvme::{CommandError, Error};
use underpin::{
    Completion, DmaBuf, Io, Lba, Namespace, Pool, PoolOptions, QueueOptions, QueuePair, Waiting,
};

use crate::log::complain;

use super::{Devices, Done, Engine, EngineError, Geometry, IoBuffer, IoFailure, Note, Op};
use super::{OpenRequest, Refused, Request, Unit};

/// What travels with the buffer through the queue.
type Ticket = (u32, Request, Note);

/// Buffers start on a page, so that their PRPs are as few as can be.
const BUFFER_ALIGN_BYTES: usize = 4096;

/// The engine.
pub(crate) struct Underpin {
    queue: QueuePair<(DmaBuf, Ticket)>,
    namespace: Namespace,
    pool: Pool,
    lba_shift: u32,
    interrupts: bool,
    /// Units that the driver would never take, with the reason.
    rejected: Vec<Done<DmaBuf>>,
}

impl IoBuffer for DmaBuf {
    fn copy_from(&mut self, bytes: &[u8]) {
        // The loop never copies more than the buffer was made for.
        let _ = DmaBuf::copy_from(self, 0, bytes);
    }

    fn copy_to(&self, bytes: &mut [u8]) {
        let _ = DmaBuf::copy_to(self, 0, bytes);
    }
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        EngineError::Device {
            errno: libc::EIO,
            text: error.to_string(),
        }
    }
}

/// Queues are one per thread: says which option asks for fewer.
pub(super) fn no_queue_left(error: Error) -> EngineError {
    match error {
        Error::NoQueue { device, granted } => EngineError::Device {
            errno: libc::EBUSY,
            text: format!(
                "{device} grants {granted} I/O queues and all are taken, one per job thread; \
                 lower numjobs (an emu: device takes queues=N)"
            ),
        },
        other => other.into(),
    }
}

/// The report repeats iodepth: what was not reached must not pass for it. Each I/O takes `places`
/// in the queue.
pub(super) fn note_depth(request: &OpenRequest<'_>, url: &str, depth: u64, places: u64) {
    if depth >= places.saturating_mul(u64::from(request.depth)) {
        return;
    }
    let split = if places > 1 {
        format!(", {places} for each I/O of {} bytes", request.buffer_bytes)
    } else {
        String::new()
    };
    complain!(
        "note: iodepth={} is not reached: a queue of {url} takes {depth} commands at a time{split}",
        request.depth
    );
}

impl Underpin {
    /// The NVMe command for a request, which lies on whole blocks.
    #[inline]
    fn command(&self, request: &Request) -> Result<Io, Error> {
        let lba = Lba(request.offset >> self.lba_shift);
        let blocks = u64::from(request.len_bytes) >> self.lba_shift;
        match request.op {
            Op::Read => self.namespace.read(lba, blocks),
            Op::Write => self.namespace.write(lba, blocks),
            Op::Flush | Op::DataFlush => Ok(self.namespace.flush()),
        }
    }

    fn reject(&mut self, unit: Unit<DmaBuf>, error: &Error) {
        self.rejected.push(Done {
            unit,
            result: Err(IoFailure {
                errno: libc::EINVAL,
                text: error.to_string(),
            }),
        });
    }
}

impl Engine for Underpin {
    type Buffer = DmaBuf;
    const COMPLETES_IN_QUEUE: bool = false;

    fn open(request: &OpenRequest<'_>, devices: &Devices) -> Result<Self, EngineError> {
        let url = request.targets.first().map_or("", String::as_str);
        let (controller, namespace) = devices.open(url)?;
        // A request longer than the device's limit is split and takes several
        // places in the queue.
        let longest = controller.max_transfer_bytes().max(1);
        let places = u64::from(request.buffer_bytes).div_ceil(longest).max(1);
        let wanted = places.saturating_mul(u64::from(request.depth));
        let depth = u16::try_from(wanted).unwrap_or(u16::MAX);
        let queue = controller
            .queue_pair(QueueOptions {
                depth,
                waiting: match request.interrupts {
                    true => Waiting::Interrupt,
                    false => Waiting::Poll,
                },
            })
            .map_err(no_queue_left)?;
        note_depth(request, url, queue.depth() as u64, places);
        let buffer_bytes = (request.buffer_bytes as usize).next_multiple_of(BUFFER_ALIGN_BYTES);
        let pool = devices
            .space()
            .pool(
                "benchmark buffers",
                PoolOptions {
                    buf_bytes: buffer_bytes,
                    count: request.depth as usize,
                },
            )
            .map_err(Error::from)?;
        Ok(Self {
            lba_shift: namespace.lba_bytes().trailing_zeros(),
            interrupts: request.interrupts,
            queue,
            namespace,
            pool,
            rejected: Vec::new(),
        })
    }

    fn geometry(&self, _file: usize) -> Result<Geometry, EngineError> {
        Ok(Geometry {
            len_bytes: self.namespace.len_bytes(),
            block_bytes: self.namespace.lba_bytes(),
        })
    }

    fn buffer(&mut self, _len_bytes: u32) -> Result<DmaBuf, EngineError> {
        Ok(self.pool.alloc().map_err(Error::from)?)
    }

    fn ready(&mut self, _units: &mut [Unit<DmaBuf>]) -> Result<(), EngineError> {
        Ok(())
    }

    #[inline]
    fn queue(&mut self, unit: Unit<DmaBuf>) -> Result<(), Refused<DmaBuf>> {
        let io = match self.command(&unit.request) {
            Ok(io) => io,
            Err(error) => {
                self.reject(unit, &error);
                return Ok(());
            }
        };
        let Unit {
            tag,
            request,
            note,
            buffer,
        } = unit;
        match self.queue.submit(io, (buffer, (tag, request, note))) {
            Ok(_token) => Ok(()),
            Err(refused) => {
                let (buffer, (tag, request, note)) = refused.buffer;
                let unit = Unit {
                    tag,
                    request,
                    note,
                    buffer,
                };
                if matches!(refused.error, Error::QueueFull { .. }) {
                    return Err(Refused::Busy(unit));
                }
                self.reject(unit, &refused.error);
                Ok(())
            }
        }
    }

    #[inline]
    fn commit(&mut self) -> Result<(), EngineError> {
        self.queue.ring();
        Ok(())
    }

    #[inline]
    fn reap(
        &mut self,
        min: u32,
        max: u32,
        done: &mut Vec<Done<DmaBuf>>,
    ) -> Result<(), EngineError> {
        done.append(&mut self.rejected);
        let (min, max) = (min as usize, max as usize);
        let mut lost = None;
        let Self {
            queue, interrupts, ..
        } = self;
        let mut poll = |queue: &mut QueuePair<_>, done: &mut Vec<Done<DmaBuf>>| {
            let room = max.saturating_sub(done.len());
            queue.poll(room, |completion| take(completion, done, &mut lost));
            done.len() >= min || lost.is_some()
        };
        // The driver's own deadlines end a wait for a dead device.
        if *interrupts {
            while !poll(queue, done) && queue.wait(None) {}
        } else if !poll(queue, done) {
            let _ = rt::wait(None, |_now| poll(queue, done).then_some(()));
        }
        match lost {
            Some(error) => Err(EngineError::Device {
                errno: libc::EIO,
                text: error.to_string(),
            }),
            None => Ok(()),
        }
    }
}

/// Turns a completion back into a unit. Without its buffer there is no unit: the
/// controller failed, and the job with it.
#[inline]
fn take(
    completion: Completion<(DmaBuf, Ticket)>,
    done: &mut Vec<Done<DmaBuf>>,
    lost: &mut Option<CommandError>,
) {
    match (completion.buffer, completion.result) {
        (Some((buffer, (tag, request, note))), result) => done.push(Done {
            unit: Unit {
                tag,
                request,
                note,
                buffer,
            },
            // NVMe transfers everything or fails.
            result: match result {
                Ok(()) => Ok(request.len_bytes),
                Err(error) => Err(IoFailure {
                    errno: libc::EIO,
                    text: error.to_string(),
                }),
            },
        }),
        (None, Err(error)) => *lost = Some(error),
        (None, Ok(())) => {}
    }
}
