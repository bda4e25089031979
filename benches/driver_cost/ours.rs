//! The driver as an application uses it: a queue pair, its own buffers, batches of reads.
//! The two marked functions hold the driver's calls and nothing else, for callgrind.
use crate::ledger::{Addresses, Ledger};
use std::error::Error;
use underpin::dma::DmaSpace;
use underpin::{
    Completion, Controller, DmaBuf, Lba, Namespace, PoolOptions, QueueOptions, QueuePair,
};

/// A host that is the driver.
#[derive(Debug)]
pub(crate) struct OurHost {
    queue: QueuePair<DmaBuf>,
    namespace: Namespace,
    /// Buffers not in flight.
    free: Vec<DmaBuf>,
    /// The next batch.
    lbas: Vec<u64>,
    addresses: Addresses,
    pub(crate) ledger: Ledger,
    /// The first thing that went wrong.
    trouble: Option<Box<dyn Error>>,
}

impl OurHost {
    pub(crate) fn new(
        controller: &Controller,
        space: &DmaSpace,
        depth: u16,
    ) -> Result<Self, Box<dyn Error>> {
        let count = usize::from(depth);
        let pool = space.pool(
            "reads",
            PoolOptions {
                buf_bytes: 4096,
                count,
            },
        )?;
        let free = (0..count).map(|_| pool.alloc()).collect::<Result<_, _>>()?;
        Ok(Self {
            queue: controller.queue_pair(QueueOptions {
                depth,
                ..QueueOptions::default()
            })?,
            namespace: controller.namespace(None)?,
            free,
            lbas: vec![0; count],
            addresses: Addresses::default(),
            ledger: Ledger::default(),
            trouble: None,
        })
    }

    /// Chooses where the next `count` reads go.
    #[inline(always)]
    pub(crate) fn prepare(&mut self, count: usize) {
        let buffers = self.free.iter().rev();
        let nsid = self.namespace.nsid().0;
        for (lba, buffer) in self.lbas.iter_mut().take(count).zip(buffers) {
            *lba = self.addresses.next();
            self.ledger.read(nsid, buffer.iova().get(), *lba);
        }
    }

    /// Submits the prepared reads and rings.
    #[inline(always)]
    pub(crate) fn submit(&mut self, count: usize) {
        for &lba in &self.lbas[..count] {
            let io = match self.namespace.read(Lba(lba), 1) {
                Ok(io) => io,
                Err(error) => return note(&mut self.trouble, error.into()),
            };
            let Some(buffer) = self.free.pop() else { break };
            if let Err(refused) = self.queue.submit(io, buffer) {
                return note(&mut self.trouble, refused.error.into());
            }
        }
        self.queue.ring();
    }

    /// Takes what has completed. Returns how many.
    #[inline(always)]
    pub(crate) fn poll(&mut self) -> usize {
        let Self {
            queue,
            free,
            trouble,
            ..
        } = self;
        queue.poll(usize::MAX, |Completion { result, buffer, .. }| {
            // There is room for each, so none may make the list grow: the compiler is told.
            match buffer {
                Some(buffer) if free.len() < free.capacity() => free.push(buffer),
                other => nowhere(trouble, other),
            }
            if let Err(error) = result {
                note(trouble, error.into());
            }
        })
    }

    pub(crate) fn check(&self, read: Ledger) -> Result<(), String> {
        self.check_trouble()?;
        self.ledger.check("driver", read)
    }

    /// Fails at the first error that a submission or a completion brought.
    pub(crate) fn check_trouble(&self) -> Result<(), String> {
        match &self.trouble {
            Some(error) => Err(format!("driver: {error}")),
            None => Ok(()),
        }
    }

    pub(crate) fn stats(&self) -> underpin::nvme::QueueStats {
        self.queue.stats()
    }
}

/// What came back could not be put back.
#[cold]
#[inline(never)]
fn nowhere(trouble: &mut Option<Box<dyn Error>>, buffer: Option<DmaBuf>) {
    let what = match buffer {
        Some(_) => "more buffers came back than there are",
        None => "a read came back without its buffer",
    };
    note(trouble, what.into());
}

#[cold]
#[inline(never)]
fn note(trouble: &mut Option<Box<dyn Error>>, error: Box<dyn Error>) {
    trouble.get_or_insert(error);
}

/// Between entry and return callgrind counts: [`OurHost::submit`].
#[inline(never)]
pub(crate) fn marked_submit(host: &mut OurHost, count: usize) {
    host.submit(count);
}

/// Between entry and return callgrind counts: [`OurHost::poll`].
#[inline(never)]
pub(crate) fn marked_poll(host: &mut OurHost) -> usize {
    host.poll()
}
