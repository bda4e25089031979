//! A safe face over io_uring: the ring owns every buffer while the kernel may
//! touch it and gives it back with its completion.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use super::memory::AlignedBuffer;

/// Writes the entry for either kind of file target: the opcodes take both, but
/// their common trait is private to the crate.
macro_rules! entry_for {
    ($target:expr, $command:expr, $start:expr, $registered_index:expr) => {{
        let RingCommand {
            op, offset, len, ..
        } = $command;
        match (op, $registered_index) {
            (RingOp::Read, Some(index)) => opcode::ReadFixed::new($target, $start, len, index)
                .offset(offset)
                .build(),
            (RingOp::Read, None) => opcode::Read::new($target, $start, len)
                .offset(offset)
                .build(),
            (RingOp::Write, Some(index)) => opcode::WriteFixed::new($target, $start, len, index)
                .offset(offset)
                .build(),
            (RingOp::Write, None) => opcode::Write::new($target, $start, len)
                .offset(offset)
                .build(),
            (RingOp::Sync, _) => opcode::Fsync::new($target).build(),
            (RingOp::DataSync, _) => opcode::Fsync::new($target)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
        }
    }};
}
/// What the kernel is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RingOp {
    Read,
    Write,
    Sync,
    DataSync,
}

/// One command: `len` bytes at `offset` of file number `file`, to or from the
/// buffer starting `skip` bytes in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingCommand {
    pub(crate) op: RingOp,
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) skip: u32,
}

/// Submission and completion queue with the buffers in flight.
pub(crate) struct Ring {
    ring: IoUring,
    /// Kept open as long as commands may name them.
    files: Vec<File>,
    files_registered: bool,
    buffers_registered: bool,
    /// `slots[tag]` holds the buffer of the command with that tag.
    slots: Vec<Option<AlignedBuffer>>,
    in_flight: usize,
    unsubmitted: usize,
}

/// A command that did not fit, with its buffer.
pub(crate) struct RingFull(pub(crate) AlignedBuffer);

impl Ring {
    /// A ring for `depth` commands at a time on `files`.
    pub(crate) fn new(depth: u32, files: Vec<File>) -> io::Result<Self> {
        let entries = depth.max(1).next_power_of_two();
        // The cheap task-work modes exist since Linux 5.19 and 6.1; a kernel
        // that refuses them still runs the plain ring.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .build(entries)
            .or_else(|_| IoUring::new(entries))?;
        let mut slots = Vec::new();
        slots.resize_with(depth.max(1) as usize, || None);
        Ok(Self {
            ring,
            files,
            files_registered: false,
            buffers_registered: false,
            slots,
            in_flight: 0,
            unsubmitted: 0,
        })
    }

    /// The files commands may name, by number.
    pub(crate) fn files(&self) -> &[File] {
        &self.files
    }

    /// Registers the files so that the kernel skips the lookup per command.
    pub(crate) fn register_files(&mut self) -> io::Result<()> {
        let fds: Vec<i32> = self.files.iter().map(AsRawFd::as_raw_fd).collect();
        self.ring.submitter().register_files(&fds)?;
        self.files_registered = true;
        Ok(())
    }

    /// Registers the buffers so that the kernel pins them once.
    pub(crate) fn register_buffers<'a>(
        &mut self,
        buffers: impl Iterator<Item = &'a mut AlignedBuffer>,
    ) -> io::Result<()> {
        let mut table = Vec::new();
        for (index, buffer) in buffers.enumerate() {
            buffer.registered_index =
                u16::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            table.push(libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            });
        }
        // SAFETY: each entry describes memory that its `AlignedBuffer` owns.
        // The kernel pins the pages themselves, so a buffer freed before the
        // ring leaves it with pages nobody else sees; commands only reach a
        // registered buffer while its owner sits in `slots`.
        unsafe { self.ring.submitter().register_buffers(&table)? };
        self.buffers_registered = true;
        Ok(())
    }

    /// Queues a command under `tag` (below the depth, not in flight).
    pub(crate) fn push(
        &mut self,
        tag: u32,
        command: RingCommand,
        mut buffer: AlignedBuffer,
    ) -> Result<(), RingFull> {
        let reach = command.skip as usize + command.len as usize;
        let Some(slot) = self.slots.get_mut(tag as usize) else {
            return Err(RingFull(buffer));
        };
        let Some(file) = self.files.get(command.file) else {
            return Err(RingFull(buffer));
        };
        if slot.is_some() || reach > buffer.len() {
            return Err(RingFull(buffer));
        }
        let start = buffer.as_mut_ptr().wrapping_add(command.skip as usize);
        let index = self.buffers_registered.then_some(buffer.registered_index);
        let entry = if self.files_registered {
            let number = u32::try_from(command.file).unwrap_or(u32::MAX);
            entry_for!(types::Fixed(number), command, start, index)
        } else {
            entry_for!(types::Fd(file.as_raw_fd()), command, start, index)
        };
        let entry = entry.user_data(u64::from(tag));
        // SAFETY: the entry names `len` bytes from `skip` within the buffer
        // (checked above). On success the buffer moves into `slots` and stays
        // there until the completion of this command is seen, or is leaked by
        // `Drop`; the files stay open in `self.files` for the ring's life.
        match unsafe { self.ring.submission().push(&entry) } {
            Ok(()) => {
                *slot = Some(buffer);
                self.in_flight += 1;
                self.unsubmitted += 1;
                Ok(())
            }
            Err(_) => Err(RingFull(buffer)),
        }
    }

    /// Tells the kernel about everything queued since the last call.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        while self.unsubmitted > 0 {
            match self.ring.submit() {
                Ok(taken) => self.unsubmitted = self.unsubmitted.saturating_sub(taken.max(1)),
                Err(error) if retriable(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Hands out finished commands as `(tag, result, buffer)`; blocks until
    /// there are `min`, takes at most `max`.
    pub(crate) fn reap(
        &mut self,
        min: usize,
        max: usize,
        mut each: impl FnMut(u32, i32, AlignedBuffer),
    ) -> io::Result<()> {
        let min = min.min(self.in_flight);
        let mut taken = 0;
        loop {
            let mut completions = self.ring.completion();
            while taken < max {
                let Some(entry) = completions.next() else {
                    break;
                };
                let tag = u32::try_from(entry.user_data()).unwrap_or(u32::MAX);
                let Some(buffer) = self.slots.get_mut(tag as usize).and_then(Option::take) else {
                    return Err(io::Error::other(format!(
                        "io_uring completed tag {tag}, which is not in flight"
                    )));
                };
                self.in_flight -= 1;
                taken += 1;
                each(tag, entry.result(), buffer);
            }
            drop(completions);
            if taken >= min.min(max) {
                return Ok(());
            }
            match self.ring.submit_and_wait(min - taken) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if retriable(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The kernel is out of a resource that completions will free, or a signal came.
fn retriable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
    )
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight == 0 {
            return;
        }
        // The kernel may still write into the buffers: wait for it, and if
        // even that fails, leak them rather than free memory in use.
        let all = self.in_flight;
        if self.submit().is_err() || self.reap(all, all, |_, _, buffer| drop(buffer)).is_err() {
            for buffer in self.slots.drain(..).flatten() {
                std::mem::forget(buffer);
            }
        }
    }
}
