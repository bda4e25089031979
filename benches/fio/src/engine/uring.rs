//! io_uring on host files and block devices.

#![forbid(unsafe_code)]

use super::host_files;
use super::{Devices, Done, Engine, EngineError, Geometry, IoFailure, Note, Op, OpenRequest};
use super::{Refused, Request, Unit};
use crate::sys::memory::AlignedBuffer;
use crate::sys::ring::{Ring, RingCommand, RingFull, RingOp};

/// The engine. The ring owns buffers in flight; what else belongs to the unit
/// waits in `waiting[tag]`.
pub(crate) struct Uring {
    ring: Ring,
    direct: bool,
    fixed_buffers: bool,
    waiting: Vec<Option<(Request, Note)>>,
}

/// Linux makes no longer submission queue (IORING_MAX_ENTRIES).
const MAX_DEPTH: u32 = 32_768;

impl Engine for Uring {
    type Buffer = AlignedBuffer;
    const COMPLETES_IN_QUEUE: bool = false;

    fn open(request: &OpenRequest<'_>, _devices: &Devices) -> Result<Self, EngineError> {
        if request.depth > MAX_DEPTH {
            return Err(EngineError::Device {
                errno: libc::EINVAL,
                text: format!(
                    "iodepth={}: io_uring takes at most {MAX_DEPTH} I/Os at a time",
                    request.depth
                ),
            });
        }
        let files = host_files::open_all(request)?;
        let mut ring = Ring::new(request.depth, files).map_err(|source| EngineError::System {
            action: "setting up io_uring (is it disabled by kernel.io_uring_disabled or a \
                     container? ioengine=psync works everywhere)",
            source,
        })?;
        if request.register_files {
            ring.register_files()
                .map_err(|source| EngineError::System {
                    action: "registering files with io_uring (registerfiles=0 does without)",
                    source,
                })?;
        }
        Ok(Self {
            ring,
            direct: request.direct,
            fixed_buffers: request.fixed_buffers,
            waiting: vec![None; request.depth.max(1) as usize],
        })
    }

    fn geometry(&self, file: usize) -> Result<Geometry, EngineError> {
        match self.ring.files().get(file) {
            Some(file) => host_files::geometry(file, self.direct),
            None => Err(EngineError::System {
                action: "finding the file",
                source: std::io::Error::from_raw_os_error(libc::EBADF),
            }),
        }
    }

    fn buffer(&mut self, len_bytes: u32) -> Result<AlignedBuffer, EngineError> {
        AlignedBuffer::new(len_bytes as usize).map_err(|source| EngineError::System {
            action: "allocating an I/O buffer",
            source,
        })
    }

    fn ready(&mut self, units: &mut [Unit<AlignedBuffer>]) -> Result<(), EngineError> {
        if !self.fixed_buffers {
            return Ok(());
        }
        self.ring
            .register_buffers(units.iter_mut().map(|unit| &mut unit.buffer))
            .map_err(|source| EngineError::System {
                action: "registering buffers with io_uring (fixedbufs=0 does without; \
                         'ulimit -l' limits them)",
                source,
            })
    }

    #[inline]
    fn queue(&mut self, unit: Unit<AlignedBuffer>) -> Result<(), Refused<AlignedBuffer>> {
        let Unit {
            tag,
            request,
            note,
            buffer,
        } = unit;
        let command = RingCommand {
            op: match request.op {
                Op::Read => RingOp::Read,
                Op::Write => RingOp::Write,
                Op::Flush => RingOp::Sync,
                Op::DataFlush => RingOp::DataSync,
            },
            file: request.file as usize,
            offset: request.offset,
            len: request.len_bytes,
            skip: request.skip_bytes,
        };
        match self.ring.push(tag, command, buffer) {
            Ok(()) => {
                if let Some(place) = self.waiting.get_mut(tag as usize) {
                    *place = Some((request, note));
                }
                Ok(())
            }
            Err(RingFull(buffer)) => Err(Refused::Busy(Unit {
                tag,
                request,
                note,
                buffer,
            })),
        }
    }

    #[inline]
    fn commit(&mut self) -> Result<(), EngineError> {
        self.ring.submit().map_err(|source| EngineError::System {
            action: "io_uring_enter",
            source,
        })
    }

    #[inline]
    fn reap(
        &mut self,
        min: u32,
        max: u32,
        done: &mut Vec<Done<AlignedBuffer>>,
    ) -> Result<(), EngineError> {
        let Self { ring, waiting, .. } = self;
        ring.reap(min as usize, max as usize, |tag, result, buffer| {
            let Some((request, note)) = waiting.get_mut(tag as usize).and_then(Option::take) else {
                return;
            };
            done.push(Done {
                unit: Unit {
                    tag,
                    request,
                    note,
                    buffer,
                },
                result: u32::try_from(result)
                    .map_err(|_| IoFailure::from(std::io::Error::from_raw_os_error(-result))),
            });
        })
        .map_err(|source| EngineError::System {
            action: "waiting for io_uring",
            source,
        })
    }

    fn drop_caches(&mut self) {
        host_files::drop_caches(self.ring.files());
    }
}
