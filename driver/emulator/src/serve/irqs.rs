//! MSI-X vectors tied to a client's eventfds.
//! A vector is raised by adding one to its eventfd; one that is full is raised already.
use crate::Emulator;
use std::os::fd::OwnedFd;
use underpin_vfio_user::{Refusal, SetIrqs, irq};

/// The vectors of one client.
#[derive(Debug)]
pub(super) struct Irqs {
    emulator: Emulator,
    vectors: Vec<Option<OwnedFd>>,
}

impl Irqs {
    pub(super) fn new(emulator: Emulator, count: u16) -> Self {
        Self {
            emulator,
            vectors: (0..count).map(|_| None).collect(),
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.vectors.len() as u32
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
        if request.flags & ACTION != irq::TRIGGER {
            return Err(Refusal::unsupported(format!(
                "interrupts are masked by the client itself (flags {:#x})",
                request.flags
            )));
        }
        let (start, count) = (request.start as usize, request.count as usize);
        match request.flags & DATA {
            irq::DATA_NONE if count == 0 => self.clear(),
            irq::DATA_NONE => (start..start + count).for_each(|vector| self.raise(vector)),
            irq::DATA_BOOL => {
                let wanted = (start..).zip(bools).filter(|(_, wanted)| **wanted != 0);
                wanted.for_each(|(vector, _)| self.raise(vector));
            }
            irq::DATA_EVENTFD => {
                let mut fds = fds.into_iter();
                (start..start + count).for_each(|vector| self.tie(vector, fds.next()));
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
        (0..self.vectors.len()).for_each(|vector| self.tie(vector, None));
    }

    fn tie(&mut self, vector: usize, event: Option<OwnedFd>) {
        if let Some(place) = self.vectors.get_mut(vector) {
            *place = event;
        }
    }

    fn raise(&self, vector: usize) {
        if let Some(Some(event)) = self.vectors.get(vector) {
            // EAGAIN: its count is at the end, so it is raised. It is the client's, who may have
            // made it block: such a one is not waited for.
            let _ = crate::serve::irqs::add_one(event);
        }
        let _ = &self.emulator;
    }
}

/// Adds one to an eventfd, if that does not block.
fn add_one(event: &OwnedFd) -> rustix::io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(event, PollFlags::OUT)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    if poll(&mut fds, Some(&at_once))? > 0 {
        rustix::io::write(event, &1_u64.to_ne_bytes())?;
    }
    Ok(())
}
