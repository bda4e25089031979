//! One IOVA address space: its regions, the IOMMU contexts that reach them, and a heap for rings.
//! A region has one IOVA, the same for every device, so nothing is mapped or translated per I/O.
use crate::buffer::Home;
use crate::pool::{Pool, PoolOptions};
use crate::ranges::RangeAllocator;
use crate::rt::sync::Mutex;
use crate::{
    Access, DmaBuf, Error, Iova, MapRequest, Mapper, MapperError, Memory, MemoryWatch, PageSize,
};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// IOVAs are given out from 4 GiB up, above the 32-bit holes of every platform (interrupt
/// windows, reserved ranges) ...
const FIRST_IOVA: u64 = 1 << 32;
/// ... and below 2^39, the smallest address width of IOMMUs in use, so that late joiners fit.
const LAST_IOVA: u64 = (1 << 39) - 1;
/// Regions start on 2 MiB, so that an IOMMU can use large pages for them.
const REGION_ALIGN: u64 = 2 << 20;
/// The heap grows by this much at a time, so that it stays a handful of mappings.
const HEAP_GROWTH: u64 = 2 << 20;

/// Tells one space from another: an IOVA means something only in its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpaceId(u32);

/// What a space is made of.
#[derive(Clone, Debug)]
pub struct SpaceOptions {
    /// Which pages back its regions.
    pub pages: PageSize,
    /// How much memory all regions together may take.
    pub limit_bytes: u64,
    /// Refuse the caller's own memory: devices reach rings and pools, nothing else.
    pub isolated: bool,
    /// Who is told of memory lent and returned; for referees in tests.
    pub watch: Option<Arc<dyn MemoryWatch>>,
}

impl Default for SpaceOptions {
    fn default() -> Self {
        Self {
            pages: PageSize::Small,
            limit_bytes: u64::MAX,
            isolated: false,
            watch: None,
        }
    }
}

/// Figures about a space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceStats {
    /// Regions alive.
    pub regions: usize,
    /// Bytes of all regions.
    pub region_bytes: u64,
    /// IOMMU contexts attached.
    pub contexts: usize,
    /// Bytes of the heap that are handed out.
    pub heap_used_bytes: u64,
    /// Bytes of IOVA space lost because a context could not prove an unmapping.
    pub iova_lost_bytes: u64,
}

/// One IOVA address space, shared by the devices attached to it. Clones are the same space.
///
/// What a device can *touch* is its whole space: give a device that you do not trust a space of
/// its own, made with [`DmaSpace::isolated`].
#[derive(Clone, Debug)]
pub struct DmaSpace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: SpaceId,
    options: SpaceOptions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    iovas: RangeAllocator,
    contexts: Vec<Context>,
    next_context: u64,
    /// By first IOVA.
    mapped: BTreeMap<Iova, MapRequest>,
    /// Pieces of `heap_regions` that are free, as IOVAs.
    heap: RangeAllocator,
    heap_regions: Vec<Arc<Region>>,
    heap_bytes: u64,
    heap_used_bytes: u64,
    region_bytes: u64,
    iova_lost_bytes: u64,
}

#[derive(Debug)]
struct Context {
    id: u64,
    mapper: Arc<dyn Mapper>,
}

/// A region: memory with an IOVA, mapped in every context of its space. Unmapped on drop.
#[derive(Debug)]
pub struct Region {
    name: String,
    iova: Iova,
    memory: Arc<Memory>,
    space: Weak<Inner>,
}

/// Keeps a context attached to a space; detaches it on drop.
#[derive(Debug)]
#[must_use = "dropping the attachment detaches the context"]
pub struct Attachment {
    space: DmaSpace,
    context: u64,
}

/// A piece of the space's heap: what a [`DmaBuf`] from [`DmaSpace::alloc`] goes back to.
#[derive(Debug)]
pub(crate) struct Heap {
    space: DmaSpace,
    region: Arc<Region>,
}

impl Default for DmaSpace {
    fn default() -> Self {
        Self::new()
    }
}

impl DmaSpace {
    /// A space whose devices share all that is put into it.
    pub fn new() -> Self {
        Self::with_options(SpaceOptions::default())
    }

    /// A space for devices that are not trusted with memory of the application: it holds rings
    /// and pools, and refuses the caller's own memory.
    pub fn isolated() -> Self {
        Self::with_options(SpaceOptions {
            isolated: true,
            ..SpaceOptions::default()
        })
    }

    /// A space made to measure.
    pub fn with_options(options: SpaceOptions) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let iovas = RangeAllocator::new(FIRST_IOVA..=LAST_IOVA);
        let state = State {
            iovas,
            heap: RangeAllocator::empty(),
            ..State::default()
        };
        Self(Arc::new(Inner {
            id: SpaceId(NEXT.fetch_add(1, Ordering::Relaxed)),
            options,
            state: Mutex::new(state),
        }))
    }

    /// Which space this is.
    pub fn id(&self) -> SpaceId {
        self.0.id
    }

    /// True when the space refuses the caller's own memory.
    pub fn is_isolated(&self) -> bool {
        self.0.options.isolated
    }

    /// The size of the pages behind its regions.
    pub fn page_bytes(&self) -> u64 {
        self.0.options.pages.bytes()
    }

    /// Figures about the space.
    pub fn stats(&self) -> SpaceStats {
        let state = self.0.state.lock();
        SpaceStats {
            regions: state.mapped.len(),
            region_bytes: state.region_bytes,
            contexts: state.contexts.len(),
            heap_used_bytes: state.heap_used_bytes,
            iova_lost_bytes: state.iova_lost_bytes,
        }
    }

    /// Makes a region of zeroed memory and maps it in every context.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a length that is no multiple of the page size, [`Error::Limit`],
    /// [`Error::IovaExhausted`], [`Error::Memory`] and [`Error::Mapper`].
    pub fn region(&self, name: &str, len_bytes: u64) -> Result<Arc<Region>, Error> {
        self.check_limit(&self.0.state.lock(), name, len_bytes)?;
        let memory = Memory::new(name, len_bytes, self.0.options.pages)?;
        self.add(name, memory)
    }

    /// Makes a pool of equal buffers in a region of its own.
    ///
    /// # Errors
    /// As [`region`](Self::region).
    pub fn pool(&self, name: &str, options: PoolOptions) -> Result<Pool, Error> {
        Pool::new(self, name, options)
    }

    /// Takes `len_bytes` of zeroed memory from the heap, starting at a multiple of `align_bytes`
    /// (a power of two of at most 2 MiB): for rings, lists and identify pages. Control path only.
    ///
    /// # Errors
    /// As [`region`](Self::region); [`Error::BadRequest`] for a length or alignment of none.
    pub fn alloc(&self, len_bytes: usize, align_bytes: usize) -> Result<DmaBuf, Error> {
        if len_bytes == 0 || !align_bytes.is_power_of_two() || align_bytes as u64 > REGION_ALIGN {
            return Err(Error::BadRequest {
                name: "heap".to_owned(),
                what: format!("{len_bytes} bytes aligned to {align_bytes} cannot be had"),
            });
        }
        // Pieces are whole cache lines, so that two never share one.
        let align = (align_bytes as u64).max(64);
        let len = (len_bytes as u64).next_multiple_of(64);
        if let Some(buf) = self.carve(len, align, len_bytes) {
            return Ok(buf);
        }
        let growth = len.next_multiple_of(HEAP_GROWTH.max(self.page_bytes()));
        let region = self.region("heap", growth)?;
        {
            let mut state = self.0.state.lock();
            state.heap.free(region.iova.get(), growth);
            state.heap_bytes += growth;
            state.heap_regions.push(region);
        }
        self.carve(len, align, len_bytes)
            .ok_or_else(|| Error::IovaExhausted {
                name: "heap".to_owned(),
                len_bytes: len,
            })
    }

    fn carve(&self, len: u64, align: u64, len_bytes: usize) -> Option<DmaBuf> {
        let (iova, region) = {
            let mut state = self.0.state.lock();
            let start = state.heap.alloc(len, align)?;
            state.heap_used_bytes += len;
            let holds = |region: &&Arc<Region>| {
                start
                    .checked_sub(region.iova.get())
                    .is_some_and(|at| at < region.len_bytes())
            };
            (
                Iova::new(start),
                Arc::clone(state.heap_regions.iter().find(holds)?),
            )
        };
        if let Some(watch) = self.watch() {
            watch.lent(iova, len);
        }
        let offset = usize::try_from(iova.get() - region.iova.get()).ok()?;
        let heap = Heap {
            space: self.clone(),
            region,
        };
        let mut buf = DmaBuf::new(iova, len_bytes, self.id(), offset, Home::Heap(heap));
        buf.fill(0);
        Some(buf)
    }

    /// Attaches an IOMMU context: every region there is and every later one is mapped in it.
    ///
    /// # Errors
    /// [`Error::Unreachable`] naming the region that the context cannot reach; [`Error::Mapper`]
    /// when it refuses one. It is not attached then, and nothing stays mapped in it.
    pub fn attach(&self, mapper: Arc<dyn Mapper>) -> Result<Attachment, Error> {
        let usable = mapper.usable();
        let mut state = self.0.state.lock();
        let unreachable = |request: &MapRequest, why: String| Error::Unreachable {
            context: mapper.name(),
            name: request.name.clone(),
            iova: request.iova,
            len_bytes: request.memory.len_bytes() as u64,
            why,
        };
        for (index, request) in state.mapped.values().enumerate() {
            let first = request.iova.get();
            let last = first + (request.memory.len_bytes() as u64 - 1);
            let fits =
                |range: &RangeInclusive<u64>| range.contains(&first) && range.contains(&last);
            if !usable.iter().any(fits) {
                return Err(unreachable(
                    request,
                    format!("it can use only {}", show(&usable)),
                ));
            }
            if mapper.mappings_left().is_some_and(|left| index >= left) {
                return Err(unreachable(request, "its mappings are used up".to_owned()));
            }
        }
        let mut done: Vec<&MapRequest> = Vec::new();
        for request in state.mapped.values() {
            if let Err(error) = mapper.map(request) {
                unmap_all(&*mapper, &done);
                return Err(error.into());
            }
            done.push(request);
        }
        let regions = done.len();
        state.iovas.restrict(&usable);
        let context = state.next_context;
        state.next_context += 1;
        tracing::debug!(context = %mapper.name(), regions, "attached to space");
        state.contexts.push(Context {
            id: context,
            mapper,
        });
        Ok(Attachment {
            space: self.clone(),
            context,
        })
    }

    /// Puts memory into the space: gives it an IOVA and maps it in every context.
    pub(crate) fn add(&self, name: &str, memory: Arc<Memory>) -> Result<Arc<Region>, Error> {
        let len_bytes = memory.len_bytes() as u64;
        let mut state = self.0.state.lock();
        self.check_limit(&state, name, len_bytes)?;
        let iova = state
            .iovas
            .alloc(len_bytes, REGION_ALIGN)
            .map(Iova::new)
            .ok_or_else(|| Error::IovaExhausted {
                name: name.to_owned(),
                len_bytes,
            })?;
        let request = MapRequest {
            iova,
            memory: Arc::clone(&memory),
            access: Access::ReadWrite,
            name: name.to_owned(),
        };
        for (index, context) in state.contexts.iter().enumerate() {
            if let Err(error) = context.mapper.map(&request) {
                let proven = state.contexts[..index]
                    .iter()
                    .all(|context| context.mapper.unmap(iova, len_bytes).is_ok());
                if proven {
                    state.iovas.free(iova.get(), len_bytes);
                } else {
                    state.iova_lost_bytes += len_bytes;
                }
                return Err(error.into());
            }
        }
        state.region_bytes += len_bytes;
        state.mapped.insert(iova, request);
        drop(state);
        Ok(Arc::new(Region {
            name: name.to_owned(),
            iova,
            memory,
            space: Arc::downgrade(&self.0),
        }))
    }

    #[inline]
    pub(crate) fn watch(&self) -> Option<&dyn MemoryWatch> {
        self.0.options.watch.as_deref()
    }

    fn check_limit(&self, state: &State, name: &str, len_bytes: u64) -> Result<(), Error> {
        let limit_bytes = self.0.options.limit_bytes;
        if state.region_bytes.saturating_add(len_bytes) > limit_bytes {
            let used_bytes = state.region_bytes;
            return Err(Error::Limit {
                name: name.to_owned(),
                len_bytes,
                used_bytes,
                limit_bytes,
            });
        }
        Ok(())
    }
}

fn unmap_all(mapper: &dyn Mapper, requests: &[&MapRequest]) {
    for request in requests {
        if let Err(error) = mapper.unmap(request.iova, request.memory.len_bytes() as u64) {
            tracing::warn!(%error, region = request.name, "a mapping may be left behind");
        }
    }
}

fn show(ranges: &[RangeInclusive<u64>]) -> String {
    let show = |range: &RangeInclusive<u64>| format!("{:#x}-{:#x}", range.start(), range.end());
    ranges.iter().map(show).collect::<Vec<_>>().join(", ")
}

impl Attachment {
    /// The space that it attaches to.
    pub const fn space(&self) -> &DmaSpace {
        &self.space
    }

    /// Detaches the context: takes every mapping out of it.
    ///
    /// # Errors
    /// The first mapping that may still be there.
    pub fn detach(self) -> Result<(), MapperError> {
        self.end()
    }

    fn end(&self) -> Result<(), MapperError> {
        let mut state = self.space.0.state.lock();
        let Some(at) = state
            .contexts
            .iter()
            .position(|context| context.id == self.context)
        else {
            return Ok(());
        };
        let context = state.contexts.remove(at);
        let mut result = Ok(());
        for request in state.mapped.values() {
            let len_bytes = request.memory.len_bytes() as u64;
            if let Err(error) = context.mapper.unmap(request.iova, len_bytes) {
                tracing::warn!(%error, region = request.name, "a mapping may be left behind");
                result = result.and(Err(error));
            }
        }
        result
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Region {
    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where devices see it.
    pub const fn iova(&self) -> Iova {
        self.iova
    }

    /// How long it is.
    pub fn len_bytes(&self) -> u64 {
        self.memory.len_bytes() as u64
    }

    /// Its memory.
    pub const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // Without a space there are no contexts: an attachment keeps its space alive.
        let Some(space) = self.space.upgrade() else {
            return;
        };
        let len_bytes = self.memory.len_bytes() as u64;
        let mut state = space.state.lock();
        state.mapped.remove(&self.iova);
        state.region_bytes -= len_bytes;
        let mut proven = true;
        for context in &state.contexts {
            if let Err(error) = context.mapper.unmap(self.iova, len_bytes) {
                tracing::error!(%error, region = self.name, "its IOVA is never used again");
                proven = false;
            }
        }
        // R32: an IOVA that a device may still reach is not given out again.
        if proven {
            state.iovas.free(self.iova.get(), len_bytes);
        } else {
            state.iova_lost_bytes += len_bytes;
        }
    }
}

impl Heap {
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        self.region.memory()
    }

    pub(crate) fn give_back(self, iova: Iova, len_bytes: u64) {
        let len = len_bytes.next_multiple_of(64);
        if let Some(watch) = self.space.watch() {
            watch.returned(iova, len);
        }
        let Self { space, region } = self;
        {
            let mut state = space.0.state.lock();
            state.heap.free(iova.get(), len);
            state.heap_used_bytes -= len;
        }
        // After the lock: this may be the last share of the region.
        drop(region);
    }
}
