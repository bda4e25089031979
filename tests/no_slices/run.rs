//! The pages of a command are no slices.
use underpin::dma::PageRun;

fn bytes(run: &PageRun) -> &[u8] {
    &run[..]
}

fn main() {}
