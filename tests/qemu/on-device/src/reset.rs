//! The function reset as a user of the library calls it, and what a controller makes of it.
use anyhow::{Result, bail, ensure};
use std::time::Duration;
use underpin::dma::rt::Instant;
use underpin::nvme::transport::Vfio;
use underpin::nvme::{DeviceAddress, DeviceUrl};
use underpin::{
    CommandError, Controller, ControllerOptions, DmaBuf, DmaSpace, Failure, Lba, QueueOptions,
    QueuePair, Waiting,
};

/// Whoever waits so long hangs.
const HANG: Duration = Duration::from_secs(20);

pub(crate) fn run(url: &str, works: bool) -> Result<()> {
    let DeviceAddress::Pci(address) = url.parse::<DeviceUrl>()?.device else {
        bail!("{url} is not on the PCI bus");
    };
    let space = DmaSpace::new();
    let device = Vfio::open(address, &space)?;
    let controller =
        Controller::with_transport(device.clone(), &space, ControllerOptions::default())?;
    let namespace = controller.namespace(None)?;
    let options = QueueOptions {
        depth: 32,
        waiting: Waiting::Interrupt,
    };
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(options)?;
    let blocks = 4096 / u64::from(namespace.lba_bytes());
    // With commands in flight, some of which are never told of otherwise.
    let mut submitted = 0;
    while queue.free() > 0 {
        let io = namespace.read(Lba(submitted * blocks), blocks)?;
        let buffer = space.alloc(4096, 4096)?;
        queue.submit(io, buffer).map_err(|refused| refused.error)?;
        submitted += 1;
    }
    queue.ring();
    let result = device.reset();
    println!("the reset: {result:?}");
    ensure!(result.is_ok() == works, "it is not what was expected");
    let (mut well, mut lost) = (0, 0);
    let deadline = Instant::now() + HANG;
    while well + lost < submitted {
        ensure!(
            queue.wait(Some(deadline)),
            "HANG: {well} ended well, {lost} lost"
        );
        let mut other = None;
        queue.poll(usize::MAX, |ended| match ended.result {
            Ok(()) => well += 1,
            Err(CommandError::Lost(Failure::Reset { .. })) => lost += 1,
            Err(error) => other = Some(error),
        });
        if let Some(error) = other {
            bail!("a command ended otherwise: {error}");
        }
    }
    println!("commands: {well} ended well, {lost} lost");
    if !works {
        let what = result.err().map(|error| error.what).unwrap_or_default();
        ensure!(what.contains("cannot be reset by itself"), "{what}");
        ensure!(
            lost == 0 && controller.failure().is_none(),
            "it was not reset, and something was lost"
        );
        drop((queue, namespace));
        controller.close()?;
        ensure!(device.reset().is_err(), "reset after it was let go");
        println!("ok      a device without a reset says so, and goes on");
        return Ok(());
    }
    ensure!(lost > 0, "nothing was in flight");
    ensure!(
        matches!(controller.failure(), Some(Failure::Reset { .. })),
        "{:?}",
        controller.failure()
    );
    drop((queue, namespace));
    let closed = controller.close();
    println!("closed: {closed:?}");
    crate::proof::is_had(&space)?;
    drop(device);
    let controller = Controller::open(url, &DmaSpace::new(), ControllerOptions::default())?;
    controller.namespace(None)?;
    controller.close()?;
    println!("ok      the function was reset under {lost} commands, and opens again");
    Ok(())
}
