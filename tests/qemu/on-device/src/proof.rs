//! What a close leaves behind: nothing, if the device's DMA has provably ended. Of a controller that had
//! failed, its error says no more than that; the space does.
use anyhow::{Result, ensure};
use underpin::DmaSpace;

/// Fails if the one controller of `space`, which was closed, was left its memory for want of proof.
pub(crate) fn is_had(space: &DmaSpace) -> Result<()> {
    let stats = space.stats();
    ensure!(
        stats.contexts == 0 && stats.iova_lost_bytes == 0,
        "closed without proof that DMA has ended: {} contexts are attached, {} bytes lost",
        stats.contexts,
        stats.iova_lost_bytes
    );
    println!("proof: its DMA has ended");
    Ok(())
}
