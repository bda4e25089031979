//! pread and pwrite: one I/O at a time, done within `queue`.

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::host_files;
use super::{Devices, Done, Engine, EngineError, Geometry, IoFailure, Op, OpenRequest};
use super::{Refused, Request, Unit};
use crate::sys::memory::AlignedBuffer;

/// The engine.
pub(crate) struct Psync {
    files: Vec<File>,
    direct: bool,
    finished: Vec<Done<AlignedBuffer>>,
}

impl Psync {
    fn perform(&self, request: &Request, buffer: &mut AlignedBuffer) -> Result<u32, IoFailure> {
        let Some(file) = self.files.get(request.file as usize) else {
            return Err(std::io::Error::from_raw_os_error(libc::EBADF).into());
        };
        let start = request.skip_bytes as usize;
        let Some(end) = start
            .checked_add(request.len_bytes as usize)
            .filter(|end| *end <= buffer.len())
        else {
            return Err(std::io::Error::from_raw_os_error(libc::EFAULT).into());
        };
        loop {
            let outcome = match request.op {
                Op::Read => file.read_at(&mut buffer.as_mut_slice()[start..end], request.offset),
                Op::Write => file.write_at(&buffer.as_slice()[start..end], request.offset),
                Op::Flush => file.sync_all().map(|()| 0),
                Op::DataFlush => file.sync_data().map(|()| 0),
            };
            match outcome {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => return other.map(|bytes| bytes as u32).map_err(IoFailure::from),
            }
        }
    }
}

impl Engine for Psync {
    type Buffer = AlignedBuffer;
    const COMPLETES_IN_QUEUE: bool = true;

    fn open(request: &OpenRequest<'_>, _devices: &Devices) -> Result<Self, EngineError> {
        Ok(Self {
            files: host_files::open_all(request)?,
            direct: request.direct,
            finished: Vec::with_capacity(1),
        })
    }

    fn geometry(&self, file: usize) -> Result<Geometry, EngineError> {
        match self.files.get(file) {
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

    fn ready(&mut self, _units: &mut [Unit<AlignedBuffer>]) -> Result<(), EngineError> {
        Ok(())
    }

    #[inline]
    fn queue(&mut self, mut unit: Unit<AlignedBuffer>) -> Result<(), Refused<AlignedBuffer>> {
        if !self.finished.is_empty() {
            return Err(Refused::Busy(unit));
        }
        let result = self.perform(&unit.request, &mut unit.buffer);
        self.finished.push(Done { unit, result });
        Ok(())
    }

    fn commit(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    #[inline]
    fn reap(
        &mut self,
        _min: u32,
        _max: u32,
        done: &mut Vec<Done<AlignedBuffer>>,
    ) -> Result<(), EngineError> {
        done.append(&mut self.finished);
        Ok(())
    }

    fn drop_caches(&mut self) {
        host_files::drop_caches(&self.files);
    }
}
