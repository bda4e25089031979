//! MSI-X vectors tied to a client's eventfds, masked, and raised where it asks for that.
//! Virtual machine monitors mask by themselves; a driver in a process does it here.
use crate::Emulator;
use std::os::fd::OwnedFd;
use underpin_dma::rt::Event;
use underpin_vfio_user::{Refusal, SetIrqs, irq};

/// The vectors of one client.
#[derive(Debug)]
pub(super) struct Irqs {
    emulator: Emulator,
    /// What each vector is tied to.
    events: Vec<Option<Event>>,
}

impl Irqs {
    pub(super) fn new(emulator: Emulator) -> Self {
        let count = emulator.vector_count();
        Self {
            emulator,
            events: (0..count).map(|_| None).collect(),
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.events.len() as u32
    }

    /// Does what a request says; its range lies within the vectors.
    pub(super) fn set(
        &mut self,
        request: &SetIrqs,
        bools: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        const DATA: u32 = irq::DATA_NONE | irq::DATA_BOOL | irq::DATA_EVENTFD;
        const ACTION: u32 = irq::MASK | irq::UNMASK | irq::TRIGGER;
        const MASK: u32 = irq::MASK | irq::DATA_NONE;
        const UNMASK: u32 = irq::UNMASK | irq::DATA_NONE;
        if request.index != irq::MSIX {
            return match (request.count, request.flags & DATA) {
                // Untying what there is none of.
                (0, irq::DATA_NONE) => Ok(()),
                _ => Err(Refusal::invalid(format!(
                    "there are no interrupts of kind {}",
                    request.index
                ))),
            };
        }
        let (start, count) = (request.start as usize, request.count as usize);
        match request.flags & (ACTION | DATA) {
            MASK => {
                self.mask(start, count, true);
                return Ok(());
            }
            UNMASK => {
                self.mask(start, count, false);
                return Ok(());
            }
            flags if flags & ACTION != irq::TRIGGER => {
                let why = format!("what is to be done with interrupts, by flags {flags:#x}");
                return Err(Refusal::unsupported(why));
            }
            _ => {}
        }
        match request.flags & DATA {
            irq::DATA_NONE if count == 0 => self.clear(),
            irq::DATA_NONE => (start..start + count).for_each(|vector| self.raise(vector)),
            irq::DATA_BOOL => {
                let wanted = (start..).zip(bools).filter(|(_, wanted)| **wanted != 0);
                wanted.for_each(|(vector, _)| self.raise(vector));
            }
            irq::DATA_EVENTFD => {
                // All of them are looked at before any is tied.
                let events: Result<Vec<_>, _> = fds.into_iter().map(Event::from_eventfd).collect();
                let events = events.map_err(|error| Refusal::invalid(error.to_string()))?;
                let mut events = events.into_iter();
                (start..start + count).for_each(|vector| self.tie(vector, events.next()));
            }
            data => {
                return Err(Refusal::invalid(format!(
                    "one kind of data is wanted, not {data:#x}"
                )));
            }
        }
        Ok(())
    }

    /// Unties everything.
    pub(super) fn clear(&mut self) {
        (0..self.events.len()).for_each(|vector| self.tie(vector, None));
        self.mask(0, self.events.len(), false);
    }

    fn mask(&self, start: usize, count: usize, masked: bool) {
        for vector in (start..start + count).filter_map(|vector| u16::try_from(vector).ok()) {
            self.emulator.mask_vector(vector, masked);
        }
    }

    fn tie(&mut self, vector: usize, event: Option<Event>) {
        if let (Some(place), Ok(number)) = (self.events.get_mut(vector), u16::try_from(vector)) {
            self.emulator.set_vector(number, event.clone());
            *place = event;
        }
    }

    fn raise(&self, vector: usize) {
        if let Some(Some(event)) = self.events.get(vector) {
            event.signal();
        }
    }
}
