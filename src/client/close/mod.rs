//! What is done to the target before anything comes: its own WAL is saved, the source's configuration lies ready,
//! and the control file goes, which is the point of no return.

pub mod configuration;
pub mod keep;
pub mod lock;
pub mod rewound;
pub(super) mod stop;
