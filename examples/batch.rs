//! Many commands at once: 32 in flight, one doorbell for a batch, and each buffer travels with a
//! context of ours. Writes a stamp to every page of a namespace, then reads and checks them.
use std::error::Error;
use underpin::dma::rt;
use underpin::{Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, PoolOptions, QueueOptions};

const DEPTH: u16 = 32;
const PAGE_BYTES: usize = 4096;

/// What a command owns while it is in flight: its buffer, and which page it is for. Both come
/// back with the completion, so there is no table to look them up in.
type InFlight = (DmaBuf, u64);

fn main() -> Result<(), Box<dyn Error>> {
    let space = DmaSpace::new();
    let controller = Controller::open("emu:size=64m", &space, ControllerOptions::default())?;
    let namespace = controller.namespace(None)?;
    let mut queue = controller.queue_pair::<InFlight>(QueueOptions {
        depth: DEPTH,
        ..QueueOptions::default()
    })?;
    let pool = space.pool(
        "pages",
        PoolOptions {
            buf_bytes: PAGE_BYTES,
            count: usize::from(DEPTH),
        },
    )?;
    let blocks = PAGE_BYTES as u64 / u64::from(namespace.lba_bytes());
    let pages = namespace.len_bytes() / PAGE_BYTES as u64;

    for writing in [true, false] {
        let (mut next, mut done, mut wrong) = (0, 0, Vec::new());
        while done < pages {
            // As many as there are free slots and buffers: both run out together here.
            while next < pages
                && queue.free() > 0
                && let Some(mut page) = pool.try_alloc()
            {
                let lba = Lba(next * blocks);
                let io = if writing {
                    page.copy_from(0, &next.to_le_bytes())?;
                    namespace.write(lba, blocks)?
                } else {
                    namespace.read(lba, blocks)?
                };
                queue.submit(io, (page, next))?;
                next += 1;
            }
            // Rings once for all of them, and takes whatever has ended. `rt::wait` spins for two
            // microseconds and then lets others run; a thread with other work would just poll.
            let ended = rt::wait(None, |_now| {
                let ended = queue.poll(usize::MAX, |completion| {
                    let mut stamp = [0; 8];
                    match (completion.result, completion.buffer) {
                        (Ok(()), Some((page, index))) => {
                            let read = page.copy_to(0, &mut stamp);
                            if read.is_err() || u64::from_le_bytes(stamp) != index {
                                wrong.push(format!("page {index} holds {stamp:?}"));
                            }
                            // The buffer goes back to the pool here.
                        }
                        (Err(error), _) => wrong.push(error.to_string()),
                        (Ok(()), None) => wrong.push("a buffer is missing".to_owned()),
                    }
                });
                (ended > 0).then_some(ended as u64)
            });
            done += ended?;
        }
        if !wrong.is_empty() {
            return Err(wrong.join("\n").into());
        }
        println!(
            "{} {pages} pages",
            if writing { "wrote" } else { "read and checked" }
        );
    }

    let stats = queue.stats();
    println!("{stats:#?}");
    Ok(())
}
