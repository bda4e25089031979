//! The only place with `unsafe`: DMA-able host memory, the io_uring queues, and
//! the few system calls the standard library does not offer.

pub(crate) mod memory;
pub(crate) mod os;
pub(crate) mod ring;
