//! Memory that the device cannot reach: the IOMMU blocks it, and every case has a typed end.
use crate::meddle::{Meddled, Nowhere};
use anyhow::{Result, bail, ensure};
use std::time::Duration;
use underpin::dma::Span;
use underpin::nvme::{DataPointers, Status};
use underpin::{
    CommandError, Controller, ControllerOptions, DmaBuf, DmaSpace, Error, Failure, Lba,
    QueueOptions, QueuePair,
};

/// Neither what a disk holds nor zeroes.
const CANARY: u8 = 0xc5;
/// Data Transfer Error, Do Not Retry: what QEMU says of a list that it cannot read.
const TRANSFER_ERROR: u16 = 0x4004;

fn options() -> ControllerOptions {
    ControllerOptions {
        command_timeout: Duration::from_secs(5),
        admin_timeout: Duration::from_secs(5),
        data_pointers: DataPointers::Prp,
        // So that commands are where the doorbell says, and nothing else has to be reached.
        shadow_doorbells: false,
        ..ControllerOptions::default()
    }
}

fn canary(space: &DmaSpace) -> Result<DmaBuf> {
    let mut memory = space.alloc(1 << 20, 4096)?;
    memory.fill(CANARY);
    Ok(memory)
}

fn is_whole(memory: &DmaBuf) -> Result<()> {
    let mut bytes = vec![0; memory.len_bytes()];
    memory.copy_to(0, &mut bytes)?;
    let touched = bytes.iter().position(|&byte| byte != CANARY);
    ensure!(touched.is_none(), "the canary was touched at {touched:?}");
    Ok(())
}

pub(crate) fn data(url: &str) -> Result<()> {
    let space = DmaSpace::new();
    let device = Meddled::open(url, &space)?;
    let controller = Controller::with_transport(device, &space, options())?;
    let namespace = controller.namespace(None)?;
    let blocks = 4096 / u64::from(namespace.lba_bytes());
    let canary = canary(&space)?;
    // A stale address: memory was here and has been given back.
    let region = space.region("stale", 2 << 20)?;
    let iova = region.iova();
    drop(region);
    let mut queue: QueuePair<Nowhere> = controller.queue_pair(QueueOptions::default())?;
    let span = Span {
        iova,
        len_bytes: 4096,
    };
    let nowhere = Nowhere {
        space: space.id(),
        span,
    };
    // QEMU lies here, and other devices may not.
    match queue.run(namespace.read(Lba(0), blocks)?, nowhere) {
        Ok(_) => println!("the read of an address that is not mapped is said to have gone well"),
        Err(Error::Command(error)) => println!("{error}"),
        Err(error) => return Err(error.into()),
    }
    is_whole(&canary)?;
    println!("ok      a stale address is blocked, and nothing else is touched");
    drop(queue);
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    queue.run(namespace.read(Lba(0), blocks)?, space.alloc(4096, 4096)?)?;
    println!("ok      the controller goes on");
    drop(queue);
    controller.close()?;
    is_whole(&canary)
}

pub(crate) fn list(url: &str) -> Result<()> {
    let space = DmaSpace::new();
    let device = Meddled::open(url, &space)?;
    let controller = Controller::with_transport(device.clone(), &space, options())?;
    let namespace = controller.namespace(None)?;
    let len_bytes = 64 << 10;
    let blocks = len_bytes as u64 / u64::from(namespace.lba_bytes());
    let canary = canary(&space)?;
    let buffer = space.alloc(len_bytes, 4096)?;
    let mapped = device.mapped();
    // Lists for so many commands are too many for what the heap has, and the last that is made.
    let mut queue = controller.queue_pair(QueueOptions {
        depth: 600,
        ..QueueOptions::default()
    })?;
    ensure!(
        device.mapped() == mapped + 1,
        "the queue's lists are not in one region of their own: {} mappings, then {}",
        mapped,
        device.mapped()
    );
    let buffer = queue.run(namespace.read(Lba(0), blocks)?, buffer)?;
    println!("ok      a read with a PRP list");
    device.take_away(mapped)?;
    match queue.run(namespace.read(Lba(0), blocks)?, buffer) {
        Err(Error::Command(CommandError::Status { status, .. }))
            if status == Status(TRANSFER_ERROR) =>
        {
            println!("ok      a list that cannot be reached: {status}");
        }
        Err(error) => bail!("a list that cannot be reached: {error}"),
        Ok(_) => bail!("a list that cannot be reached was read"),
    }
    is_whole(&canary)?;
    let short = space.alloc(4096, 4096)?;
    let io = namespace.read(Lba(0), 4096 / u64::from(namespace.lba_bytes()))?;
    queue.run(io, short)?;
    println!("ok      reads without a list go on");
    drop(queue);
    controller.close()?;
    Ok(())
}

pub(crate) fn queue(url: &str) -> Result<()> {
    let space = DmaSpace::new();
    let device = Meddled::open(url, &space)?;
    let controller = Controller::with_transport(device.clone(), &space, options())?;
    let namespace = controller.namespace(None)?;
    let blocks = 4096 / u64::from(namespace.lba_bytes());
    let mut queue = controller.queue_pair(QueueOptions::default())?;
    let buffer = space.alloc(4096, 4096)?;
    let buffer = queue.run(namespace.read(Lba(0), blocks)?, buffer)?;
    for number in 0..device.mapped() {
        device.take_away(number)?;
    }
    match queue.run(namespace.read(Lba(0), blocks)?, buffer) {
        Err(Error::Command(CommandError::Lost(failure))) | Err(Error::Failed(failure)) => {
            ensure!(
                matches!(failure, Failure::Fatal { .. }),
                "not the fatal status: {failure}"
            );
            println!("ok      a queue that cannot be reached: {failure}");
        }
        Err(error) => bail!("a queue that cannot be reached: {error}"),
        Ok(_) => bail!("a queue that cannot be reached was read"),
    }
    drop(queue);
    match controller.close() {
        Ok(()) => println!("closed"),
        Err(error) => println!("closed with an error: {error}"),
    }
    crate::proof::is_had(&space)?;
    println!("ok      closed, with proof");
    Ok(())
}
