//! The seam between the driver and whatever the controller is: registers, IOMMU context, proof.
//! Control path only; the data path holds rings and shadow doorbells and never comes here.
mod embedded;
#[cfg(not(underpin_sim))]
mod vfio;
mod vfio_user;

pub use embedded::Embedded;
#[cfg(not(underpin_sim))]
pub use vfio::Vfio;
pub use vfio_user::{VfioUser, VfioUserOptions};

use crate::Failure;
use std::fmt;
use std::sync::Arc;
use underpin_dma::rt::Event;
use underpin_dma::{Mapper, Word32};

/// A register or the device behind it could not be reached.
///
/// ```
/// use underpin_nvme::transport::{Embedded, Transport};
///
/// let emulator = underpin_emulator::Emulator::new("size=1m,queues=2".parse()?)?;
/// let device = Embedded::new("emu0", emulator);
/// let error = device.interrupt(3).unwrap_err();
/// assert_eq!(error.device, "emu0");
/// assert!(error.what.contains("vector 3"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("{device}: {what}")]
pub struct TransportError {
    /// The device's name.
    pub device: String,
    /// What failed and what can be done about it.
    pub what: String,
}

/// How a controller is reached. One implementation a kind of device.
///
/// A transport that counts how often registers are read, and leaves the rest to another:
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use underpin_dma::{DmaSpace, Mapper};
/// use underpin_nvme::transport::{Embedded, Transport, TransportError};
/// use underpin_nvme::{Controller, ControllerOptions};
///
/// #[derive(Debug)]
/// struct Counted {
///     inner: Arc<Embedded>,
///     reads: AtomicU32,
/// }
///
/// impl Transport for Counted {
///     fn name(&self) -> String {
///         "counted".to_owned()
///     }
///     fn read32(&self, offset: usize) -> Result<u32, TransportError> {
///         self.reads.fetch_add(1, Ordering::Relaxed);
///         self.inner.read32(offset)
///     }
///     fn read64(&self, offset: usize) -> Result<u64, TransportError> {
///         self.reads.fetch_add(1, Ordering::Relaxed);
///         self.inner.read64(offset)
///     }
///     fn write32(&self, offset: usize, value: u32) -> Result<(), TransportError> {
///         self.inner.write32(offset, value)
///     }
///     fn write64(&self, offset: usize, value: u64) -> Result<(), TransportError> {
///         self.inner.write64(offset, value)
///     }
///     fn mapper(&self) -> Arc<dyn Mapper> {
///         self.inner.mapper()
///     }
///     fn sever(&self) -> Result<(), TransportError> {
///         self.inner.sever()
///     }
/// }
///
/// let emulator = underpin_emulator::Emulator::new("size=1m".parse()?)?;
/// emulator.start_thread()?;
/// let transport = Arc::new(Counted {
///     inner: Embedded::new("inner", emulator),
///     reads: AtomicU32::new(0),
/// });
/// let device = Arc::clone(&transport) as Arc<dyn Transport>;
/// let controller =
///     Controller::with_transport(device, &DmaSpace::new(), ControllerOptions::default())?;
/// assert_eq!(controller.name(), "counted");
/// assert!(transport.reads.load(Ordering::Relaxed) >= 3, "CAP, VS and CSTS at least");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Transport: Send + Sync + fmt::Debug {
    /// The device's name for messages: its URL without the namespace.
    fn name(&self) -> String;

    /// Reads a 32-bit register of BAR0.
    ///
    /// # Errors
    /// [`TransportError`] when the device is known to be out of reach. A device that is gone
    /// without the transport's knowledge reads as all ones, or as zero.
    fn read32(&self, offset: usize) -> Result<u32, TransportError>;

    /// Reads a 64-bit register of BAR0.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    fn read64(&self, offset: usize) -> Result<u64, TransportError>;

    /// As [`read32`](Self::read32), for whoever may not wait: `None` when the answer is still to
    /// come, which a later call for the same register then gives. A transport that has to wait for
    /// its peer gives it a deadline, and an error once that has passed.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    fn ask32(&self, offset: usize) -> Result<Option<u32>, TransportError> {
        self.read32(offset).map(Some)
    }

    /// Writes a 32-bit register of BAR0.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    fn write32(&self, offset: usize, value: u32) -> Result<(), TransportError>;

    /// Writes a 64-bit register of BAR0.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    fn write64(&self, offset: usize, value: u64) -> Result<(), TransportError>;

    /// Writes a doorbell register. As [`write32`](Self::write32), but need not wait until the
    /// device has it; it has it before any later access is answered.
    ///
    /// # Errors
    /// As [`read32`](Self::read32).
    fn ring(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        self.write32(offset, value)
    }

    /// The doorbell register at `offset` as a word of memory, where there is one that the device
    /// looks at by itself. Asked for once a queue, and not where shadow doorbells are in use.
    fn doorbell_word(&self, offset: usize) -> Option<Word32> {
        let _ = offset;
        None
    }

    /// The IOMMU context that the device is behind.
    fn mapper(&self) -> Arc<dyn Mapper>;

    /// How many interrupt vectors the device has; 0 when it has none, or they cannot be had.
    fn interrupt_count(&self) -> u16 {
        0
    }

    /// The event that the interrupt `vector` signals from now on. Asked for once by each queue
    /// that wants it; a queue made later with the same number asks again.
    ///
    /// # Errors
    /// [`TransportError`] when there is no such vector, or no event can be had.
    fn interrupt(&self, vector: u16) -> Result<Event, TransportError> {
        Err(TransportError {
            device: self.name(),
            what: format!("it has no interrupt vector {vector}; use Waiting::Poll"),
        })
    }

    /// Holds the interrupt `vector` back, or lets it through again, with what came meanwhile. A
    /// transport that cannot need not: it costs needless signals only.
    ///
    /// # Errors
    /// [`TransportError`] when the device is known to be out of reach.
    fn mask(&self, vector: u16, masked: bool) -> Result<(), TransportError> {
        let _ = (vector, masked);
        Ok(())
    }

    /// Whom to tell when the transport learns by itself that the device is lost: the kernel wants
    /// it back, its link has failed. Called once, when a controller is made of it; what happened
    /// before is told at once. A transport that learns of nothing has nothing to tell.
    fn on_loss(&self, tell: Box<dyn Fn(Failure) + Send + Sync>) {
        drop(tell);
    }

    /// Ends the device's DMA by the transport's own means: the connection closed, the device's
    /// group detached, the emulator's thread joined. `Ok` is proof that no DMA follows; the
    /// device is of no use afterwards.
    ///
    /// # Errors
    /// [`TransportError`] when nothing is proven; memory of the device stays in quarantine then.
    fn sever(&self) -> Result<(), TransportError>;
}
