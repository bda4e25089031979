//! Figures of an emulator: plain numbers in the controller, published once a batch.
//! The published copy is relaxed atomics, so that reading it disturbs nobody.
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        underpin_dma::counters! {
            /// Figures of an emulator since it was made.
            ///
            /// ```
            /// use underpin_emulator::Emulator;
            ///
            /// let emulator = Emulator::new("size=1m".parse()?)?;
            /// let mut core = emulator.inline_core();
            /// emulator.write32(0x1004, 1); // A doorbell of a controller that is not enabled.
            /// core.run_batch();
            /// assert_eq!((emulator.stats().doorbell_writes, emulator.stats().completions), (1, 0));
            /// # Ok::<(), underpin_emulator::EmulatorError>(())
            /// ```
            pub struct EmulatorStats {
                $($(#[$doc])* $field,)*
            }
        }

        /// The published copy.
        #[derive(Debug, Default)]
        pub(crate) struct PublishedStats {
            $($field: AtomicU64,)*
        }

        impl PublishedStats {
            #[inline]
            pub(crate) fn publish(&self, stats: &EmulatorStats) {
                $(self.$field.store(stats.$field, Ordering::Relaxed);)*
            }

            pub(crate) fn read(&self) -> EmulatorStats {
                EmulatorStats {
                    $($field: self.$field.load(Ordering::Relaxed),)*
                }
            }
        }
    };
}

stats! {
    /// Submission queue entries read from host memory.
    sqes,
    /// The wrapping sum of all words of those entries, each as eight little-endian `u64`: proof
    /// of what was really read.
    sqe_sum,
    /// Read commands.
    reads,
    /// Write commands.
    writes,
    /// Flush commands.
    flushes,
    /// Compare commands.
    compares,
    /// Write Zeroes commands.
    write_zeroes,
    /// Dataset Management commands.
    dataset_managements,
    /// Verify commands.
    verifies,
    /// Commands of I/O queues that there are not.
    io_other,
    /// Commands of the admin queue.
    admin,
    /// Completions written.
    completions,
    /// Completions written with an error status.
    errors,
    /// Bytes of host memory read by DMA: data and PRP lists, without the rings.
    bytes_from_host,
    /// Bytes of host memory written by DMA: data, without the rings.
    bytes_to_host,
    /// Accesses that the IOMMU blocked.
    blocked_dma,
    /// Times that the controller, about to sleep, published EventIdx and found nothing to do.
    sleeps,
    /// Times that it was stepped again after that.
    wakeups,
    /// Doorbell registers written by the host, of any queue.
    doorbell_writes,
    /// Those of I/O queues while shadow doorbells are in use: each is a host that found its
    /// EventIdx crossed.
    kicks,
    /// Doorbell values out of range, and doorbells of queues that do not exist.
    invalid_doorbells,
    /// Times that a queue waited because its completion queue was full.
    cq_stalls,
    /// Interrupts signalled: at most one a batch of completions, none while masked.
    interrupts,
    /// Abort commands.
    aborts,
    /// Format NVM commands.
    formats,
    /// Asynchronous events told.
    events,
    /// Controller resets by CC.EN.
    resets,
}
