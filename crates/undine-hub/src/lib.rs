//! Models by name: the Hugging Face hub, its cache on this machine, and downloads that survive whatever
//! happens.
//!
//! [`ModelName`] says what a text means, [`Cache`] what is there, [`Hub::pull`] fetches what is not. The
//! cache's layout and the environment's variables are those of `huggingface_hub`, which finds what was
//! fetched here and the other way round.
//!
//! Why not the crate `hf-hub` (1.0.0): it knows no `HF_HUB_OFFLINE`; over plain HTTP an interrupted download
//! begins again from nothing, on one connection; and it brings the whole client of a second protocol
//! (`hf-xet`), whose service gives out the same contents over plain HTTP with ranges. Certificates are
//! checked against the authorities that the machine trusts (a company's too) and Mozilla's list, so that a
//! fresh container without any needs no setup.
//!
//! Nothing here trusts the hub: names of files stay inside of the cache, answers have limits, contents are
//! compared with their hashes before anybody can open them, and the token goes to the hub's own address only.
#![forbid(unsafe_code)]

mod api;
mod cache;
mod contents;
mod download;
mod error;
mod examine;
mod hash;
mod name;
mod near_files;
mod partial;
mod pull;
pub mod quant;
mod removal;
mod retry;
mod settings;
mod short_names;

pub use cache::{Cache, Cached};
pub use contents::split_part;
pub use download::Progress;
pub use error::Error;
pub use examine::{Beginning, Examine, Next};
pub use name::{HubName, ModelName, REVISION_DEFAULT, Repo};
pub use near_files::near_files;
pub use pull::{Event, Hub, PullRequest, Pulled};
pub use removal::Removal;
pub use settings::{Access, Settings, Token};
pub use short_names::{ShortName, of_repo, short_names};
