//! What the integration tests share: an emulator with a referee, opened by the driver, and waits
//! with a limit of the test's own, so that a hang is a failure with a name.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod overheard;

use std::sync::Arc;
use std::time::Duration;
use underpin::dma::SpaceOptions;
use underpin::dma::rt::{self, Instant};
use underpin::emulator::{Emulator, EmulatorConfig, EmulatorStats, Referee};
use underpin::nvme::transport::Embedded;
use underpin::{
    Completion, Controller, ControllerOptions, DmaBuf, DmaSpace, Error, Payload, QueuePair, Token,
};

/// Longer than any deadline that these tests set: whoever waits so long hangs. Shorter, told by
/// UNDERPIN_HANG_S, where hangs are expected: when checks are proven by breaking what they check.
pub(crate) fn hang() -> Duration {
    let told = std::env::var("UNDERPIN_HANG_S").ok();
    Duration::from_secs(told.and_then(|s| s.parse().ok()).unwrap_or(20))
}

/// An emulator in its own thread, the space its host uses, and who watches both.
pub(crate) struct Rig {
    pub(crate) emulator: Emulator,
    pub(crate) space: DmaSpace,
    pub(crate) referee: Arc<Referee>,
    pub(crate) transport: Arc<Embedded>,
}

impl Rig {
    /// An emulator made from the text of a device URL, running, not yet opened.
    pub(crate) fn new(config: &str) -> Self {
        let referee = Referee::new();
        let space = DmaSpace::with_options(SpaceOptions {
            watch: Some(referee.clone()),
            ..SpaceOptions::default()
        });
        Self::joining(config, &space, &referee)
    }

    /// One more emulator, for a space that there is already.
    pub(crate) fn joining(config: &str, space: &DmaSpace, referee: &Arc<Referee>) -> Self {
        Self::configured(config.parse().unwrap(), space, referee)
    }

    /// The same, from a configuration that no text can express.
    pub(crate) fn configured(
        mut config: EmulatorConfig,
        space: &DmaSpace,
        referee: &Arc<Referee>,
    ) -> Self {
        config.referee = Some(Arc::clone(referee));
        let emulator = Emulator::new(config).unwrap();
        emulator.start_thread().unwrap();
        Self {
            transport: Embedded::new("emu", emulator.clone()),
            emulator,
            space: space.clone(),
            referee: Arc::clone(referee),
        }
    }

    pub(crate) fn open(&self, options: ControllerOptions) -> Result<Controller, Error> {
        Controller::with_transport(self.transport.clone(), &self.space, options)
    }

    pub(crate) fn controller(&self) -> Controller {
        self.open(ControllerOptions::default()).unwrap()
    }

    pub(crate) fn inject(&self, fault: &str) {
        self.emulator.inject(fault.parse().unwrap());
    }

    /// Waits until the emulator's figures say so.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut is_so: impl FnMut(EmulatorStats) -> bool) {
        within_limit(what, || is_so(self.emulator.stats()).then_some(()));
    }

    /// Waits until `count` faults, of all that were given, have fired.
    #[track_caller]
    pub(crate) fn until_fired(&self, count: u64) {
        within_limit("a fault to fire", || {
            let fired: u64 = self.emulator.faults().iter().map(|fault| fault.fired).sum();
            (fired >= count).then_some(())
        });
    }

    /// The emulator is stopped, and nobody has objected to any of its DMA.
    #[track_caller]
    pub(crate) fn end(self) {
        self.emulator.stop().unwrap();
        assert_eq!(self.referee.violations(), [], "the referee objects");
        assert!(self.referee.checks() > 0, "the referee saw no DMA at all");
        assert_eq!(
            self.emulator.iommu_faults(),
            [],
            "DMA that the IOMMU blocked"
        );
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.emulator.stop();
    }
}

/// Waits for an answer, no longer than [`hang`].
#[track_caller]
pub(crate) fn within_limit<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let limit = hang();
    match rt::wait(Some(Instant::now() + limit), |_now| poll()) {
        Ok(answer) => answer,
        Err(_) => panic!("HANG: waited {limit:?} for {what}"),
    }
}

/// Polls until the request ends; others that end meanwhile are an error of the test.
#[track_caller]
pub(crate) fn finish<B: Payload>(queue: &mut QueuePair<B>, token: Token) -> Completion<B> {
    within_limit("a completion", || {
        let mut found = None;
        queue.poll(1, |completion| found = Some(completion));
        if let Some(completion) = &found {
            assert_eq!(completion.token, token, "another request ended");
        }
        found
    })
}

/// Fills a buffer with bytes that depend on a tag and on their place.
pub(crate) fn stamp(buffer: &mut DmaBuf, tag: u64) {
    buffer
        .copy_from(0, &stamped(buffer.len_bytes(), tag))
        .unwrap();
}

/// What [`stamp`] writes.
pub(crate) fn stamped(len_bytes: usize, tag: u64) -> Vec<u8> {
    let mut rng = rt::Rng::seeded(tag.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut bytes = Vec::with_capacity(len_bytes + 8);
    while bytes.len() < len_bytes {
        bytes.extend(rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len_bytes);
    bytes
}

/// True when the buffer holds what [`stamp`] wrote with this tag.
pub(crate) fn is_stamped(buffer: &DmaBuf, tag: u64) -> bool {
    bytes(buffer) == stamped(buffer.len_bytes(), tag)
}

/// A copy of a buffer's bytes.
pub(crate) fn bytes(buffer: &DmaBuf) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len_bytes()];
    buffer.copy_to(0, &mut bytes).unwrap();
    bytes
}
