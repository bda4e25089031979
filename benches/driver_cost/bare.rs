//! The bare limit: rings driven by hand, with nothing owned, checked or promised.
//! A host that moves entries, and for the bare pair a device that does the same.
use crate::ledger::{Addresses, Ledger};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use underpin::DmaBuf;
use underpin::dma::rt::thread;
use underpin::dma::{DmaSpace, MemSlice, Records, Word32, barrier};

/// Where a pair of rings lies, and its two doorbell words.
#[derive(Clone, Debug)]
pub(crate) struct RingMemory {
    pub(crate) sq: MemSlice,
    pub(crate) cq: MemSlice,
    /// The submission tail at 0, the completion head at `cq_head_offset`.
    pub(crate) bells: MemSlice,
    pub(crate) sq_tail_offset: usize,
    pub(crate) cq_head_offset: usize,
}

/// Both rings as one side of them sees them.
#[derive(Debug)]
struct Rings {
    sq: Records<8>,
    cq: Records<2>,
    sq_tail: Word32,
    cq_head: Word32,
}

impl Rings {
    fn new(memory: &RingMemory) -> Result<Self, underpin::dma::OutOfBounds> {
        let count = |slice: &MemSlice, entry: usize| slice.len_bytes() / entry;
        Ok(Self {
            sq: Records::new(memory.sq.clone(), count(&memory.sq, 64))?,
            cq: Records::new(memory.cq.clone(), count(&memory.cq, 16))?,
            sq_tail: Word32::new(&memory.bells, memory.sq_tail_offset)?,
            cq_head: Word32::new(&memory.bells, memory.cq_head_offset)?,
        })
    }
}

/// A host of a dozen lines: one slot a buffer, the slot's number is the command identifier.
#[derive(Debug)]
pub(crate) struct BareHost {
    rings: Rings,
    nsid: u32,
    tail: usize,
    head: usize,
    phase: u64,
    /// Slots not in flight.
    free: Vec<u16>,
    /// Where each slot's page lies.
    iovas: Vec<u64>,
    /// The next batch.
    lbas: Vec<u64>,
    addresses: Addresses,
    pub(crate) ledger: Ledger,
    /// All status fields seen, or'ed: zero while every command succeeds.
    statuses: u64,
    /// Keeps what the device writes.
    _pages: Vec<DmaBuf>,
}

impl BareHost {
    pub(crate) fn new(
        memory: &RingMemory,
        nsid: u32,
        pages: Vec<DmaBuf>,
    ) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            rings: Rings::new(memory)?,
            nsid,
            tail: 0,
            head: 0,
            phase: 1,
            free: (0..u16::try_from(pages.len())?).collect(),
            iovas: pages.iter().map(|page| page.iova().get()).collect(),
            lbas: vec![0; pages.len()],
            addresses: Addresses::default(),
            ledger: Ledger::default(),
            statuses: 0,
            _pages: pages,
        })
    }

    /// Chooses where the next `count` reads go.
    #[inline(always)]
    pub(crate) fn prepare(&mut self, count: usize) {
        let slots = self.free.iter().rev();
        for (lba, &slot) in self.lbas.iter_mut().take(count).zip(slots) {
            *lba = self.addresses.next();
            self.ledger
                .read(self.nsid, self.iovas[usize::from(slot)], *lba);
        }
    }

    /// Writes the prepared reads into the ring and tells the device.
    #[inline(always)]
    pub(crate) fn submit(&mut self, count: usize) {
        for &lba in &self.lbas[..count] {
            let Some(slot) = self.free.pop() else { break };
            let first = 0x02 | u64::from(slot) << 16 | u64::from(self.nsid) << 32;
            let prp1 = self.iovas[usize::from(slot)];
            let entry = [first, 0, 0, prp1, 0, lba, 0, 0];
            self.rings.sq.write(self.tail, entry);
            self.tail += 1;
            if self.tail == self.rings.sq.count() {
                self.tail = 0;
            }
        }
        barrier::write();
        let tail = self.tail as u32;
        self.rings.sq_tail.store(tail, Ordering::Release);
    }

    /// The submission tail.
    pub(crate) const fn tail(&self) -> u32 {
        self.tail as u32
    }

    /// Takes what has completed and tells the device how far it read. Returns how many.
    #[inline(always)]
    pub(crate) fn poll(&mut self) -> usize {
        let mut taken = 0;
        loop {
            let high = self.rings.cq.read_word(self.head, 1);
            if high >> 48 & 1 != self.phase {
                break;
            }
            barrier::read();
            self.statuses |= high >> 49;
            self.free.push((high >> 32) as u16);
            taken += 1;
            self.head += 1;
            if self.head == self.rings.cq.count() {
                self.head = 0;
                self.phase ^= 1;
            }
        }
        if taken != 0 {
            let head = self.head as u32;
            self.rings.cq_head.store(head, Ordering::Release);
        }
        taken
    }

    pub(crate) fn check(&self, read: Ledger) -> Result<(), String> {
        if self.statuses != 0 {
            return Err(format!("bare host: statuses {:#x}", self.statuses));
        }
        self.ledger.check("bare host", read)
    }
}

/// A bare device on a thread of its own: reads every entry whole, answers success.
#[derive(Debug)]
pub(crate) struct BareDevice {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Ledger>,
}

impl BareDevice {
    pub(crate) fn start(memory: &RingMemory) -> Result<Self, Box<dyn Error>> {
        let rings = Rings::new(memory)?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = thread::spawn("bare-device", move || serve(&rings, &asked))?;
        Ok(Self { stop, thread })
    }

    /// Ends it; answers what it read.
    pub(crate) fn stop(self) -> Result<Ledger, String> {
        self.stop.store(true, Ordering::Release);
        let joined = self.thread.join();
        joined.map_err(|_| "the bare device panicked".to_owned())
    }
}

/// Spins, and lets others run once it has lasted long: where both sides share a processor, each
/// waits for the other.
#[inline(always)]
pub(crate) fn spin_or_yield(idle_polls: u32) {
    if idle_polls & 0x3fff == 0x3fff {
        thread::yield_now();
    }
    std::hint::spin_loop();
}

fn serve(rings: &Rings, stop: &AtomicBool) -> Ledger {
    let mut read = Ledger::default();
    let (mut head, mut tail) = (0, 0);
    let mut phase = 1_u64;
    let entries = rings.cq.count();
    // Room in the completion queue, as far as known.
    let mut room = entries - 1;
    let mut idle_polls = 0_u32;
    loop {
        let told = rings.sq_tail.load(Ordering::Acquire) as usize;
        if told == head {
            if stop.load(Ordering::Relaxed) {
                return read;
            }
            idle_polls = idle_polls.wrapping_add(1);
            spin_or_yield(idle_polls);
            continue;
        }
        idle_polls = 0;
        while head != told {
            while room == 0 {
                let seen = rings.cq_head.load(Ordering::Acquire) as usize;
                room = (seen + entries - tail - 1) % entries;
            }
            let entry = rings.sq.read(head);
            read.commands += 1;
            read.sum = entry.iter().fold(read.sum, |sum, &w| sum.wrapping_add(w));
            head += 1;
            if head == rings.sq.count() {
                head = 0;
            }
            let identifier = entry[0] >> 16 & 0xffff;
            rings.cq.write_word(tail, 0, 0);
            barrier::write();
            let high = head as u64 | 1 << 16 | identifier << 32 | phase << 48;
            rings.cq.write_word(tail, 1, high);
            room -= 1;
            tail += 1;
            if tail == entries {
                tail = 0;
                phase ^= 1;
            }
        }
    }
}

/// Fresh rings for a bare pair with `depth` commands in flight: as long as the driver's own.
pub(crate) fn pair_memory(
    space: &DmaSpace,
    depth: usize,
) -> Result<(RingMemory, Vec<DmaBuf>), Box<dyn Error>> {
    let sq = space.alloc((depth + 1) * 64, 4096)?;
    let cq = space.alloc((depth + 1) * 2 * 16, 4096)?;
    let bells = space.alloc(4096, 4096)?;
    let memory = RingMemory {
        sq: sq.slice()?,
        cq: cq.slice()?,
        bells: bells.slice()?,
        sq_tail_offset: 0,
        // A cache line of its own.
        cq_head_offset: 128,
    };
    Ok((memory, vec![sq, cq, bells]))
}
