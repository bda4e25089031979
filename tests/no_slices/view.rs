//! The window on a frame is no slice.
use underpin::dma::frame::Frames;

fn bytes(frames: &Frames) -> &[u8] {
    &*frames.view(0).unwrap()
}

fn main() {}
