//! What the loop is fed with: the job's own I/O, the reading back of what was
//! written, and single flushes.

#![forbid(unsafe_code)]

use super::Failure;
use super::pump::{Feed, Next};
use super::records::Records;
use crate::clock;
use crate::engine::{IoBuffer, Note, Op, Request};
use crate::generate::{Access, Generator};
use crate::job::{EngineKind, JobSpec};
use crate::log::complain;
use crate::random::Random;
use crate::stats::Direction;
use crate::verify::{self, Expected, Stamp};

/// Bad blocks that are named one by one; more are only counted.
const NAMED_BAD_BLOCKS: u64 = 32;

/// How much a job does, in passes over its region.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quota {
    /// Bytes of one pass.
    pub(crate) pass_bytes: u64,
    /// Bytes of all passes together (`io_size`), if that is what limits them.
    pub(crate) total_bytes: Option<u64>,
    /// Passes (`loops`), if that is what limits them. With neither the job ends
    /// by time.
    pub(crate) passes: Option<u64>,
    /// I/Os (`number_ios`).
    pub(crate) ios: Option<u64>,
}

/// Checks blocks and keeps the score.
#[derive(Debug)]
pub(crate) struct Checker {
    job: String,
    targets: Vec<String>,
    interval: u32,
    fatal: bool,
    scratch: Vec<u8>,
    pub(crate) bad_blocks: u64,
}

impl Checker {
    /// For a job on `targets`, with room for blocks of `block_bytes`.
    pub(crate) fn new(spec: &JobSpec, targets: &[String], block_bytes: u32) -> Self {
        Self {
            job: spec.name.clone(),
            targets: targets.to_vec(),
            interval: spec.header_interval(),
            fatal: spec.verify_fatal,
            scratch: vec![0; block_bytes as usize],
            bad_blocks: 0,
        }
    }

    /// Checks the block that `buffer` holds. A bad one is named on standard
    /// error; it is a failure only if the job wants to stop at the first.
    fn check<B: IoBuffer>(
        &mut self,
        request: &Request,
        buffer: &B,
        write: Option<(u64, u16)>,
    ) -> Result<(), Failure> {
        // After a short transfer the request describes its last part.
        let len = request.skip_bytes as usize + request.len_bytes as usize;
        let len = len.min(self.scratch.len());
        let Some(block) = self.scratch.get_mut(..len) else {
            return Ok(());
        };
        buffer.copy_to(block);
        let expected = Expected {
            offset: request.offset - u64::from(request.skip_bytes),
            interval: self.interval,
            write,
        };
        let Err(mismatch) = verify::check_block(block, &expected) else {
            return Ok(());
        };
        self.bad_blocks += 1;
        let target = self
            .targets
            .get(request.file as usize)
            .map_or("?", String::as_str);
        let text = format!(
            "verify failed at {target} byte offset {} (block of {len} bytes at {}): {mismatch}",
            mismatch.offset, expected.offset
        );
        if self.fatal {
            return Err(Failure {
                errno: libc::EILSEQ,
                text,
            });
        }
        if self.bad_blocks <= NAMED_BAD_BLOCKS {
            complain!("{}: {text}", self.job);
        } else if self.bad_blocks == NAMED_BAD_BLOCKS + 1 {
            complain!("{}: more bad blocks are only counted", self.job);
        }
        Ok(())
    }
}

/// The job's own I/O.
pub(crate) struct IoFeed<'a> {
    pub(crate) generator: &'a mut Generator,
    quota: Quota,
    pass_left: u64,
    /// Whether this pass issued anything (else starting another is futile).
    pass_issued: bool,
    /// Begin the next pass without draining; false if a verify phase follows.
    runs_on: bool,
    fsync: Option<(Op, u64)>,
    synced_at: u64,
    /// What a device reads is written, too: to a file.
    reads_count: bool,
    /// An access that waits for a write to the same block.
    pending: Option<Access>,
    stamping: Option<Stamping<'a>>,
    checker: Option<&'a mut Checker>,
}

/// What a job that writes verify headers needs.
pub(crate) struct Stamping<'a> {
    pub(crate) records: &'a mut Records,
    pub(crate) seeds: &'a mut Random,
    pub(crate) thread: u16,
    pub(crate) interval: usize,
    pub(crate) scratch: Vec<u8>,
}

impl<'a> IoFeed<'a> {
    /// For one pass if `runs_on` is false, else for all.
    pub(crate) fn new(
        spec: &JobSpec,
        generator: &'a mut Generator,
        quota: Quota,
        runs_on: bool,
        stamping: Option<Stamping<'a>>,
        checker: Option<&'a mut Checker>,
    ) -> Self {
        let fsync = match (spec.fsync_every, spec.fdatasync_every) {
            (0, 0) => None,
            (0, every) => Some((Op::DataFlush, every)),
            (every, _) => Some((Op::Flush, every)),
        };
        let reads_count = spec.engine == EngineKind::UnderpinFile;
        Self {
            synced_at: writes(generator, reads_count),
            reads_count,
            generator,
            pass_left: quota.pass_bytes,
            quota,
            pass_issued: false,
            runs_on,
            fsync,
            pending: None,
            stamping,
            checker,
        }
    }

    /// What is left for the passes after this one.
    pub(crate) fn quota_left(&self) -> Quota {
        Quota {
            passes: self.quota.passes.map(|passes| passes.saturating_sub(1)),
            ..self.quota
        }
    }

    /// Whether another pass may begin; begins it.
    fn begin_next_pass(&mut self) -> bool {
        if !self.runs_on || !self.pass_issued {
            return false;
        }
        if let Some(passes) = &mut self.quota.passes {
            *passes = passes.saturating_sub(1);
            if *passes == 0 {
                return false;
            }
        }
        self.generator.begin_pass();
        self.pass_left = self.quota.pass_bytes;
        self.pass_issued = false;
        true
    }

    fn next_access(&mut self) -> Option<Access> {
        if self.quota.ios == Some(0) || self.quota.total_bytes == Some(0) {
            return None;
        }
        // Endless jobs (no limit by passes or bytes) do not stop at a pass.
        let endless =
            self.runs_on && self.quota.passes.is_none() && self.quota.total_bytes.is_none();
        loop {
            let access = if self.pass_left == 0 && !endless {
                None
            } else {
                self.generator.next()
            };
            match access {
                Some(access) => {
                    let bytes = u64::from(access.len_bytes);
                    self.pass_left = self.pass_left.saturating_sub(bytes);
                    self.pass_issued = true;
                    if let Some(left) = &mut self.quota.ios {
                        *left -= 1;
                    }
                    if let Some(left) = &mut self.quota.total_bytes {
                        *left = left.saturating_sub(bytes);
                    }
                    return Some(access);
                }
                None if self.begin_next_pass() => {}
                None => return None,
            }
        }
    }

    fn flush_due(&mut self) -> Option<Op> {
        let (op, every) = self.fsync?;
        let writes = writes(self.generator, self.reads_count);
        if writes > self.synced_at && writes.is_multiple_of(every) {
            self.synced_at = writes;
            return Some(op);
        }
        None
    }
}

impl<B: IoBuffer> Feed<B> for IoFeed<'_> {
    fn next(&mut self, buffer: &mut B) -> Next {
        if self.pending.is_none()
            && let Some(op) = self.flush_due()
        {
            return Next::Issue(flush_request(op), Note::default());
        }
        let Some(access) = self.pending.take().or_else(|| self.next_access()) else {
            return Next::End;
        };
        let mut note = Note {
            block: access.block,
            ..Note::default()
        };
        if access.direction == Direction::Write
            && let Some(stamping) = &mut self.stamping
        {
            if !stamping.records.begin(access.file, access.block) {
                self.pending = Some(access);
                return Next::Wait;
            }
            note.seed = stamping.seeds.next_seed();
            // Numbered from 0 by issue, in 16 bits, as in fio.
            note.number = (self.generator.writes_issued() - 1) as u16;
            stamping.fill(buffer, &access, &note);
        }
        let request = Request {
            op: match access.direction {
                Direction::Read => Op::Read,
                Direction::Write => Op::Write,
            },
            file: access.file,
            offset: access.offset,
            len_bytes: access.len_bytes,
            skip_bytes: 0,
        };
        Next::Issue(request, note)
    }

    fn done(&mut self, request: &Request, note: &Note, buffer: &B) -> Result<(), Failure> {
        match request.op {
            Op::Write => {
                if let Some(stamping) = &mut self.stamping {
                    stamping
                        .records
                        .complete(request.file, note.block, note.seed, note.number);
                }
                Ok(())
            }
            Op::Read => match &mut self.checker {
                Some(checker) => checker.check(request, buffer, None),
                None => Ok(()),
            },
            Op::Flush | Op::DataFlush => Ok(()),
        }
    }

    fn is_costly(&self) -> bool {
        self.stamping.is_some() || self.checker.is_some()
    }

    fn take_wrapped(&mut self) -> bool {
        self.generator.take_wrapped()
    }
}

impl Stamping<'_> {
    fn fill<B: IoBuffer>(&mut self, buffer: &mut B, access: &Access, note: &Note) {
        let (seconds, nanoseconds) = clock::wall_time();
        let stamp = Stamp {
            seed: note.seed,
            offset: access.offset,
            seconds: seconds as u32,
            nanoseconds,
            thread: self.thread,
            number: note.number,
        };
        let len = access.len_bytes as usize;
        if let Some(block) = self.scratch.get_mut(..len) {
            verify::stamp_block(block, self.interval, &stamp);
            buffer.copy_from(block);
        }
    }
}

/// I/Os after which there is something to make durable.
fn writes(generator: &Generator, reads_count: bool) -> u64 {
    match reads_count {
        true => generator.issued(),
        false => generator.writes_issued(),
    }
}

fn flush_request(op: Op) -> Request {
    Request {
        op,
        file: 0,
        offset: 0,
        len_bytes: 0,
        skip_bytes: 0,
    }
}

/// Reads back every written block, in order of offsets.
pub(crate) struct VerifyFeed<'a> {
    records: &'a Records,
    checker: &'a mut Checker,
    block_bytes: u32,
    /// Compare seed and number too; not for files of other runs.
    exact: bool,
    file: u32,
    block: u64,
}

impl<'a> VerifyFeed<'a> {
    /// Over all of `records`.
    pub(crate) fn new(
        records: &'a Records,
        checker: &'a mut Checker,
        block_bytes: u32,
        exact: bool,
    ) -> Self {
        Self {
            records,
            checker,
            block_bytes,
            exact,
            file: 0,
            block: 0,
        }
    }
}

impl<B: IoBuffer> Feed<B> for VerifyFeed<'_> {
    fn next(&mut self, _buffer: &mut B) -> Next {
        let Some(found) = self.records.next_written(self.file, self.block) else {
            return Next::End;
        };
        self.file = found.file;
        self.block = found.block + 1;
        let request = Request {
            op: Op::Read,
            file: found.file,
            offset: found.offset,
            len_bytes: self.block_bytes,
            skip_bytes: 0,
        };
        let note = Note {
            block: found.block,
            ..Note::default()
        };
        Next::Issue(request, note)
    }

    fn done(&mut self, request: &Request, note: &Note, buffer: &B) -> Result<(), Failure> {
        let write = if self.exact {
            self.records.written(request.file, note.block)
        } else {
            None
        };
        self.checker.check(request, buffer, write)
    }

    fn is_costly(&self) -> bool {
        true
    }
}

/// One flush of every file.
pub(crate) struct FlushFeed {
    files_left: u32,
}

impl FlushFeed {
    /// For so many files.
    pub(crate) fn new(files: u32) -> Self {
        Self { files_left: files }
    }
}

impl<B> Feed<B> for FlushFeed {
    fn next(&mut self, _buffer: &mut B) -> Next {
        if self.files_left == 0 {
            return Next::End;
        }
        self.files_left -= 1;
        let request = Request {
            file: self.files_left,
            ..flush_request(Op::Flush)
        };
        Next::Issue(request, Note::default())
    }

    fn done(&mut self, _request: &Request, _note: &Note, _buffer: &B) -> Result<(), Failure> {
        Ok(())
    }

    fn is_costly(&self) -> bool {
        true
    }
}
