//! NVMe as the specification has it, for host and controller alike: registers, queue entries,
//! status codes, identify and log pages, and commands. No behaviour, no dependencies.
//!
//! Sections are those of the NVM Express Base Specification 2.0 ("Base 2.0") and the NVM Command
//! Set Specification 1.0.
//!
//! ```
//! use underpin_nvme_spec::{Cid, Lba, Nsid, NvmOpcode, nvm::ReadWrite};
//!
//! let read = ReadWrite { slba: Lba(7), blocks: 8, ..ReadWrite::new(NvmOpcode::READ, Nsid(1)) };
//! let sqe = read.to_sqe().with_cid(Cid(3));
//! assert_eq!(sqe.cdw12() & 0xffff, 7, "block counts are 0-based on the wire");
//! assert_eq!(ReadWrite::from_sqe(&sqe), read);
//! ```
#![forbid(unsafe_code)]

pub mod admin;
mod cqe;
pub mod identify;
mod ids;
pub mod log;
pub mod nvm;
mod opcode;
pub mod registers;
mod sgl;
mod sqe;
mod status;

pub use cqe::Cqe;
pub use ids::{Cid, Lba, Nsid, Qid};
pub use opcode::{AdminOpcode, NvmOpcode};
pub use sgl::{SglDescriptor, SglType, Sgls};
pub use sqe::Sqe;
pub use status::{Status, StatusType};
