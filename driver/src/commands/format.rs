//! Format NVM (NVMe Base 2.0, 5.14), and how namespaces are identified anew: blocks of another
//! size under requests that were made for the old one would be written over what lies behind a
//! buffer, so no such request may be left.
use super::call::{AdminCall, Data};
use crate::bring_up::BringUp;
use crate::controller::Inner;
use crate::dma::rt;
use crate::{Controller, Error, Namespace};
use std::sync::Arc;
use std::time::Duration;
use underpin_nvme_spec::Nsid;
use underpin_nvme_spec::admin::{FormatNvm, SecureErase};

/// OACS bit 1 (Base 2.0, figure 275).
const OACS_FORMAT: u16 = 1 << 1;
/// Bits of FNA, Format NVM Attributes.
const FNA_FORMATS_ALL: u8 = 1 << 0;
const FNA_ERASES_ALL: u8 = 1 << 1;
const FNA_CRYPTOGRAPHIC: u8 = 1 << 2;
const FNA_NO_BROADCAST: u8 = 1 << 3;

/// I/O queues set aside, so that none is made meanwhile.
struct Idle<'a> {
    inner: &'a Inner,
    qids: Vec<u16>,
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.inner.put_queues(std::mem::take(&mut self.qids));
    }
}

impl Inner {
    fn idle(&self) -> Result<Idle<'_>, Error> {
        match self.take_all_queues() {
            Ok(qids) => Ok(Idle { inner: self, qids }),
            Err(queues) => Err(Error::QueuesInUse {
                device: self.transport.name(),
                queues,
            }),
        }
    }
}

impl Controller {
    /// Formats a namespace, or all ([`Nsid::ALL`]): **what they held is lost.** Then identifies all
    /// namespaces anew: get them again ([`namespace`](Self::namespace)), as the handles from before
    /// and the requests made with them are refused by every queue from then on.
    ///
    /// `time` is how long it may take; a format of much data takes long.
    ///
    /// # Errors
    /// [`Error::QueuesInUse`] while there are queue pairs: drop them first;
    /// [`Error::NotSupported`] for what the device says it lacks; [`Error::Request`] for an LBA
    /// format that the namespace does not have, or where one namespace was named and the device
    /// would format all; [`Error::Admin`] with the device's status; [`Error::Failed`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use underpin_nvme::spec::admin::FormatNvm;
    ///
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// assert_eq!(ns.lba_bytes(), 512);
    /// // The first format of the namespace that has blocks of 4 KiB.
    /// let lbaf = (0..=ns.identify().nlbaf())
    ///     .find(|&index| ns.identify().lba_format(index).lbads() == 12)
    ///     .expect("it has one");
    /// let command = FormatNvm { nsid: ns.nsid(), lbaf, ..FormatNvm::default() };
    /// controller.format(&command, Duration::from_secs(60))?;
    /// assert_eq!(controller.namespace(None)?.lba_bytes(), 4096);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn format(&self, command: &FormatNvm, time: Duration) -> Result<(), Error> {
        self.check_format(command)?;
        let _idle = self.0.idle()?;
        let sqe = command.to_sqe();
        let call = AdminCall::new(&self.0, sqe, &Data::None, Some(time), |_, _| Ok(()));
        let formatted = call?.wait();
        // A format that failed may have got somewhere.
        self.0.renew_number();
        // Refused or not: the namespaces given from now on have the number that queues take.
        let renewed = self.identify_anew(|_| Ok(None));
        formatted?;
        renewed
    }

    fn check_format(&self, command: &FormatNvm) -> Result<(), Error> {
        let identify = self.identify();
        let (fna, all) = (identify.fna(), command.nsid == Nsid::ALL);
        let need = |has, what: &str, why| self.0.need(has, what, why);
        need(
            identify.oacs() & OACS_FORMAT != 0,
            "Format NVM",
            "OACS bit 1 is 0",
        )?;
        need(
            command.erase != SecureErase::Cryptographic || fna & FNA_CRYPTOGRAPHIC != 0,
            "cryptographic erasure",
            "FNA bit 2 is 0",
        )?;
        need(
            !all || fna & FNA_NO_BROADCAST == 0,
            "Format NVM of all namespaces at once",
            "FNA bit 3 is 1",
        )?;
        let erases = command.erase != SecureErase::None && fna & FNA_ERASES_ALL != 0;
        if !all && (fna & FNA_FORMATS_ALL != 0 || erases) {
            return Err(Error::Request(
                "the device would format all namespaces (FNA); name Nsid::ALL if that is meant"
                    .to_owned(),
            ));
        }
        let meant = |ns: &&Namespace| all || ns.nsid() == command.nsid;
        let mut namespaces = self.namespaces().iter().filter(meant).peekable();
        if namespaces.peek().is_none() {
            self.namespace(Some(command.nsid))?;
        }
        for namespace in namespaces {
            let page = namespace.identify();
            let formats = u16::from(page.nlbaf()) + 1 + u16::from(page.nulbaf());
            if u16::from(command.lbaf) >= formats {
                return Err(Error::Request(format!(
                    "{namespace} has {formats} LBA formats, counted from 0, and no {}",
                    command.lbaf
                )));
            }
        }
        Ok(())
    }

    fn identify_again(&self) -> Result<Vec<Namespace>, Error> {
        let mut again = BringUp::again(Arc::clone(&self.0));
        // Every call of it has a deadline of its own.
        let outcome = rt::wait(None, |now| again.poll(now));
        outcome.unwrap_or_else(|_| Err(self.0.failed()))?;
        Ok(again.into_namespaces())
    }

    /// Identifies all namespaces anew, after an event that told of a change or a command that made
    /// one. Handles from before stay good for what they know, unless blocks have another size:
    /// then they are refused by every queue.
    ///
    /// # Errors
    /// [`Error::QueuesInUse`] when blocks have another size and there are queue pairs: drop them
    /// and try again. [`Error::BadAnswer`], [`Error::Failed`].
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// controller.rescan()?;
    /// assert_eq!(controller.namespace(None)?, ns, "nothing has changed");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rescan(&self) -> Result<(), Error> {
        self.identify_anew(|found| {
            // Whoever has a handle that queues take, be it of a namespace that was away meanwhile.
            let number = self.0.number();
            let handed_out = self.0.facts().namespaces.all();
            let mut current = handed_out.filter(|old| old.controller() == number);
            let resized = current.any(|old| found.iter().any(|new| old.is_resized(new)));
            resized.then(|| self.0.idle()).transpose()
        })
    }

    /// Identifies all namespaces, and once more where others did so, or formatted, meanwhile: the
    /// older finding would bring back sizes of blocks that are no more. `make_idle` gets what was
    /// found, and sets the queues aside where requests made before must be nobody's.
    fn identify_anew<'a>(
        &'a self,
        make_idle: impl Fn(&[Namespace]) -> Result<Option<Idle<'a>>, Error>,
    ) -> Result<(), Error> {
        loop {
            let before = self.0.renewals();
            let found = self.identify_again()?;
            let idle = make_idle(&found)?;
            if self.0.renew(before, idle.is_some(), found) {
                return Ok(());
            }
        }
    }
}
